//! MOVING: clients that asked for it are told to go elsewhere before they are closed.

use std::time::Duration;

use kit::{Flavour, Frame, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, encode, eventually};

const ENDPOINT: &str = "respmux.test:6379";

fn stage(settings: &[&str]) -> (RealRedis, Proxy) {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = settings.iter().fold(ProxyOptions::tight(), |options, setting| options.set(setting));
    let proxy = Proxy::start(&redis, &options.set(&format!("drain.endpoint={ENDPOINT}")));
    (redis, proxy)
}

/// A RESP3 client that asked to be told.
fn asker(proxy: &Proxy, kind: &str) -> TestClient {
    let mut client = proxy.connect();
    client.ask("HELLO 3");
    assert_eq!(client.ask(&format!("CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type {kind}")).as_str(), "OK");
    client
}

/// Checks that `frame` is MOVING and gives its sequence number, its seconds, and where to.
#[track_caller]
fn moving(frame: &Frame) -> (u64, u64, Option<String>) {
    assert_eq!((frame.kind, frame.items.len()), (b'>', 4), "{frame:?}");
    assert_eq!(frame.items[0].as_str(), "MOVING");
    let number = |item: &Frame| {
        assert_eq!(item.kind, b':', "{item:?}");
        item.as_str().parse().unwrap()
    };
    let endpoint = &frame.items[3];
    (number(&frame.items[1]), number(&frame.items[2]), (!endpoint.null).then(|| endpoint.as_str()))
}

#[test]
fn who_asked_is_told_and_may_leave_by_itself() {
    let (_redis, mut proxy) = stage(&["drain.timeout=10s", "drain.delay=300ms"]);
    let (mut one, mut two, mut nameless) =
        (asker(&proxy, "internal-ip"), asker(&proxy, "external-fqdn"), asker(&proxy, "none"));
    let mut other = proxy.connect();
    other.ask("PING");
    proxy.signal("TERM");
    one.expect_nothing(Duration::from_millis(150)); // others may still come
    let told = moving(&one.read_frame());
    assert_eq!(told.2.as_deref(), Some(ENDPOINT));
    assert!((6..=8).contains(&told.1), "{told:?}");
    assert_eq!(moving(&two.read_frame()), told, "one move, heard twice");
    assert_eq!(moving(&nameless.read_frame()).2, None);
    other.expect_eof();
    // It goes on as before, and is told only once.
    assert_eq!(one.ask("SET a 1").as_str(), "OK");
    one.expect_nothing(Duration::from_millis(700));
    drop((one, nameless));
    let handoffs = |result| proxy.metric("respmux_client_handoffs_total", &[("result", result)]);
    eventually(
        PATIENCE,
        || if handoffs("moved") == Some(2.0) { Ok(()) } else { Err(format!("{:?}", handoffs("moved"))) },
    );
    assert_eq!(two.ask("GET a").as_str(), "1");
    drop(two);
    assert!(proxy.wait_exit(PATIENCE).success());
}

#[test]
fn who_stays_is_closed_when_its_time_is_over() {
    let (_redis, mut proxy) = stage(&["drain.timeout=2s", "log.level=debug"]);
    let mut staying = asker(&proxy, "internal-ip");
    proxy.signal("TERM");
    assert_eq!(moving(&staying.read_frame()).1, 1);
    assert_eq!(staying.ask("PING").as_str(), "PONG");
    staying.expect_eof();
    assert!(proxy.wait_exit(PATIENCE).success());
    assert!(!proxy.log().contains("drain_timeout"), "{}", proxy.log());
}

#[test]
fn no_push_comes_between_a_request_and_its_reply_nor_inside_multi() {
    let (redis, proxy) = stage(&["drain.timeout=20s"]);
    let (mut busy, mut multi, mut subscriber) =
        (asker(&proxy, "internal-ip"), asker(&proxy, "internal-ip"), asker(&proxy, "internal-ip"));
    let mut former = asker(&proxy, "internal-ip");
    multi.ask("MULTI");
    subscriber.ask("SUBSCRIBE c");
    former.ask("HELLO 2");
    redis.signal("STOP");
    busy.send(&encode(&["ECHO", "last"]).repeat(3));
    proxy.signal("TERM");
    busy.expect_nothing(Duration::from_millis(100));
    redis.signal("CONT");
    busy.expect(&b"$4\r\nlast\r\n".repeat(3));
    let (seq, ..) = moving(&busy.read_frame());
    multi.expect_nothing(Duration::from_millis(100));
    assert_eq!(multi.ask("PING").as_str(), "QUEUED");
    multi.send_command(&["EXEC"]);
    multi.expect(b"*1\r\n+PONG\r\n");
    assert_eq!(moving(&multi.read_frame()).0, seq);
    // Stock clients do not take their subscriptions along.
    subscriber.expect_eof();
    former.expect_eof();
}

#[test]
fn a_client_that_is_too_old_is_told_first() {
    let (_redis, proxy) = stage(&["client.max_age=1s"]);
    let mut client = asker(&proxy, "internal-ip");
    let (_, seconds, endpoint) = moving(&client.read_frame());
    assert!((9..=10).contains(&seconds), "{seconds}");
    assert_eq!(endpoint.as_deref(), Some(ENDPOINT));
    assert_eq!(client.ask("PING").as_str(), "PONG");
    client.ask("CLIENT MAINT_NOTIFICATIONS OFF");
    assert!(client.is_open());
}
