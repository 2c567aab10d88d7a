//! respmux as a process of its own, started the way a person starts it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::{Address, PATIENCE, Pki, RealRedis, TestClient, eventually, free_port, signal};

/// The respmux that is tested. `RESPMUX_UNDER_TEST` names another build (a release, one with a seeded bug) in place of the
/// one that cargo built with the tests.
pub fn program() -> String {
    // Cargo says where it put the program when it starts the tests, from 1.94 on. Where nobody says it, it lies one folder
    // above the test: `target/debug/deps/it-…`, `target/debug/respmux`.
    let said = ["RESPMUX_UNDER_TEST", "CARGO_BIN_EXE_respmux"].into_iter().find_map(|name| std::env::var(name).ok());
    said.unwrap_or_else(|| {
        let test = std::env::current_exe().expect("a test knows its own path");
        let beside = test.parent().and_then(|folder| folder.parent()).map(|folder| folder.join("respmux"));
        let found = beside.filter(|program| program.exists());
        found
            .unwrap_or_else(|| panic!("no respmux beside {}: name one in RESPMUX_UNDER_TEST", test.display()))
            .display()
            .to_string()
    })
}

/// How the proxy is started. `Default` is what a person gets who says nothing but the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyOptions {
    pub workers: Option<u32>,
    pub max_upstream_connections: Option<u32>,
    /// `--set key=value`
    pub settings: Vec<String>,
    /// Further arguments, as they are.
    pub arguments: Vec<String>,
    /// Variables of the process: how a seeded bug is chosen.
    pub environment: Vec<(String, String)>,
    /// Listen on a unix socket as well (its path: [`Proxy::unix_address`]).
    pub unix: bool,
    /// Clients speak TLS; the certificate is of this authority.
    pub tls: Option<Arc<Pki>>,
    /// In place of the server's own TCP address.
    pub upstream: Option<String>,
    /// A configuration file, which names the upstream too.
    pub config: Option<PathBuf>,
    /// A program and its arguments that starts respmux: one that sets limits.
    pub wrapper: Vec<String>,
    /// Do not wait for `/readyz`: for an upstream that is not there.
    pub start_unready: bool,
}

impl ProxyOptions {
    /// The smallest configuration that must work: one worker, six upstream connections in all.
    pub fn tight() -> Self {
        Self { workers: Some(1), max_upstream_connections: Some(6), ..Self::default() }
    }

    pub fn sized(workers: u32, max_upstream_connections: u32) -> Self {
        let max_upstream_connections = Some(max_upstream_connections);
        Self { workers: Some(workers), max_upstream_connections, ..Self::default() }
    }

    pub fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }
}

/// A running proxy. Killed on drop; its log is printed when the test panics.
pub struct Proxy {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
    directory: tempfile::TempDir,
}

impl Proxy {
    /// Starts respmux in front of `redis` and waits until it accepts clients and says that it is ready.
    pub fn start(redis: &RealRedis, options: &ProxyOptions) -> Self {
        let upstream = options.upstream.clone().unwrap_or_else(|| redis.url());
        let mut last = String::new();
        // Another process may have taken a port between the look and the bind.
        for _ in 0..3 {
            let mut proxy = Self::spawn(&upstream, options);
            match proxy.wait_until_up(options) {
                Ok(()) => return proxy,
                Err(ended) => last = format!("{ended}\n{}", proxy.log()),
            }
        }
        panic!("respmux did not start: {last}");
    }

    fn spawn(upstream: &str, options: &ProxyOptions) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = File::create(directory.path().join("stderr")).expect("the log file opens");
        let binary = program();
        let mut command = Command::new(options.wrapper.first().unwrap_or(&binary));
        if let [_, arguments @ ..] = &options.wrapper[..] {
            command.args(arguments).arg(binary);
        }
        let kind = if options.tls.is_some() { "tls:" } else { "" };
        command.args(["run", "--listen", &format!("{kind}{address}")]);
        match &options.config {
            Some(file) => command.arg("--config").arg(file),
            None => command.args(["--upstream", upstream]),
        };
        if let Some(pki) = &options.tls {
            let pair = pki.issue("proxy", &["127.0.0.1", "localhost"], 2099);
            command.args(["--set", &format!("tls.cert_file={}", pair.cert.display())]);
            command.args(["--set", &format!("tls.key_file={}", pair.key.display())]);
        }
        command.args(["--admin", &admin.to_string()]);
        if options.unix {
            command.args(["--listen", &format!("unix:{}", directory.path().join("respmux.sock").display())]);
        }
        if let Some(workers) = options.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        if let Some(most) = options.max_upstream_connections {
            command.args(["--max-upstream-connections", &most.to_string()]);
        }
        for setting in &options.settings {
            command.args(["--set", setting]);
        }
        command
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .env_remove("RUST_LOG")
            .env_remove("RESPMUX_UNDER_TEST")
            .current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log file can be shared")).stderr(log);
        let child = command.spawn().expect("respmux starts");
        Self { child, address, admin, tls: options.tls.as_ref().map(|pki| pki.client(None)), directory }
    }

    fn wait_until_up(&mut self, options: &ProxyOptions) -> Result<(), String> {
        eventually(Duration::from_secs(20), || {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return Ok(Err(format!("it ended with {status}")));
            }
            TestClient::try_connect(&self.address()).map_err(|error| format!("{}: {error}", self.address))?;
            match self.http("/readyz") {
                Ok((200, _)) => Ok(Ok(())),
                Ok(_) if options.start_unready => Ok(Ok(())),
                other => Err(format!("/readyz: {other:?}; log:\n{}", self.log())),
            }
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> Address {
        match &self.tls {
            Some(config) => Address::Tls(self.address, Arc::clone(config)),
            None => Address::Tcp(self.address),
        }
    }

    /// The same, below TLS.
    pub fn tcp_address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients connect without TCP, if [`ProxyOptions::unix`] was set.
    pub fn unix_address(&self) -> Address {
        Address::Unix(self.directory.path().join("respmux.sock"))
    }

    /// Where `/metrics` is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn connect(&self) -> TestClient {
        TestClient::connect(&self.address())
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// The highest resident size so far, in KiB.
    pub fn peak_rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    /// Sends a signal by name (`TERM`, `STOP`, …).
    pub fn signal(&self, name: &str) {
        signal(self.process_id(), name);
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("the child can be asked").is_none()
    }

    /// Waits for the end of the process.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        eventually(deadline, || match self.child.try_wait().expect("the child can be asked") {
            Some(status) => Ok(status),
            None => Err("respmux still runs"),
        })
    }

    /// GET on the admin listener: status and body.
    pub fn http(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: respmux\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        let (status, body) = self.http("/metrics").expect("the admin listener answers");
        assert_eq!(status, 200, "/metrics: {body}");
        body
    }

    /// The sum of all series of `name` that have all of `labels`; `None` if there is no such series.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        metric_of(&self.metrics(), name, labels)
    }

    /// Waits until the metric is as wanted. A figure that another task or thread publishes is never read only once.
    #[track_caller]
    pub fn becomes(&self, name: &str, labels: &[(&str, &str)], wanted: impl Fn(f64) -> bool) -> f64 {
        eventually(PATIENCE, || match self.metric(name, labels) {
            Some(value) if wanted(value) => Ok(value),
            other => Err(format!("{name} {labels:?} is {other:?}")),
        })
    }

    /// What the process wrote to its standard output and standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("stderr")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            eprintln!("--- log of respmux (process {}), its end:\n{}", self.child.id(), &log[from..]);
        }
    }
}

/// Sums the matching series of a Prometheus text.
fn metric_of(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, "}"));
        let value: f64 = value.parse().ok()?;
        (found == name && has_labels(rest.trim_end_matches('}'), labels)).then_some(value)
    });
    series.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

fn has_labels(text: &str, wanted: &[(&str, &str)]) -> bool {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let found: BTreeMap<_, _> = pairs.map(|(key, value)| (key, value.trim_matches('"'))).collect();
    wanted.iter().all(|(key, value)| found.get(key) == Some(value))
}

#[test]
fn series_are_summed_over_the_labels_that_are_not_asked_for() {
    let text = "# TYPE a gauge\na{x=\"1\",y=\"p\"} 2\na{x=\"1\",y=\"q\"} 3\na{x=\"2\",y=\"q\"} 7\nab 100\nc 4\n";
    assert_eq!(metric_of(text, "a", &[("x", "1")]), Some(5.0));
    assert_eq!(metric_of(text, "a", &[]), Some(12.0));
    assert_eq!(metric_of(text, "c", &[]), Some(4.0));
    assert_eq!(metric_of(text, "d", &[]), None);
}
