//! A real Redis or Valkey of the test's own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Address, PATIENCE, Pair, Pki, TestClient, eventually, free_port, path_of};

/// The servers the tests know. What they answer differs; an expectation says for which of them it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    Redis70,
    Redis82,
    Valkey9,
}

impl Flavour {
    pub const ALL: [Self; 3] = [Self::Redis70, Self::Redis82, Self::Valkey9];

    /// The name in transcripts and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis70 => "7.0",
            Self::Redis82 => "8.2",
            Self::Valkey9 => "valkey9",
        }
    }

    fn binary(self) -> PathBuf {
        path_of(match self {
            Self::Redis70 => "REDIS70",
            Self::Redis82 => "REDIS82",
            Self::Valkey9 => "VALKEY9",
        })
    }
}

/// A server process on a loopback port and a unix socket, with its own directory, without persistence unless asked
/// for. Killed and removed on drop.
pub struct RealRedis {
    flavour: Flavour,
    port: u16,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl RealRedis {
    /// Starts a server with `arguments` after the defaults (`--appendonly yes`, `--maxclients 10`, …) and waits until
    /// it answers PING.
    pub fn start(flavour: Flavour, arguments: &[&str]) -> Self {
        let mut redis = Self::prepare(flavour, arguments);
        for _ in 0..5 {
            if redis.spawn() {
                return redis;
            }
            redis.port = free_port();
        }
        panic!("{} did not start:\n{}", flavour.name(), redis.log());
    }

    /// The same, listening on a second address too, for the test itself ([`Self::direct_address`]): CLIENT LIST then tells
    /// by `laddr` whose connection is whose.
    pub fn start_with_direct_address(flavour: Flavour) -> Self {
        Self::start(flavour, &["--bind", "127.0.0.1", "127.0.0.2", "--maxclients", "5000"])
    }

    /// The same, with TLS on `port` beside its plain one, and a certificate for 127.0.0.1.
    pub fn start_tls(flavour: Flavour, pki: &Pki, port: u16, arguments: &[&str]) -> Self {
        let pair = pki.issue("redis", &["127.0.0.1"], 2099);
        Self::start_tls_with(flavour, pki, &pair, port, arguments)
    }

    pub fn start_tls_with(flavour: Flavour, pki: &Pki, pair: &Pair, port: u16, arguments: &[&str]) -> Self {
        let (port, ca) = (port.to_string(), pki.ca());
        let path = |path: &PathBuf| path.display().to_string();
        let (cert, key, ca) = (path(&pair.cert), path(&pair.key), path(&ca));
        let tls = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        Self::start(flavour, &[&tls[..], arguments].concat())
    }

    /// A server that is configured and has its port, but was never started.
    pub fn prepare(flavour: Flavour, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self { flavour, port: free_port(), arguments, directory, child: None }
    }

    /// Starts the process on its port, again if it was stopped.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.spawn(), "{} did not start:\n{}", self.flavour.name(), self.log());
    }

    /// False if the process ended, for instance because its port is taken.
    fn spawn(&mut self) -> bool {
        let log = File::options().append(true).create(true).open(self.log_path()).expect("the log file opens");
        let mut command = Command::new(self.flavour.binary());
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--unixsocket", &self.socket_path().to_string_lossy()])
            .args(["--dir", &self.directory.path().to_string_lossy()])
            .args(["--save", "", "--appendonly", "no", "--hz", "100", "--daemonize", "no"])
            .args(&self.arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file can be shared"))
            .stderr(log);
        self.child = Some(command.spawn().expect("the server binary starts"));
        eventually(Duration::from_secs(20), || {
            let child = self.child.as_mut().expect("set above");
            if child.try_wait().expect("the child can be asked").is_some() {
                self.child = None;
                return Ok(false);
            }
            let mut client = TestClient::try_connect(&self.unix_address()).map_err(|error| error.to_string())?;
            client.send(b"PING\r\n");
            match client.try_read_frame(Duration::from_secs(2)) {
                // An error other than LOADING (NOAUTH, too many clients) also shows that it is up.
                Ok(frame) if !frame.as_str().starts_with("LOADING") => Ok(true),
                other => Err(format!("PING: {other:?}")),
            }
        })
    }

    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The TCP address.
    pub fn address(&self) -> Address {
        Address::Tcp(self.tcp_address())
    }

    /// The same, without the type that also covers other kinds.
    pub fn tcp_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Where the test itself connects, past the proxy ([`Self::start_with_direct_address`]).
    pub fn direct_address(&self) -> SocketAddr {
        ([127, 0, 0, 2], self.port).into()
    }

    pub fn unix_address(&self) -> Address {
        Address::Unix(self.socket_path())
    }

    /// What `--upstream` takes.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection to the server itself.
    pub fn connect(&self) -> TestClient {
        TestClient::connect(&self.address())
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal by name (`STOP`, `CONT`, `TERM`).
    pub fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("the server runs");
        signal(child.id(), name);
    }

    /// Back to an empty server with the default user, whatever a test did to it. `direct` was connected before, so
    /// that a password set meanwhile does not matter. Kills nobody's connections but those of users that it deletes;
    /// true if there were any.
    pub fn reset(direct: &mut TestClient) -> bool {
        let commands = [
            "CONFIG SET requirepass |",
            "ACL SETUSER default reset on nopass ~* &* +@all",
            "CLIENT UNPAUSE",
            "CONFIG SET maxclients 10000",
            "CONFIG SET busy-reply-threshold 5000",
            "CONFIG SET proto-max-bulk-len 536870912",
            "CONFIG SET maxmemory 0",
            "CONFIG RESETSTAT",
            "SCRIPT FLUSH",
            "FUNCTION FLUSH",
            "ACL LOG RESET",
        ];
        for command in commands {
            let words: Vec<_> = command.split(' ').map(|word| if word == "|" { "" } else { word }).collect();
            let reply = direct.call(&words);
            assert!(!reply.is_error(), "{command}: {reply:?}");
        }
        Self::empty(direct)
    }

    /// No keys and no users but the default one; the configuration stays. True if users were deleted, and with them
    /// their connections.
    pub fn empty(direct: &mut TestClient) -> bool {
        let flushed = direct.ask("FLUSHALL");
        assert!(!flushed.is_error(), "FLUSHALL: {flushed:?}");
        let users = direct.ask("ACL USERS").items;
        for user in users.iter().filter(|user| user.text != b"default") {
            direct.call(&[b"ACL", &b"DELUSER"[..], &user.text]);
        }
        users.len() > 1
    }

    /// One number of INFO, by its field name.
    pub fn info(&self, field: &str) -> i64 {
        let text = TestClient::connect(&self.unix_address()).ask("INFO").as_str();
        info_field(&text, field)
    }

    /// Waits until INFO says so: `becomes("blocked_clients", 1)`.
    #[track_caller]
    pub fn becomes(&self, field: &str, wanted: i64) {
        eventually(PATIENCE, || match self.info(field) {
            value if value == wanted => Ok(()),
            other => Err(format!("{field} is {other}, not {wanted}")),
        });
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    fn socket_path(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        // A server that ended by itself crashed: its log says why.
        let ended = self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()));
        if ended && std::thread::panicking() {
            eprintln!("--- {} ended by itself; its log:\n{}", self.flavour.name(), reason(&self.log()));
        }
        self.kill();
    }
}

/// What a server's log says of its end. Of a crash report the head and the stack: the rest is pages of registers and
/// of INFO, and whoever shows the output of a test run shows only so much of it.
fn reason(log: &str) -> String {
    let report = log.find("BUG REPORT START").map_or("", |at| &log[at..]);
    let cause = report.lines().take_while(|line| !line.contains("INFO OUTPUT")).take(40);
    let last = log.lines().skip(log.lines().count().saturating_sub(5));
    cause.chain(last).map(|line| line.chars().take(160).collect::<String>() + "\n").collect()
}

/// One number of an INFO text.
#[track_caller]
pub fn info_field(text: &str, field: &str) -> i64 {
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = value.unwrap_or_else(|| panic!("INFO has no {field}"));
    value.trim().parse().unwrap_or_else(|_| panic!("INFO {field} is {value:?}"))
}

/// Sends a signal to a process of ours. By the `kill` program: the library calls for it are unsafe.
pub fn signal(process: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().expect("kill runs");
    assert!(done.success(), "kill -{name} {process}");
}

#[test]
fn each_flavour_starts_answers_resets_and_ends() {
    for flavour in Flavour::ALL {
        let mut redis = RealRedis::start(flavour, &[]);
        let mut direct = redis.connect();
        direct.ask("SET a 1");
        direct.ask("ACL SETUSER bob on >pw +@all ~*");
        assert!(RealRedis::reset(&mut direct));
        assert!(!RealRedis::reset(&mut direct), "bob is gone");
        assert_eq!(direct.ask("DBSIZE").as_int(), 0);
        assert_eq!(direct.ask("ACL USERS").items.len(), 1);
        assert!(redis.info("connected_clients") >= 1);
        redis.kill();
        direct.expect_eof();
        redis.start_again();
        assert_eq!(redis.connect().ask("PING").as_str(), "PONG");
    }
}
