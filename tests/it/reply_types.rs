//! `src/command/replies.tsv` against the real servers: no reply of theirs may be taken for a fault. Each command of
//! `tests/fixtures/replies.txt` runs by itself, in a transaction that rides a lane, and in one on a lent connection.

use kit::{Flavour, Proxy, ProxyOptions, RealRedis, TestClient, encode};

const COMMANDS: &str = include_str!("../fixtures/replies.txt");
/// A reply of a transaction, or of a command that waits for 10 ms, is there long before.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// How a command reaches the server.
#[derive(Clone, Copy, Debug)]
enum Way {
    Alone,
    Unit,
    Held,
}

/// Whether `client` got the replies of one `line`; otherwise it was closed.
fn answered(client: &mut TestClient, way: Way, line: &str) -> bool {
    let command = encode(&line.split(' ').collect::<Vec<_>>());
    let (multi, exec) = (encode(&["MULTI"]), encode(&["EXEC"]));
    let steps = match way {
        Way::Alone => vec![(command, 1)],
        Way::Unit => vec![([multi, command, exec].concat(), 3)],
        Way::Held => vec![(multi, 1), (command, 1), (exec, 1)],
    };
    steps.into_iter().all(|(bytes, replies)| {
        client.send(&bytes);
        (0..replies).all(|_| client.try_read_frame(PATIENCE).is_ok())
    })
}

fn no_alarm(flavour: Flavour) {
    let redis = RealRedis::start(flavour, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 8));
    let mut direct = redis.connect();
    let mut alarms = Vec::new();
    for (protocol, way) in ["2", "3"].into_iter().flat_map(|p| [Way::Alone, Way::Unit, Way::Held].map(|way| (p, way))) {
        direct.ask("FLUSHALL");
        let connect = || {
            let mut client = proxy.connect();
            assert!(!client.ask(&format!("HELLO {protocol}")).is_error());
            client
        };
        let mut client = connect();
        for line in COMMANDS.lines().filter(|line| !line.starts_with("# ") && !line.is_empty()) {
            if !answered(&mut client, way, line) {
                alarms.push(format!("RESP{protocol} {way:?}: {line}"));
                client = connect();
            }
        }
    }
    let counted = proxy.metric("respmux_integrity_violations_total", &[]);
    assert!(alarms.is_empty() && counted == Some(0.0), "{counted:?} on {}:\n{}", flavour.name(), alarms.join("\n"));
}

#[test]
fn of_redis_7_0() {
    no_alarm(Flavour::Redis70);
}

#[test]
fn of_redis_8_2() {
    no_alarm(Flavour::Redis82);
}

#[test]
fn of_valkey_9() {
    no_alarm(Flavour::Valkey9);
}

/// Where MULTI is refused the body of a unit runs by itself, and answers in its own types.
#[test]
fn of_a_transaction_without_multi() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut direct = redis.connect();
    direct.ask("ACL SETUSER eve on >pw ~* &* +@all -multi");
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 8));
    let mut client = proxy.connect();
    assert_eq!(client.ask("AUTH eve pw").as_str(), "OK");
    let unit: Vec<u8> = ["MULTI", "INCR n", "GET n", "LRANGE l 0 -1", "EXEC", "INCR n"]
        .iter()
        .flat_map(|line| encode(&line.split(' ').collect::<Vec<_>>()))
        .collect();
    client.send(&unit);
    assert!(client.read_frame().is_error());
    client.expect(b":1\r\n$1\r\n1\r\n*0\r\n");
    assert!(client.read_frame().is_error());
    client.expect(b":2\r\n");
}
