//! CLIENT PAUSE of the server: what it holds back waits, nobody else does, and it is no outage.

use std::thread;
use std::time::{Duration, Instant};

use kit::{Flavour, Frame, Proxy, ProxyOptions, RealRedis, TestClient, eventually, pause};

/// Writes, and what servers count as such.
const HELD: [&str; 12] = [
    "SET k v",
    "PUBLISH c m",
    "PFCOUNT h",
    "EVAL return\\ 1 0",
    "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
    "FCALL nothing 0",
    "BLPOP q 1",
    "XREADGROUP GROUP g c STREAMS s >",
    "LMPOP 1 q LEFT",
    "GETEX k",
    "SPUBLISH c m",
    "FLUSHALL",
];

fn words(line: &str) -> Vec<String> {
    line.replace("\\ ", "\u{1}").split(' ').map(|word| word.replace('\u{1}', " ")).collect()
}

fn is_nil(frame: &Frame) -> bool {
    frame.to_bytes().ends_with(b"-1\r\n")
}

fn send(client: &mut TestClient, line: &str) {
    client.send_command(&words(line));
}

/// As for a client of the server itself, each at once.
fn reads_pass(proxy: &Proxy) {
    for _ in 0..4 {
        let mut client = proxy.connect();
        assert_eq!(client.ask("PING").as_str(), "PONG");
        assert!(!client.ask("GET x").is_error());
        assert_eq!(client.ask("SELECT 1").as_str(), "OK");
        assert_eq!(client.ask("SELECT 0").as_str(), "OK");
        client.send(b"MULTI\r\nGET x\r\nPING\r\nEXEC\r\n");
        client.expect(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$-1\r\n+PONG\r\n");
        assert_eq!(client.ask("WATCH x").as_str(), "OK");
        assert_eq!(client.ask("MULTI").as_str(), "OK");
        assert_eq!(client.ask("GET x").as_str(), "QUEUED");
        assert_eq!(client.ask("EXEC").items.len(), 1);
        assert_eq!(client.ask("SET x").as_str(), "ERR wrong number of arguments for 'set' command");
        assert_eq!(client.call(&["EVAL_RO", "return 1", "0"]).as_int(), 1);
        assert!(is_nil(&client.ask("XREAD BLOCK 1 STREAMS s 0")));
        client.send(b"SUBSCRIBE c\r\n");
        assert_eq!(client.read_frame().items.len(), 3);
    }
}

/// PAUSE WRITE stops nobody who reads; what it holds goes on with UNPAUSE, in the order of each client.
#[test]
fn a_pause_of_writes_holds_writes_and_nothing_else() {
    for flavour in Flavour::ALL {
        for options in [ProxyOptions::sized(1, 12), ProxyOptions::sized(2, 40)] {
            let redis = RealRedis::start(flavour, &[]);
            let proxy = Proxy::start(&redis, &options);
            let mut admin = proxy.connect();
            assert_eq!(admin.ask("CLIENT PAUSE 60000 WRITE").as_str(), "OK");
            // More than there are connections to lend.
            let mut held: Vec<_> = (0..HELD.len() * 2).map(|_| proxy.connect()).collect();
            for (number, client) in held.iter_mut().enumerate() {
                send(client, HELD[number % HELD.len()]);
                send(client, &format!("ECHO {number}"));
            }
            let mut counter = proxy.connect();
            counter.send(b"INCR n\r\nGET n\r\nMULTI\r\nINCR n\r\nEXEC\r\nINCR n\r\n");
            reads_pass(&proxy);
            for client in held.iter_mut().chain([&mut counter]) {
                client.expect_nothing(Duration::from_millis(2));
            }
            assert_eq!(admin.ask("CLIENT UNPAUSE").as_str(), "OK");
            for (number, client) in held.iter_mut().enumerate() {
                client.read_frame();
                assert_eq!(client.read_frame().as_str(), number.to_string(), "{}", HELD[number % HELD.len()]);
            }
            counter.expect(b":1\r\n$1\r\n1\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n:3\r\n");
            assert_eq!(proxy.metric("respmux_lane_losses_total", &[("verdict", "hung")]).unwrap_or(0.0), 0.0);
        }
    }
}

/// It goes on when the time is over, and a longer pause is not made shorter.
#[test]
fn a_pause_ends_by_itself_and_of_two_the_longer_counts() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 16));
        let (mut admin, mut client) = (proxy.connect(), proxy.connect());
        let began = Instant::now();
        assert_eq!(admin.ask("CLIENT PAUSE 800 WRITE").as_str(), "OK");
        assert_eq!(admin.ask("CLIENT PAUSE 10 WRITE").as_str(), "OK");
        assert_eq!(client.ask("SET k v").as_str(), "OK");
        assert!(began.elapsed() >= Duration::from_millis(790), "{:?}", began.elapsed());
        // All of it, with a blocked pop of which the time begins when the server takes it.
        let began = Instant::now();
        assert_eq!(admin.ask("CLIENT PAUSE 500").as_str(), "OK");
        client.send(b"BLPOP q 0.3\r\n");
        assert!(is_nil(&client.read_frame()));
        assert!(began.elapsed() >= Duration::from_millis(790), "{:?}", began.elapsed());
    }
}

/// A pause inside a transaction begins at its end; EXEC with writes waits, a transaction that reads does not.
#[test]
fn transactions_pause_and_are_paused_as_on_the_server() {
    for flavour in Flavour::ALL {
        for whole in [true, false] {
            let redis = RealRedis::start(flavour, &[]);
            let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 24));
            let (mut admin, mut open, mut late) = (proxy.connect(), proxy.connect(), proxy.connect());
            assert_eq!(open.ask("MULTI").as_str(), "OK");
            assert_eq!(open.ask("SET b 1").as_str(), "QUEUED");
            let lines = ["MULTI", "SET a 1", "CLIENT PAUSE 60000 WRITE", "SET a 2", "EXEC"];
            if whole {
                admin.send((lines.join("\r\n") + "\r\n").as_bytes());
                (0..4).for_each(|_| drop(admin.read_frame()));
                assert_eq!(admin.read_frame().items.len(), 3);
            } else {
                let replies: Vec<_> = lines.iter().map(|line| admin.ask(line)).collect();
                assert_eq!(replies[4].items.len(), 3);
            }
            send(&mut open, "EXEC");
            late.send(b"SET a 3\r\n");
            assert_eq!(admin.ask("GET a").as_str(), "2");
            open.expect_nothing(Duration::from_millis(30));
            late.expect_nothing(Duration::from_millis(1));
            reads_pass(&proxy);
            // From inside a transaction, too.
            admin.send(b"MULTI\r\nCLIENT UNPAUSE\r\nEXEC\r\n");
            admin.expect(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
            open.expect(b"*1\r\n+OK\r\n");
            late.expect(b"+OK\r\n");
        }
    }
}

/// Every connection that can be lent is taken by transactions of which the server holds the end.
#[test]
fn unpause_gets_through_when_nothing_can_be_lent() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("pool.wait_timeout=300ms"));
        let mut admin = proxy.connect();
        assert_eq!(admin.ask("CLIENT PAUSE 60000 WRITE").as_str(), "OK");
        let mut clients: Vec<_> = (0..6).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(b"MULTI\r\nINCR n\r\nEXEC\r\n");
        }
        let mut poor = proxy.connect();
        eventually(Duration::from_secs(10), || {
            let reply = poor.ask("MULTI").as_str();
            if reply.contains("try again") { Ok(()) } else { Err(format!("{reply} {:?}", poor.ask("DISCARD"))) }
        });
        assert_eq!(admin.ask("CLIENT UNPAUSE").as_str(), "OK");
        assert!(!admin.ask("INCR n").is_error());
    }
}

/// As on a server, the command of a client that leaves while it is held is not carried out.
#[test]
fn who_leaves_while_held_takes_the_command_along() {
    for flavour in Flavour::ALL {
        // One of everything ends by itself only.
        for (kind, millis) in [("WRITE", "60000"), ("ALL", "5000")] {
            let redis = RealRedis::start(flavour, &[]);
            let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 10));
            let mut admin = proxy.connect();
            assert_eq!(admin.call(&["CLIENT", "PAUSE", millis, kind]).as_str(), "OK");
            let mut clients: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
            for client in &mut clients {
                client.send(b"INCR n\r\nINCR n\r\n");
            }
            // Taken up by respmux, and where it can by the server.
            pause(Duration::from_millis(200));
            for client in &mut clients {
                client.shut_write();
            }
            for client in &mut clients {
                client.expect_eof();
            }
            if kind == "WRITE" {
                assert_eq!(admin.ask("CLIENT UNPAUSE").as_str(), "OK");
            }
            assert_eq!(admin.ask("INCR n").as_int(), 1, "{kind}");
        }
    }
}

/// Short patience everywhere: a pause is longer than all of it.
fn impatient(connect_wait: &str) -> ProxyOptions {
    ProxyOptions::sized(2, 24)
        .set(&format!("upstream.connect_wait={connect_wait}"))
        .set("upstream.progress_timeout=3s")
        .set("upstream.handshake_timeout=2s")
        .set("pool.wait_timeout=3s")
}

/// What clients send while everything is held, and what they get.
const ALL_HELD: [(&str, &str); 9] = [
    ("GET x", "$-1\r\n"),
    ("SET k v", "+OK\r\n"),
    ("MULTI", "+OK\r\n"),
    ("WATCH k", "+OK\r\n"),
    ("SELECT 3", "+OK\r\n"),
    ("PING", "+PONG\r\n"),
    ("PUBLISH c m", ":0\r\n"),
    ("BLPOP q 0.1", "*-1\r\n"),
    ("CLIENT UNPAUSE", "+OK\r\n"),
];

/// Clients that were there before and new ones wait for the end of a pause, however it came, and are answered.
fn all_wait(redis: &RealRedis, proxy: &Proxy, pauser: &mut TestClient, millis: u64) {
    let mut old: Vec<_> = ALL_HELD.iter().map(|_| proxy.connect()).collect();
    for client in &mut old {
        assert_eq!(client.ask("PING").as_str(), "PONG");
    }
    let began = Instant::now();
    assert_eq!(pauser.ask(&format!("CLIENT PAUSE {millis}")).as_str(), "OK");
    let mut clients = Vec::new();
    for ((line, wanted), client) in ALL_HELD.into_iter().zip(old) {
        for mut client in [client, proxy.connect()] {
            send(&mut client, line);
            clients.push((line, wanted, client));
        }
    }
    for (line, wanted, client) in &mut clients {
        let end = Duration::from_millis(millis) + Duration::from_secs(20);
        let frame = client.try_read_frame(end).unwrap_or_else(|end| panic!("{line}: {end:?}\n{}", proxy.log()));
        assert_eq!(String::from_utf8_lossy(&frame.to_bytes()), *wanted, "{line}\n{}", proxy.log());
        assert!(began.elapsed() >= Duration::from_millis(millis - 20), "{line} after {:?}", began.elapsed());
    }
    for (verdict, label) in [("hung", "verdict"), ("dead", "verdict")] {
        assert_eq!(proxy.metric("respmux_lane_losses_total", &[(label, verdict)]).unwrap_or(0.0), 0.0);
    }
    assert_eq!(proxy.metric("respmux_circuit_opened_total", &[]).unwrap_or(0.0), 0.0);
    assert_eq!(redis.connect().ask("PING").as_str(), "PONG");
}

#[test]
fn a_pause_of_everything_is_no_outage() {
    thread::scope(|scope| {
        for flavour in Flavour::ALL {
            scope.spawn(move || {
                let redis = RealRedis::start(flavour, &[]);
                let proxy = Proxy::start(&redis, &impatient("3s"));
                all_wait(&redis, &proxy, &mut proxy.connect(), 6_000);
            });
        }
    });
}

#[test]
fn a_pause_that_came_another_way_is_no_outage() {
    thread::scope(|scope| {
        for flavour in Flavour::ALL {
            scope.spawn(move || {
                let redis = RealRedis::start(flavour, &[]);
                let proxy = Proxy::start(&redis, &impatient("3s"));
                all_wait(&redis, &proxy, &mut redis.connect(), 7_000);
            });
        }
    });
}

/// A pause of writes that came another way: the lane with the write is left, and reads go on.
#[test]
fn reads_go_on_beside_a_pause_that_came_another_way() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 16));
        let (mut direct, mut writer, mut reader) = (redis.connect(), proxy.connect(), proxy.connect());
        assert!(!reader.ask("GET x").is_error());
        assert_eq!(direct.ask("CLIENT PAUSE 60000 WRITE").as_str(), "OK");
        writer.send(b"SET k 1\r\nGET k\r\n");
        eventually(Duration::from_secs(10), || {
            if proxy.log().contains("the upstream is paused") { Ok(()) } else { Err("not seen") }
        });
        eventually(Duration::from_secs(10), || {
            let mut client = proxy.connect();
            client.send(b"GET x\r\n");
            client.try_read_frame(Duration::from_millis(200)).map(drop).map_err(|end| format!("{end:?}"))
        });
        assert!(!reader.ask("GET x").is_error());
        let mut second = proxy.connect();
        second.send(b"SET k 2\r\n");
        reads_pass(&proxy);
        // Two ways to its end: respmux sees UNPAUSE pass, or what waited is answered.
        let mut admin = proxy.connect();
        let ender = if flavour == Flavour::Redis70 { &mut direct } else { &mut admin };
        assert_eq!(ender.ask("CLIENT UNPAUSE").as_str(), "OK");
        writer.expect(b"+OK\r\n$1\r\n");
        second.expect(b"+OK\r\n");
        eventually(Duration::from_secs(5), || {
            let mut client = proxy.connect();
            let began = Instant::now();
            assert_eq!(client.ask("SET k 3").as_str(), "OK");
            if began.elapsed() < Duration::from_millis(300) { Ok(()) } else { Err(format!("{:?}", began.elapsed())) }
        });
    }
}

/// A server that dies or hangs in its pause is recognised, and one that comes back is not paused.
#[test]
fn a_server_that_dies_in_its_pause_is_away() {
    for flavour in [Flavour::Redis70, Flavour::Valkey9] {
        for (kind, hangs) in [("ALL", false), ("WRITE", false), ("ALL", true)] {
            let mut redis = RealRedis::start(flavour, &[]);
            let proxy = Proxy::start(&redis, &impatient("500ms"));
            let (mut admin, mut client) = (proxy.connect(), proxy.connect());
            assert_eq!(admin.call(&["CLIENT", "PAUSE", "3600000", kind]).as_str(), "OK");
            client.send(b"SET k v\r\n");
            client.expect_nothing(Duration::from_millis(100));
            if hangs {
                redis.signal("STOP")
            } else {
                redis.kill()
            }
            let frame = client.try_read_frame(Duration::from_secs(20)).map(|frame| frame.as_str());
            // On a connection of its own it had been sent already: then it is closed.
            let told = frame.as_ref().is_ok_and(|text| text.starts_with("LOADING upstream is not available"));
            assert!(told || (kind == "WRITE" && frame.is_err()), "{kind} {hangs}: {frame:?}");
            redis.kill();
            redis.start_again();
            eventually(Duration::from_secs(20), || {
                let mut client = proxy.connect();
                client.send(b"SET k v\r\n");
                let frame = client.try_read_frame(Duration::from_secs(2)).map(|frame| frame.as_str());
                if frame.as_ref().is_ok_and(|text| text == "OK") { Ok(()) } else { Err(format!("{kind}: {frame:?}")) }
            });
        }
    }
}

/// Redis before 8.2 crashes when CLIENT UNBLOCK hits a client that CLIENT PAUSE holds back. A client's own does not, by a
/// virtual id or by a real one.
#[test]
fn a_client_that_unblocks_others_does_not_crash_a_paused_server() {
    for flavour in Flavour::ALL {
        for through in [true, false] {
            let redis = RealRedis::start(flavour, &[]);
            let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 16));
            let (mut admin, mut direct) = (proxy.connect(), redis.connect());
            let mut victim = if through { proxy.connect() } else { redis.connect() };
            let id = victim.ask("CLIENT ID").as_int();
            // A connection of its own: not a fold's.
            assert_eq!(victim.ask("WATCH k").as_str(), "OK");
            assert_eq!(direct.ask("CLIENT PAUSE 60000 WRITE").as_str(), "OK");
            victim.send(b"BLPOP q 0\r\n");
            redis.becomes("blocked_clients", 1);
            let request = format!("CLIENT UNBLOCK {id}\r\n");
            admin.send(request.as_bytes());
            pause(Duration::from_millis(600));
            assert_eq!(direct.ask("CLIENT UNPAUSE").as_str(), "OK", "it has crashed");
            let unblocked = admin.read_frame().as_int() == 1;
            if !unblocked {
                direct.ask("RPUSH q x");
            }
            assert_eq!(is_nil(&victim.read_frame()), unblocked);
            assert!(admin.call(&["CLIENT", "UNBLOCK", "12", "FOO"]).is_error());
            assert_eq!(admin.ask("CLIENT UNBLOCK 999999999").as_int(), 0);
        }
    }
}
