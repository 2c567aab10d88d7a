//! respmux as a process of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{eventually, ports::free_port, server::Server};

/// How the proxy is started.
#[derive(Clone, Debug)]
pub(crate) struct ProxyOptions {
    pub(crate) workers: u32,
    pub(crate) max_upstream_connections: u32,
    /// `--set key=value`
    pub(crate) settings: Vec<String>,
    /// In place of the server's own address: what stands between.
    pub(crate) upstream: Option<SocketAddr>,
    /// Environment of the process: how a seeded bug is chosen.
    pub(crate) environment: Vec<(String, String)>,
}

impl ProxyOptions {
    pub(crate) fn sized(workers: u32, max_upstream_connections: u32) -> Self {
        Self { workers, max_upstream_connections, settings: Vec::new(), upstream: None, environment: Vec::new() }
    }
}

/// A running proxy. Killed on drop; the end of its log is printed when the test panics.
pub(crate) struct Proxy {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    directory: tempfile::TempDir,
}

impl Proxy {
    /// Starts respmux in front of `server` and waits until it says that it is ready.
    pub(crate) fn start(server: &Server, options: &ProxyOptions) -> Self {
        let mut last = String::new();
        for _ in 0..3 {
            let mut proxy = Self::spawn(server, options);
            match proxy.wait_until_ready() {
                Ok(()) => return proxy,
                Err(ended) => last = format!("{ended}\n{}", proxy.log()),
            }
        }
        panic!("respmux did not start: {last}");
    }

    fn spawn(server: &Server, options: &ProxyOptions) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = File::create(directory.path().join("log")).expect("the log file opens");
        let mut command = Command::new(env!("CARGO_BIN_EXE_respmux"));
        command.args(["run", "--listen", &address.to_string(), "--admin", &admin.to_string()]);
        let upstream = options.upstream.map_or_else(|| server.url(), |address| format!("redis://{address}"));
        command.args(["--upstream", &upstream, "--workers", &options.workers.to_string()]);
        command.args(["--max-upstream-connections", &options.max_upstream_connections.to_string()]);
        for setting in &options.settings {
            command.args(["--set", setting]);
        }
        command.envs(options.environment.iter().map(|(key, value)| (key, value)));
        command.current_dir(directory.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the log file can be shared")).stderr(log);
        let child = command.spawn().expect("respmux starts");
        Self { child, address, admin, directory }
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        eventually(Duration::from_secs(20), || {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                return Ok(Err(format!("it ended with {status}")));
            }
            match self.http("/readyz") {
                Ok(text) if text.starts_with("HTTP/1.1 200") => Ok(Ok(())),
                other => Err(format!("/readyz: {other:?}; log:\n{}", self.log())),
            }
        })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it shows its metrics.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The highest resident size so far, in KiB.
    pub(crate) fn peak_rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    pub(crate) fn http(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: respmux\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// What the process wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            eprintln!("--- the end of respmux's log:\n{}", &log[from..]);
        }
    }
}
