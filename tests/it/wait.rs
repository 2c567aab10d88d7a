//! WAIT never says more than is true (semantics 6, T-6), with a real replica.

use std::time::{Duration, Instant};

use crate::support::client::PATIENCE;
use crate::support::{Flavour, Proxy, ProxyOptions, RealRedis, eventually};

/// A server with a replica that is in step.
fn pair(flavour: Flavour) -> (RealRedis, RealRedis) {
    let master = RealRedis::start(flavour, &["--repl-diskless-sync-delay", "0"]);
    let port = master.port().to_string();
    let replica = RealRedis::start(flavour, &["--replicaof", "127.0.0.1", &port]);
    let mut direct = master.connect();
    eventually(PATIENCE, || {
        direct.ask("SET probe 1");
        let reached = direct.ask("WAIT 1 200").as_int();
        if reached == 1 { Ok(()) } else { Err("the replica is not in step") }
    });
    (master, replica)
}

/// A stopped replica has acknowledged nothing, whoever else wrote; one that runs is counted.
#[test]
fn only_replicas_that_have_the_write_are_counted() {
    for flavour in Flavour::ALL {
        let (master, replica) = pair(flavour);
        let proxy = Proxy::start(&master, &ProxyOptions::tight());
        let (mut client, mut other) = (proxy.connect(), proxy.connect());
        for round in 0..20 {
            assert_eq!(client.call(&["SET", "x", &round.to_string()]).as_str(), "OK");
            assert_eq!(client.ask("WAIT 1 2000").as_int(), 1, "{}", flavour.name());
        }
        replica.signal("STOP");
        master.connect().ask("SET y 1");
        let began = Instant::now();
        client.send(b"SET x 1\r\nWAIT 1 300\r\n");
        // The lane of the others is not held up.
        for round in 0..50 {
            assert_eq!(other.call(&["ECHO", &round.to_string()]).as_str(), round.to_string());
        }
        assert_eq!(client.read_frame().as_str(), "OK");
        assert_eq!(client.read_frame().as_int(), 0, "{}: the replica is stopped", flavour.name());
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        // A client that has written nothing is told nothing better.
        assert_eq!(other.ask("WAIT 1 100").as_int(), 0);
        replica.signal("CONT");
        assert_eq!(client.ask("WAIT 1 5000").as_int(), 1);
    }
}

/// Rule W4: a WAIT behind a loss of the upstream is about writes of another history.
#[test]
fn a_wait_does_not_outlive_the_history_of_its_write() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("upstream.backoff_max=100ms"));
    let (mut writer, mut reader) = (proxy.connect(), proxy.connect());
    assert_eq!(writer.ask("SET x 1").as_str(), "OK");
    assert_eq!(reader.ask("PING").as_str(), "PONG");
    redis.kill();
    redis.start_again();
    eventually(PATIENCE, || {
        let reply = reader.ask("GET x");
        if reply.is_error() { Err(reply.as_str()) } else { Ok(()) }
    });
    writer.send(b"WAIT 0 0\r\n");
    writer.expect_eof();
    assert_eq!(proxy.connect().ask("WAIT 0 0").as_int(), 0, "who has written nothing may ask");
}
