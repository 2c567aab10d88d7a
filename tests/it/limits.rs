//! What a client and an operator see where a limit is reached. The limits of single requests and outboxes are in
//! transcripts; these are the ones that concern many clients, or time.

use std::time::Duration;

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, encode, eventually, pause};

const REFUSED: &[u8] = b"-ERR max number of clients reached\r\n";
const MIB: usize = 1 << 20;

fn count(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> f64 {
    proxy.metric(name, labels).unwrap_or_else(|| panic!("there is no metric {name}"))
}

fn closed(proxy: &Proxy, reason: &str) -> f64 {
    count(proxy, "respmux_client_connections_closed_total", &[("reason", reason)])
}

/// Waits until a new client is served.
fn lets_somebody_in(proxy: &Proxy) {
    eventually(PATIENCE, || {
        let mut new = proxy.connect();
        new.send(b"PING\r\n");
        match new.try_read_frame(PATIENCE) {
            Ok(frame) if frame.as_str() == "PONG" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Peak resident memory of a process, bytes.
fn peak(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells the peak");
    line.trim().trim_end_matches("kB").trim().parse::<usize>().expect("a number of kB") << 10
}

/// Proof T11 in short: far more unread output than the limit, of replies and of messages, and requests that do not end.
#[test]
fn memory_stays_below_its_limit_whatever_clients_do_not_read() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let limit = 8 * MIB;
    let options = ProxyOptions::sized(2, 32).set("memory.limit=8MiB");
    let mut proxy = Proxy::start(&redis, &options);
    redis.connect().call(&[b"SET".as_slice(), b"big", &vec![b'x'; 10 * MIB]]);
    let mut good = proxy.connect();
    let mut begun: Vec<_> = (0..50).map(|_| proxy.connect()).collect();
    begun.iter_mut().for_each(|client| client.send(b"*3\r\n$10000000\r\n"));
    good.ask("GET big"); // what one reply of this size takes by itself is no news
    let before = peak(proxy.process_id());

    let mut slow: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
    slow.iter_mut().for_each(|client| drop(client.ask("SUBSCRIBE news")));
    let mut readers: Vec<_> = (0..30).map(|_| proxy.connect()).collect();
    let message = vec![b'm'; MIB];
    for reader in &mut readers {
        reader.send_command(&["GET", "big"]);
        good.call(&[b"PUBLISH".as_slice(), b"news", &message]);
        assert_eq!(good.ask("ECHO still-here").as_str(), "still-here");
        let held = count(&proxy, "respmux_buffered_bytes", &[]);
        assert!(held <= (limit + MIB) as f64, "{held} bytes are held");
    }
    assert!(proxy.runs());
    proxy.becomes("respmux_shed_total", &[("step", "close")], |n| n >= 10.0);
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "memory")], |n| n >= 10.0);
    assert_eq!(count(&proxy, "respmux_buffered_bytes_max", &[]), limit as f64);
    let grown = peak(proxy.process_id()) - before;
    assert!(grown < 4 * limit, "resident memory grew by {grown}");

    // They still do not read, and keep nobody out for long.
    lets_somebody_in(&proxy);
    // Nobody is kept from anything when those have gone.
    drop((readers, slow, begun));
    proxy.becomes("respmux_shed_state", &[], |state| state == 0.0);
    proxy.becomes("respmux_buffered_bytes", &[("kind", "output")], |bytes| bytes < 100_000.0);
    assert_eq!(proxy.connect().ask("PING").as_str(), "PONG");
    assert_eq!(good.ask("GET big").text.len(), 10 * MIB);
}

/// 75 %: who holds most is not read; 90 %: nobody new comes in. Both end by themselves.
#[test]
fn the_steps_before_closing_are_pausing_and_refusing() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::sized(1, 6).set("memory.limit=4MiB").set("client.partial_timeout=0s");
    let proxy = Proxy::start(&redis, &options);
    let mut good = proxy.connect();
    let value = vec![b'v'; 2_900_000];
    let request = encode(&[b"SET".as_slice(), b"k", &value]);
    let (first, rest) = request.split_at(2_800_000);
    let (mut large, mut second) = (proxy.connect(), proxy.connect());
    large.send(first);
    proxy.becomes("respmux_buffered_bytes", &[("kind", "input")], |bytes| bytes >= 2_800_000.0);
    assert_eq!(count(&proxy, "respmux_shed_state", &[]), 0.0);
    second.send(&first[..1_100_000]);
    proxy.becomes("respmux_shed_state", &[], |state| state == 2.0);
    let mut refused = proxy.connect();
    refused.expect(REFUSED);
    refused.expect_eof();
    proxy.becomes("respmux_client_connections_rejected_total", &[("reason", "memory")], |n| n >= 1.0);
    proxy.becomes("respmux_shed_total", &[("step", "refuse")], |n| n >= 1.0);

    large.send(rest);
    proxy.becomes("respmux_shed_total", &[("step", "pause")], |clients| clients >= 1.0);
    large.expect_nothing(Duration::from_millis(300));
    assert_eq!(good.ask("ECHO unharmed").as_str(), "unharmed");
    drop(second);
    assert_eq!(large.read_frame().as_str(), "OK");
    proxy.becomes("respmux_shed_state", &[], |state| state == 0.0);
    assert_eq!(proxy.connect().ask("STRLEN k").as_int(), 2_900_000);
    assert_eq!(closed(&proxy, "memory"), 0.0);
}

/// A request that could never be held whole is not waited for.
#[test]
fn a_request_above_three_quarters_of_the_limit_closes_its_client() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 6).set("memory.limit=4MiB"));
    let mut client = proxy.connect();
    client.send(&encode(&[b"SET".as_slice(), b"k", &vec![b'v'; 3_300_000]]));
    client.expect_eof();
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "query_buffer")], |n| n == 1.0);
    assert_eq!(proxy.connect().ask("EXISTS k").as_int(), 0);
}

#[test]
fn a_request_that_does_not_end_closes_its_client_and_nobody_else() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("client.partial_timeout=1s"));
    let (mut idle, mut blocked, mut long) = (proxy.connect(), proxy.connect(), proxy.connect());
    idle.ask("PING");
    blocked.send(b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n*2\r\n$3\r\nGET");
    let mut partial: Vec<TestClient> = (0..3).map(|_| proxy.connect()).collect();
    partial[0].send(b"*3\r\n$10000000\r\n");
    partial[1].send(b"PING\r\n*1\r\n$4\r\nPI");
    partial[2].ask("MULTI");
    partial[2].send(b"*2\r\n$3\r\nGET\r\n$1");
    // 8 KiB each quarter of a second is a long request, not an attack.
    long.send(b"*2\r\n$4\r\nECHO\r\n$98304\r\n");
    for _ in 0..12 {
        long.send(&[b'x'; 8192]);
        pause(Duration::from_millis(250));
    }
    long.send(b"\r\n");
    assert_eq!(long.read_frame().text.len(), 98304);
    partial[1].expect(b"+PONG\r\n");
    for client in &mut partial {
        client.expect_eof();
    }
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "partial_request")], |n| n == 3.0);
    assert_eq!(idle.ask("PING").as_str(), "PONG");
    proxy.connect().ask("RPUSH q element");
    assert_eq!(blocked.read_frame().items[1].as_str(), "element");
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "partial_request")], |n| n == 3.0);
}

#[test]
fn one_address_has_no_more_clients_than_it_may() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    // The wait for readiness has made connections of its own, which may not have been counted out yet.
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("client.max_per_source=3"));
    proxy.becomes("respmux_client_connections", &[], |clients| clients == 0.0);
    let mut clients = Vec::new();
    eventually(PATIENCE, || {
        clients.clear();
        clients.extend((0..3).map(|_| proxy.connect()));
        let mut answered = clients.iter_mut().map(|client| {
            client.send(b"PING\r\n");
            client.try_read_frame(PATIENCE).is_ok_and(|frame| frame.as_str() == "PONG")
        });
        answered.all(|pong| pong).then_some(()).ok_or("places are not back")
    });
    let mut refused = proxy.connect();
    refused.expect(REFUSED);
    refused.expect_eof();
    proxy.becomes("respmux_client_connections_rejected_total", &[("reason", "source")], |n| n >= 1.0);
    drop(clients.pop());
    lets_somebody_in(&proxy);
}

/// A question with a long reply is asked on a lane of its own from the second time on, whoever asks, and what a client
/// sends keeps its order across the two.
#[test]
fn long_replies_get_a_lane_of_their_own() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 32));
    let lanes = [("kind", "lane")];
    redis.connect().call(&[b"SET".as_slice(), b"big", &vec![b'x'; 2 * MIB]]);
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    assert_eq!(first.ask("SET small value").as_str(), "OK");
    assert_eq!(first.ask("GET big").text.len(), 2 * MIB);
    proxy.becomes("respmux_upstream_connections", &lanes, |n| n == 1.0);
    assert_eq!(second.ask("GET big").text.len(), 2 * MIB);
    proxy.becomes("respmux_upstream_connections", &lanes, |n| n == 2.0);
    let small = encode(&["INCR", "n"]);
    let requests: Vec<u8> =
        (0..40).flat_map(|n| if n % 4 == 3 { encode(&["GET", "big"]) } else { small.clone() }).collect();
    second.send(&requests);
    let mut count = 0;
    for n in 0..40 {
        let reply = second.read_frame();
        if n % 4 == 3 {
            assert_eq!(reply.text.len(), 2 * MIB, "reply {n}");
        } else {
            count += 1;
            assert_eq!(reply.as_int(), count, "reply {n}");
        }
    }
    // The smallest configuration has no place for a second lane.
    let tight = Proxy::start(&redis, &ProxyOptions::tight());
    let mut client = tight.connect();
    for _ in 0..3 {
        assert_eq!(client.ask("GET big").text.len(), 2 * MIB);
    }
    tight.becomes("respmux_upstream_connections", &lanes, |n| n == 1.0);
}

#[test]
fn who_takes_nothing_of_much_is_closed_in_the_end() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("client.output_stall_time=2s"));
    redis.connect().call(&[b"SET".as_slice(), b"big", &vec![b'x'; 16 * MIB]]);
    let (mut reads, mut takes_nothing) = (proxy.connect(), proxy.connect());
    takes_nothing.send_command(&["GET", "big"]);
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "output_limit")], |n| n == 1.0);
    assert_eq!(reads.ask("GET big").text.len(), 16 * MIB);
    let got = takes_nothing.read_to_end(PATIENCE);
    assert!(got.len() < 16 * MIB, "{} bytes", got.len());
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "output_limit")], |n| n == 1.0);
}
