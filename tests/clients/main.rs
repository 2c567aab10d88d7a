//! Real client libraries through respmux, on RESP2 and RESP3, against Redis 7.0, Redis 8.2 and Valkey 9.
//!
//! Each script of `tests/clients` runs straight against the server first (the control: what fails there is not the
//! proxy's fault) and then through the proxy. Meanwhile the proxy's connections are counted at the server.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests report and pace themselves")]

mod redis_rs;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use kit::{Flavour, Proxy, ProxyOptions, RealRedis, SetOnDrop, path_of};

/// Upstream connections the proxy may have. Until subscriptions and blocking commands are folded, each subscriber
/// and each blocked client of a script needs one.
const CAP: u32 = 64;
/// No script takes a tenth of this on an idle machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// One script with what runs it.
#[derive(Clone, Copy, Debug)]
struct Script {
    file: &'static str,
    interpreter: &'static str,
    protocol: u8,
    /// Which client library, where the script does not say.
    name: &'static str,
}

const fn script(name: &'static str, file: &'static str, interpreter: &'static str, protocol: u8) -> Script {
    Script { file, interpreter, protocol, name }
}

const SCRIPTS: [Script; 12] = [
    script("redis-py 5.2", "redis_py.py", "PYTHON_REDIS5", 2),
    script("redis-py 5.2", "redis_py.py", "PYTHON_REDIS5", 3),
    script("redis-py", "redis_py.py", "PYTHON", 2),
    script("redis-py", "redis_py.py", "PYTHON", 3),
    script("redis-py 5.2 asyncio", "redis_py_async.py", "PYTHON_REDIS5", 2),
    script("redis-py 5.2 asyncio", "redis_py_async.py", "PYTHON_REDIS5", 3),
    script("redis-py asyncio", "redis_py_async.py", "PYTHON", 2),
    script("redis-py asyncio", "redis_py_async.py", "PYTHON", 3),
    script("node-redis", "node_redis.mjs", "NODE", 2),
    script("node-redis", "node_redis.mjs", "NODE", 3),
    script("ioredis", "ioredis.mjs", "NODE", 2),
    script("ioredis", "ioredis.mjs", "NODE", 3),
];

/// Runs `script` against `target` and gives its line of JSON; the reason, if it failed.
fn run(script: Script, target: SocketAddr, server: &RealRedis, level: &str) -> Result<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = Command::new(path_of(script.interpreter));
    command.arg(folder.join(script.file));
    command.args(["--host", &target.ip().to_string(), "--port", &target.port().to_string()]);
    let direct = server.direct_address();
    command.args(["--direct-host", &direct.ip().to_string(), "--direct-port", &direct.port().to_string()]);
    command.args(["--protocol", &script.protocol.to_string(), "--level", level]);
    if let Ok(only) = std::env::var("CLIENTS_ONLY") {
        command.args(["--only", &only]);
    }
    command.env("NODE_PATH", path_of("NODE_PATH")).env("PYTHONDONTWRITEBYTECODE", "1");
    let outputs = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| outputs.path().join(name);
    let create = |path: PathBuf| std::fs::File::create(path).expect("an output file");
    command.stdin(Stdio::null()).stdout(create(file("out"))).stderr(create(file("err")));
    let mut child = command.spawn().expect("the interpreter starts");
    let end = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be asked") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            break child.wait().expect("the child ends");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let read = |name| std::fs::read_to_string(file(name)).unwrap_or_default();
    let line = read("out").trim().to_owned();
    if status.success() && line.starts_with('{') {
        return Ok(line);
    }
    let said = read("err");
    let tail = said.char_indices().rev().nth(6000).map_or(&said[..], |(at, _)| &said[at..]);
    Err(format!("{} on RESP{}: {status}\n{line}\n{tail}", script.name, script.protocol))
}

/// Counts the proxy's connections at the server until told to stop; gives the highest count.
fn count_upstream<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    server: &RealRedis,
    stop: &'scope AtomicBool,
) -> ScopedJoinHandle<'scope, usize> {
    let client = redis::Client::open(format!("redis://{}", server.direct_address())).expect("a URL");
    let address = format!(" laddr={} ", server.tcp_address());
    scope.spawn(move || {
        let mut direct = client.get_connection().expect("the server is there");
        let mut most = 0;
        while !stop.load(Ordering::Relaxed) {
            let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut direct).expect("CLIENT LIST");
            most = most.max(list.lines().filter(|line| line.contains(&address)).count());
            std::thread::sleep(Duration::from_millis(25));
        }
        most
    })
}

/// Both arms of one server of the matrix. `level`: how much the proxied arm does; the control is always short.
fn matrix(flavour: Flavour, level: &str, wanted: impl Fn(&Script) -> bool) {
    let server = RealRedis::start_with_direct_address(flavour);
    let mut proxy = Proxy::start(&server, &ProxyOptions::sized(2, CAP));
    let chosen = std::env::var("CLIENTS_NAME").unwrap_or_default();
    let scripts: Vec<_> =
        SCRIPTS.into_iter().filter(|script| wanted(script) && script.name.contains(&chosen)).collect();
    let mut failures = Vec::new();
    for script in &scripts {
        match run(*script, server.direct_address(), &server, "short") {
            Ok(line) => println!("{flavour:?} direct  {line}"),
            Err(failure) => panic!("the control arm fails, so nothing can be said: {flavour:?}, {failure}"),
        }
    }
    let stop = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let end = SetOnDrop(&stop);
        let counting = count_upstream(scope, &server, &stop);
        for script in &scripts {
            match run(*script, proxy.tcp_address(), &server, level) {
                Ok(line) => println!("{flavour:?} respmux {line}"),
                Err(failure) => failures.push(failure),
            }
        }
        drop(end);
        counting.join().expect("the counting thread ends")
    });
    println!("{flavour:?}: at most {most} upstream connections of {CAP}");
    assert!(failures.is_empty(), "{flavour:?}, through respmux:\n{}", failures.join("\n\n"));
    assert!((1..=CAP as usize).contains(&most), "{most} upstream connections, {CAP} are allowed");
    assert!(proxy.runs(), "respmux ended");
}

#[test]
fn libraries_on_redis_70() {
    matrix(Flavour::Redis70, "full", |_| true);
}

#[test]
fn libraries_on_redis_82() {
    matrix(Flavour::Redis82, "short", |script| script.interpreter != "PYTHON_REDIS5");
}

#[test]
fn libraries_on_valkey_9() {
    matrix(Flavour::Valkey9, "short", |script| script.interpreter != "PYTHON_REDIS5");
}

/// redis-rs is of our own language: it runs in this process.
#[test]
fn redis_rs_on_all_servers() {
    for flavour in [Flavour::Redis70, Flavour::Redis82, Flavour::Valkey9] {
        let server = RealRedis::start_with_direct_address(flavour);
        let mut proxy = Proxy::start(&server, &ProxyOptions::sized(2, CAP));
        for protocol in [2, 3] {
            redis_rs::run(server.direct_address(), server.direct_address(), protocol);
            redis_rs::run(proxy.tcp_address(), server.direct_address(), protocol);
        }
        assert!(proxy.runs(), "respmux ended");
    }
}

const LOADING: &str = "LOADING no transaction connection available, command was not executed, try again";

/// A client of respmux that has a lent connection until it is dropped.
fn holder(proxy: &Proxy) -> redis::Connection {
    let mut holder =
        redis::Client::open(format!("redis://{}", proxy.tcp_address())).and_then(|client| client.get_connection());
    let held = holder.as_mut().map(|holder| redis::cmd("WATCH").arg("held").query::<String>(holder));
    assert!(matches!(held, Ok(Ok(ref ok)) if ok == "OK"), "{:?}", held.map(|held| held.is_ok()));
    holder.expect("asked")
}

fn timeouts(proxy: &Proxy) -> u64 {
    proxy.metric("respmux_pool_timeouts_total", &[]).unwrap_or_default() as u64
}

/// What a script says that wants a connection of its own while others have them all; `freed` after it was told so.
fn outcome(proxy: &Proxy, interpreter: &str, file: &str, words: &[&str], freed: bool) -> String {
    let mut held: Vec<_> = (0..2).map(|_| holder(proxy)).collect();
    let before = timeouts(proxy);
    let mut command = Command::new(path_of(interpreter));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file));
    command.arg(proxy.tcp_address().port().to_string()).args(words);
    command.env("NODE_PATH", path_of("NODE_PATH")).env("PYTHONDONTWRITEBYTECODE", "1");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the interpreter starts");
    if freed {
        kit::eventually(DEADLINE, || if timeouts(proxy) > before { Ok(()) } else { Err("not turned away") });
        held.clear();
    }
    let output = child.wait_with_output().expect("it ends");
    assert!(timeouts(proxy) > before, "nobody was turned away");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What the pool cannot lend was not written; libraries know LOADING as that, and those that try anything again try this
/// (deploy/clients.md).
#[test]
fn what_could_not_be_lent_is_tried_again() {
    let server = RealRedis::start_with_direct_address(Flavour::Redis70);
    let mut options = ProxyOptions::sized(1, 6);
    options.settings.push("pool.wait_timeout=100ms".to_owned());
    let proxy = Proxy::start(&server, &options);
    let busy = format!("BusyLoadingError: {}", LOADING.trim_start_matches("LOADING "));
    for (interpreter, file, words, wanted) in [
        ("PYTHON", "want_of.py", &["plain"][..], "OK"),
        ("PYTHON", "want_of.py", &["retry"], "OK"),
        ("PYTHON_REDIS5", "want_of.py", &["retry"], "OK"),
        ("NODE", "want_of.mjs", &["retry", "ioredis"], "OK"),
        // These leave it to the application.
        ("PYTHON_REDIS5", "want_of.py", &["plain"], &busy),
        ("NODE", "want_of.mjs", &["plain", "ioredis"], LOADING),
        ("NODE", "want_of.mjs", &["plain", "node-redis"], LOADING),
    ] {
        let got = outcome(&proxy, interpreter, file, words, wanted == "OK");
        assert!(got.ends_with(wanted), "{interpreter} {words:?}: {got}, wanted {wanted}");
    }
    let _held: Vec<_> = (0..2).map(|_| holder(&proxy)).collect();
    let client = redis::Client::open(format!("redis://{}", proxy.tcp_address())).expect("a URL");
    let mut connection = client.get_connection().expect("a connection");
    let error = redis::cmd("WATCH").arg("k").query::<()>(&mut connection).expect_err("nothing is free");
    assert!(matches!(error.retry_method(), redis::RetryMethod::WaitAndRetry), "{error:?}");
}
