//! What must never reach a lane (docs/design/semantics.md 3.3, 4.2), sent by one client while its neighbour on the
//! same worker has a pipeline under way: the neighbour gets every reply, in order, and nothing else.

use std::time::{Duration, Instant};

use kit::{Flavour, Proxy, ProxyOptions, RealRedis, Shown, TestClient, encode, pause};

/// ECHOs of the neighbour before and again after the attack.
const ECHOES: usize = 40;
/// Within this the neighbour is answered, whatever the adversary does.
const PROMPT: Duration = Duration::from_secs(3);

/// Each failure costs its wait; after so many the rest is not tried.
const MOST_FAILURES: usize = 6;

/// Words as one multibulk command; `|` stands for a NUL byte and `_` for an empty argument.
fn command(line: &str) -> Vec<u8> {
    let words = line.split(' ').map(|word| if word == "_" { Vec::new() } else { word.replace('|', "\0").into_bytes() });
    encode(&words.collect::<Vec<_>>())
}

fn commands(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| command(line)).collect()
}

/// Everything of 4.2 and 3.3, each with what makes it worse pipelined behind it.
fn attacks() -> Vec<(String, Vec<u8>)> {
    let mut attacks: Vec<_> =
        SINGLES.iter().map(|line| ((*line).to_owned(), commands(&[line, "PING", "GET a"]))).collect();
    let raw: [(&str, Vec<u8>); 12] = [
        ("inline POST", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("inline Host:", b"PING\r\nHost: localhost\r\nPING\r\n".to_vec()),
        ("REPLY OFF inside MULTI", commands(&["MULTI", "CLIENT REPLY OFF", "PING", "EXEC", "PING"])),
        ("SUBSCRIBE inside MULTI", commands(&["MULTI", "SUBSCRIBE a b", "PING", "EXEC", "PING"])),
        ("MULTI left open", commands(&["MULTI", "SET k 1", "SET k 2"])),
        ("WATCH left open", commands(&["WATCH k", "GET k"])),
        ("half a command", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nabc".to_vec()),
        ("half a header", b"*3\r\n$3\r\nSET\r\n$10".to_vec()),
        ("half a transaction", [commands(&["MULTI", "SET k 1"]), b"*1\r\n$4\r\nEXE".to_vec()].concat()),
        ("a bulk announced too large", b"*2\r\n$3\r\nGET\r\n$536870913\r\n".to_vec()),
        ("a large command", encode(&[&b"SET"[..], b"big", &vec![b'x'; 3_000_000]])),
        ("a large name", encode(&[&vec![b'x'; 1_000_000][..], b"a"])),
    ];
    attacks.extend(raw.map(|(name, bytes)| (name.to_owned(), bytes)));
    attacks
}

const SINGLES: &[&str] = &[
    // No reply at all.
    "REPLCONF ACK 0",
    "REPLCONF GETACK *",
    "replconf| ACK 0",
    "CLIENT REPLY OFF",
    "CLIENT REPLY SKIP",
    "client reply off",
    // 3.3: cut at the NUL byte by the server.
    "CLIENT REPLY off|x",
    "CLIENT reply| off",
    "CLIENT| REPLY OFF",
    "XREAD block|zz 0 STREAMS s $",
    "XREADGROUP GROUP g c block| 0 STREAMS s >",
    "blpop|x k 0",
    "post|x",
    "host:|x",
    "SORT|x a",
    "subscribe| a",
    "MULTI|",
    // Several replies, or replies without end.
    "SUBSCRIBE a b c",
    "PSUBSCRIBE a* b*",
    "SSUBSCRIBE a b",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE a b c",
    "PUNSUBSCRIBE a b",
    "SUNSUBSCRIBE a b",
    "MONITOR",
    "SYNC",
    "PSYNC ? -1",
    "CLUSTER SYNCSLOTS x",
    "SCRIPT DEBUG YES",
    "SCRIPT DEBUG SYNC",
    // State that would be everyone's.
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON BCAST",
    "CLIENT CACHING YES",
    "CLIENT MAINT_NOTIFICATIONS ON",
    "CLIENT CAPA redirect",
    "CLIENT NO-TOUCH ON",
    "CLIENT SETNAME someone",
    "CLIENT IMPORT-SOURCE ON",
    "AUTH eve eve",
    "HELLO 3",
    "HELLO 3 AUTH eve eve SETNAME x",
    "RESET",
    "SELECT 9",
    "READONLY",
    "READWRITE",
    "ASKING",
    "HIMPORT PREPARE u a b",
    // Waiting.
    "BLPOP q 0",
    "BRPOP q 0",
    "BLMOVE q r LEFT RIGHT 0",
    "BLMPOP 0 1 q LEFT",
    "BZPOPMIN z 0",
    "BZMPOP 0 1 z MIN",
    "BRPOPLPUSH q r 0",
    "XREAD BLOCK 0 STREAMS s $",
    "XREAD COUNT 1 bLoCk 0 STREAMS s $",
    "WAIT 1 0",
    "WAITAOF 0 1 0",
    // The end of the connection.
    "QUIT",
    "QUIT now",
    "POST x",
    "Host: x",
    "SHUTDOWN ABORT",
    "DEBUG SLEEP 2",
    "DEBUG SEGFAULT",
    "CLIENT KILL TYPE master",
    "CLIENT KILL USER eve",
    "_",
    "_ a",
    // Scripts that try the same.
    "EVAL return(redis.call('SELECT','5')) 0",
    "EVAL return(redis.pcall('SUBSCRIBE','x')) 0",
    "EVAL return(redis.pcall('MULTI')) 0",
    "EVAL return(redis.pcall('BLPOP','q','0')) 0",
];

fn echoes(from: usize) -> (Vec<u8>, Vec<u8>) {
    let numbers = from..from + ECHOES;
    let sent = numbers.clone().flat_map(|n| encode(&["ECHO".to_owned(), format!("n{n}")])).collect();
    let wanted = numbers.flat_map(|n| format!("${}\r\nn{n}\r\n", n.to_string().len() + 1).into_bytes()).collect();
    (sent, wanted)
}

/// A neighbour that must not notice anything: the next `wanted` bytes, promptly.
fn undisturbed(neighbour: &mut TestClient, wanted: &[u8]) -> Result<(), String> {
    let deadline = Instant::now() + PROMPT;
    while neighbour.received().len() < wanted.len() && wanted.starts_with(neighbour.received()) {
        if let Err(end) = neighbour.read_some(deadline) {
            return Err(format!("{end:?} after {:?}", Shown(neighbour.received())));
        }
    }
    if !neighbour.received().starts_with(wanted) {
        return Err(format!("got {:?}", Shown(neighbour.received())));
    }
    neighbour.take(wanted.len());
    Ok(())
}

/// One attack; true in `bytewise` sends it a byte at a time.
fn attack(
    proxy: &Proxy,
    neighbours: &mut [TestClient; 2],
    number: usize,
    bytes: &[u8],
    bytewise: bool,
) -> Result<(), String> {
    let mut adversary = proxy.connect();
    let (first, first_wanted) = echoes(number * 2 * ECHOES);
    let (second, second_wanted) = echoes((number * 2 + 1) * ECHOES);
    for neighbour in &mut *neighbours {
        neighbour.send(&first);
    }
    if bytewise && bytes.len() < 1000 {
        for byte in bytes.chunks(1) {
            adversary.send(byte);
            pause(Duration::from_micros(20));
        }
    } else {
        adversary.send(bytes);
    }
    for neighbour in &mut *neighbours {
        neighbour.send(&second);
        undisturbed(neighbour, &first_wanted)?;
        undisturbed(neighbour, &second_wanted)?;
    }
    // Half of them leave with a reset, and what they leave behind must not be found by anybody either.
    if number.is_multiple_of(2) {
        adversary.reset()
    } else {
        drop(adversary)
    }
    for (neighbour, wanted) in neighbours.iter_mut().zip([WHO_AM_I_2, WHO_AM_I_3]) {
        neighbour.send(&commands(&["ACL WHOAMI", "GET a", "GET nothing", "CLIENT GETNAME"]));
        undisturbed(neighbour, wanted)?;
    }
    Ok(())
}

const WHO_AM_I_2: &[u8] = b"$7\r\ndefault\r\n$1\r\n0\r\n$-1\r\n$2\r\nme\r\n";
const WHO_AM_I_3: &[u8] = b"$7\r\ndefault\r\n$1\r\n0\r\n_\r\n$2\r\nme\r\n";

fn nobody_notices(flavour: Flavour) {
    let redis = RealRedis::start(flavour, &[]);
    let mut direct = redis.connect();
    direct.ask("SET a 0");
    direct.ask("ACL SETUSER eve on >eve ~* &* +@all");
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut failures = Vec::new();
    let mut neighbours = neighbours(&proxy);
    for (number, (name, bytes)) in attacks().iter().enumerate() {
        if failures.len() >= MOST_FAILURES {
            failures.push("…and the rest was not tried".to_owned());
            break;
        }
        for bytewise in [false, true] {
            let outcome = attack(&proxy, &mut neighbours, number, bytes, bytewise);
            if let Err(complaint) = outcome {
                failures.push(format!("{name} (bytewise: {bytewise}): {complaint}"));
                neighbours = self::neighbours(&proxy);
            }
        }
    }
    // Databases and keys of others are as they were.
    let name = flavour.name();
    assert!(failures.is_empty(), "on {name} the neighbour noticed {}:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(direct.ask("GET a").as_str(), "0", "somebody's SELECT or SET went astray");
}

/// One that speaks RESP2 and one that speaks RESP3, both named.
fn neighbours(proxy: &Proxy) -> [TestClient; 2] {
    let mut neighbours = [proxy.connect(), proxy.connect()];
    assert!(!neighbours[1].ask("HELLO 3").is_error());
    for neighbour in &mut neighbours {
        assert_eq!(neighbour.ask("CLIENT SETNAME me").as_str(), "OK");
    }
    neighbours
}

#[test]
fn on_redis_7_0() {
    nobody_notices(Flavour::Redis70);
}

#[test]
fn on_redis_8_2() {
    nobody_notices(Flavour::Redis82);
}

#[test]
fn on_valkey_9() {
    nobody_notices(Flavour::Valkey9);
}

/// The two rows of 3.3 that silence or cut the sender itself do so through the proxy too, or are refused in words.
#[test]
fn a_cut_token_acts_on_its_sender_only() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut client = proxy.connect();
    client.send(&command("post|x"));
    client.expect_eof();
    let mut client = proxy.connect();
    client.send(&commands(&["BLPOP|x k 0", "PING"]));
    client.expect(b"-ERR unknown command 'BLPOP");
}
