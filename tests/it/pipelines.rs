//! Pipelines that are written whole before the first reply is read, as redis-py, phpredis, redis-rb and hiredis do: a
//! server takes them whatever their length. Each is longer than the kernel's buffers on both ways together.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use kit::{Flavour, PATIENCE, Pki, Proxy, ProxyOptions, RealRedis, TestClient, encode, pause};

const MIB: usize = 1 << 20;
/// More than the kernel keeps of one connection.
const LONG: usize = 24 * MIB;

/// Requests, and the replies that a server gives to them.
#[derive(Default)]
struct Script {
    requests: Vec<u8>,
    replies: Vec<u8>,
}

impl Script {
    fn say<A: AsRef<[u8]>>(&mut self, arguments: &[A], reply: &[u8]) {
        self.requests.extend_from_slice(&encode(arguments));
        self.replies.extend_from_slice(reply);
    }

    fn line(&mut self, line: &str, reply: &[u8]) {
        self.say(&line.split_whitespace().collect::<Vec<_>>(), reply);
    }

    /// ECHOs of 4 KiB each, `bytes` in all.
    fn echoes(mut self, bytes: usize) -> Self {
        for n in 0..bytes / 4096 {
            let text = format!("{n:04096}");
            self.say(&["ECHO", &text], &bulk(text.as_bytes()));
        }
        self
    }

    fn after(line: &str, reply: &[u8]) -> Self {
        let mut script = Self::default();
        script.line(line, reply);
        script
    }
}

fn bulk(text: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
}

/// Exactly these bytes come next; in parts, so that no byte is looked at often.
#[track_caller]
fn expect(client: &mut TestClient, wanted: &[u8]) {
    wanted.chunks(MIB).for_each(|part| client.expect(part));
}

/// Writes everything, then reads everything.
#[track_caller]
fn play(client: &mut TestClient, script: &Script) {
    client.send(&script.requests);
    expect(client, &script.replies);
    assert!(!client.ask("PING").is_error(), "in step");
}

/// Both sizes of a proxy that must work.
fn sizes() -> [ProxyOptions; 2] {
    [ProxyOptions::tight(), ProxyOptions::sized(2, 32)]
}

/// What a client may be doing when it writes on and on. Each way has its own place where requests can wait.
fn ways() -> Vec<(&'static str, Script)> {
    let value = vec![b'v'; 1024];
    let mut set_get = Script::default();
    for n in 0..LONG / 2 / 1024 {
        let key = format!("p:{}", n % 100);
        set_get.say(&[b"SET", key.as_bytes(), &value], b"+OK\r\n");
        set_get.say(&["GET", &key], &bulk(&value));
    }
    // Requests are short beside their replies.
    let mut gets = Script::default();
    let long_key = "k".repeat(1024);
    gets.say(&[b"SET", long_key.as_bytes(), &value.repeat(8)], b"+OK\r\n");
    for _ in 0..LONG / 2 / 1024 {
        gets.say(&["GET", &long_key], &bulk(&value.repeat(8)));
    }
    // Replies are short beside their requests.
    let mut sets = Script::default();
    for _ in 0..300_000 {
        sets.line("SET short v", b"+OK\r\n");
    }
    let sets = sets.echoes(LONG);
    let mut small_units = Script::default();
    let mut switches = Script::default();
    for n in 0..LONG / 4096 {
        let text = format!("{n:04096}");
        small_units.line("MULTI", b"+OK\r\n");
        small_units.say(&["ECHO", &text], b"+QUEUED\r\n");
        small_units.say(&["EXEC"], &[b"*1\r\n", &bulk(text.as_bytes())[..]].concat());
        switches.line(&format!("SELECT {}", n % 2), b"+OK\r\n");
        switches.say(&["ECHO", &text], &bulk(text.as_bytes()));
        switches.line("CLIENT GETNAME", b"$-1\r\n");
    }
    let mut transaction = Script::after("MULTI", b"+OK\r\n");
    let mut results = Vec::new();
    for n in 0..LONG / 4096 {
        let text = format!("{n:04096}");
        transaction.say(&["ECHO", &text], b"+QUEUED\r\n");
        results.extend_from_slice(&bulk(text.as_bytes()));
    }
    transaction.say(&["EXEC"], &[format!("*{}\r\n", LONG / 4096).as_bytes(), &results].concat());
    let mut large = Script::default();
    for n in 0..LONG / MIB {
        let text = n.to_string().repeat(MIB);
        large.say(&["ECHO", &text], &bulk(text.as_bytes()));
    }
    vec![
        ("connections lent for one command", large),
        ("lane", Script::default().echoes(LONG)),
        ("lane, as SET and GET", set_get),
        ("lane, short requests with long replies", gets),
        ("lane, many short replies", sets),
        ("lane, transactions whole", small_units),
        ("other databases and local answers", switches),
        ("a held connection", Script::after("WATCH w", b"+OK\r\n").echoes(LONG)),
        ("a held connection, one long transaction and more", transaction.echoes(LONG)),
    ]
}

#[test]
fn a_pipeline_is_written_whole_whatever_the_client_holds() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    for options in sizes() {
        let proxy = Proxy::start(&redis, &options);
        for (way, script) in ways() {
            let mut client = proxy.connect();
            eprintln!("{way}"); // shown when it fails
            play(&mut client, &script);
        }
        proxy.becomes("respmux_buffered_bytes", &[("kind", "input")], |bytes| bytes == 0.0);
        assert_eq!(proxy.metric("respmux_shed_total", &[]), Some(0.0));
        assert!(proxy.metric("respmux_client_stalls_total", &[("reason", "output")]) >= Some(4.0));
    }
}

#[test]
fn a_pipeline_is_written_whole_on_every_server_and_both_protocols() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::tight());
        for protocol in ["2", "3"] {
            for way in ["PING", "WATCH w"] {
                let mut client = proxy.connect();
                client.ask(&format!("HELLO {protocol}"));
                client.ask(way);
                play(&mut client, &Script::default().echoes(LONG));
            }
        }
        // A subscriber is read on and answered: the limit of subscribers is what counts.
        let mut subscriber = proxy.connect();
        subscriber.ask("HELLO 3");
        subscriber.ask("SUBSCRIBE news");
        play(&mut subscriber, &Script::default().echoes(LONG));
        subscriber.ask("WATCH w");
        play(&mut subscriber, &Script::default().echoes(LONG));
    }
}

#[test]
fn a_pipeline_is_written_whole_through_tls_and_a_unix_socket() {
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let options = ProxyOptions { tls: Some(Arc::clone(&pki)), unix: true, ..ProxyOptions::tight() };
    let proxy = Proxy::start(&redis, &options);
    for address in [proxy.address(), proxy.unix_address()] {
        for way in ["PING", "WATCH w"] {
            let mut client = TestClient::connect(&address);
            client.ask(way);
            play(&mut client, &Script::default().echoes(LONG));
        }
    }
}

/// Behind a command that waits for another client nothing runs, and everything is taken: who is to end the wait may be
/// the same program, after its write.
#[test]
fn a_pipeline_is_written_whole_behind_a_blocked_command() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    for options in sizes() {
        let proxy = Proxy::start(&redis, &options);
        // In a fold; on a connection of its own; on a connection that is held already.
        for (first, blocked, wake, reply) in [
            ("PING", "BLPOP q 0", "RPUSH q x", &b"*2\r\n$1\r\nq\r\n$1\r\nx\r\n"[..]),
            ("PING", "BLMOVE q r LEFT LEFT 0", "RPUSH q x", b"$1\r\nx\r\n"),
            ("WATCH w", "BLPOP q 0", "RPUSH q x", b"*2\r\n$1\r\nq\r\n$1\r\nx\r\n"),
            (
                "PING",
                "XREAD BLOCK 0 STREAMS s $",
                "XADD s 9-* f v",
                b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n9-0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n",
            ),
        ] {
            let (mut client, mut other) = (proxy.connect(), proxy.connect());
            client.ask(first);
            let script = Script::after(blocked, reply).echoes(LONG);
            client.send(&script.requests);
            other.ask("PING");
            assert!(!other.ask(wake).is_error());
            expect(&mut client, &script.replies);
            other.ask("DEL s q r");
            // Its end shows although all of that is unread.
            let mut leaves = proxy.connect();
            leaves.ask(first);
            leaves.send(&script.requests);
            drop(leaves);
            proxy.becomes("respmux_buffered_bytes", &[("kind", "input")], |bytes| bytes == 0.0);
            assert_eq!(other.ask("DEL q").as_int(), 0);
        }
    }
}

/// A half-close behind it: what was asked is answered first (rule F7).
#[test]
fn a_pipeline_is_written_whole_and_the_writing_side_closed() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    for way in ["PING", "WATCH w"] {
        let mut client = proxy.connect();
        client.ask(way);
        let script = Script::default().echoes(LONG);
        client.send(&script.requests);
        client.shut_write();
        expect(&mut client, &script.replies);
        client.expect_eof();
    }
}

/// The limit of what may wait for one client ends it, soon, says so, and nobody else notices.
#[test]
fn who_writes_beyond_its_output_limit_and_does_not_read_is_closed() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    for options in sizes() {
        let options = options.set("client.output_limit=8MiB");
        for way in ["PING", "WATCH w"] {
            let proxy = Proxy::start(&redis, &options);
            let (mut client, mut other) = (proxy.connect(), proxy.connect());
            client.ask(way);
            let script = Script::default().echoes(4 * LONG);
            std::thread::scope(|scope| {
                let work = scope.spawn(|| {
                    client.send(&script.requests);
                    client.read_to_end(PATIENCE).len()
                });
                while !work.is_finished() {
                    assert_eq!(other.ask("ECHO here").as_str(), "here");
                    let held = proxy.metric("respmux_buffered_bytes", &[]).unwrap();
                    assert!(held < (10 * MIB) as f64, "{held} bytes are held");
                    pause(Duration::from_millis(20));
                }
                assert!(work.join().unwrap() < script.replies.len());
            });
            let closed = [("reason", "output_limit")];
            proxy.becomes("respmux_client_connections_closed_total", &closed, |n| n == 1.0);
            assert_eq!(proxy.metric("respmux_client_connections_closed_total", &[("reason", "memory")]), Some(0.0));
        }
    }
}

/// Whoever reads, however slowly, is not closed at the limit: only not read on until there is room again.
#[test]
fn a_slow_reader_is_served_at_its_limit() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("client.output_limit=4MiB"));
    for way in ["PING", "WATCH w"] {
        let script = Script::default().echoes(LONG);
        let mut reader = TcpStream::connect(proxy.tcp_address()).unwrap();
        let mut writer = reader.try_clone().unwrap();
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        writer.write_all(&encode(&way.split(' ').collect::<Vec<_>>())).unwrap();
        let answer = if way == "PING" { b"+PONG\r\n".len() } else { b"+OK\r\n".len() };
        reader.read_exact(&mut vec![0; answer]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&script.requests).unwrap());
            let mut got = vec![0; script.replies.len()];
            for (part, wanted) in got.chunks_mut(256 << 10).zip(script.replies.chunks(256 << 10)) {
                pause(Duration::from_millis(20)); // a slow reader is what this is about
                reader.read_exact(part).unwrap();
                assert!(part == wanted);
                let held = proxy.metric("respmux_buffered_bytes", &[]).unwrap();
                assert!(held < (5 * MIB) as f64, "{held} bytes are held");
            }
        });
        if way == "PING" {
            assert!(proxy.metric("respmux_client_stalls_total", &[("reason", "output")]) >= Some(1.0));
        }
    }
    assert_eq!(proxy.metric("respmux_client_connections_closed_total", &[("reason", "output_limit")]), Some(0.0));
}

/// All of them together: the largest give way, in the order of the steps, and memory stays below its limit.
#[test]
fn who_writes_and_does_not_read_gives_way_when_memory_is_short() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    for options in sizes() {
        let proxy = Proxy::start(&redis, &options.set("memory.limit=16MiB").set("client.output_limit=64MiB"));
        let mut good = proxy.connect();
        good.ask("PING");
        let script = Script::default().echoes(2 * LONG);
        let ways = ["PING", "PING", "WATCH w", "BLPOP none 0"];
        let mut clients: Vec<_> = ways.iter().map(|_| proxy.connect()).collect();
        std::thread::scope(|scope| {
            let work: Vec<_> = clients
                .iter_mut()
                .zip(ways)
                .map(|(client, way)| {
                    let requests = [&encode(&way.split(' ').collect::<Vec<_>>()), &script.requests[..]].concat();
                    scope.spawn(move || {
                        client.send(&requests);
                        client.read_to_end(PATIENCE);
                    })
                })
                .collect();
            while work.iter().any(|work| !work.is_finished()) {
                assert_eq!(good.ask("ECHO here").as_str(), "here");
                let held = proxy.metric("respmux_buffered_bytes", &[]).unwrap();
                assert!(held <= (17 * MIB) as f64, "{held} bytes are held");
                pause(Duration::from_millis(20));
            }
        });
        let closed = [("reason", "memory")];
        proxy.becomes("respmux_client_connections_closed_total", &closed, |n| n == ways.len() as f64);
        assert!(proxy.metric("respmux_shed_total", &[("step", "pause")]) >= Some(1.0));
        proxy.becomes("respmux_shed_state", &[], |state| state == 0.0);
        assert_eq!(proxy.connect().ask("PING").as_str(), "PONG");
    }
}
