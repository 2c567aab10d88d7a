//! PROXY while the upstream does not answer: the time for which it is made. Every subcommand, in every kind of outage, as
//! a client that nobody knows yet and as one that was served before.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;
use std::time::{Duration, Instant};

use kit::{Address, Flavour, Frame, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually, pause};

/// What may be asked without a right, by whom ever.
const OPEN: [&str; 3] = ["HELP", "WHOAMI", "EXPLAIN GET k"];

/// What shows others.
const READS: [&str; 13] = [
    "CLIENTS",
    "CLIENTS SORT traffic LIMIT 5",
    "CONFIG LIST",
    "CONFIG GET workers",
    "HOTKEYS",
    "INFO",
    "INFO upstreams",
    "LANES",
    "POOLS",
    "SERVERS",
    "SLOWLOG GET",
    "SLOWLOG LEN",
    "STATS",
];

/// What changes something. DRAIN is asked last of all, by the test itself.
const WRITES: [&str; 7] =
    ["HOTKEYS RESET", "SLOWLOG RESET", "RECONNECT", "RELOAD", "PAUSE 50", "RESUME", "KILL 127.0.0.1:1"];

/// A bound on one answer.
const SOON: Duration = Duration::from_millis(100);

/// Asks on connections from `client` until an answer comes within [`SOON`]: of a few, because the machine may be busy.
fn soon(mut client: impl FnMut() -> TestClient, line: &str) -> Frame {
    let mut took = Vec::new();
    for _ in 0..6 {
        let mut client = client();
        let asked = Instant::now();
        let answer = client.ask(&format!("PROXY {line}"));
        took.push(asked.elapsed());
        if asked.elapsed() < SOON {
            return answer;
        }
    }
    panic!("PROXY {line} takes {took:?}");
}

/// A server of ours that takes connections: it reads, and says `word` each time.
struct Fake {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Fake {
    fn start(word: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, over) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&over);
        spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                spawn(move || {
                    let mut chunk = [0; 4096];
                    while stream.read(&mut chunk).is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(word.as_bytes());
                    }
                });
            }
        });
        Self { address, over }
    }

    /// In front of `redis`: every byte comes late.
    fn slow(redis: &RealRedis, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, over) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let (ended, port) = (Arc::clone(&over), redis.port());
        spawn(move || {
            for stream in listener.incoming() {
                let Ok(from) = stream else { continue };
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(to) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                for (mut from, mut to) in
                    [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to.try_clone().unwrap(), from)]
                {
                    spawn(move || {
                        let mut chunk = [0; 4096];
                        while let Ok(read @ 1..) = from.read(&mut chunk) {
                            pause(delay);
                            if to.write_all(&chunk[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Self { address, over }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn options(upstream: Option<String>) -> ProxyOptions {
    let options = ProxyOptions { start_unready: true, unix: true, upstream, ..ProxyOptions::sized(2, 16) };
    options.set("hotkeys.sample=10")
}

/// Every subcommand, to clients of this machine. `known` was served before the outage, if there was a before.
fn all_subcommands(proxy: &Proxy, mut known: Option<TestClient>) {
    let tcp = || proxy.connect();
    let unix = || TestClient::connect(&proxy.unix_address());
    for line in OPEN.iter().chain(&READS) {
        for (client, how) in [(soon(tcp, line), "TCP"), (soon(unix, line), "a unix socket")] {
            assert!(!client.is_error(), "PROXY {line} over {how}: {client:?}");
        }
    }
    // Nobody has said who this is.
    for line in WRITES {
        let answer = soon(tcp, line);
        let refused = answer.is_error() && answer.as_str().contains("who you are");
        assert!(refused, "PROXY {line}: {answer:?}");
    }
    let Some(known) = known.as_mut() else { return };
    for line in OPEN.iter().chain(&READS) {
        let answer = soon_on(known, line);
        assert!(!answer.is_error(), "PROXY {line} to one who is known: {answer:?}");
    }
    for line in WRITES.iter().chain(&["DRAIN"]) {
        let answer = soon_on(known, line);
        assert!(answer.as_str().contains("auth.proxy_write"), "PROXY {line} to one who is known: {answer:?}");
    }
}

/// As [`soon`], on one connection.
fn soon_on(client: &mut TestClient, line: &str) -> Frame {
    let mut took = Vec::new();
    for _ in 0..6 {
        let asked = Instant::now();
        let answer = client.ask(&format!("PROXY {line}"));
        took.push(asked.elapsed());
        if asked.elapsed() < SOON {
            return answer;
        }
    }
    panic!("PROXY {line} to one who is known takes {took:?}");
}

/// Who was served before and may change respmux still may: that is not the upstream's matter.
#[test]
fn what_may_be_changed_in_an_outage() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut proxy = Proxy::start(&redis, &options(None).set("auth.proxy_write=any"));
    let mut known = served(&proxy);
    redis.kill();
    pause(Duration::from_millis(1100));
    let mut other = proxy.connect();
    other.ask("PROXY WHOAMI");
    for line in WRITES {
        let answer = soon_on(&mut known, line);
        let nobody = line.starts_with("KILL");
        assert!(answer.is_error() == nobody && !answer.as_str().contains("upstream"), "PROXY {line}: {answer:?}");
    }
    let kill = format!("KILL {}", other.local_address());
    assert_eq!(soon_on(&mut known, &kill).as_int(), 1);
    assert!(!soon_on(&mut known, "DRAIN").is_error());
    assert!(proxy.wait_exit(PATIENCE).success());
}

fn served(proxy: &Proxy) -> TestClient {
    let mut client = proxy.connect();
    assert_eq!(client.ask("PING").as_str(), "PONG");
    client
}

#[test]
fn killed() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &options(None));
    let known = served(&proxy);
    redis.kill();
    // The answer of the last probe serves for a second.
    pause(Duration::from_millis(1100));
    all_subcommands(&proxy, Some(known));
}

#[test]
fn never_there() {
    let redis = RealRedis::prepare(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &options(None));
    all_subcommands(&proxy, None);
}

#[test]
fn stopped() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let proxy = Proxy::start(&redis, &options(None));
    let known = served(&proxy);
    redis.signal("STOP");
    pause(Duration::from_millis(1100));
    all_subcommands(&proxy, Some(known));
    redis.signal("CONT");
    assert_eq!(eventually(PATIENCE, || pong(&mut proxy.connect())), "PONG");
}

fn pong(client: &mut TestClient) -> Result<String, String> {
    let answer = client.ask("PING");
    if answer.is_error() { Err(answer.as_str()) } else { Ok(answer.as_str()) }
}

#[test]
fn paused() {
    let redis = RealRedis::start(Flavour::Valkey9, &[]);
    let proxy = Proxy::start(&redis, &options(None));
    let known = served(&proxy);
    redis.connect().ask("CLIENT PAUSE 60000 ALL");
    pause(Duration::from_millis(1100));
    all_subcommands(&proxy, Some(known));
}

#[test]
fn silent_loading_and_full() {
    for word in [
        "",
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-ERR max number of clients reached\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let (fake, redis) = (Fake::start(word), RealRedis::prepare(Flavour::Redis70, &[]));
        let proxy = Proxy::start(&redis, &options(Some(fake.url())));
        all_subcommands(&proxy, None);
    }
}

#[test]
fn slow() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let fake = Fake::slow(&redis, Duration::from_millis(200));
    let proxy = Proxy::start(&redis, &options(Some(fake.url())));
    let known = served(&proxy);
    pause(Duration::from_millis(1100));
    let (tcp, unix) = (|| proxy.connect(), || TestClient::connect(&proxy.unix_address()));
    for line in OPEN.iter().chain(&READS) {
        for answer in [soon(tcp, line), soon(unix, line)] {
            assert!(!answer.is_error(), "PROXY {line}: {answer:?}");
        }
    }
    drop(known);
}

/// The server is there, and does not take the login of the configuration.
#[test]
fn refusing_the_login() {
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", "right"]);
    let url = format!("redis://:wrong@127.0.0.1:{}", redis.port());
    let proxy = Proxy::start(&redis, &options(Some(url)));
    let (tcp, unix) = (|| proxy.connect(), || TestClient::connect(&proxy.unix_address()));
    for line in OPEN.iter().chain(&READS) {
        for answer in [soon(tcp, line), soon(unix, line)] {
            assert!(!answer.is_error(), "PROXY {line}: {answer:?}");
        }
    }
    let mut client = proxy.connect();
    assert!(client.ask("PROXY SERVERS").items[0].as_str().contains("WRONGPASS"));
}

/// A client that has to log in and has not: what is for everybody it gets, in an outage or not; the rest is NOAUTH.
#[test]
fn without_a_login() {
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", "right"]);
    let proxy = Proxy::start(&redis, &options(None));
    for line in OPEN {
        let answer = proxy.connect().ask(&format!("PROXY {line}"));
        assert!(!answer.is_error(), "PROXY {line}: {answer:?}");
    }
    for line in READS.iter().chain(&WRITES).chain(&["DRAIN", "NOSUCH", "CONFIG"]) {
        let answer = eventually(PATIENCE, || {
            let answer = proxy.connect().ask(&format!("PROXY {line}")).as_str();
            // A busy machine may take longer for the first question than a caller of PROXY waits.
            if answer.contains("cannot be asked now") { Err(answer) } else { Ok(answer) }
        });
        assert_eq!(answer, "NOAUTH Authentication required.", "PROXY {line}");
    }
    let mut client = proxy.connect();
    assert_eq!(client.ask("AUTH right").as_str(), "OK");
    assert!(!client.ask("PROXY INFO").is_error());
    // Whoever watches from this machine is not counted as one who tries commands without a login.
    redis.signal("STOP");
    pause(Duration::from_millis(1100));
    let mut client = proxy.connect();
    for _ in 0..1100 {
        assert!(!client.ask("PROXY HELP").is_error());
    }
    redis.signal("CONT");
}

/// An address of this machine that is not loopback: what comes from there looks like another machine's.
fn own_address() -> Option<SocketAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing
    let address = socket.local_addr().ok()?.ip();
    let port = kit::free_port();
    (!address.is_loopback() && !address.is_unspecified()).then(|| SocketAddr::new(address, port))
}

#[test]
fn from_another_machine() {
    let Some(address) = own_address() else { return };
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let listen = format!("{address}");
    let options = options(None).set("allow_remote_passwordless=true");
    let _proxy = Proxy::start(&redis, &ProxyOptions { arguments: vec!["--listen".to_owned(), listen], ..options });
    let remote = || TestClient::connect(&Address::Tcp(address));
    for line in OPEN.iter().chain(&READS) {
        let answer = eventually(PATIENCE, || {
            let answer = remote().ask(&format!("PROXY {line}"));
            if answer.is_error() { Err(answer.as_str()) } else { Ok(answer) }
        });
        assert!(!answer.is_error(), "PROXY {line}: {answer:?}");
    }
    redis.kill();
    pause(Duration::from_millis(1100));
    for line in OPEN {
        assert!(!soon(remote, line).is_error(), "PROXY {line}");
    }
    for line in READS {
        let answer = soon(remote, line).as_str();
        assert!(answer.starts_with("ERR ") && answer.contains("from this machine only"), "PROXY {line}: {answer}");
    }
    for line in WRITES {
        let answer = soon(remote, line).as_str();
        assert!(answer.starts_with("ERR ") && answer.contains("who you are"), "PROXY {line}: {answer}");
    }
}

/// Why and since when is told wherever somebody looks, with the address; each fact once for the process.
#[test]
fn the_reason_is_told_everywhere() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &options(None).set("upstream.connect_wait=300ms"));
    let endpoint = format!("127.0.0.1:{}", redis.port());
    drop(served(&proxy));
    let status = || -> serde_json::Value { serde_json::from_str(&proxy.http("/status.json").unwrap().1).unwrap() };
    assert!(status()["upstream"]["away_since"].is_null());
    redis.kill();
    let upstream = eventually(PATIENCE, || {
        let _ = proxy.connect().ask("GET k");
        let upstream = status()["upstream"].take();
        let told = upstream["last_error"]["text"].as_str().is_some_and(|text| text.contains("refused"));
        if told && upstream["up"] == false { Ok(upstream) } else { Err(upstream.to_string()) }
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for time in [&upstream["away_since"], &upstream["last_error"]["time"]] {
        assert!((now - 60.0..now + 1.0).contains(&time.as_f64().unwrap()), "{upstream}");
    }
    let plain = proxy.http("/").unwrap().1;
    assert!(plain.contains("last error") || plain.contains("/status.json"), "{plain}");
    let line = proxy.connect().ask("PROXY SERVERS").items[0].as_str();
    assert!(line.contains("refused") && !line.contains("away_s=-1"), "{line}");
    let url = match proxy.address() {
        Address::Tcp(address) => format!("redis://{address}"),
        other => panic!("{other:?}"),
    };
    let tool = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_respmux")).args(arguments).env_clear().output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let top = tool(&["top", "--once", "--url", &url]);
    assert!(top.contains("DOWN for ") && top.contains("refused") && top.contains(&endpoint), "{top}");
    // With a login that nobody can look at, too.
    let top = tool(&["top", "--once", "--url", &url.replace("redis://", "redis://:secret@")]);
    assert!(top.contains("DOWN for ") && !top.contains("secret"), "{top}");
    let ping = tool(&["ping", "--url", &url]);
    assert!(ping.contains("respmux answers") && ping.contains(&endpoint) && ping.contains("refused"), "{ping}");
    let stat = tool(&["stat", "--admin", &proxy.admin().to_string(), "-n", "1"]);
    assert_eq!(stat.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)), Some("0"), "{stat}");
    eventually(PATIENCE, || {
        let _ = proxy.connect().ask("GET k");
        if proxy.log().contains("circuit open") { Ok(()) } else { Err("the circuit is closed") }
    });
    redis.start_again();
    assert_eq!(eventually(PATIENCE, || pong(&mut proxy.connect())), "PONG");
    let log = eventually(PATIENCE, || {
        let log = proxy.log();
        let told =
            log.contains("its run_id changed") && log.contains("circuit closed") && log.contains("connections again");
        if told { Ok(log) } else { Err(log) }
    });
    for (wanted, times) in [
        ("connected to redis 7.0.15\"", 1),
        ("run_id changed", 1),
        ("circuit open", 1),
        ("circuit closed", 1),
        ("accepts connections again", 1),
    ] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(wanted)).collect();
        assert_eq!(lines.len(), times, "{wanted}: {lines:#?}");
        assert!(lines.iter().all(|line| line.contains(&endpoint)), "{lines:#?}");
    }
    let failures: Vec<_> = log.lines().filter(|line| line.contains("cannot connect to the upstream")).collect();
    assert!((1..=12).contains(&failures.len()), "{failures:#?}");
    assert!(failures.iter().all(|line| line.contains(&endpoint)), "{failures:#?}");
}
