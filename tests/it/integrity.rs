//! What an upstream connection does that says something it must not: it is killed, every client with a request on it is
//! closed, nobody gets the suspicious reply, and clients on other connections notice nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually, pause};

/// The reply that is tampered with.
const MARK: &[u8] = b"$7\r\nswap-me\r\n";

/// What comes instead of [`MARK`].
#[derive(Clone, Debug)]
enum Fault {
    Instead(Vec<u8>),
    /// The reply as it is, and behind it what nobody asked for.
    Behind(Vec<u8>),
    /// The reply as it is; the canaries after it are spoilt.
    Canary,
    /// The reply as it is, and then the end of the connection.
    Cut,
    /// The reply as it is, and then nothing more.
    Silence,
}

#[derive(Default)]
struct Plan {
    fault: Mutex<Option<Fault>>,
    /// A marked reply has come, and waits.
    holding: AtomicBool,
    go: AtomicBool,
}

/// Stands between respmux and the server.
struct FaultProxy {
    address: SocketAddr,
    plan: Arc<Plan>,
}

impl FaultProxy {
    fn start(redis: &RealRedis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let plan = Arc::new(Plan::default());
        let (server, shared) = (redis.port(), Arc::clone(&plan));
        // Ends with the process: nothing tells a listener that its test is over.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (near_too, far_too) = (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
                let plan = Arc::clone(&shared);
                std::thread::spawn(move || copy(near, far, None));
                std::thread::spawn(move || copy(far_too, near_too, Some(plan)));
            }
        });
        Self { address, plan }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, plan: Option<Arc<Plan>>) {
    let mut buffer = vec![0; 1 << 16];
    let mut spoils = false;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut bytes = buffer[..count].to_vec();
        if let Some(plan) = &plan {
            let after = spoil(plan, &mut bytes, &mut spoils);
            if let Some(after) = after {
                let _ = to.write_all(&bytes);
                if matches!(after, Fault::Silence) {
                    while let Ok(1..) = from.read(&mut buffer) {}
                }
                break;
            }
        }
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Gives the fault if it is one that ends what the connection says.
fn spoil(plan: &Plan, bytes: &mut Vec<u8>, spoils: &mut bool) -> Option<Fault> {
    if let Some(at) = find(bytes, MARK)
        && let Some(fault) = plan.fault.lock().unwrap().take()
    {
        plan.holding.store(true, SeqCst);
        while !plan.go.load(SeqCst) {
            pause(Duration::from_millis(1));
        }
        let end = at + MARK.len();
        match fault {
            Fault::Instead(other) => drop(bytes.splice(at..end, other)),
            Fault::Behind(more) => drop(bytes.splice(end..end, more)),
            Fault::Canary => *spoils = true,
            Fault::Cut | Fault::Silence => {
                bytes.truncate(end);
                return Some(fault);
            }
        }
    }
    if *spoils && let Some(at) = find(bytes, b"respmux-") {
        bytes[at + 4] = b'a';
    }
    None
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A proxy behind a fault proxy, a client that reads the marked key, one that has a request on the same connection, and one
/// on another.
struct Scene {
    _redis: RealRedis,
    proxy: Proxy,
    plan: Arc<Plan>,
    victim: TestClient,
    comrade: TestClient,
    bystander: TestClient,
}

impl Scene {
    fn set(fault: Fault, settings: &[&str], protocol: u8) -> Self {
        let redis = RealRedis::start(Flavour::Redis70, &[]);
        let mut direct = redis.connect();
        direct.ask("SET marked swap-me");
        let fault_proxy = FaultProxy::start(&redis);
        let mut options = ProxyOptions::sized(1, 8);
        options.upstream = Some(format!("redis://{}", fault_proxy.address));
        let options = settings.iter().fold(options, |options, setting| options.set(setting));
        let proxy = Proxy::start(&redis, &options);
        let [mut victim, mut comrade, mut bystander] = [proxy.connect(), proxy.connect(), proxy.connect()];
        bystander.ask("SELECT 1");
        for client in [&mut victim, &mut comrade, &mut bystander] {
            assert!(!client.ask(&format!("HELLO {protocol}")).is_error());
            assert!(!client.ask("PING").is_error());
        }
        *fault_proxy.plan.fault.lock().unwrap() = Some(fault);
        Self { _redis: redis, proxy, plan: fault_proxy.plan, victim, comrade, bystander }
    }

    /// The victim has sent `lines`, of which one reads the marked key; the fault happens when the comrade's request is
    /// on its way too.
    fn happens(&mut self, lines: &[&str]) {
        for line in lines {
            self.victim.send_command(&line.split(' ').collect::<Vec<_>>());
        }
        eventually(PATIENCE, || {
            self.plan.holding.load(SeqCst).then_some(()).ok_or_else(|| "no marked reply".to_owned())
        });
        self.comrade.send_command(&["GET", "comrades-key"]);
        // It has its slot before an answer to what was sent later, on another lane of the same worker.
        assert!(!self.bystander.ask("PING").is_error());
        self.plan.go.store(true, SeqCst);
    }

    fn is_counted(&mut self, kind: &str, reason: &str) {
        let name = "respmux_integrity_violations_total";
        eventually(PATIENCE, || match self.proxy.metric(name, &[("kind", kind), ("reason", reason)]) {
            Some(1.0) => Ok(()),
            other => Err(format!("{kind}, {reason}: {other:?} in\n{}", self.proxy.log())),
        });
        self.proxy.becomes(name, &[], |n| n == 1.0);
        for n in 0..50 {
            assert_eq!(self.bystander.ask(&format!("ECHO n{n}")).as_str(), format!("n{n}"));
        }
        let log = self.proxy.log();
        let line = log.lines().find(|line| line.contains("cannot be trusted")).expect("a line in the log");
        assert!(line.contains(reason), "{line}");
        assert!(!log.contains("marked") && !log.contains("comrades-key") && !log.contains("swap-me"), "{log}");
    }

    fn logs(&self, wanted: &str) {
        let log = self.proxy.log();
        assert!(
            log.lines().any(|line| line.contains("cannot be trusted") && line.contains(wanted)),
            "{wanted}:\n{log}"
        );
    }
}

#[test]
fn a_reply_of_another_type() {
    for (protocol, wrong) in [(2, ":1\r\n"), (2, "+OK\r\n"), (2, "*0\r\n"), (3, ",1.5\r\n"), (3, "%0\r\n")] {
        let mut scene = Scene::set(Fault::Instead(wrong.into()), &[], protocol);
        scene.happens(&["GET marked"]);
        scene.victim.expect_eof();
        scene.comrade.expect_eof();
        scene.is_counted("lane", "wrong_type");
        scene.logs("GET");
        scene.logs("\"clients\":2");
        let after = scene.proxy.connect().ask("GET marked");
        assert_eq!(after.as_str(), "swap-me", "the next connection serves");
    }
}

/// Not a byte of a long reply that cannot be right is passed on either.
#[test]
fn a_long_reply_of_another_type() {
    let long = format!("*2\r\n$200000\r\n{}\r\n$1\r\nx\r\n", "x".repeat(200_000));
    let mut scene = Scene::set(Fault::Instead(long.into()), &[], 2);
    scene.happens(&["GET marked"]);
    scene.victim.expect_eof();
    scene.comrade.expect_eof();
    scene.is_counted("lane", "wrong_type");
}

#[test]
fn a_surplus_reply() {
    // The marked reply is its own; what comes behind it would be the next command's.
    let mut scene = Scene::set(Fault::Behind(b"$7\r\nforeign\r\n".to_vec()), &[], 2);
    scene.happens(&["GET marked", "INCR n"]);
    scene.victim.expect(MARK);
    scene.victim.expect_eof();
    scene.comrade.expect_eof();
    scene.is_counted("lane", "wrong_type");
    // And one for which no command waits.
    let mut scene = Scene::set(Fault::Behind(b"$7\r\nforeign\r\n".to_vec()), &[], 2);
    scene.plan.go.store(true, SeqCst);
    assert_eq!(scene.victim.ask("GET marked").as_str(), "swap-me");
    scene.is_counted("lane", "no_slot");
}

#[test]
fn bytes_that_are_no_reply() {
    for bad in [&b"?7\r\nswap-me\r\n"[..], b"$7\r\nswap-me!\r", b":seven\r\n", b"*-2\r\n"] {
        let mut scene = Scene::set(Fault::Instead(bad.to_vec()), &[], 2);
        scene.happens(&["GET marked"]);
        scene.victim.expect_eof();
        scene.comrade.expect_eof();
        scene.is_counted("lane", "parse_error");
    }
}

#[test]
fn a_push() {
    let mut scene = Scene::set(Fault::Instead(b">2\r\n$10\r\ninvalidate\r\n*0\r\n$1\r\nx\r\n".to_vec()), &[], 3);
    scene.happens(&["GET marked"]);
    scene.victim.expect_eof();
    scene.comrade.expect_eof();
    scene.is_counted("lane", "push");
}

#[test]
fn a_canary_that_comes_back_wrong() {
    let mut scene = Scene::set(Fault::Canary, &["lane.canary_commands=1"], 2);
    scene.happens(&["GET marked"]);
    scene.victim.expect(MARK); // what came before the canary is not known to be wrong
    scene.comrade.expect_eof();
    scene.is_counted("lane", "canary");
}

#[test]
fn a_lent_connection() {
    let mut scene = Scene::set(Fault::Instead(b":1\r\n".to_vec()), &[], 2);
    assert!(!scene.victim.ask("WATCH k").is_error());
    scene.happens(&["GET marked"]);
    scene.victim.expect_eof();
    scene.comrade.expect(b"$-1\r\n"); // on the lane, not on that connection
    scene.is_counted("pool", "wrong_type");
    scene.logs("GET");
}

/// A reply that nobody waits for on a lent connection: it goes back to nobody.
#[test]
fn a_surplus_reply_on_a_lent_connection() {
    let mut scene = Scene::set(Fault::Behind(b"+OK\r\n".to_vec()), &[], 2);
    scene.plan.go.store(true, SeqCst);
    assert!(!scene.victim.ask("WATCH k").is_error());
    scene.victim.send_command(&["GET", "marked"]);
    scene.victim.expect(MARK);
    scene.victim.expect_eof();
    scene.is_counted("pool", "no_slot");
}

/// Inside a transaction that rides a lane only +QUEUED may come.
#[test]
fn inside_a_transaction() {
    let mut scene = Scene::set(Fault::Behind(b"$1\r\nx\r\n".to_vec()), &[], 2);
    scene.plan.go.store(true, SeqCst);
    let unit: Vec<u8> = [vec!["GET", "marked"], vec!["MULTI"], vec!["GET", "a"], vec!["EXEC"]]
        .iter()
        .flat_map(|words| kit::encode(words))
        .collect();
    scene.victim.send(&unit);
    scene.victim.expect(MARK);
    scene.victim.expect_eof();
    scene.is_counted("lane", "wrong_type");
}

/// A reply of the right type in the wrong place is what only a canary sees. `strict` keeps every reply back until its
/// own canary has come, so that not even one goes astray.
#[test]
fn strict_lets_nothing_through() {
    let surplus = || Fault::Behind(b"$7\r\nforeign\r\n".to_vec());
    let mut scene = Scene::set(surplus(), &["integrity=normal"], 2);
    scene.happens(&["GET marked", "GET other"]);
    scene.victim.expect(MARK);
    scene.victim.expect(b"$7\r\nforeign\r\n"); // of the right type: `normal` cannot know
    let mut scene = Scene::set(surplus(), &["integrity=strict"], 2);
    scene.happens(&["GET marked", "GET other"]);
    scene.victim.expect_eof();
    scene.comrade.expect_eof();
    scene.is_counted("lane", "canary");
    scene.logs("\"clients\":2");
}

/// `strict` in peace: every command has its canary, and everything is as without.
#[test]
fn strict_changes_nothing_else() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 8).set("integrity=strict"));
    let mut client = proxy.connect();
    let large = "x".repeat(300_000);
    assert_eq!(redis.connect().call(&["SET", "large", &large]).as_str(), "OK");
    for n in 0..200 {
        assert_eq!(client.ask("INCR n").as_int(), n + 1);
    }
    let unit: Vec<u8> =
        ["MULTI", "INCR n", "EXEC"].iter().flat_map(|l| kit::encode(&l.split(' ').collect::<Vec<_>>())).collect();
    client.send(&unit);
    client.expect(b"+OK\r\n+QUEUED\r\n*1\r\n:201\r\n");
    assert_eq!(client.ask("GET large").as_str(), large);
    let canaries = proxy.metric("respmux_lane_canaries_total", &[]).unwrap_or_default();
    assert!(canaries >= 202.0, "{canaries} canaries");
    assert_eq!(proxy.metric("respmux_integrity_violations_total", &[]), Some(0.0));
}

const RETRY: &[&str] = &["integrity=strict", "upstream.retry_reads=true", "upstream.backoff_max=100ms"];
const TOO_LATE: &str = "ERR upstream did not answer in time, outcome unknown: the command may have been executed";

/// The connection ends between a reply and its canary: the reply was for nobody yet. A read is sent once more, and has
/// one answer; a write is not.
#[test]
fn strict_sends_again_what_it_withheld() {
    let mut scene = Scene::set(Fault::Cut, RETRY, 2);
    assert_eq!(scene.victim.ask("SET other x").as_str(), "OK");
    scene.happens(&["GET marked", "STRLEN other"]);
    scene.victim.expect(MARK);
    scene.victim.expect(b":1\r\n");
    scene.comrade.expect(b"$-1\r\n");
    let outcome = |outcome| scene.proxy.metric("respmux_retries_total", &[("outcome", outcome)]);
    assert_eq!((outcome("resent"), outcome("answered"), outcome("lost")), (Some(3.0), Some(3.0), Some(0.0)));
    for (client, n) in [(&mut scene.victim, "1"), (&mut scene.comrade, "2")] {
        assert_eq!(client.ask(&format!("ECHO {n}")).as_str(), n, "nothing was answered twice");
    }
    // The one with a write behind its reads is closed, and nothing of it is sent again.
    let mut scene = Scene::set(Fault::Cut, RETRY, 2);
    scene.happens(&["GET marked", "INCR n"]);
    scene.victim.expect_eof();
    scene.comrade.expect(b"$-1\r\n");
    assert!(scene.bystander.ask("SELECT 0").text == b"OK" && scene.bystander.ask("GET n").text.len() <= 1);
    assert_eq!(scene.proxy.metric("respmux_integrity_violations_total", &[]), Some(0.0));
}

/// What was withheld when the upstream fell silent is given up in its turn, before what has no reply at all.
#[test]
fn strict_gives_up_in_order() {
    let mut scene = Scene::set(Fault::Silence, &["integrity=strict", "client.request_timeout=400ms"], 2);
    scene.happens(&["GET marked", "GET other", "GET marked"]);
    for _ in 0..3 {
        assert_eq!(scene.victim.read_frame().as_str(), TOO_LATE);
    }
    assert_eq!(scene.comrade.read_frame().as_str(), TOO_LATE);
    scene.proxy.becomes("respmux_request_timeouts_total", &[("outcome", "unknown")], |n| n == 4.0);
    assert!(!scene.bystander.ask("PING").is_error());
}

/// `loose`: for servers with answers of their own. Position and canaries are checked all the same.
#[test]
fn loose_takes_every_type() {
    let mut scene = Scene::set(Fault::Instead(b":1\r\n".to_vec()), &["integrity=loose"], 2);
    scene.happens(&["GET marked"]);
    scene.victim.expect(b":1\r\n");
    scene.comrade.expect(b"$-1\r\n");
    assert_eq!(scene.proxy.metric("respmux_integrity_violations_total", &[]), Some(0.0));
}
