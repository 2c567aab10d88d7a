//! What people, health checks and programs send that take us for something else: answered as the server answers it,
//! byte for byte, and closed when the server closes.

use std::time::{Duration, Instant};

use kit::{Address, Flavour, PATIENCE, Proxy, ProxyOptions, ReadEnd, RealRedis, Shown, TestClient, encode};

/// After which silence of a server nothing more is to come: the server is on this machine and does nothing else.
const SILENCE: Duration = Duration::from_millis(250);

/// Valkey 9 reads inline requests otherwise: it drops the byte FF, and joins quoted parts.
const NOT_AS_VALKEY: &[&str] = &["telnet's negotiation", "JSON"];

/// Name and bytes.
fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let hello = [&b"\x16\x03\x01\0\xc8\x01\0\0\xc4\x03\x03"[..], &(1..=193).collect::<Vec<u8>>()].concat();
    let texts: &[(&str, &str)] = &[
        ("a person: a word", "hi\r\n"),
        ("a person: PING", "PING\r\n"),
        ("a person: in small letters", "ping\n"),
        ("a person: empty lines", "\r\n\r\n\nPING\r\n"),
        ("a person: spaces", "   PING   \r\n"),
        ("a person: tabs", "\tECHO\tx\r\n"),
        ("a person: help", "help\r\n"),
        ("a person: quit", "quit\r\nPING\r\n"),
        ("a person: exit", "exit\r\n"),
        ("a person: quotes", "SET k \"a b\"\r\nGET k\r\n"),
        ("a person: an open quote", "SET k \"a b\r\n"),
        ("a person: a line without an end", "PING"),
        ("a person: INFO", "INFO nothing\r\n"),
        ("telnet's negotiation", "\u{ff}\u{fb}\u{1f}\r\nPING\r\n"),
        ("HTTP GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("HTTP GET, other headers first", "GET /health HTTP/1.1\r\nUser-Agent: curl\r\nHost: x\r\nAccept: */*\r\n\r\n"),
        ("HTTP GET, lower case", "get / http/1.1\r\nhost: x\r\n\r\n"),
        ("HTTP GET, line feeds only", "GET / HTTP/1.1\nHost: x\n\n"),
        ("HTTP GET without Host", "GET / HTTP/1.0\r\n\r\n"),
        ("HTTP GET 0.9", "GET /\r\n"),
        ("HTTP GET, cut off", "GET / HTTP/1.1\r\nHost: "),
        ("HTTP HEAD", "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        ("HTTP HEAD without Host", "HEAD / HTTP/1.0\r\n\r\n"),
        ("HTTP OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("HTTP OPTIONS without Host", "OPTIONS / HTTP/1.0\r\n\r\n"),
        ("HTTP PUT", "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nPING"),
        ("HTTP DELETE", "DELETE /x HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("HTTP PATCH", "PATCH /x HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("HTTP TRACE", "TRACE / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("HTTP CONNECT", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n"),
        ("HTTP POST", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n*1\r\n$4\r\nPING\r\n"),
        ("HTTP POST in the second line", "PING\r\nPOST / HTTP/1.1\r\n\r\n"),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("commands in an HTTP body", "PUT / HTTP/1.1\r\nHost: x\r\n\r\nSET smuggled 1\r\n"),
        ("a transaction before Host:", "MULTI\r\nSET k 1\r\nEXEC\r\nHost: x\r\n"),
        ("an open transaction before Host:", "MULTI\r\nSET k 1\r\nHost: x\r\n"),
        ("a watch before Host:", "WATCH k\r\nGET k\r\nHost: x\r\n"),
        ("replies wanted before Host:", "CLIENT REPLY OFF\r\nCLIENT REPLY ON\r\nRESET\r\nPING\r\nHost: x\r\n"),
        ("QUIT before Host:", "PING\r\nQUIT\r\nHost: x\r\n"),
        ("HAProxy's check", "PING\r\nQUIT\r\n"),
        ("HAProxy's other check", "info replication nothing\r\n"),
        ("a balancer's greeting", "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nPING\r\n"),
        ("a balancer's greeting, version 6", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\nPING\r\n"),
        ("a balancer's greeting, unknown", "PROXY UNKNOWN\r\nPING\r\n"),
        ("memcached get", "get k\r\n"),
        ("memcached set", "set k 0 0 1\r\nx\r\n"),
        ("memcached stats", "stats\r\nversion\r\nflush_all\r\n"),
        ("SMTP", "EHLO x\r\nMAIL FROM:<a@b>\r\nQUIT\r\n"),
        ("SSH", "SSH-2.0-OpenSSH_9.6\r\n"),
        ("FTP", "USER anonymous\r\nPASS x\r\nQUIT\r\n"),
        ("POP", "USER x\r\nPASS y\r\nSTAT\r\n"),
        ("JSON", "{\"command\":\"PING\"}\r\n"),
        ("RESP: a simple string", "+PING\r\n"),
        ("RESP: an empty array", "*0\r\n*1\r\n$4\r\nPING\r\n"),
        ("RESP: no count", "*x\r\n"),
        ("RESP: no length", "*1\r\n$x\r\nPING\r\n"),
        ("RESP: an integer for a bulk", "*1\r\n:4\r\nPING\r\n"),
        ("RESP: too many", "*2147483648\r\n"),
        ("RESP: a negative length", "*1\r\n$-1\r\n"),
        ("RESP: cut off", "*2\r\n$4\r\nECHO\r\n$5\r\nab"),
    ];
    let mut all: Vec<_> = texts.iter().map(|(name, text)| (*name, latin1(text))).collect();
    all.push(("TLS", hello.clone()));
    all.push(("TLS, cut off", hello[..3].to_vec()));
    all.push(("TLS behind a command", [encode(&["PING"]), hello].concat()));
    all.push((
        "a balancer's binary greeting",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x12\x34\x12\x35".to_vec(),
    ));
    all.push(("MySQL", b"\x20\0\0\x01\x85\xa6\xff\x01\0\0\0\x01".to_vec()));
    all.push(("PostgreSQL", b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec()));
    all
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("one byte")).collect()
}

/// What a server says to `bytes`, and whether it closes then.
fn said(address: &Address, bytes: &[u8], half: bool) -> (Vec<u8>, bool) {
    let mut client = begin(address, bytes, half);
    loop {
        match client.read_some(Instant::now() + if half { PATIENCE } else { SILENCE }) {
            Ok(()) => {}
            Err(end) => {
                let count = client.received().len();
                return (client.take(count), end == ReadEnd::Eof);
            }
        }
    }
}

fn begin(address: &Address, bytes: &[u8], half: bool) -> TestClient {
    let mut client = TestClient::connect(address);
    client.send(bytes);
    if half {
        client.shut_write();
    }
    client
}

/// What the proxy says instead, if it is not that.
fn difference(address: &Address, bytes: &[u8], half: bool, wanted: &(Vec<u8>, bool)) -> Option<String> {
    let mut client = begin(address, bytes, half);
    let patience = Instant::now() + PATIENCE;
    let mut end = Ok(());
    while end.is_ok() && (wanted.1 || client.received().len() < wanted.0.len()) {
        end = client.read_some(patience);
    }
    if !wanted.1 && end.is_ok() {
        // More than the server said, or a close, would come at once.
        end = client.read_some(Instant::now() + Duration::from_millis(60));
    }
    let right = client.received() == wanted.0 && end == Err(if wanted.1 { ReadEnd::Eof } else { ReadEnd::TimedOut });
    (!right).then(|| format!("{:?} and {end:?}", Shown(client.received())))
}

fn as_the_server(flavour: Flavour) {
    let redis = RealRedis::start(flavour, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let inputs = inputs();
    assert!(inputs.len() >= 55);
    let mut differences = Vec::new();
    for (name, bytes) in &inputs {
        if flavour == Flavour::Valkey9 && NOT_AS_VALKEY.contains(name) {
            continue;
        }
        for half in [false, true] {
            let wanted = said(&redis.address(), bytes, half);
            if let Some(got) = difference(&proxy.address(), bytes, half, &wanted) {
                let side = if half { "half closed" } else { "open" };
                differences.push(format!(
                    "{name}, {side}: server {:?} closed {}, proxy {got}",
                    Shown(&wanted.0),
                    wanted.1
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    // What was smuggled behind a header was not carried out.
    assert_eq!(proxy.connect().ask("EXISTS smuggled").as_int(), 0);
}

#[test]
fn redis_7_0() {
    as_the_server(Flavour::Redis70);
}

#[test]
fn redis_8_2() {
    as_the_server(Flavour::Redis82);
}

#[test]
fn valkey_9() {
    as_the_server(Flavour::Valkey9);
}
