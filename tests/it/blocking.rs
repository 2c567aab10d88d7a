//! Blocked clients share a few connections, and nobody notices: order, deadlines, races, and what becomes of an
//! element that nobody is there for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kit::{Flavour, Frame, PATIENCE, Proxy, ProxyOptions, RealRedis, SetOnDrop, TestClient, eventually, pause};

/// How late a deadline may fire here: 10 ms of the product's own, and what a busy machine adds.
const LATE: Duration = Duration::from_millis(60);
const ROUNDS: usize = 100;

fn smallest(flavour: Flavour) -> (RealRedis, Proxy) {
    let redis = RealRedis::start(flavour, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    (redis, proxy)
}

fn is_nil(frame: &Frame) -> bool {
    frame.to_bytes() == b"*-1\r\n"
}

/// Waits until the proxy shows `count` blocked clients.
fn until_blocked(observer: &mut TestClient, count: usize) {
    eventually(Duration::from_secs(20), || {
        let list = observer.ask("CLIENT LIST").as_str();
        let blocked = list.lines().filter(|line| line.contains("flags=b")).count();
        if blocked == count { Ok(()) } else { Err(format!("{blocked} of {count} are blocked")) }
    });
}

/// Scenario T-7k: more keys than connections, by far.
#[test]
fn a_thousand_clients_wait_on_a_thousand_keys() {
    for flavour in Flavour::ALL {
        let (redis, proxy) = smallest(flavour);
        let mut direct = redis.connect();
        let mut clients: Vec<TestClient> = (0..1000).map(|_| proxy.connect()).collect();
        for (key, client) in clients.iter_mut().enumerate() {
            client.send_command(&["BLPOP", &format!("q{key}"), "0"]);
        }
        until_blocked(&mut proxy.connect(), 1000);
        assert!(redis.info("connected_clients") <= 8, "six of the proxy and two of the test");
        let began = Instant::now();
        for key in 0..1000 {
            direct.send_command(&["RPUSH", &format!("q{key}"), "x"]);
        }
        for (key, client) in clients.iter_mut().enumerate() {
            let reply = client.read_frame();
            assert_eq!(reply.items.iter().map(|i| i.as_str()).collect::<Vec<_>>(), [format!("q{key}"), "x".into()]);
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        eventually(PATIENCE, || {
            let folds = proxy.metric("respmux_blocking_groups", &[]);
            if folds == Some(0.0) { Ok(()) } else { Err(format!("{folds:?}")) }
        });
    }
}

#[test]
fn two_hundred_wait_on_one_queue_and_are_served_in_order() {
    for flavour in Flavour::ALL {
        let (redis, proxy) = smallest(flavour);
        let mut observer = proxy.connect();
        let mut clients = Vec::new();
        for count in 1..=200 {
            let mut client = proxy.connect();
            client.send_command(&["BLPOP", "q", "0"]);
            clients.push(client);
            if count % 20 == 0 {
                until_blocked(&mut observer, count);
            } else {
                // On one worker the probes are answered in the order in which they were sent.
                pause(Duration::from_micros(500));
            }
        }
        assert_eq!(redis.info("blocked_clients"), 1);
        let elements: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        let words: Vec<&str> = ["RPUSH", "q"].into_iter().chain(elements.iter().map(String::as_str)).collect();
        redis.connect().call(&words);
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.read_frame().items[1].as_str(), number.to_string(), "{}", flavour.name());
        }
        assert_eq!(redis.connect().ask("LLEN q").as_int(), 0);
        let bursts = proxy.metric("respmux_blocking_elements_total", &[("way", "burst")]);
        assert!(bursts >= Some(100.0), "{bursts:?}");
    }
}

#[test]
fn deadlines_are_never_early_and_hardly_late() {
    let (_redis, proxy) = smallest(Flavour::Redis82);
    thread::scope(|scope| {
        for n in 0..100u64 {
            let mut client = proxy.connect();
            scope.spawn(move || {
                let timeout = Duration::from_millis(50 + n * 7 % 200);
                let seconds = format!("{:.3}", timeout.as_secs_f64());
                let (key, stream) = (format!("q{}", n % 5), format!("{}", timeout.as_millis()));
                let stream_read = ["XREAD", "BLOCK", &stream, "STREAMS", "s", "$"];
                let began = Instant::now();
                let reply =
                    if n % 4 == 0 { client.call(&stream_read) } else { client.call(&["BRPOP", &key, &seconds]) };
                let took = began.elapsed();
                assert!(is_nil(&reply), "{reply:?}");
                assert!(took >= timeout, "{took:?} of {timeout:?}: early");
                assert!(took < timeout + LATE, "{took:?} of {timeout:?}: late");
            });
        }
    });
}

/// Scenario T-7b: an element at the very moment of the deadline goes to the client or stays.
#[test]
fn an_element_at_the_deadline_is_not_lost() {
    let (redis, proxy) = smallest(Flavour::Redis70);
    let (mut client, mut direct) = (proxy.connect(), redis.connect());
    let mut random = fastrand::Rng::with_seed(7);
    let (mut won, mut kept) = (0, 0);
    for round in 0..ROUNDS {
        client.send_command(&["BLPOP", "q", "0.03"]);
        pause(Duration::from_micros(28_000 + random.u64(..5_000)));
        direct.ask("RPUSH q x");
        let got = !is_nil(&client.read_frame());
        let left = direct.ask("LLEN q").as_int();
        assert_eq!(i64::from(got) + left, 1, "round {round}: the client got it: {got}, left in the list: {left}");
        if got {
            won += 1
        } else {
            kept += 1
        }
        direct.ask("DEL q");
    }
    assert!(won > 0 && kept > 0, "won {won}, kept {kept}: the moment was missed");
}

/// Scenario T-7c: the client leaves at the very moment at which its element comes.
#[test]
fn an_element_for_a_client_that_leaves_is_not_lost() {
    let (redis, proxy) = smallest(Flavour::Valkey9);
    let mut direct = redis.connect();
    let mut random = fastrand::Rng::with_seed(7);
    let mut received = 0;
    for _ in 0..ROUNDS {
        let mut client = proxy.connect();
        client.send_command(&["BLPOP", "q", "0"]);
        pause(Duration::from_millis(4));
        direct.send_command(&["RPUSH", "q", "x"]);
        pause(Duration::from_micros(random.u64(..400)));
        client.shut_write();
        if client.try_read_frame(Duration::from_secs(5)).is_ok() {
            received += 1;
        }
        direct.read_frame();
    }
    eventually(PATIENCE, || {
        let left = direct.ask("LLEN q").as_int();
        if left + received == ROUNDS as i64 { Ok(()) } else { Err(format!("{received} received, {left} left")) }
    });
}

#[test]
fn unblock_tells_the_truth() {
    for flavour in Flavour::ALL {
        let (redis, proxy) = smallest(flavour);
        let (mut client, mut other, mut direct) = (proxy.connect(), proxy.connect(), redis.connect());
        let id = client.ask("CLIENT ID").as_int().to_string();
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..ROUNDS {
            client.send_command(&["BLPOP", "q", "0"]);
            until_blocked(&mut other, 1);
            direct.send_command(&["RPUSH", "q", "x"]);
            pause(Duration::from_micros(random.u64(..300)));
            let unblocked = other.call(&["CLIENT", "UNBLOCK", &id]).as_int();
            let nil = is_nil(&client.read_frame());
            direct.read_frame();
            assert_eq!(unblocked == 1, nil, "round {round}: answered {unblocked}, nil: {nil}");
            assert_eq!(direct.ask("LLEN q").as_int(), i64::from(nil), "round {round}");
            direct.ask("DEL q");
        }
    }
}

/// Several unblock a client at once, and the connection on which it waited is the next client's before all are through:
/// none of them meant that one.
#[test]
fn who_takes_over_a_connection_is_not_unblocked_for_the_one_before() {
    for flavour in Flavour::ALL {
        let (redis, proxy) = smallest(flavour);
        let (mut first, mut next, mut direct) = (proxy.connect(), proxy.connect(), redis.connect());
        let mut operators: Vec<TestClient> = (0..8).map(|_| proxy.connect()).collect();
        let id = first.ask("CLIENT ID").as_int().to_string();
        for round in 0..ROUNDS {
            first.send_command(&["XREAD", "BLOCK", "0", "STREAMS", "nothing", "$"]);
            until_blocked(&mut operators[0], 1);
            // All of them ask together, when the server goes on.
            redis.signal("STOP");
            for operator in &mut operators {
                operator.send_command(&["CLIENT", "UNBLOCK", &id, "ERROR"]);
            }
            pause(Duration::from_millis(2));
            redis.signal("CONT");
            assert!(first.read_frame().as_str().starts_with("UNBLOCKED"), "round {round}");
            next.send_command(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]);
            let hits: i64 = operators.iter_mut().map(|operator| operator.read_frame().as_int()).sum();
            assert_eq!(hits, 1, "{} round {round}", flavour.name());
            // All operators have their answers. It waits, on the connection or without one, or has been hit.
            until_blocked(&mut operators[0], 1);
            direct.ask("XADD s 1-1 a b");
            let read = next.read_frame();
            assert_eq!(read.items.len(), 1, "{} round {round}: {read:?}", flavour.name());
            direct.ask("DEL s");
        }
    }
}

/// When everybody is blocked, nobody's write is refused: the end of the wait says as well that the server was demoted.
#[test]
fn a_demotion_is_noticed_when_all_are_blocked() {
    for flavour in Flavour::ALL {
        let (redis, proxy) = smallest(flavour);
        let primary = RealRedis::start(flavour, &[]);
        let (mut client, mut observer) = (proxy.connect(), proxy.connect());
        client.send_command(&["BLPOP", "q", "0"]);
        until_blocked(&mut observer, 1);
        redis.connect().ask(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
        assert!(client.read_frame().as_str().starts_with("UNBLOCKED force"), "{}", flavour.name());
        client.expect_eof();
        eventually(Duration::from_secs(20), || {
            let same = proxy.metric("respmux_upstream_readonly_lookups_total", &[("result", "same")]);
            if same >= Some(1.0) { Ok(()) } else { Err(format!("{same:?} lookups")) }
        });
    }
}

/// While the server is paused the push stands before our UNBLOCK: the element comes for nobody.
#[test]
fn an_element_for_nobody_goes_back_where_it_was() {
    for flavour in Flavour::ALL {
        let (redis, proxy) = smallest(flavour);
        let (mut direct, mut pusher) = (redis.connect(), redis.connect());
        for (command, push, look, wanted) in [
            ("BLPOP q 0", "RPUSH q a b c", "LRANGE q 0 -1", "a b c"),
            ("BRPOP q 0", "RPUSH q a b c", "LRANGE q 0 -1", "a b c"),
            ("BLMPOP 0 1 q RIGHT COUNT 2", "RPUSH q a b c", "LRANGE q 0 -1", "a b c"),
            ("BZPOPMIN z 0", "ZADD z 1.5 m 2 n", "ZRANGE z 0 -1 WITHSCORES", "m 1.5 n 2"),
            ("BZMPOP 0 1 z MAX COUNT 5", "ZADD z 1.5 m 2 n", "ZRANGE z 0 -1 WITHSCORES", "m 1.5 n 2"),
            ("BLMOVE q r LEFT LEFT 0", "RPUSH q a", "LRANGE r 0 -1", "a"),
        ] {
            let before = proxy.metric("respmux_blocking_given_back_total", &[]).unwrap();
            let mut client = proxy.connect();
            client.send_command(&command.split(' ').collect::<Vec<_>>());
            eventually(PATIENCE, || {
                let blocked = redis.info("blocked_clients");
                if blocked == 1 { Ok(()) } else { Err(blocked) }
            });
            direct.ask("CLIENT PAUSE 150 ALL");
            pusher.send_command(&push.split(' ').collect::<Vec<_>>());
            pause(Duration::from_millis(30));
            client.shut_write();
            client.expect_eof();
            pusher.read_frame();
            eventually(PATIENCE, || {
                let items = direct.ask(look).items;
                let found = items.iter().map(|item| item.as_str()).collect::<Vec<_>>().join(" ");
                if found == wanted { Ok(()) } else { Err(format!("{command}: {found:?} is left")) }
            });
            let given = proxy.metric("respmux_blocking_given_back_total", &[]).unwrap() - before;
            let expected = if command.starts_with("BLMOVE") { 0.0 } else { 1.0 };
            assert!((given - expected).abs() < 0.5, "{command}: {given} given back");
            direct.ask("FLUSHALL");
        }
    }
}

/// Redis before 8.2 crashes when CLIENT UNBLOCK hits a connection that CLIENT PAUSE holds back, as a failover does.
/// For a client that leaves then, and for one whose own time is up, respmux must not send it.
#[test]
fn a_paused_server_survives_clients_that_leave() {
    for flavour in Flavour::ALL {
        let (redis, proxy) = smallest(flavour);
        let (mut direct, mut other) = (redis.connect(), proxy.connect());
        for command in ["BLPOP q 0.1", "BLPOP q 0", "XREAD BLOCK 0 STREAMS s 0-0"] {
            let mut client = proxy.connect();
            direct.ask("CLIENT PAUSE 900 WRITE");
            client.send_command(&command.split(' ').collect::<Vec<_>>());
            eventually(PATIENCE, || {
                let list = direct.ask("CLIENT LIST").as_str();
                if list.contains(" flags=b") { Ok(()) } else { Err(format!("{command}: nobody waits in\n{list}")) }
            });
            client.shut_write();
            client.read_to_end(Duration::from_secs(5));
            assert_eq!(other.ask("PING").as_str(), "PONG", "{command}");
            direct.ask("CLIENT UNPAUSE");
            eventually(Duration::from_secs(10), || {
                let blocked = redis.info("blocked_clients");
                if blocked == 0 { Ok(()) } else { Err(format!("{command}: {blocked} blocked")) }
            });
            other.ask("RPUSH q x");
            assert_eq!(other.ask("BLPOP q 1").items[1].as_str(), "x", "{command}");
        }
    }
}

#[test]
fn a_lost_connection_closes_its_waiters_and_nobody_else() {
    let (redis, proxy) = smallest(Flavour::Redis70);
    let (mut first, mut second, mut third) = (proxy.connect(), proxy.connect(), proxy.connect());
    let (mut observer, mut direct) = (proxy.connect(), redis.connect());
    first.send_command(&["BLPOP", "q", "0"]);
    second.send_command(&["BLPOP", "q", "0"]);
    until_blocked(&mut observer, 2);
    eventually(PATIENCE, || {
        let blocked = redis.info("blocked_clients");
        if blocked == 1 { Ok(()) } else { Err(blocked) }
    });
    third.send_command(&["BLPOP", "other", "0"]);
    until_blocked(&mut observer, 3);
    let list = direct.ask("CLIENT LIST").as_str();
    let line =
        list.lines().find(|line| line.contains(" flags=b")).unwrap_or_else(|| panic!("nobody is blocked:\n{list}"));
    let id = line.split(' ').find_map(|pair| pair.strip_prefix("id=")).expect("a line has an id").to_owned();
    assert_eq!(direct.call(&["CLIENT", "KILL", "ID", &id]).as_int(), 1);
    first.expect_eof();
    second.expect_eof();
    assert_eq!(observer.ask("PING").as_str(), "PONG");
    direct.ask("RPUSH other x");
    assert_eq!(third.read_frame().items[1].as_str(), "x");
    direct.ask("RPUSH q y");
    assert_eq!(observer.ask("BLPOP q 0").items[1].as_str(), "y");
}

/// Who can only wait on the server stands in line for the one connection; a fold gives way to it.
#[test]
fn a_fold_gives_way_to_who_cannot_be_asked_in_turns() {
    let (redis, proxy) = smallest(Flavour::Redis82);
    let (mut folded, mut other, mut observer) = (proxy.connect(), proxy.connect(), proxy.connect());
    folded.send_command(&["BLPOP", "q", "0"]);
    until_blocked(&mut observer, 1);
    other.ask("SET k 1");
    let began = Instant::now();
    assert_eq!(other.ask("WAIT 0 0").as_int(), 0);
    assert_eq!(other.ask("WAIT 1 50").as_int(), 0);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    redis.connect().ask("RPUSH q x");
    assert_eq!(folded.read_frame().items[1].as_str(), "x");
}

/// Waits until so many groups wait on a connection together with others.
fn until_bundled(proxy: &Proxy, groups: f64) {
    eventually(PATIENCE, || match proxy.metric("respmux_blocking_bundled_groups", &[]) {
        Some(bundled) if bundled == groups => Ok(()),
        other => Err(format!("{other:?} of {groups}")),
    });
}

/// Scenario T-7l: forty keys on the one connection for blocked clients. Who comes, leaves, is unblocked or served is no
/// matter of the others.
#[test]
fn keys_on_one_connection_are_separate() {
    for flavour in Flavour::ALL {
        let (redis, proxy) = smallest(flavour);
        let (mut direct, mut observer) = (redis.connect(), proxy.connect());
        let mut clients: Vec<TestClient> = (0..40).map(|_| proxy.connect()).collect();
        let ids: Vec<i64> = clients.iter_mut().map(|client| client.ask("CLIENT ID").as_int()).collect();
        for (key, client) in clients.iter_mut().enumerate() {
            client.send_command(&["BLPOP", &format!("b{key}"), "0"]);
        }
        until_bundled(&proxy, 40.0);
        // Nobody is asked for in turns any more.
        let polls = || proxy.metric("respmux_blocking_polls_total", &[]).unwrap_or_default();
        let before = polls();
        pause(Duration::from_millis(200));
        assert_eq!(polls(), before, "{}", flavour.name());
        direct.ask("RPUSH b7 x");
        assert_eq!(clients[7].read_frame().items[1].as_str(), "x");
        assert_eq!(observer.ask(&format!("CLIENT UNBLOCK {} ERROR", ids[3])).as_int(), 1);
        assert!(clients[3].read_frame().is_error());
        // Newcomers are let in, and out when their time is over, never early.
        let mut short = proxy.connect();
        let began = Instant::now();
        assert!(is_nil(&short.ask("BLPOP b100 0.2")));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(2), "{took:?}");
        // An element for somebody who has left stays where it was.
        drop(std::mem::replace(&mut clients[5], proxy.connect()));
        until_bundled(&proxy, 37.0);
        direct.ask("RPUSH b5 y");
        assert_eq!(direct.ask("LLEN b5").as_int(), 1);
        // A key of another type is noticed by nobody, and its client is served when it is a list again.
        direct.ask("SET b9 text");
        let mut newcomer = proxy.connect();
        newcomer.send_command(&["BLPOP", "b101", "0"]);
        until_blocked(&mut observer, 38);
        direct.ask("RPUSH b8 z");
        assert_eq!(clients[8].read_frame().items[1].as_str(), "z");
        direct.ask("DEL b9");
        direct.ask("RPUSH b9 list");
        assert_eq!(clients[9].read_frame().items[1].as_str(), "list");
        // Several at once.
        direct.send(&(20..30).map(|key| format!("RPUSH b{key} v{key}\r\n")).collect::<String>().into_bytes());
        for (key, client) in clients.iter_mut().enumerate().take(30).skip(20) {
            assert_eq!(direct.read_frame().as_int(), 1);
            assert_eq!(client.read_frame().items[1].as_str(), format!("v{key}"));
        }
        until_bundled(&proxy, 26.0);
        // Nobody knows whose element was on its way.
        let list = direct.ask("CLIENT LIST").as_str();
        let waiting = list.lines().find(|line| line.contains("flags=b") || line.contains("cmd=blpop"));
        let id = waiting.and_then(|line| line.split(' ').next()).expect("it waits");
        direct.ask(&format!("CLIENT KILL {}", id.replace('=', " ").to_uppercase()));
        assert!(matches!(clients[0].try_read_frame(PATIENCE), Err(kit::ReadEnd::Eof)));
        assert!(matches!(newcomer.try_read_frame(PATIENCE), Err(kit::ReadEnd::Eof)));
        eventually(PATIENCE, || match proxy.metric("respmux_blocking_groups", &[]) {
            Some(0.0) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(proxy.metric("respmux_integrity_violations_total", &[]).unwrap_or_default(), 0.0);
    }
}

/// Two databases keep both lanes busy, and waiters of a third one have had theirs taken: they are asked for on a lent
/// connection, as every other command of that database.
#[test]
fn waiters_without_a_lane_are_asked_for() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("auth.proxy_write=default"));
    let [mut armed, mut pop, mut read, mut observer] = [(); 4].map(|()| proxy.connect());
    armed.send_command(&["BLPOP", "taken", "0"]);
    until_blocked(&mut observer, 1);
    assert_eq!(pop.ask("SELECT 3").as_str(), "OK");
    assert_eq!(read.ask("SELECT 3").as_str(), "OK");
    pop.send_command(&["BLPOP", "q", "0"]);
    read.send_command(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]);
    until_blocked(&mut observer, 3);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetOnDrop(&over);
        for db in 1..=2 {
            let (mut busy, over) = (proxy.connect(), &over);
            scope.spawn(move || {
                assert_eq!(busy.ask(&format!("SELECT {db}")).as_str(), "OK");
                while !over.load(Ordering::Relaxed) {
                    assert!(busy.ask("INCR n").as_int() > 0);
                }
            });
        }
        // Each lane is made anew for whoever asks first: those two, who do not stop.
        assert!(!observer.ask("PROXY RECONNECT").is_error());
        let mut direct = redis.connect();
        for db in 1..=2 {
            direct.ask(&format!("SELECT {db}"));
            let enough = |n: &str| n.parse::<u32>().is_ok_and(|n| n > 1000);
            eventually(PATIENCE, || Some(direct.ask("GET n").as_str()).filter(|n| enough(n)).ok_or("not busy yet"));
        }
        direct.ask("SELECT 3");
        direct.ask("RPUSH q x");
        direct.ask("XADD s 1-1 f v");
        let (popped, entries) = (pop.read_frame(), read.read_frame());
        assert_eq!(popped.items[1].as_str(), "x");
        assert_eq!(entries.items[0].items[0].as_str(), "s");
    });
}

#[test]
fn blocked_clients_are_counted() {
    let (redis, proxy) = smallest(Flavour::Redis82);
    let mut clients: Vec<TestClient> = (0..3).map(|_| proxy.connect()).collect();
    for (client, key) in clients.iter_mut().zip(["q", "q", "p"]) {
        client.send_command(&["BLPOP", key, "0"]);
    }
    eventually(PATIENCE, || {
        let blocked = proxy.metric("respmux_client_connections", &[("state", "blocked")]);
        let armed = proxy.metric("respmux_blocking_waiters", &[("state", "armed")]);
        let polling = proxy.metric("respmux_blocking_waiters", &[("state", "polling")]);
        let found = (blocked, armed.zip(polling).map(|(a, p)| a + p));
        if found == (Some(3.0), Some(3.0)) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    redis.connect().ask("RPUSH q a b");
    redis.connect().ask("RPUSH p a");
    for client in &mut clients {
        assert!(!client.read_frame().is_error());
    }
    // A reply may be read before it is counted.
    eventually(PATIENCE, || match proxy.metric("respmux_commands_total", &[("cmd", "blpop")]) {
        Some(3.0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(proxy.metric("respmux_commands_total", &[("cmd", "other")]).unwrap_or(0.0) < 1.0);
}

/// Without the right to CLIENT UNBLOCK connections wait for slices of time; deadlines may be that much late.
#[test]
fn without_unblock_nothing_is_lost_but_time() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut direct = redis.connect();
    direct.ask("ACL SETUSER mux on >pw ~* &* +@all -client|unblock");
    let upstream = format!("redis://mux:pw@127.0.0.1:{}", redis.port());
    let proxy = Proxy::start(&redis, &ProxyOptions { upstream: Some(upstream), ..ProxyOptions::tight() });
    let mut client = proxy.connect();
    let began = Instant::now();
    assert!(is_nil(&client.ask("BLPOP q 0.1")));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(100) && took < Duration::from_millis(700), "{took:?}");
    client.send_command(&["BLPOP", "q", "0"]);
    pause(Duration::from_millis(1000));
    direct.ask("RPUSH q x");
    assert_eq!(client.read_frame().items[1].as_str(), "x");
}
