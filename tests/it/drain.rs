//! SIGTERM and SIGINT: no new clients, requests finish, clients are let go between requests, exit 0.

use std::time::Duration;

use crate::support::client::{PATIENCE, encode};
use crate::support::{Flavour, Proxy, ProxyOptions, RealRedis, TestClient, eventually};

#[test]
fn requests_finish_and_idle_clients_are_let_go() {
    for signal in ["TERM", "INT"] {
        let redis = RealRedis::start(Flavour::Redis70, &[]);
        let mut proxy = Proxy::start(&redis, &ProxyOptions::tight());
        let (mut idle, mut busy) = (proxy.connect(), proxy.connect());
        idle.ask("PING");
        busy.ask("PING");
        redis.signal("STOP");
        busy.send(&encode(&["ECHO", "last"]).repeat(3));
        busy.expect_nothing(Duration::from_millis(50));
        proxy.signal(signal);
        idle.expect_eof();
        redis.signal("CONT");
        busy.expect(&b"$4\r\nlast\r\n".repeat(3));
        busy.expect_eof();
        let status = proxy.wait_exit(PATIENCE);
        assert!(status.success(), "SIG{signal}: {status}");
        assert!(TestClient::try_connect(&proxy.address()).is_err());
        assert_eq!(redis.info("connected_clients"), 1, "its upstream connections are closed");
    }
}

#[test]
fn who_stays_blocked_is_closed_at_the_deadline() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut proxy = Proxy::start(&redis, &ProxyOptions::tight().set("drain.timeout=300ms"));
    let mut blocked = proxy.connect();
    blocked.send_command(&["BLPOP", "q", "0"]);
    blocked.expect_nothing(Duration::from_millis(50));
    proxy.signal("TERM");
    blocked.expect_eof();
    let status = proxy.wait_exit(PATIENCE);
    assert!(status.code().is_some(), "it ended by itself: {status}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut proxy = Proxy::start(&redis, &ProxyOptions::tight().set("drain.timeout=60s"));
    let mut waiting = proxy.connect();
    waiting.ask("PING");
    redis.signal("STOP");
    waiting.send_command(&["SET", "a", "1"]);
    waiting.expect_nothing(Duration::from_millis(50));
    proxy.signal("TERM");
    waiting.expect_nothing(Duration::from_millis(100));
    assert!(proxy.runs(), "it waits for the request");
    proxy.signal("TERM");
    proxy.wait_exit(Duration::from_secs(5));
    redis.signal("CONT");
}

/// What watches readiness learns first; clients that come meanwhile are still served.
#[test]
fn readiness_ends_before_service_does() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut proxy = Proxy::start(&redis, &ProxyOptions::tight().set("drain.delay=1500ms"));
    proxy.signal("TERM");
    eventually(Duration::from_millis(1200), || match proxy.http("/readyz") {
        Ok((503, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut late = proxy.connect();
    assert_eq!(late.ask("SET a 1").as_str(), "OK");
    assert_eq!(proxy.http("/livez").unwrap().0, 200);
    late.expect_eof();
    assert!(proxy.wait_exit(PATIENCE).success());
}
