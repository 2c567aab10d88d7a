//! SIGTERM and SIGINT: no new clients, requests finish, clients are let go between requests, exit 0.

use std::time::Duration;

use kit::{Flavour, PATIENCE, Pki, Proxy, ProxyOptions, RealRedis, TestClient, encode, eventually, pause};

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
    let mut proxy = Proxy::start(&redis, &ProxyOptions::tight().set("drain.timeout=700ms").set("log.level=debug"));
    let (mut blocked, mut watching) = (proxy.connect(), proxy.connect());
    blocked.send_command(&["BLPOP", "q", "0"]);
    watching.ask("WATCH w");
    proxy.signal("TERM");
    blocked.expect_nothing(Duration::from_millis(400));
    assert!(watching.is_open(), "it is in a transaction");
    blocked.expect_eof();
    watching.expect_eof();
    let status = proxy.wait_exit(PATIENCE);
    assert!(status.success(), "it ended by itself: {status}");
    assert_eq!(proxy.log().matches("drain_timeout").count(), 2, "{}", proxy.log());
    // Nothing is left of the one that was blocked: what is pushed now stays.
    let mut direct = TestClient::connect(&redis.unix_address());
    assert_eq!(direct.ask("RPUSH q x").as_str(), "1");
    assert_eq!(direct.ask("LLEN q").as_str(), "1");
}

/// A command that waits ends when it is answered, or when its own time is over; a transaction ends with EXEC.
#[test]
fn nobody_is_closed_in_the_middle() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let (mut blocked, mut multi, mut watching) = (proxy.connect(), proxy.connect(), proxy.connect());
    blocked.send_command(&["BLPOP", "q", "2"]);
    assert_eq!(multi.ask("MULTI").as_str(), "OK");
    assert_eq!(watching.ask("WATCH w").as_str(), "OK");
    proxy.signal("TERM");
    // Longer than an idle client is left.
    multi.expect_nothing(Duration::from_millis(900));
    assert!(blocked.is_open() && watching.is_open());
    assert_eq!(multi.ask("SET a 1").as_str(), "QUEUED");
    multi.send_command(&["EXEC"]);
    multi.expect(b"*1\r\n+OK\r\n");
    multi.expect_eof();
    assert_eq!(watching.ask("UNWATCH").as_str(), "OK");
    watching.expect_eof();
    blocked.expect(b"*-1\r\n");
    blocked.expect_eof();
    assert!(proxy.wait_exit(PATIENCE).success());
}

/// Clients that send one request at a time and pause between two: each is closed in a pause, and no request of theirs
/// is lost.
#[test]
fn a_client_is_closed_in_a_pause_behind_a_reply() {
    for tls in [None, Some(Pki::new())] {
        let redis = RealRedis::start(Flavour::Redis70, &[]);
        let mut proxy = Proxy::start(&redis, &ProxyOptions { tls, ..ProxyOptions::tight() });
        assert_eq!(requests_lost(&proxy), 0, "requests of 20 clients");
        assert!(proxy.wait_exit(PATIENCE).success());
    }
}

fn requests_lost(proxy: &Proxy) -> usize {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
        let work = |mut client: TestClient| {
            for round in 0..1000 {
                if !client.is_open() {
                    return 0;
                }
                client.send_command(&["PING"]);
                match client.try_read_frame(PATIENCE) {
                    Ok(reply) => assert_eq!(reply.as_str(), "PONG"),
                    Err(_) => return 1,
                }
                pause(Duration::from_millis(20 + round % 10));
            }
            panic!("not closed in all that time");
        };
        let working: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || work(client))).collect();
        pause(Duration::from_millis(100));
        proxy.signal("TERM");
        working.into_iter().map(|work| work.join().expect("no client panics")).sum()
    })
}

/// What a client sends while its connection is being closed is not carried out, and does not cost it the last reply.
#[test]
fn a_request_behind_the_close_is_not_carried_out() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("client.max_age=1s"));
    let mut client = proxy.connect();
    assert_eq!(client.ask("INCR n").as_str(), "1");
    client.expect_eof();
    client.send_command(&["INCR", "n"]);
    eventually(PATIENCE, || match proxy.metric("respmux_client_close_races_total", &[]) {
        Some(races) if races > 0.0 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(TestClient::connect(&redis.unix_address()).ask("GET n").as_str(), "1");
}

#[test]
fn a_client_may_stay_for_max_age() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("client.max_age=1s"));
    let (mut idle, mut multi, mut subscriber) = (proxy.connect(), proxy.connect(), proxy.connect());
    idle.ask("PING");
    multi.ask("MULTI");
    subscriber.ask("SUBSCRIBE c");
    idle.expect_eof();
    multi.expect_nothing(Duration::from_millis(1000));
    assert_eq!(multi.ask("EXEC").kind, b'*');
    multi.expect_eof();
    // It would miss messages.
    assert!(subscriber.is_open());
    let closed = |reason| proxy.metric("respmux_client_connections_closed_total", &[("reason", reason)]);
    eventually(
        PATIENCE,
        || if closed("max_age") == Some(2.0) { Ok(()) } else { Err(format!("{:?}", closed("max_age"))) },
    );
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
