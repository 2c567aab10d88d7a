//! The failure policy (reliability 5): circuit, hung told from dead, requests that take too long, a refused login.

use std::time::{Duration, Instant};

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually, pause};

const NOT_EXECUTED: &str = "LOADING upstream is not available, command was not executed";
const TOO_LATE: &str = "ERR upstream did not answer in time, outcome unknown: the command may have been executed";

fn quick() -> ProxyOptions {
    ProxyOptions::tight().set("upstream.connect_wait=300ms").set("upstream.backoff_max=100ms")
}

/// Waits until a metric is what it should be.
#[track_caller]
fn shows(proxy: &Proxy, name: &str, labels: &[(&str, &str)], right: impl Fn(f64) -> bool) {
    eventually(PATIENCE, || match proxy.metric(name, labels) {
        Some(value) if right(value) => Ok(()),
        other => Err(format!("{name}{labels:?} is {other:?}")),
    });
}

/// Asks until it is served; the connection must stay open.
#[track_caller]
fn served(client: &mut TestClient, line: &str) -> String {
    eventually(PATIENCE, || {
        let reply = client.ask(line).as_str();
        if reply == NOT_EXECUTED { Err(reply) } else { Ok(reply) }
    })
}

#[test]
fn an_open_circuit_answers_at_once_and_one_attempt_closes_it() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &quick());
    let mut client = proxy.connect();
    client.ask("SET a 1");
    redis.kill();
    assert_eq!(client.ask("INCR a").as_str(), NOT_EXECUTED);
    shows(&proxy, "respmux_upstream_circuit_workers", &[("state", "closed")], |workers| workers == 0.0);
    let asked = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.ask("INCR a").as_str(), NOT_EXECUTED);
        assert_eq!(proxy.connect().ask("SELECT 3").as_str(), NOT_EXECUTED);
    }
    assert!(asked.elapsed() < Duration::from_secs(3), "40 answers took {:?}", asked.elapsed());
    assert!(proxy.connect().ask("MULTI").is_error());
    proxy.becomes("respmux_upstream_circuit_opened_total", &[], |n| n == 1.0);
    redis.start_again();
    assert_eq!(served(&mut client, "INCR b"), "1");
    shows(&proxy, "respmux_upstream_circuit_workers", &[("state", "closed")], |workers| workers == 1.0);
}

#[test]
fn error_replies_do_not_open_the_circuit() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &quick());
    let mut client = proxy.connect();
    client.ask("SET a text");
    for _ in 0..50 {
        assert!(client.ask("INCR a").is_error());
    }
    assert_eq!(proxy.metric("respmux_upstream_circuit_opened_total", &[]), Some(0.0));
    assert_eq!(client.ask("GET a").as_str(), "text");
}

#[test]
fn hung_is_told_from_dead() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = quick()
        .set("upstream.suspect_after=300ms")
        .set("upstream.progress_timeout=1500ms")
        .set("upstream.handshake_timeout=400ms");
    let proxy = Proxy::start(&redis, &options);
    let (mut client, mut idle) = (proxy.connect(), proxy.connect());
    client.ask("PING");
    idle.ask("PING");
    redis.signal("STOP");
    client.send_command(&["SET", "a", "1"]);
    shows(&proxy, "respmux_lane_suspects", &[], |lanes| lanes == 1.0);
    client.expect_eof();
    let losses = |verdict| proxy.metric("respmux_lane_losses_total", &[("verdict", verdict)]);
    assert_eq!((losses("hung"), losses("dead")), (Some(1.0), Some(0.0)));
    shows(&proxy, "respmux_lane_detection_duration_seconds_sum", &[], |seconds| (1.4..4.0).contains(&seconds));
    // It accepts connections, and answers none of them.
    idle.send_command(&["PING"]);
    shows(&proxy, "respmux_upstream_connect_errors_total", &[("reason", "timeout")], |errors| errors >= 1.0);
    redis.signal("CONT");
    idle.read_frame();
    assert_eq!(served(&mut idle, "PING"), "PONG");
    redis.kill();
    shows(&proxy, "respmux_lane_losses_total", &[("verdict", "dead")], |lanes| lanes >= 1.0);
    shows(&proxy, "respmux_upstream_connect_errors_total", &[("reason", "refused")], |errors| errors >= 1.0);
}

#[test]
fn a_request_that_takes_too_long_is_given_up_and_its_lane_lives_on() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("client.request_timeout=300ms"));
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    client.ask("PING");
    other.ask("PING");
    let opened = proxy.metric("respmux_upstream_connections_opened_total", &[("kind", "lane")]);
    redis.signal("STOP");
    client.send_command(&["ECHO", "late"]);
    client.send_command(&["SET", "k", "v"]);
    let asked = Instant::now();
    assert_eq!(client.read_frame().as_str(), TOO_LATE);
    assert_eq!(client.read_frame().as_str(), TOO_LATE);
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    // What comes later is answered behind the replies that are for nobody now, and has its own answer.
    client.send_command(&["ECHO", "x"]);
    other.send_command(&["ECHO", "y"]);
    redis.signal("CONT");
    assert_eq!(client.read_frame().as_str(), "x");
    assert_eq!(other.read_frame().as_str(), "y");
    assert_eq!(client.ask("GET k").as_str(), "v", "it was executed, as it was told that it may be");
    assert_eq!(proxy.metric("respmux_upstream_connections_opened_total", &[("kind", "lane")]), opened);
    proxy.becomes("respmux_request_timeouts_total", &[("outcome", "unknown")], |n| n == 2.0);
    assert!(proxy.metric("respmux_lane_tombstones_total", &[]) >= Some(2.0));
}

/// A connection of the client's own is closed with the request that is given up; the client stays if nothing of it was
/// there.
#[test]
fn a_request_on_a_lent_connection_is_given_up_too() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::sized(1, 16).set("client.request_timeout=300ms").set("lane.max_command_bytes=64KiB");
    let proxy = Proxy::start(&redis, &options);
    let [mut large, mut watching, mut subscribed, mut waiting] = [(); 4].map(|()| proxy.connect());
    let value = "x".repeat(100 << 10);
    assert_eq!(watching.ask("WATCH k").as_str(), "OK");
    watching.ask("GET k");
    // Commands that wait on the server may.
    waiting.send_command(&["BLMOVE", "a", "b", "LEFT", "RIGHT", "0"]);
    subscribed.ask("SUBSCRIBE c");
    redis.becomes("blocked_clients", 1);
    pause(Duration::from_millis(600));
    assert_eq!(proxy.metric("respmux_request_timeouts_total", &[]), Some(0.0));
    // There is one for the next.
    assert_eq!(large.call(&["SET", "k", &value]).as_str(), "OK");
    redis.signal("STOP");
    let asked = Instant::now();
    large.send_command(&["SET", "k", &value.replace('x', "y")]);
    watching.send_command(&["GET", "k"]);
    assert_eq!(large.read_frame().as_str(), TOO_LATE);
    watching.expect_eof();
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    redis.signal("CONT");
    assert_eq!(served(&mut large, "ECHO x"), "x");
    // It was executed, as it was told that it may be.
    eventually(PATIENCE, || match large.ask("GETRANGE k 0 0").as_str() {
        first if first == "y" => Ok(()),
        first => Err(first),
    });
    assert_eq!(large.call(&["SET", "k", &value]).as_str(), "OK", "by another connection");
    proxy.becomes("respmux_request_timeouts_total", &[("outcome", "unknown")], |n| n == 2.0);
    redis.connect().ask("RPUSH a one");
    assert_eq!(waiting.read_frame().as_str(), "one");
    redis.connect().ask("PUBLISH c hello");
    assert_eq!(subscribed.read_frame().items[2].as_str(), "hello");
}

/// The socket is full: what was not written is withdrawn, and that is what its client is told.
#[test]
fn what_was_not_written_in_time_is_never_executed() {
    const REQUESTS: usize = 150;
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::tight()
        .set("client.request_timeout=1s")
        .set("client.inflight_bytes=64MiB")
        .set("client.inflight_commands=1000")
        .set("lane.max_inflight_bytes=64MiB");
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    client.ask("PING");
    redis.signal("STOP");
    let value = "x".repeat(200 << 10);
    for n in 0..REQUESTS {
        client.send_command(&["SET", &format!("k{n}"), &value]);
    }
    let replies: Vec<_> = (0..REQUESTS).map(|_| client.read_frame().as_str()).collect();
    redis.signal("CONT");
    assert_eq!(served(&mut client, "PING"), "PONG");
    let refused = replies.iter().filter(|reply| *reply == NOT_EXECUTED).count();
    assert!(refused > 0 && replies[0] == TOO_LATE, "{refused} of {REQUESTS} were not written");
    assert!(replies.iter().all(|reply| reply == NOT_EXECUTED || reply == TOO_LATE));
    for (n, reply) in replies.iter().enumerate() {
        let there = client.ask(&format!("EXISTS k{n}")).as_int() == 1;
        assert!(!there || reply == TOO_LATE, "k{n} is there although it was declared not executed");
    }
}

/// A lane that owes most of its replies to nobody is of no use to those behind them.
#[test]
fn a_lane_full_of_tombstones_is_given_up() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = quick().set("client.request_timeout=200ms").set("upstream.suspect_after=500ms");
    let proxy = Proxy::start(&redis, &options);
    let (mut client, mut idle) = (proxy.connect(), proxy.connect());
    idle.ask("PING");
    client.ask("PING");
    redis.signal("STOP");
    for n in 0..40 {
        client.send_command(&["ECHO", &n.to_string()]);
    }
    (0..40).for_each(|_| assert_eq!(client.read_frame().as_str(), TOO_LATE));
    shows(&proxy, "respmux_lane_losses_total", &[("verdict", "abandoned")], |lanes| lanes == 1.0);
    redis.signal("CONT");
    assert_eq!(served(&mut client, "ECHO here"), "here");
    assert_eq!(served(&mut idle, "ECHO there"), "there");
}

#[test]
fn a_refused_login_is_not_tried_again_for_every_command() {
    const REFUSED: &str = "ERR respmux could not log in to the upstream, command was not executed";
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", "right"]);
    let mut direct = redis.connect();
    direct.ask("AUTH right");
    let options = ProxyOptions {
        start_unready: true,
        ..quick().set("upstream.password=wrong").set("upstream.auth_backoff_min=2s").set("upstream.auth_backoff_max=2s")
    };
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    for _ in 0..50 {
        assert_eq!(client.ask("GET a").as_str(), REFUSED);
    }
    let tried = proxy.metric("respmux_upstream_connect_errors_total", &[("reason", "auth")]);
    assert!((Some(1.0)..=Some(8.0)).contains(&tried), "tried {tried:?} times");
    assert_eq!(proxy.metric("respmux_upstream_circuit_opened_total", &[]), Some(0.0), "an error reply is an answer");
    direct.ask("CONFIG SET requirepass wrong");
    eventually(PATIENCE, || match client.ask("SET a 1").as_str() {
        reply if reply == "OK" => Ok(()),
        reply => Err(reply),
    });
}

#[test]
fn reads_and_only_reads_are_sent_again() {
    // Nothing is stored, so the server that comes back has nothing to load: it would answer a read by its own -LOADING.
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::tight().set("upstream.retry_reads=true").set("upstream.backoff_max=100ms");
    let proxy = Proxy::start(&redis, &options);
    let (mut reader, mut writer, mut mixed) = (proxy.connect(), proxy.connect(), proxy.connect());
    for client in [&mut reader, &mut writer, &mut mixed] {
        assert_eq!(client.ask("SET k v").as_str(), "OK");
    }
    redis.signal("STOP");
    reader.send_command(&["GET", "k"]);
    reader.send_command(&["STRLEN", "k"]);
    writer.send_command(&["INCR", "n"]);
    mixed.send_command(&["GET", "k"]);
    mixed.send_command(&["EVAL", "return 1", "0"]);
    shows(&proxy, "respmux_upstream_inflight_commands", &[], |commands| commands >= 5.0);
    redis.kill();
    writer.expect_eof();
    mixed.expect_eof();
    redis.start_again();
    assert!(reader.read_frame().null, "answered by the server that came back");
    assert_eq!(reader.read_frame().as_int(), 0);
    let outcome = |outcome| proxy.metric("respmux_retries_total", &[("outcome", outcome)]);
    assert_eq!((outcome("resent"), outcome("answered"), outcome("lost")), (Some(2.0), Some(2.0), Some(0.0)));
    assert!(redis.connect().ask("GET n").null, "a write was sent again");
    assert_eq!(reader.ask("SET k w").as_str(), "OK");
    assert_eq!(reader.ask("GET k").as_str(), "w");
}
