//! Order of replies and order of execution under load (rule I2, docs/design/semantics.md 3.1, 3.6).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kit::{Flavour, Proxy, ProxyOptions, RealRedis, SetOnDrop, TestClient, encode, pause};

/// Rounds of a race: enough that a wrong order shows in every run of a proxy that has none.
const ROUNDS: usize = 2000;
const BUSY_CLIENTS: usize = 50;

/// Runs `measured` while many clients keep the lanes busy, each checking its own replies.
fn under_load(proxy: &Proxy, measured: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for part in 0..5 {
            let done = &done;
            let mut clients: Vec<_> = (0..BUSY_CLIENTS / 5).map(|_| proxy.connect()).collect();
            scope.spawn(move || {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    for client in &mut clients {
                        client.send(&encode(&["ECHO", &format!("{part}-{round}")]).repeat(4));
                    }
                    for client in &mut clients {
                        for _ in 0..4 {
                            assert_eq!(client.read_frame().as_str(), format!("{part}-{round}"));
                        }
                    }
                    round += 1;
                }
            });
        }
        // The load must end when the measured part fails.
        let _end = SetOnDrop(&done);
        measured();
    });
}

fn words(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| encode(&line.split(' ').collect::<Vec<_>>())).collect()
}

/// Scenario T-2: if the WATCH overtook the SET before it, some EXEC would give nil.
#[test]
fn a_write_is_executed_before_the_watch_behind_it() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let round = words(&["SET k 1", "WATCH k", "MULTI", "SET k 2", "EXEC"]);
    under_load(&proxy, || {
        let mut client = proxy.connect();
        for _ in 0..ROUNDS {
            client.send(&round);
            client.expect(b"+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
        }
    });
}

/// Scenario T-3.6: local answers, twins and lanes of two databases in one packet.
#[test]
fn local_answers_never_overtake() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut direct = redis.connect();
    direct.send(&words(&["SET a a", "SET b b", "SET c wrong", "SET d d", "SELECT 1", "SET c c1"]));
    direct.expect(&b"+OK\r\n".repeat(6));
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let round = words(&["GET a", "CLIENT ID", "GET b", "PING", "SELECT 1", "GET c", "SELECT 0", "GET d"]);
    under_load(&proxy, || {
        let mut client = proxy.connect();
        let id = client.ask("CLIENT ID").as_str();
        let wanted = format!("$1\r\na\r\n:{id}\r\n$1\r\nb\r\n+PONG\r\n+OK\r\n$2\r\nc1\r\n+OK\r\n$1\r\nd\r\n");
        for _ in 0..ROUNDS {
            client.send(&round);
            client.expect(wanted.as_bytes());
        }
    });
}

/// Scenario T-3.1: SELECT is refused while a script runs; a proxy that selects on a shared connection writes to the
/// wrong database when the script ends between the two.
#[test]
fn a_busy_script_sends_no_write_to_another_database() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &["--busy-reply-threshold", "20"]);
        let proxy = Proxy::start(&redis, &ProxyOptions::tight());
        let (mut first, mut second) = (proxy.connect(), proxy.connect());
        assert_eq!(first.ask("SET in-zero 1").as_str(), "OK");
        assert_eq!(second.ask("SELECT 1").as_str(), "OK");
        let (mut refused, mut served) = (0, 0);
        for _ in 0..4 {
            let mut stuck = redis.connect();
            stuck.send_command(&["EVAL", "while true do end", "0"]);
            let end = Instant::now() + Duration::from_millis(150);
            let mut killed = false;
            let mut after = 0;
            while after < 50 {
                let reply = second.ask("SET only-in-1 x").as_str();
                match reply.as_str() {
                    "OK" => served += 1,
                    busy if busy.starts_with("BUSY") => refused += 1,
                    other => panic!("{}: {other:?}", flavour.name()),
                }
                first.ask("GET in-zero");
                pause(Duration::from_millis(1));
                if !killed && Instant::now() > end {
                    let mut killer = redis.connect();
                    assert_eq!(killer.ask("SCRIPT KILL").as_str(), "OK");
                    killed = true;
                }
                after += usize::from(killed);
            }
            assert!(stuck.read_frame().is_error());
            assert!(redis.connect().ask("GET only-in-1").null, "{}: a write of db 1 landed in db 0", flavour.name());
        }
        assert!(refused > 0 && served > 0, "{}: {refused} refused, {served} served", flavour.name());
    }
}

/// Scenario T-4.4, rule I8: what one client does not read delays nobody, and is not kept for ever.
#[test]
fn a_large_reply_that_is_not_read_delays_nobody() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut direct = redis.connect();
    direct.call(&[&b"SET"[..], b"big", &vec![b'x'; 50 << 20]]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut neighbour = proxy.connect();
    neighbour.ask("PING");
    // One reads a byte and closes; one never reads; one resets.
    let mut leaver = proxy.connect();
    leaver.send_command(&["GET", "big"]);
    neighbour.send_command(&["ECHO", "x"]);
    leaver.read_some(Instant::now() + Duration::from_secs(10)).expect("the reply begins");
    drop(leaver);
    assert_eq!(neighbour.read_frame().as_str(), "x");
    let mut sleeper = proxy.connect();
    sleeper.send_command(&["GET", "big"]);
    let mut resetter = proxy.connect();
    resetter.send_command(&["GET", "big"]);
    resetter.reset();
    for round in 0..200 {
        let asked = Instant::now();
        assert_eq!(neighbour.call(&["ECHO", &round.to_string()]).as_str(), round.to_string());
        assert!(asked.elapsed() < Duration::from_secs(3), "round {round} took {:?}", asked.elapsed());
    }
    // Whoever reads late gets all of it.
    let reply = sleeper.read_frame();
    assert_eq!(reply.text.len(), 50 << 20);
    assert_eq!(sleeper.ask("PING").as_str(), "PONG");
}

/// Replies of one client stay its own, whatever the others' sizes and pipelines are.
#[test]
fn tokens_come_back_to_their_sender() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12));
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut clients: Vec<TestClient> = (0..20).map(|_| proxy.connect()).collect();
                for round in 0..60 {
                    let mut wanted = Vec::new();
                    for (index, client) in clients.iter_mut().enumerate() {
                        let token = format!("{thread}:{index}:{round}:{}", "x".repeat(random.usize(..300)));
                        let pipeline = random.usize(1..20);
                        client.send(&encode(&["ECHO", &token]).repeat(pipeline));
                        wanted.push((token, pipeline));
                    }
                    for (client, (token, pipeline)) in clients.iter_mut().zip(wanted) {
                        for _ in 0..pipeline {
                            assert_eq!(client.read_frame().as_str(), token);
                        }
                    }
                }
            });
        }
    });
}
