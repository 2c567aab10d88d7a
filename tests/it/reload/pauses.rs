//! PAUSE and RESUME, and what they are for: another upstream in the place of the first while nobody notices.

use std::time::{Duration, Instant};

use super::load::Load;
use super::{Configured, follow, has_caught_up, lines, two_servers};
use kit::{Flavour, PATIENCE, Progress, RealRedis, eventually};

#[test]
fn a_pause_holds_every_command_in_its_place_and_resume_goes_on() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "");
    let (mut admin, mut client) = (it.proxy.connect(), it.proxy.connect());
    assert_eq!(client.ask("SET k 0").as_str(), "OK");
    let answer = lines(&admin.ask("PROXY PAUSE"));
    assert_eq!(answer, ["paused: nothing is in flight upstream", "resumes_by_itself_after_s:60"]);
    assert_eq!(it.metric("respmux_paused"), 1.0);
    client.send(b"INCR k\r\nINCR k\r\nMULTI\r\nINCR k\r\nEXEC\r\nBLPOP q 0.1\r\nCLIENT ID\r\nSUBSCRIBE c\r\n");
    client.expect_nothing(Duration::from_millis(200));
    assert_eq!(redis.connect().ask("GET k").as_str(), "0");
    // A new client connects and asks respmux; what it wants of the server waits.
    let mut late = it.proxy.connect();
    assert!(!late.ask("PROXY WHOAMI").is_error());
    late.send(b"GET k\r\n");
    late.expect_nothing(Duration::from_millis(100));
    assert_eq!(it.proxy.http("/readyz").unwrap().0, 200);
    assert!(admin.ask("PROXY PAUSE").as_str().contains("already paused"));
    assert_eq!(lines(&admin.ask("PROXY RESUME")), ["resumed"]);
    client.expect(b":1\r\n:2\r\n+OK\r\n+QUEUED\r\n*1\r\n:3\r\n*-1\r\n");
    assert!(client.read_frame().as_int() > 0);
    assert_eq!(client.read_frame().items.len(), 3);
    assert!(!late.read_frame().is_error());
    assert_eq!(lines(&admin.ask("PROXY RESUME")), ["not paused"]);
    assert_eq!(it.metric("respmux_paused"), 0.0);
}

#[test]
fn a_pause_waits_for_open_transactions_and_not_for_blocked_pops() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "");
    let (mut admin, mut open, mut popper) = (it.proxy.connect(), it.proxy.connect(), it.proxy.connect());
    popper.send(b"BLPOP q 0\r\n");
    redis.becomes("blocked_clients", 1);
    assert_eq!(open.ask("MULTI").as_str(), "OK");
    assert_eq!(open.ask("INCR k").as_str(), "QUEUED");
    let error = admin.ask("PROXY PAUSE 150").as_str();
    assert_eq!(error, "ERR not paused, clients go on: after 150 ms 1 of them still had commands in flight");
    assert_eq!(it.metric("respmux_paused"), 0.0);
    admin.send(b"PROXY PAUSE 8000\r\n");
    eventually(PATIENCE, || if it.metric("respmux_paused") == 1.0 { Ok(()) } else { Err("not yet") });
    admin.expect_nothing(Duration::from_millis(100));
    assert_eq!(open.ask("INCR k").as_str(), "QUEUED", "a transaction that has begun goes on");
    assert_eq!(open.ask("EXEC").items.len(), 2);
    assert!(lines(&admin.read_frame())[0].starts_with("paused"));
    open.send(b"GET k\r\n");
    open.expect_nothing(Duration::from_millis(100));
    // Others than respmux may still push: the waiting client is served.
    redis.connect().ask("RPUSH q x");
    assert_eq!(popper.read_frame().items.len(), 2);
    assert_eq!(lines(&admin.ask("PROXY RESUME")), ["resumed"]);
    assert_eq!(open.read_frame().as_str(), "2");
}

#[test]
fn a_pause_ends_by_itself_and_with_the_process() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let mut it = Configured::start(&redis, "pause.max = '300ms'\n");
    let (mut admin, mut client) = (it.proxy.connect(), it.proxy.connect());
    assert!(!admin.ask("PROXY PAUSE").is_error());
    let started = Instant::now();
    assert_eq!(client.ask("INCR k").as_int(), 1);
    assert!(started.elapsed() >= Duration::from_millis(200), "it was held");
    assert!(it.proxy.log().contains("pause.max has passed"));
    for bad in ["PROXY PAUSE x", "PROXY PAUSE 0", "PROXY PAUSE -1", "PROXY PAUSE 1 2"] {
        assert!(admin.ask(bad).is_error(), "{bad}");
    }
    it.write(&redis.url(), "pause.max = '60s'\n");
    assert!(!admin.ask("PROXY RELOAD").is_error());
    assert!(!admin.ask("PROXY PAUSE").is_error());
    client.send(b"INCR k\r\n");
    client.expect_nothing(Duration::from_millis(50));
    it.proxy.signal("TERM");
    assert_eq!(client.read_frame().as_int(), 2, "held requests are carried out before the end");
    client.expect_eof();
    assert!(it.proxy.wait_exit(Duration::from_secs(10)).success());
}

/// What a client sends beyond what fits is held back at its own socket.
#[test]
fn held_input_is_bounded() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "");
    let (mut admin, mut client) = (it.proxy.connect(), it.proxy.connect());
    assert_eq!(client.ask("PING").as_str(), "PONG");
    assert!(!admin.ask("PROXY PAUSE").is_error());
    let batch = "ECHO 0123456789\r\n".repeat(40_000);
    let sender = std::thread::spawn(move || {
        client.send(batch.as_bytes());
        client
    });
    kit::pause(Duration::from_millis(300));
    let held = it.proxy.metric("respmux_buffered_bytes", &[("kind", "input")]).unwrap();
    assert!(held <= 200_000.0, "{held} bytes of input are kept");
    assert!(!admin.ask("PROXY RESUME").is_error());
    let mut client = sender.join().unwrap();
    for _ in 0..40_000 {
        assert_eq!(client.read_frame().as_str(), "0123456789");
    }
}

pub(super) fn swaps(times: usize, each: usize, python: usize) -> String {
    let (one, two) = two_servers();
    follow(&two, &one);
    let it = Configured::start(&one, "");
    let load = Load::start(&it.proxy, each, python);
    let mut admin = it.proxy.connect();
    let mut longest = Duration::ZERO;
    for round in Progress::over("swaps", 0..times) {
        let (old, new) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        load.go_on(300);
        let started = Instant::now();
        let paused = admin.ask("PROXY PAUSE 5000");
        assert!(!paused.is_error(), "{paused:?}");
        has_caught_up(new, old);
        assert_eq!(new.connect().ask("REPLICAOF NO ONE").as_str(), "OK");
        it.write(&new.url(), "");
        assert!(!admin.ask("PROXY RELOAD").is_error());
        assert_eq!(lines(&admin.ask("PROXY RESUME")), ["resumed"]);
        longest = longest.max(started.elapsed());
        load.go_on(300);
        // Only now: a primary that becomes a replica throws its blocked clients out, and there are none left.
        old.becomes("connected_clients", 1);
        follow(old, new);
    }
    let last = if times.is_multiple_of(2) { &one } else { &two };
    load.faultless(last, &format!("\"swaps\":{times},\"longest_pause_ms\":{}", longest.as_millis()))
}

#[test]
fn an_upstream_is_swapped_under_load_and_nobody_notices() {
    swaps(3, 2, 2);
}
