//! A real Redis or Valkey of the run's own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{eventually, path_of, ports::free_port};

/// The servers of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    Redis70,
    Redis82,
    Valkey9,
}

impl Flavour {
    fn key(self) -> &'static str {
        match self {
            Self::Redis70 => "REDIS70",
            Self::Redis82 => "REDIS82",
            Self::Valkey9 => "VALKEY9",
        }
    }
}

/// A server process without persistence. It listens on two loopback addresses so that CLIENT LIST tells by `laddr`
/// who is who: the proxy connects to `127.0.0.1`, the run itself to `127.0.0.2`. Killed on drop.
pub(crate) struct Server {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts a server and waits until it answers PING.
    pub(crate) fn start(flavour: Flavour) -> Self {
        for _ in 0..5 {
            let mut server = Self::spawn(flavour);
            if server.wait_until_up() {
                return server;
            }
            eprintln!("{flavour:?} ended at once:\n{}", server.log());
        }
        panic!("{flavour:?} did not start");
    }

    fn spawn(flavour: Flavour) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let log = File::create(directory.path().join("log")).expect("the log file opens");
        let child = Command::new(path_of(flavour.key()))
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "127.0.0.2"])
            .args(["--dir", &directory.path().to_string_lossy()])
            .args(["--save", "", "--appendonly", "no", "--hz", "100", "--daemonize", "no", "--maxclients", "5000"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file can be shared"))
            .stderr(log)
            .spawn()
            .expect("the server binary starts");
        Self { child, port, directory }
    }

    fn wait_until_up(&mut self) -> bool {
        eventually(Duration::from_secs(20), || {
            if self.child.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Ok(false);
            }
            match self.ask(&["PING"]) {
                Ok(reply) if reply.starts_with("+PONG") => Ok(true),
                other => Err(format!("PING: {other:?}")),
            }
        })
    }

    /// Where the proxy connects.
    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Where the run itself connects.
    pub(crate) fn direct(&self) -> SocketAddr {
        ([127, 0, 0, 2], self.port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// One command over a connection of its own; the reply's bytes as text. For replies of one read only.
    pub(crate) fn ask(&self, arguments: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.direct())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut request = format!("*{}\r\n", arguments.len());
        for argument in arguments {
            request.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
        }
        stream.write_all(request.as_bytes())?;
        let mut reply = vec![0; 1 << 16];
        let size = stream.read(&mut reply)?;
        Ok(String::from_utf8_lossy(&reply[..size]).into_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = self.child.try_wait().ok().flatten();
            eprintln!("the server ended before the test: {ended:?}; its log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
