//! DEBUG through the proxy: where the server allows it, and whatever it does to the server. What it answers is in the
//! transcript `refused/debug-where-the-server-allows-it.txt`.

use std::time::{Duration, Instant};

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, ReadEnd, RealRedis, TestClient, eventually};

const ALLOWED: &[&str] = &["--enable-debug-command", "yes"];

fn options() -> ProxyOptions {
    ProxyOptions::tight().set("upstream.connect_wait=1s").set("upstream.backoff_max=200ms")
}

fn sum(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> f64 {
    proxy.metric(name, labels).unwrap_or_default()
}

/// Nothing that the proxy saw made it distrust a connection.
#[track_caller]
fn nothing_odd(proxy: &mut Proxy, about: &str) {
    assert_eq!(sum(proxy, "respmux_integrity_violations_total", &[]), 0.0, "{about}");
    assert!(proxy.runs() && !proxy.log().contains("cannot be trusted"), "{about}: {}", proxy.log());
}

/// Asks until it is served; the connection must stay open all the time.
fn served(client: &mut TestClient, line: &str, about: &str) -> String {
    eventually(PATIENCE, || {
        let reply = client.ask(line).as_str();
        if reply.starts_with("LOADING") { Err(format!("{about}: {reply}")) } else { Ok(reply) }
    })
}

/// The words of a DEBUG that ends the server, and whether it comes back by itself.
const ENDS: &[(&str, bool)] = &[
    ("SEGFAULT", false),
    ("PANIC", false),
    ("ASSERT", false),
    ("OOM", false),
    ("RESTART", true),
    ("CRASH-AND-RECOVER", true),
    ("RESTART 20", true),
];

fn an_outage_like_any_other(flavour: Flavour) {
    let mut redis = RealRedis::start(flavour, ALLOWED);
    let mut proxy = Proxy::start(&redis, &options());
    let (mut idle, mut idle3) = (proxy.connect(), proxy.connect());
    assert_eq!(idle.ask("PING").as_str(), "PONG");
    idle3.ask("HELLO 3");
    for (words, comes_back) in ENDS {
        for queued in [false, true] {
            let about = format!("{}: DEBUG {words}, queued {queued}", flavour.name());
            let mut client = proxy.connect();
            if queued {
                assert_eq!(client.ask("MULTI").as_str(), "OK", "{about}");
                assert_eq!(client.ask(&format!("DEBUG {words}")).as_str(), "QUEUED", "{about}");
                client.send(b"EXEC\r\n");
            } else {
                client.send(format!("DEBUG {words}\r\n").as_bytes());
            }
            // A server that lacks the memory says nothing, and one that has it goes on.
            match client.try_read_frame(PATIENCE) {
                Err(ReadEnd::Eof) => {}
                Ok(_) if *words == "OOM" => continue,
                other => panic!("{about}: {other:?}"),
            }
            if !comes_back {
                redis.kill();
                redis.start_again();
            }
            for client in [&mut idle, &mut idle3] {
                assert_eq!(served(client, "PING", &about), "PONG");
            }
            served(&mut proxy.connect(), "SET k 1", &about);
            nothing_odd(&mut proxy, &about);
        }
    }
}

#[test]
fn redis_7_0_that_ends_is_an_outage() {
    an_outage_like_any_other(Flavour::Redis70);
}

#[test]
fn redis_8_2_that_ends_is_an_outage() {
    an_outage_like_any_other(Flavour::Redis82);
}

#[test]
fn valkey_9_that_ends_is_an_outage() {
    an_outage_like_any_other(Flavour::Valkey9);
}

/// The others wait for a server that sleeps, and lose nothing.
#[test]
fn a_sleeping_server_is_waited_for() {
    let redis = RealRedis::start(Flavour::Redis70, ALLOWED);
    let mut proxy = Proxy::start(&redis, &options());
    let mut others: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    others.iter_mut().for_each(|client| assert!(!client.ask("INCR n").is_error()));
    let mut client = proxy.connect();
    let asked = Instant::now();
    client.send(b"DEBUG SLEEP 1.5\r\n");
    others.iter_mut().for_each(|client| client.send(b"INCR n\r\nINCR n\r\n"));
    assert_eq!(client.read_frame().as_str(), "OK");
    assert!(asked.elapsed() >= Duration::from_millis(1500));
    let mut counts: Vec<_> = others.iter_mut().flat_map(|client| [client.read_frame(), client.read_frame()]).collect();
    counts.sort_by_key(|count| count.as_int());
    assert_eq!(counts.iter().map(|count| count.as_int()).collect::<Vec<_>>(), (5..=12).collect::<Vec<_>>());
    let lost = sum(&proxy, "respmux_client_connections_closed_total", &[("reason", "upstream_lost")]);
    assert_eq!(lost, 0.0);
    nothing_odd(&mut proxy, "asleep");
}

/// Whatever it left there, nobody else is lent that connection.
#[test]
fn its_connection_serves_nobody_afterwards() {
    let redis = RealRedis::start(Flavour::Redis70, ALLOWED);
    let proxy = Proxy::start(&redis, &options());
    let closed = || sum(&proxy, "respmux_upstream_connections_closed_total", &[("reason", "dirty")]);
    let mut client = proxy.connect();
    for (line, wanted) in [("DEBUG SLEEP 0", 1.0), ("DEBUG BANANAS", 2.0)] {
        client.ask(line);
        eventually(PATIENCE, || if closed() == wanted { Ok(()) } else { Err(format!("{line}: {}", closed())) });
    }
    // In a transaction, too; one without it goes back clean.
    for line in ["MULTI", "DEBUG SLEEP 0", "EXEC", "PING"] {
        client.ask(line);
    }
    eventually(PATIENCE, || if closed() == 3.0 { Ok(()) } else { Err(closed()) });
    for line in ["MULTI", "GET k", "EXEC", "PING"] {
        client.ask(line);
    }
    assert_eq!(closed(), 3.0);
}

/// It is one of the dangerous ones, and an operator can forbid it whatever the server thinks.
#[test]
fn an_operator_can_forbid_it() {
    let redis = RealRedis::start(Flavour::Redis70, ALLOWED);
    for deny in ["DEBUG", "@dangerous"] {
        let proxy = Proxy::start(&redis, &options().set(&format!("commands.deny={deny}")));
        let mut client = proxy.connect();
        let wanted = "NOPERM this user has no permissions to run the 'debug' command";
        assert_eq!(client.ask("DEBUG SLEEP 0").as_str(), wanted, "{deny}");
        client.ask("MULTI");
        assert_eq!(client.ask("debug sleep 0").as_str(), wanted, "{deny}");
        assert!(client.ask("EXEC").as_str().starts_with("EXECABORT"), "{deny}");
    }
}

/// `local` is for clients of the server's own machine; a client of respmux on this one is, as far as it can be told.
#[test]
fn local_lets_local_clients() {
    let redis = RealRedis::start(Flavour::Redis70, &["--enable-debug-command", "local"]);
    let proxy = Proxy::start(&redis, &ProxyOptions { unix: true, ..options() });
    for mut client in [proxy.connect(), TestClient::connect(&proxy.unix_address())] {
        assert_eq!(client.ask("DEBUG SLEEP 0").as_str(), "OK");
    }
}
