//! Restarts on one host: the listening sockets go from process to process, and nobody is refused.

mod load;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kit::{Address, Flavour, PATIENCE, Pki, Progress, RealRedis, TestClient, eventually, free_port, pause, signal};
use load::Load;

/// Addresses that outlive processes.
struct Site {
    redis: RealRedis,
    directory: tempfile::TempDir,
    pki: Arc<Pki>,
    tcp: SocketAddr,
    tls: SocketAddr,
    admin: SocketAddr,
}

/// One process of a site. Killed on drop.
struct Process {
    child: Child,
    log: PathBuf,
}

fn local_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

impl Site {
    fn new() -> Self {
        Self {
            redis: RealRedis::start(Flavour::Redis70, &[]),
            directory: tempfile::tempdir().unwrap(),
            pki: Pki::new(),
            tcp: local_port(),
            tls: local_port(),
            admin: local_port(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn addresses(&self) -> [Address; 3] {
        let tls = Address::Tls(self.tls, self.pki.client(None));
        [Address::Tcp(self.tcp), Address::Unix(self.file("clients.sock")), tls]
    }

    /// The command line of a process that listens on TCP and a unix socket.
    fn arguments(&self) -> Vec<String> {
        let settings = format!(
            "run --listen {} --listen unix:{} --admin {} --upstream {} --workers 2 --max-upstream-connections 12",
            self.tcp,
            self.file("clients.sock").display(),
            self.admin,
            self.redis.url(),
        );
        settings.split(' ').map(str::to_owned).collect()
    }

    /// One that also listens with TLS, and hands over.
    fn handing_over(&self) -> Vec<String> {
        let pair = self.pki.issue("proxy", &["127.0.0.1"], 2099);
        let more = format!(
            "--listen tls:{} --set tls.cert_file={} --set tls.key_file={} --handover {}",
            self.tls,
            pair.cert.display(),
            pair.key.display(),
            self.file("handover.sock").display()
        );
        let more = more.split(' ').map(str::to_owned);
        self.arguments().into_iter().chain(more).collect()
    }

    fn command(&self, wrapper: &[&str], arguments: &[String]) -> (Command, PathBuf) {
        let binary = kit::program();
        let words: Vec<&str> = wrapper.iter().copied().chain([&binary[..]]).collect();
        let log = self.file(&format!("log.{}", fastrand::u64(..)));
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments).current_dir(self.directory.path());
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").env_remove("RESPMUX_UNDER_TEST");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        (command, log)
    }

    fn start(&self, arguments: &[String]) -> Process {
        let (mut command, log) = self.command(&[], arguments);
        Process { child: command.spawn().unwrap(), log }
    }

    fn wait_until_served(&self) {
        eventually(Duration::from_secs(20), || {
            let mut client = TestClient::try_connect(&Address::Tcp(self.tcp)).map_err(|error| error.to_string())?;
            client.send(b"PING\r\n");
            client.try_read_frame(PATIENCE).map(|_| ()).map_err(|end| format!("{end:?}"))
        });
    }
}

impl Process {
    fn wait_exit(&mut self) -> ExitStatus {
        eventually(Duration::from_secs(30), || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err(format!("it runs: {}", self.log())),
        })
    }

    /// Before that a signal would end it on the spot.
    fn wait_until_ready(&self) {
        eventually(Duration::from_secs(20), || match self.log().contains("\"listening\"") {
            true => Ok(()),
            false => Err(self.log()),
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- process {}:\n{}", self.child.id(), self.log());
        }
    }
}

/// What a run comes to, as one line of JSON, and the failures.
#[allow(clippy::print_stdout, reason = "the line is what `make prove WHAT=handover` is for")]
fn report(kind: &str, restarts: usize, load: Load) -> Vec<String> {
    let (tally, ran) = load.stop();
    let opened = tally.opened.load(Relaxed);
    let failures = tally.failures();
    println!(
        "{{\"restarts\":\"{kind}\",\"count\":{restarts},\"seconds\":{:.1},\"connections\":{opened},\"connects_per_second\":{:.0},\
         \"commands\":{},\"moved\":{},\"raced\":{},\"longest_ms\":{:.1},\"failures\":{}}}",
        ran.as_secs_f64(),
        opened as f64 / ran.as_secs_f64(),
        tally.commands.load(Relaxed),
        tally.moved.load(Relaxed),
        tally.raced.load(Relaxed),
        tally.longest.load(Relaxed) as f64 / 1e3,
        failures.len(),
    );
    assert!(opened > 0 && tally.moved.load(Relaxed) > 0, "the run shows nothing");
    failures
}

/// Each process takes the sockets of the one before.
fn hand_over(times: usize, openers: usize) {
    let site = Site::new();
    let arguments = site.handing_over();
    let mut running = site.start(&arguments);
    site.wait_until_served();
    let load = Load::start(&site.addresses(), openers, 4);
    for time in Progress::over("take-overs", 0..times) {
        pause(Duration::from_millis(200));
        let next = site.start(&arguments);
        let status = running.wait_exit();
        assert!(status.success(), "process {time}: {status}\n{}", running.log());
        assert!(running.log().contains("handed over"), "process {time} says so\n{}", running.log());
        running = next;
    }
    let failures = report("handover", times, load);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(site.file("clients.sock").exists());
    signal(running.child.id(), "TERM");
    assert!(running.wait_exit().success());
    assert!(!site.file("clients.sock").exists() && !site.file("handover.sock").exists(), "the last one tidies up");
}

/// Sockets that this test keeps, as systemd would, and passes to each process in turn.
struct Sockets(TcpListener, UnixListener);

impl Sockets {
    fn of(site: &Site) -> Self {
        Self(TcpListener::bind(site.tcp).unwrap(), UnixListener::bind(site.file("clients.sock")).unwrap())
    }

    /// Starts a process through systemd-socket-activate where it is installed, which waits for the first client.
    fn activate(&self, site: &Site, arguments: &[String]) -> Process {
        // The shell moves the sockets from where std can put them to where systemd does.
        let script = "exec 3<&0 4<&1 </dev/null >&2; export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$@\"";
        let activate = Path::new("/usr/bin/systemd-socket-activate");
        let mut wrapper = vec!["sh", "-c", script, "sh"];
        if activate.exists() {
            wrapper.extend(activate.to_str());
        }
        let (mut command, log) = site.command(&wrapper, arguments);
        command.stdin(OwnedFd::from(self.0.try_clone().unwrap())).stdout(OwnedFd::from(self.1.try_clone().unwrap()));
        Process { child: command.spawn().unwrap(), log }
    }
}

/// The sockets are kept by somebody else; each process is ended before the next one starts.
fn activate(times: usize, openers: usize) {
    let site = Site::new();
    let (arguments, sockets) = (site.arguments(), Sockets::of(&site));
    let mut running = sockets.activate(&site, &arguments);
    site.wait_until_served();
    let load = Load::start(&site.addresses()[..2], openers, 4);
    for _ in Progress::over("activations", 0..times) {
        pause(Duration::from_millis(200));
        running.wait_until_ready();
        signal(running.child.id(), "TERM");
        let status = running.wait_exit();
        assert!(status.success(), "{status}\n{}", running.log());
        running = sockets.activate(&site, &arguments);
    }
    site.wait_until_served();
    let failures = report("socket activation", times, load);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(site.file("clients.sock").exists(), "it is not ours to remove");
}

#[test]
fn nobody_is_refused_when_a_process_takes_over() {
    hand_over(3, 4);
}

#[test]
fn nobody_is_refused_when_the_sockets_are_systemds() {
    activate(2, 4);
}

/// The clients of these tests see what they must: a restart in which nobody keeps the sockets.
#[test]
fn a_plain_restart_refuses_somebody() {
    let site = Site::new();
    let arguments = site.arguments();
    let mut running = site.start(&arguments);
    site.wait_until_served();
    running.wait_until_ready();
    let load = Load::start(&site.addresses()[..2], 2, 1);
    pause(Duration::from_millis(100));
    signal(running.child.id(), "TERM");
    running.wait_exit();
    let _next = site.start(&arguments);
    site.wait_until_served();
    let (tally, _) = load.stop();
    assert!(!tally.failures().is_empty(), "nobody was refused");
}

#[test]
#[ignore = "half a minute: make prove WHAT=handover"]
fn handover_full() {
    hand_over(kit::setting("HANDOVERS", 20), 8);
    activate(kit::setting("ACTIVATIONS", 5), 16);
}

/// The running process goes on when the new one fails, and hands over to the next that does not.
#[test]
fn a_new_process_that_fails_changes_nothing() {
    let site = Site::new();
    let arguments = site.handing_over();
    let mut running = site.start(&arguments);
    site.wait_until_served();
    let mut client = TestClient::connect(&Address::Tcp(site.tcp));
    assert_eq!(client.ask("SET a 1").as_str(), "OK");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bad = arguments.clone();
    bad.extend(["--listen".to_owned(), taken.local_addr().unwrap().to_string()]);
    let mut failing = site.start(&bad);
    assert_eq!(failing.wait_exit().code(), Some(1), "{}", failing.log());
    assert!(failing.log().contains("cannot listen on"), "{}", failing.log());
    eventually(PATIENCE, || match running.log().contains("hand-over failed") {
        true => Ok(()),
        false => Err(running.log()),
    });
    assert!(running.runs() && site.file("clients.sock").exists());
    assert_eq!(client.ask("GET a").as_str(), "1");
    let mut next = site.start(&arguments);
    assert!(running.wait_exit().success());
    assert_eq!(client.read_to_end(PATIENCE), b"");
    assert_eq!(TestClient::connect(&Address::Unix(site.file("clients.sock"))).ask("GET a").as_str(), "1");
    assert!(next.runs());
}

/// What the new configuration does not name is closed, and its file removed.
#[test]
fn addresses_may_change_with_the_process() {
    let site = Site::new();
    let arguments = site.handing_over();
    let mut running = site.start(&arguments);
    site.wait_until_served();
    let (other, clients) = (local_port(), format!("unix:{}", site.file("clients.sock").display()));
    let changed = |text: &String| if *text == clients { other.to_string() } else { text.clone() };
    let _next = site.start(&arguments.iter().map(changed).collect::<Vec<_>>());
    assert!(running.wait_exit().success(), "{}", running.log());
    assert!(!site.file("clients.sock").exists());
    for address in [site.tcp, other] {
        assert_eq!(TestClient::connect(&Address::Tcp(address)).ask("PING").as_str(), "PONG");
    }
}

/// A socket that nobody would serve must not look as if somebody did.
#[test]
fn every_socket_of_systemds_must_be_named() {
    let site = Site::new();
    let sockets = Sockets::of(&site);
    let mut arguments = site.arguments();
    let position = arguments.iter().position(|text| text.starts_with("unix:")).unwrap();
    arguments.drain(position - 1..=position);
    let mut process = sockets.activate(&site, &arguments);
    let mut client = TestClient::connect(&Address::Tcp(site.tcp));
    assert_eq!(process.wait_exit().code(), Some(1));
    assert!(process.log().contains("clients.sock, which neither `listen` nor `admin` names"), "{}", process.log());
    drop(sockets);
    assert_eq!(client.read_to_end(PATIENCE), b"");
}

/// What systemd hears of a service with `Type=notify` and `WatchdogSec=`.
#[test]
fn systemd_is_told() {
    let site = Site::new();
    let notify = UnixDatagram::bind(site.file("notify")).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = notify.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    };
    let (mut command, log) = site.command(&[], &site.arguments());
    command.env("NOTIFY_SOCKET", site.file("notify")).env("WATCHDOG_USEC", "200000");
    let mut process = Process { child: command.spawn().unwrap(), log };
    let ready = heard("READY=1");
    assert!(ready.contains(&format!("STATUS=serving on {}", site.tcp)), "{ready}");
    let mut client = TestClient::connect(&Address::Tcp(site.tcp));
    client.send_command(&["BLPOP", "q", "0"]);
    client.expect_nothing(Duration::from_millis(100));
    (0..3).for_each(|_| drop(heard("WATCHDOG=1")));
    signal(process.child.id(), "TERM");
    heard("STOPPING=1");
    let status = heard("EXTEND_TIMEOUT_USEC=10000000");
    assert!(status.contains("STATUS=draining: 1 clients left"), "{status}");
    heard("WATCHDOG=1");
    signal(process.child.id(), "TERM");
    process.wait_exit();
}
