//! Clients that have not logged in where the upstream wants it, and logins that fail: what they may cost, and what
//! the others notice.

use std::time::{Duration, Instant};

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, encode, eventually};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const NOAUTH: &[u8] = b"-NOAUTH Authentication required.\r\n";

fn locked() -> RealRedis {
    RealRedis::start(Flavour::Redis70, &["--requirepass", "right"])
}

fn closed(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric("respmux_client_connections_closed_total", &[("reason", reason)]).unwrap_or_default()
}

fn logins(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric("respmux_client_logins_total", &[("result", result)]).unwrap_or_default()
}

/// Wrong passwords that the upstream has judged.
fn judged(redis: &RealRedis) -> usize {
    let mut direct = redis.connect();
    assert_eq!(direct.ask("AUTH right").as_str(), "OK");
    let text = direct.ask("INFO errorstats").as_str();
    let count = text.lines().find_map(|line| line.strip_prefix("errorstat_WRONGPASS:count="));
    count.map_or(0, |count| count.trim().parse().expect("a number"))
}

/// A reply within the test's patience, and how long it took.
fn timed(client: &mut TestClient, line: &str) -> (String, Duration) {
    let began = Instant::now();
    let reply = client.ask(line).as_str();
    (reply, began.elapsed())
}

#[test]
fn a_client_that_does_not_log_in_is_closed_after_its_time_and_others_are_not() {
    let redis = locked();
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("auth.timeout=600ms"));
    let mut silent = proxy.connect();
    let (mut busy, mut good, mut leaves) = (proxy.connect(), proxy.connect(), proxy.connect());
    for client in [&mut busy, &mut good, &mut leaves] {
        client.send(b"PING\r\n");
        client.expect(NOAUTH);
    }
    assert_eq!(good.ask("AUTH right").as_str(), "OK");
    assert_eq!(leaves.ask("AUTH right").as_str(), "OK");
    assert_eq!(leaves.ask("RESET").as_str(), "RESET");
    silent.expect_eof();
    busy.expect_eof();
    // RESET gives the login away, so its time begins again.
    leaves.expect_eof();
    assert_eq!(good.ask("PING").as_str(), "PONG", "it has logged in");
    eventually(PATIENCE, || match closed(&proxy, "auth_timeout") {
        3.0 => Ok(()),
        other => Err(other),
    });
}

#[test]
fn where_no_login_is_wanted_nobody_is_closed_for_having_none() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("auth.timeout=100ms"));
    let (mut silent, mut busy) = (proxy.connect(), proxy.connect());
    assert_eq!(busy.ask("PING").as_str(), "PONG");
    silent.expect_nothing(Duration::from_millis(1300));
    assert_eq!(busy.ask("PING").as_str(), "PONG");
    assert_eq!(closed(&proxy, "auth_timeout"), 0.0);
}

#[test]
fn commands_without_a_login_are_limited_and_a_login_clears_the_count() {
    let redis = locked();
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("auth.max_commands=20"));
    let mut client = proxy.connect();
    client.send(&b"PING\r\n".repeat(19));
    client.expect(&NOAUTH.repeat(19));
    assert_eq!(client.ask("AUTH right").as_str(), "OK");
    client.send(&b"PING\r\n".repeat(50));
    client.expect(&b"+PONG\r\n".repeat(50));
    // RESET counts as a command without a login, or it would be a way around.
    client.send(&b"RESET\r\n".repeat(50));
    client.expect(&b"+RESET\r\n".repeat(20));
    client.expect_eof();
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "auth_commands")], |n| n == 1.0);
}

#[test]
fn input_without_a_login_is_limited() {
    let redis = locked();
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("auth.max_input=64KiB"));
    let mut client = proxy.connect();
    client.send(b"PING\r\n");
    client.expect(NOAUTH);
    let argument = [b"$16384\r\n".to_vec(), vec![b'x'; 16_384], b"\r\n".to_vec()].concat();
    client.send(&[b"*10\r\n$4\r\nMGET\r\n".to_vec(), argument.repeat(8)].concat());
    client.expect_eof();
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "auth_input")], |n| n == 1.0);
    // The default takes the largest request that servers take.
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut client = proxy.connect();
    client.send(&[b"*10\r\n$4\r\nMGET\r\n".to_vec(), argument.repeat(9)].concat());
    client.expect(NOAUTH);
}

#[test]
fn unread_replies_without_a_login_are_limited() {
    let redis = locked();
    let options = ProxyOptions::tight().set("auth.max_output=1KiB").set("auth.max_commands=100000000");
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    // Far more than the sockets' buffers hold, and nobody reads.
    let mut chunks = 0;
    eventually(Duration::from_secs(60), || {
        for _ in 0..20 {
            client.send(&b"PING\r\n".repeat(500));
        }
        chunks += 1;
        match closed(&proxy, "output_limit") {
            1.0 => Ok(()),
            _ => Err(chunks),
        }
    });
    // A client that has logged in may leave more unread.
    let mut client = proxy.connect();
    assert_eq!(client.ask("AUTH right").as_str(), "OK");
    client.send(&encode(&["ECHO".to_owned(), "x".repeat(100_000)]));
    client.expect(b"$100000\r\n");
}

#[test]
fn failed_logins_are_slowed_down_then_refused_unseen_and_looked_at_again_later() {
    let redis = locked();
    let options = ProxyOptions::sized(2, 12)
        .set("auth.failure_delay=50ms")
        .set("auth.failure_delay_max=100ms")
        .set("auth.max_failures=4")
        .set("auth.failure_window=3s");
    let proxy = Proxy::start(&redis, &options);
    for (number, least) in [0, 50, 100, 100].into_iter().enumerate() {
        let mut client = proxy.connect();
        let line = if number % 2 == 0 { "AUTH wrong" } else { "HELLO 3 AUTH default wrong" };
        let (reply, took) = timed(&mut client, line);
        assert_eq!(format!("-{reply}\r\n"), WRONG);
        assert!(took >= Duration::from_millis(least), "attempt {number} took {took:?}");
    }
    assert_eq!(judged(&redis), 4);
    let refused_at = Instant::now();
    for line in ["AUTH wrong", "AUTH right", "AUTH other right", "HELLO 3 AUTH default right"] {
        let reply = proxy.connect().ask(line).as_str();
        assert!(
            reply.starts_with("ERR too many failed logins from this address: not checked, try again in "),
            "{reply}"
        );
    }
    assert_eq!(judged(&redis), 4, "the upstream was not asked");
    assert_eq!((logins(&proxy, "failed"), logins(&proxy, "throttled")), (4.0, 4.0));
    proxy.becomes("respmux_client_logins_delayed_total", &[], |n| n == 3.0);
    eventually(PATIENCE, || match proxy.connect().ask("AUTH right").as_str() {
        reply if reply == "OK" => Ok(()),
        reply => Err(reply),
    });
    assert!(refused_at.elapsed() > Duration::from_millis(1500), "refused for a window");
    // From here on this user is counted by itself: others' failures do not lock it out, nor slow it down.
    for _ in 0..4 {
        assert!(proxy.connect().ask("AUTH stranger wrong").is_error());
    }
    assert!(proxy.connect().ask("AUTH stranger wrong").as_str().starts_with("ERR too many failed logins"));
    let (reply, took) = timed(&mut proxy.connect(), "AUTH right");
    assert_eq!(reply, "OK");
    assert!(took < Duration::from_millis(1000), "{took:?}");
}

/// Guesses at the same time find no gap between the look at the count and its change.
#[test]
fn guesses_side_by_side_are_counted_one_by_one() {
    let redis = locked();
    let options =
        ProxyOptions::sized(2, 12).set("auth.failure_delay=0s").set("auth.max_failures=10").set("auth.max_commands=50");
    let proxy = Proxy::start(&redis, &options);
    let mut clients: Vec<_> = (0..100).map(|_| proxy.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_command(&["AUTH", &format!("guess-{number}")]);
    }
    let replies: Vec<_> = clients.iter_mut().map(|client| client.read_frame().as_str()).collect();
    let seen = replies.iter().filter(|reply| reply.starts_with("WRONGPASS")).count();
    // Each of two workers may have one guess under way when the other reaches the limit.
    assert!((10..=11).contains(&seen), "{seen} of 100 guesses were judged");
    assert_eq!(replies.iter().filter(|reply| reply.starts_with("ERR too many failed logins")).count(), 100 - seen);
    assert_eq!(judged(&redis), seen);
}

/// A client that holds a connection of its own asks the server on it; the same limits hold.
#[test]
fn a_lent_connection_is_no_way_around() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    redis.connect().ask("ACL SETUSER eve on >eve ~* &* +@all");
    let options = ProxyOptions::tight().set("auth.failure_delay=10ms").set("auth.max_failures=3");
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    assert_eq!(client.ask("WATCH k").as_str(), "OK");
    for line in ["AUTH eve 1", "HELLO 2 AUTH eve 2", "AUTH eve 3"] {
        assert!(client.ask(line).as_str().starts_with("WRONGPASS"));
    }
    for line in ["AUTH eve eve", "HELLO 3 AUTH eve eve"] {
        assert!(client.ask(line).as_str().starts_with("ERR too many failed logins"), "{line}");
    }
    assert_eq!(client.ask("ACL WHOAMI").as_str(), "default");
    assert_eq!(client.ask("PING").as_str(), "PONG");
}

/// Unix sockets have the rights of files; an address behind them is not known.
#[test]
fn a_unix_socket_is_not_throttled() {
    let redis = locked();
    let options = ProxyOptions { unix: true, ..ProxyOptions::tight().set("auth.max_failures=2") };
    let proxy = Proxy::start(&redis, &options);
    for _ in 0..5 {
        let reply = TestClient::connect(&proxy.unix_address()).ask("AUTH wrong").as_str();
        assert!(reply.starts_with("WRONGPASS"), "{reply}");
    }
}

/// What strayed here from other protocols is counted.
#[test]
fn http_and_tls_on_a_plain_port_are_counted() {
    let redis = locked();
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    for bytes in [&b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nPING\r\n"[..], b"Host: x\r\nPING\r\n"] {
        let mut client = proxy.connect();
        client.send(bytes);
        client.expect_eof();
    }
    // A request line that servers take for a command; the next line gives it away, and nothing of it is answered.
    let mut client = proxy.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nPING\r\n");
    client.expect_eof();
    for cut in [2, 5, 11] {
        let mut client = proxy.connect();
        let hello = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[7; 194]].concat();
        client.send(&hello[..cut]);
        client.send(&hello[cut..]);
        client.expect_nothing(Duration::from_millis(20)); // a line without an end, for a server
        client.shut_write();
        client.expect_eof();
    }
    let seen = || (closed(&proxy, "cross_protocol"), closed(&proxy, "tls_hello"));
    eventually(PATIENCE, || if seen() == (3.0, 3.0) { Ok(()) } else { Err(format!("{:?}", seen())) });
}
