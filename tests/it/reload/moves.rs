//! Connections that move: RECONNECT, and another upstream.

use std::time::{Duration, Instant};

use super::load::Load;
use super::{Configured, reload, two_servers};
use kit::{Flavour, PATIENCE, Progress, ProxyOptions, RealRedis, eventually, pause};

/// Reads `redis`' own count of clients.
fn connections(redis: &RealRedis) -> i64 {
    redis.info("connected_clients") - 1 // the asking one
}

pub(super) fn reload_under_load(times: usize, each: usize, python: usize) -> String {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "");
    let load = Load::start(&it.proxy, each, python);
    let mut admin = it.proxy.connect();
    let started = Instant::now();
    for number in Progress::over("reloads", 0..times) {
        // Limits, retired lanes (integrity), a bad file now and then: everything that a reload can be.
        let integrity = ["normal", "strict", "loose"][number % 3];
        let limit = 5000 + number;
        let text = format!("integrity = '{integrity}'\nclient.max_connections = {limit}\n");
        if number % 10 == 9 {
            it.write_raw("bananas = 1\n");
            assert!(admin.ask("PROXY RELOAD").is_error());
        }
        it.write(&redis.url(), &text);
        assert!(!admin.ask("PROXY RELOAD").is_error());
        load.go_on(40);
        assert_eq!(it.metric("respmux_client_connections_max"), f64::from(u32::try_from(limit).unwrap()));
        assert!(connections(&redis) <= 24, "the cap");
    }
    let seconds = started.elapsed().as_secs_f64();
    load.faultless(&redis, &format!("\"reloads\":{times},\"seconds\":{seconds:.1}"))
}

#[test]
fn reloads_under_load_fail_no_command() {
    reload_under_load(12, 2, 2);
}

pub(super) fn reconnect_under_load(times: usize, each: usize, python: usize) -> String {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "");
    let load = Load::start(&it.proxy, each, python);
    let (mut admin, mut direct) = (it.proxy.connect(), redis.connect());
    let ids = |direct: &mut kit::TestClient| -> Vec<u64> {
        let list = direct.ask("CLIENT LIST").as_str();
        let ours = list.lines().filter(|line| line.contains("name=respmux:"));
        ours.map(|line| line[3..].split(' ').next().unwrap().parse().unwrap()).collect()
    };
    for _ in Progress::over("reconnects", 0..times) {
        let before = ids(&mut direct).into_iter().max().unwrap();
        assert!(!admin.ask("PROXY RECONNECT").is_error());
        load.go_on(100);
        eventually(Duration::from_secs(10), || {
            let old: Vec<_> = ids(&mut direct).into_iter().filter(|id| *id <= before).collect();
            if old.is_empty() { Ok(()) } else { Err(format!("{old:?} of {before}")) }
        });
        assert!(connections(&redis) <= 25, "the cap, and the test's own");
    }
    let line = load.faultless(&redis, &format!("\"reconnects\":{times}"));
    assert!(it.proxy.metric("respmux_upstream_connections_closed_total", &[("reason", "moved")]).unwrap() > 0.0);
    line
}

#[test]
fn reconnects_under_load_fail_no_command_and_leave_no_old_connection() {
    reconnect_under_load(5, 2, 2);
}

#[test]
fn another_upstream_takes_over_without_a_failed_request() {
    let (one, two) = two_servers();
    let it = Configured::start(&one, "");
    let load = Load::of_echoes(&it.proxy, 6);
    let mut admin = it.proxy.connect();
    for round in 0..6 {
        let (old, new) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        it.write(&new.url(), "");
        reload(&mut admin, "upstream.url");
        load.go_on(500);
        old.becomes("connected_clients", 1);
        assert!(connections(new) <= 24);
        let metrics = it.proxy.metrics();
        assert!(
            metrics.contains(&format!(
                "respmux_upstream_up{{upstream=\"default\",endpoint=\"127.0.0.1:{}\"}}",
                new.port()
            ))
        );
    }
    let outcome = load.end();
    assert_eq!(outcome.failed, 0, "{outcome:?}");
}

#[test]
fn subscriptions_and_blocked_pops_are_made_again_on_the_new_upstream() {
    let (one, two) = two_servers();
    let it = Configured::start(&one, "");
    let (mut admin, mut popper, mut timed) = (it.proxy.connect(), it.proxy.connect(), it.proxy.connect());
    let (mut channel, mut pattern) = (it.proxy.connect(), it.proxy.connect());
    assert_eq!(channel.ask("SUBSCRIBE news").as_str(), "");
    assert_eq!(pattern.ask("PSUBSCRIBE n*").as_str(), "");
    popper.send(b"BLPOP queue 0\r\n");
    timed.send(b"BLPOP queue:timed 2\r\n");
    one.becomes("blocked_clients", 2);
    it.write(&two.url(), "");
    reload(&mut admin, "upstream.url");
    one.becomes("connected_clients", 1);
    eventually(PATIENCE, || {
        let mut direct = two.connect();
        let (names, patterns) = (direct.ask("PUBSUB CHANNELS"), direct.ask("PUBSUB NUMPAT").as_int());
        if names.items.len() == 1 && patterns == 1 { Ok(()) } else { Err(format!("{names:?} {patterns}")) }
    });
    // PUBLISH through respmux counts both, as before.
    assert_eq!(admin.ask("PUBLISH news hello").as_int(), 2);
    let items = |frame: kit::Frame| frame.items.iter().map(kit::Frame::as_str).collect::<Vec<_>>();
    assert_eq!(items(channel.read_frame()), ["message", "news", "hello"]);
    assert_eq!(items(pattern.read_frame()), ["pmessage", "n*", "news", "hello"]);
    channel.expect_nothing(Duration::from_millis(100));
    two.connect().ask("RPUSH queue element");
    assert_eq!(items(popper.read_frame()), ["queue", "element"]);
    assert!(timed.read_frame().null, "its time is over");
    for client in [&mut channel, &mut pattern] {
        client.send(b"PING\r\n");
        assert_eq!(client.read_frame().items.len(), 2);
    }
}

#[test]
fn what_was_begun_on_the_old_upstream_ends_there() {
    let (one, two) = two_servers();
    let it = Configured::start(&one, "");
    let (mut admin, mut open, mut waiting) = (it.proxy.connect(), it.proxy.connect(), it.proxy.connect());
    assert_eq!(open.ask("MULTI").as_str(), "OK");
    assert_eq!(open.ask("SET where one").as_str(), "QUEUED");
    waiting.send(b"XREAD BLOCK 0 STREAMS s $\r\n");
    one.becomes("blocked_clients", 1);
    it.write(&two.url(), "");
    reload(&mut admin, "upstream.url");
    assert_eq!(admin.ask("SET where two").as_str(), "OK");
    assert_eq!(open.ask("EXEC").items.len(), 1);
    assert_eq!(open.ask("GET where").as_str(), "two", "behind the transaction it is on the new one");
    one.connect().ask("XADD s * k v");
    assert_eq!(waiting.read_frame().items.len(), 1);
    assert_eq!(waiting.ask("GET where").as_str(), "two");
    assert_eq!(one.connect().ask("GET where").as_str(), "one");
    one.becomes("connected_clients", 1);
}

/// CLIENT UNBLOCK of a wait on the old upstream must hit nobody on the new one.
#[test]
fn a_client_that_leaves_a_wait_on_the_old_upstream_disturbs_nobody_on_the_new_one() {
    let (one, two) = two_servers();
    let it = Configured::start(&one, "");
    let (mut admin, mut waiting) = (it.proxy.connect(), it.proxy.connect());
    waiting.send(b"XREAD BLOCK 0 STREAMS s $\r\n");
    one.becomes("blocked_clients", 1);
    it.write(&two.url(), "");
    reload(&mut admin, "upstream.url");
    assert_eq!(admin.ask("SET k v").as_str(), "OK");
    drop(waiting);
    one.becomes("connected_clients", 1);
    let stats = two.connect().ask("INFO commandstats").as_str();
    assert!(!stats.contains("cmdstat_client|unblock"), "{stats}");
    pause(Duration::from_millis(1));
}

/// Connections that are told to move twice within milliseconds: clients that are blocked do not notice.
#[test]
fn two_reconnects_at_once_close_no_blocked_client() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::sized(1, 24).set("upstream.connects_per_second=5000");
    let it = Configured::start_with(&redis, "", &options);
    let proxy = &it.proxy;
    let (mut admin, mut direct) = (proxy.connect(), redis.connect());
    let mut clients: Vec<_> = (0..6).map(|_| proxy.connect()).collect();
    for (key, client) in clients.iter_mut().enumerate() {
        client.send_command(&["BLPOP", &format!("q{key}"), "0"]);
    }
    for round in 0..40 {
        admin.send(b"PROXY RECONNECT\r\n");
        pause(Duration::from_micros(200 * (round % 12)));
        admin.send(b"PROXY RECONNECT\r\n");
        assert!(!admin.read_frame().is_error());
        assert!(!admin.read_frame().is_error());
        pause(Duration::from_millis(20));
        for (key, client) in clients.iter_mut().enumerate() {
            assert!(client.is_open(), "q{key} was closed in round {round}:\n{}", proxy.log());
        }
    }
    for (key, client) in clients.iter_mut().enumerate() {
        direct.ask(&format!("RPUSH q{key} x"));
        assert_eq!(client.read_frame().items[1].as_str(), "x");
    }
}
