//! The configuration read again while clients are served, another upstream, PAUSE, RESUME and RECONNECT.

mod counted;
mod load;
mod moves;
mod pauses;
mod settings;

use std::path::PathBuf;
use std::time::Duration;

use kit::{Flavour, Frame, Proxy, ProxyOptions, RealRedis, TestClient, eventually, setting};

/// A proxy with a configuration file that the test rewrites.
pub(crate) struct Configured {
    proxy: Proxy,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Configured {
    /// In front of `redis`, with `text` behind the address of the upstream. The file is looked at often.
    pub(crate) fn start(redis: &RealRedis, text: &str) -> Self {
        Self::start_with(redis, text, &ProxyOptions::default())
    }

    pub(crate) fn start_with(redis: &RealRedis, text: &str, options: &ProxyOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("respmux.toml");
        std::fs::write(&file, content(&redis.url(), text)).unwrap();
        let options = ProxyOptions { config: Some(file.clone()), ..options.clone() };
        let proxy = Proxy::start(redis, &options);
        Self { proxy, file, _directory: directory }
    }

    /// Writes another file, at once as a whole.
    pub(crate) fn write(&self, upstream: &str, text: &str) {
        self.write_raw(&content(upstream, text));
    }

    fn write_raw(&self, content: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    fn metric(&self, name: &str) -> f64 {
        self.proxy.metric(name, &[]).unwrap_or_else(|| panic!("no {name}"))
    }

    fn hash(&self) -> String {
        let metrics = self.proxy.metrics();
        let line = metrics.lines().find(|line| line.starts_with("respmux_config_hash_info{")).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    }
}

/// Whoever is connected may do everything; workers and cap are fixed, because they cannot change.
fn content(upstream: &str, text: &str) -> String {
    format!(
        "workers = 2\ninstance = 7\nupstream.url = '{upstream}'\nupstream.max_connections = 24\n\
         auth.proxy_write = 'any'\n{text}"
    )
}

/// The lines of an answer of PROXY.
fn lines(frame: &Frame) -> Vec<String> {
    assert!(!frame.is_error(), "{frame:?}");
    frame.items.iter().map(Frame::as_str).collect()
}

/// PROXY RELOAD that changes exactly these keys.
#[track_caller]
fn reload(admin: &mut TestClient, changed: &str) {
    let answer = lines(&admin.ask("PROXY RELOAD"));
    assert_eq!(answer, [format!("changed:{changed}"), "pending_restart:nothing".to_owned()]);
}

/// `replica` follows `primary` and has all of it.
fn follow(replica: &RealRedis, primary: &RealRedis) {
    let mut direct = replica.connect();
    assert_eq!(direct.ask(&format!("REPLICAOF 127.0.0.1 {}", primary.port())).as_str(), "OK");
    eventually(Duration::from_secs(30), || {
        let info = direct.ask("INFO replication").as_str();
        if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
    });
}

/// `replica` has everything that `primary` has.
fn has_caught_up(replica: &RealRedis, primary: &RealRedis) {
    eventually(Duration::from_secs(30), || {
        let (here, there) = (replica.info("slave_repl_offset"), primary.info("master_repl_offset"));
        if here == there { Ok(()) } else { Err(format!("{here} of {there}")) }
    });
}

fn two_servers() -> (RealRedis, RealRedis) {
    let start = || RealRedis::start(Flavour::Redis82, &["--repl-diskless-sync-delay", "0"]);
    (start(), start())
}

#[test]
#[ignore = "minutes: make prove WHAT=reload"]
#[allow(clippy::print_stdout, reason = "the line of the run")]
fn full() {
    let reload = moves::reload_under_load(setting("RELOADS", 100), 4, 8);
    let reconnect = moves::reconnect_under_load(setting("RECONNECTS", 50), 4, 8);
    let swap = pauses::swaps(setting("SWAPS", 20), 4, 8);
    println!("{{\"reload\":{reload},\"reconnect\":{reconnect},\"swap\":{swap}}}");
}
