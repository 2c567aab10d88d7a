//! WAIT never says more than is true (docs/design/semantics.md 6, scenario T-6), with a real replica.

use std::time::{Duration, Instant};

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually};

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

/// A user as people write it since Redis 7, without a channel, and one that may not wait.
#[test]
fn a_user_without_channels_may_wait() {
    for flavour in Flavour::ALL {
        let (master, replica) = pair(flavour);
        let proxy = Proxy::start(&master, &ProxyOptions::tight());
        let mut direct = master.connect();
        direct.ask("ACL SETUSER app on >p ~* resetchannels +@all");
        direct.ask("ACL SETUSER min on >p ~* +@all -wait");
        let mut app = proxy.connect();
        assert_eq!(app.ask("AUTH app p").as_str(), "OK");
        assert_eq!(app.ask("SET k 1").as_str(), "OK");
        assert!(!app.ask("WAIT 0 10").is_error(), "{}", flavour.name());
        assert_eq!(app.ask("WAIT 1 5000").as_int(), 1, "{}", flavour.name());
        // The same of WAITAOF: the replica has no append-only file, and the master needs none for this.
        let waitaof = app.ask("WAITAOF 0 0 100");
        assert_eq!(waitaof.is_error(), flavour == Flavour::Redis70, "{}: {waitaof:?}", flavour.name());
        let (mut min, mut plain) = (proxy.connect(), master.connect());
        for client in [&mut min, &mut plain] {
            client.ask("AUTH min p");
        }
        assert_eq!(min.ask("WAIT 0 10").as_str(), plain.ask("WAIT 0 10").as_str());
        assert_eq!(min.ask("GET k").as_str(), "1");
        // A replica refuses in its own words.
        let of_replica = Proxy::start(&replica, &ProxyOptions::tight());
        for line in ["WAIT 0 0", "WAIT x 0", "WAIT 1 100"] {
            let said = of_replica.connect().ask(line);
            assert_eq!(said.as_str(), replica.connect().ask(line).as_str(), "{}: {line}", flavour.name());
            assert!(said.is_error());
        }
    }
}

/// Clients that wait hold no connection: many more of them than there are connections.
#[test]
fn waiting_clients_hold_no_connection() {
    for flavour in Flavour::ALL {
        let (master, replica) = pair(flavour);
        let proxy = Proxy::start(&master, &ProxyOptions::tight());
        replica.signal("STOP");
        let mut clients: Vec<_> = (0..40).map(|_| proxy.connect()).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            client.send(format!("SET k{index} 1\r\nWAIT 1 0\r\n").as_bytes());
            assert_eq!(client.read_frame().as_str(), "OK");
        }
        let mut other = proxy.connect();
        eventually(PATIENCE, || {
            let blocked = other.ask("CLIENT LIST").as_str().lines().filter(|line| line.contains(" flags=b ")).count();
            if blocked == 40 { Ok(()) } else { Err(format!("{blocked} wait")) }
        });
        // Pools, transactions and pops go on beside them.
        assert_eq!(other.ask("WATCH k0").as_str(), "OK");
        assert_eq!(other.ask("UNWATCH").as_str(), "OK");
        other.ask("RPUSH q x");
        assert!(!other.ask("BLPOP q 1").is_error());
        replica.signal("CONT");
        for client in &mut clients {
            assert_eq!(client.read_frame().as_int(), 1, "{}", flavour.name());
        }
    }
}

/// A waiting client is unblocked like any other; what it is told is the count so far.
#[test]
fn a_waiting_client_can_be_unblocked() {
    for flavour in Flavour::ALL {
        let (master, replica) = pair(flavour);
        let proxy = Proxy::start(&master, &ProxyOptions::tight());
        let (mut waiter, mut other) = (proxy.connect(), proxy.connect());
        let id = waiter.ask("CLIENT ID").as_str();
        replica.signal("STOP");
        for (how, error) in [("", false), (" TIMEOUT", false), (" ERROR", true)] {
            waiter.send(b"SET x 1\r\nWAIT 1 0\r\n");
            assert_eq!(waiter.read_frame().as_str(), "OK");
            eventually(PATIENCE, || {
                let told = other.ask(&format!("CLIENT UNBLOCK {id}{how}")).as_int();
                if told == 1 { Ok(()) } else { Err("not blocked yet") }
            });
            let answer = waiter.read_frame();
            assert_eq!(answer.is_error(), error, "{}{how}: {answer:?}", flavour.name());
            let wanted = if error { "UNBLOCKED client unblocked via CLIENT UNBLOCK" } else { "0" };
            assert_eq!(answer.as_str(), wanted, "{}", flavour.name());
            assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id}")).as_int(), 0);
        }
        assert_eq!(waiter.ask("PING").as_str(), "PONG");
        // One that leaves while it waits costs nobody anything.
        waiter.send(b"WAIT 1 0\r\nSET after 1\r\n");
        drop(waiter);
        assert_eq!(other.ask("WAIT 1 50").as_int(), 0);
        assert_eq!(other.ask("EXISTS after").as_int(), 0);
        replica.signal("CONT");
        assert_eq!(other.ask("WAIT 1 5000").as_int(), 1);
    }
}

/// Inside MULTI nothing waits, and a connection that was lent for it has not seen the client's writes.
#[test]
fn inside_multi_the_count_is_no_lie() {
    for flavour in Flavour::ALL {
        let (master, replica) = pair(flavour);
        let proxy = Proxy::start(&master, &ProxyOptions::tight());
        let mut client = proxy.connect();
        replica.signal("STOP");
        assert_eq!(client.ask("SET x 1").as_str(), "OK");
        for line in ["MULTI", "WAIT 1 0", "GET x"] {
            assert!(!client.ask(line).is_error(), "{line}");
        }
        let answers = client.ask("EXEC");
        assert_eq!(answers.items[0].as_int(), 0, "{}: {answers:?}", flavour.name());
        assert_eq!(answers.items[1].as_str(), "1");
        replica.signal("CONT");
    }
}

/// A primary that is demoted ends the wait as a server does.
#[test]
fn a_demotion_ends_the_wait() {
    for flavour in Flavour::ALL {
        let (master, replica) = pair(flavour);
        let proxy = Proxy::start(&master, &ProxyOptions::tight());
        let mut waiter = proxy.connect();
        waiter.send(b"SET x 1\r\nWAIT 5 0\r\n");
        assert_eq!(waiter.read_frame().as_str(), "OK");
        let mut other = proxy.connect();
        eventually(PATIENCE, || {
            let list = other.ask("CLIENT LIST").as_str();
            if list.contains(" flags=b ") { Ok(()) } else { Err(list) }
        });
        master.connect().ask(&format!("REPLICAOF 127.0.0.1 {}", replica.port()));
        let line = waiter.read_frame();
        assert!(line.as_str().starts_with("UNBLOCKED force unblock"), "{}: {line:?}", flavour.name());
        waiter.expect_eof();
    }
}

/// Without ROLE a connection is lent, behind a write of its own; without that as well there is no number.
#[test]
fn without_role_for_respmux_itself() {
    for flavour in Flavour::ALL {
        let (master, replica) = pair(flavour);
        let mut direct = master.connect();
        direct.ask("ACL SETUSER proxy on >p ~* &* +@all -role");
        direct.ask("ACL SETUSER app on >p ~* resetchannels +@all");
        let url = format!("redis://proxy:p@127.0.0.1:{}", master.port());
        let options = ProxyOptions { upstream: Some(url), ..ProxyOptions::tight() };
        let proxy = Proxy::start(&master, &options);
        let (mut plain, mut app) = (proxy.connect(), proxy.connect());
        assert_eq!(app.ask("AUTH app p").as_str(), "OK");
        for client in [&mut plain, &mut app] {
            assert_eq!(client.ask("SET x 1").as_str(), "OK");
            assert_eq!(client.ask("WAIT 1 5000").as_int(), 1, "{}", flavour.name());
        }
        replica.signal("STOP");
        for client in [&mut plain, &mut app] {
            assert_eq!(client.ask("SET x 2").as_str(), "OK");
            assert_eq!(client.ask("WAIT 1 200").as_int(), 0, "{}", flavour.name());
        }
        replica.signal("CONT");
        direct.ask("ACL SETUSER proxy resetchannels -spublish");
        let refused = app.ask("WAIT 0 0");
        assert!(refused.as_str().starts_with("ERR WAIT is not available"), "{}: {refused:?}", flavour.name());
        assert_eq!(app.ask("GET x").as_str(), "2");
    }
}

/// Rule W4: the loss of somebody else's connection is no loss of this client's writes.
#[test]
fn only_the_loss_of_its_own_connection_closes_a_client_that_waits() {
    for flavour in Flavour::ALL {
        let (master, _replica) = pair(flavour);
        let proxy = Proxy::start(&master, &ProxyOptions::tight());
        let mut direct = master.connect();
        direct.ask("ACL SETUSER u on nopass ~* &* +@all");
        let (mut writer, mut other) = (proxy.connect(), proxy.connect());
        other.ask("AUTH u x");
        other.ask("SET y 1");
        assert_eq!(writer.ask("SET x 1").as_str(), "OK");
        let lane_of = |direct: &mut TestClient, user: &str| -> String {
            let list = direct.ask("CLIENT LIST").as_str();
            let lane = list.lines().find(|line| line.contains(&format!(" user={user} ")) && line.contains(" cmd=set "));
            let id = lane.and_then(|line| line.strip_prefix("id=")?.split(' ').next().map(str::to_owned));
            id.unwrap_or_else(|| panic!("no lane of {user} in {list}"))
        };
        let lane = lane_of(&mut direct, "u");
        assert_eq!(direct.ask(&format!("CLIENT KILL ID {lane}")).as_int(), 1);
        proxy.becomes("respmux_lane_losses_total", &[("verdict", "dead")], |losses| losses >= 1.0);
        assert_eq!(writer.ask("WAIT 1 5000").as_int(), 1, "{}", flavour.name());
        assert_eq!(other.ask("GET y").as_str(), "1", "a client may go on, but its WAIT would be about nothing");
        other.send(b"WAIT 1 5000\r\n");
        other.expect_eof();
        // Its own.
        assert_eq!(writer.ask("SET x 2").as_str(), "OK");
        let lane = lane_of(&mut direct, "default");
        assert_eq!(direct.ask(&format!("CLIENT KILL ID {lane}")).as_int(), 1);
        proxy.becomes("respmux_lane_losses_total", &[("verdict", "dead")], |losses| losses >= 2.0);
        assert_eq!(writer.ask("SET x 3").as_str(), "OK", "a later write does not make up for it");
        writer.send(b"WAIT 1 5000\r\n");
        writer.expect_eof();
    }
}
