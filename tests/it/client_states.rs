//! What CLIENT LIST and INFO say of a client in each state is what a server says, and CLIENT KILL in all its forms
//! hits whom it names (docs/design/semantics.md 5.2).

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually};

/// A state: its name, and what brings a client there. A last line that begins with `>` is sent and not answered.
const STATES: &[(&str, &[&str])] = &[
    ("new", &[]),
    ("name and database", &["CLIENT SETNAME me", "SELECT 3"]),
    ("library", &["CLIENT SETINFO lib-name l", "CLIENT SETINFO lib-ver 1", "PING"]),
    ("user", &["AUTH u x"]),
    ("RESP3", &["HELLO 3"]),
    ("no-evict", &["CLIENT NO-EVICT ON"]),
    ("no-evict off", &["CLIENT NO-EVICT ON", "CLIENT NO-EVICT OFF"]),
    ("no-touch", &["CLIENT NO-TOUCH ON"]),
    ("watching two", &["WATCH a b"]),
    ("watched key changed", &["WATCH dirty", "SET dirty 1"]),
    ("MULTI", &["MULTI"]),
    ("MULTI with two", &["MULTI", "SET a 1", "GET a"]),
    ("MULTI after WATCH", &["WATCH a", "MULTI", "SET a 1"]),
    ("MULTI that will abort", &["MULTI", "NOSUCH"]),
    ("tracking", &["HELLO 3", "CLIENT TRACKING ON"]),
    ("tracking with prefixes", &["HELLO 3", "CLIENT TRACKING ON BCAST PREFIX x PREFIX y"]),
    ("tracking opt-in", &["HELLO 3", "CLIENT TRACKING ON OPTIN"]),
    ("tracking opt-out", &["HELLO 3", "CLIENT TRACKING ON OPTOUT NOLOOP"]),
    ("tracking in RESP2", &["CLIENT TRACKING ON"]),
    ("tracking and MULTI", &["HELLO 3", "CLIENT TRACKING ON", "MULTI", "GET a"]),
    ("tracking off", &["CLIENT TRACKING ON", "CLIENT TRACKING OFF"]),
    ("reset", &["CLIENT SETNAME me", "CLIENT NO-EVICT ON", "SELECT 3", "HELLO 3", "RESET"]),
    ("subscribed", &["SUBSCRIBE a"]),
    ("pattern", &["PSUBSCRIBE a*"]),
    ("shard channel", &["SSUBSCRIBE a"]),
    ("subscribed in RESP3, with MULTI", &["HELLO 3", "SUBSCRIBE a", "MULTI"]),
    ("monitor", &["MONITOR"]),
    ("replies off", &[">CLIENT REPLY OFF"]),
    ("reply skipped", &[">CLIENT REPLY SKIP"]),
    ("BLPOP", &[">BLPOP q 0"]),
    ("BLPOP of two", &[">BLPOP q r 0"]),
    ("BLMOVE", &[">BLMOVE q r LEFT RIGHT 0"]),
    ("BZPOPMIN", &[">BZPOPMIN z 0"]),
    ("XREAD", &[">XREAD BLOCK 0 STREAMS s 0-0"]),
    ("WAIT", &[">WAIT 3 0"]),
    ("unknown command", &["NOSUCH"]),
    ("unknown subcommand", &["CLIENT NOSUCH"]),
    ("too few arguments", &["GET"]),
    ("subcommand", &["CONFIG GET maxmemory"]),
    ("script", &["EVAL return(1) 0"]),
    ("READONLY", &["READONLY"]),
    ("capability", &["CLIENT CAPA redirect"]),
];

/// Of a connection or of memory, not of a client's state.
const NOT_COMPARED: &[&str] = &[
    "id",
    "addr",
    "laddr",
    "fd",
    "age",
    "idle",
    "qbuf",
    "qbuf-free",
    "rbs",
    "rbp",
    "obl",
    "oll",
    "omem",
    "tot-mem",
    "io-thread",
    "tot-net-in",
    "tot-net-out",
    "tot-cmds",
];

fn pairs(line: &str) -> Vec<(String, String)> {
    let split = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    line.trim().trim_start_matches("txt:").split(' ').filter_map(split).collect()
}

/// The client's line as another one sees it, once it is in its state.
fn line_in(
    state: &[&str],
    mut client: TestClient,
    other: &mut TestClient,
    wanted: Option<&str>,
) -> (String, TestClient) {
    let id = client.ask("CLIENT ID").as_str();
    for line in state {
        match line.strip_prefix('>') {
            Some(line) => client.send(format!("{line}\r\n").as_bytes()),
            None => drop(client.ask(line)),
        }
    }
    let mut seen = String::new();
    eventually(PATIENCE, || {
        seen = other.ask(&format!("CLIENT LIST ID {id}")).as_str();
        let compared = comparable(&seen);
        // Directly: until what was sent last is what it does.
        let arrived = match wanted {
            Some(wanted) => compared == wanted,
            None => state.last().is_none_or(|last| {
                let command = last.trim_start_matches('>').split(' ').next().unwrap_or_default().to_lowercase();
                !last.starts_with('>') || seen.contains(&format!(" cmd={command}"))
            }),
        };
        if arrived { Ok(()) } else { Err(format!("{compared}, wanted {wanted:?}")) }
    });
    (seen, client)
}

fn comparable(line: &str) -> String {
    let value = |(name, value): (String, String)| match NOT_COMPARED.contains(&name.as_str()) {
        true => format!("{name}="),
        false => format!("{name}={value}"),
    };
    pairs(line).into_iter().map(value).collect::<Vec<_>>().join(" ")
}

/// 42 states on three servers: played directly, then through the proxy.
#[test]
fn each_state_is_shown_as_the_server_shows_it() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 16));
        let (mut direct, mut other) = (redis.connect(), proxy.connect());
        direct.ask("ACL SETUSER u on nopass ~* &* +@all");
        for (name, state) in STATES {
            if state
                .iter()
                .any(|line| line.starts_with("CLIENT") && redis.connect().ask(line).as_str().contains("unknown sub"))
                && !state.contains(&"CLIENT NOSUCH")
            {
                continue; // not of this version
            }
            let (line, client) = line_in(state, redis.connect(), &mut direct, None);
            drop(client);
            let wanted = comparable(&line);
            eprintln!("{} {name}", flavour.name());
            let (shown, client) = line_in(state, proxy.connect(), &mut other, Some(&wanted));
            drop(client);
            for (field, value) in pairs(&shown) {
                let number = ["age", "idle", "qbuf", "omem", "tot-net-in", "tot-net-out"].contains(&field.as_str());
                assert!(!number || value.parse::<u64>().is_ok(), "{field}={value}");
            }
        }
        // What it says of itself.
        for state in [&["WATCH a b"][..], &["HELLO 3", "CLIENT TRACKING ON BCAST"], &["SELECT 2", "CLIENT NO-EVICT ON"]]
        {
            let (mut plain, mut through) = (redis.connect(), proxy.connect());
            for line in state {
                plain.ask(line);
                through.ask(line);
            }
            let of = |client: &mut TestClient, line: &str| client.ask(line).as_str();
            let [wanted, got] = [&mut plain, &mut through].map(|client| comparable(&of(client, "CLIENT INFO")));
            assert_eq!(got, wanted, "{} {state:?}", flavour.name());
        }
    }
}

/// The old form may hit its sender, and answers first; the new one only if it says so.
#[test]
fn a_client_may_kill_itself() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12));
        let mut bystander = proxy.connect();
        bystander.ask("PING");
        for round in 0..6 {
            let mut client = proxy.connect();
            let (id, address) = (client.ask("CLIENT ID").as_str(), client.local_address());
            assert_eq!(client.ask(&format!("CLIENT KILL ADDR {address}")).as_int(), 0, "{}", flavour.name());
            assert_eq!(client.ask(&format!("CLIENT KILL ID {id} SKIPME yes")).as_int(), 0);
            let (form, wanted) = match round {
                0 => (format!("CLIENT KILL {address}"), "OK"),
                1 => (format!("CLIENT KILL ADDR {address} SKIPME no"), "1"),
                2 => (format!("CLIENT KILL ID {id} SKIPME no"), "1"),
                3 => (format!("CLIENT KILL SKIPME no USER default ADDR {address} TYPE normal"), "1"),
                4 => (format!("CLIENT KILL SKIPME no LADDR {} ID {id}", address_of(&mut client, "laddr")), "1"),
                // While it holds a connection.
                _ => {
                    client.ask("WATCH k");
                    (format!("CLIENT KILL {address}"), "OK")
                }
            };
            assert_eq!(client.ask(&form).as_str(), wanted, "{} {form}", flavour.name());
            client.expect_eof();
        }
        assert_eq!(bystander.ask("PING").as_str(), "PONG");
        // Errors are the server's own.
        let mut direct = redis.connect();
        for words in [
            "ID",
            "ID x",
            "ID 0",
            "TYPE",
            "TYPE x",
            "TYPE primary",
            "USER nosuch",
            "USER nosuch ID x",
            "SKIPME x",
            "MAXAGE x",
            "MAXAGE 0",
            "MAXAGE 99999",
            "ID 999999 999998",
            "ID 999999 ID 999998",
            "ID 99 FOO 5",
            "NAME nosuch",
            "FLAGS z",
            "FLAGS P",
            "DB x",
            "IDLE 10000",
            "IP 1.1.1.1",
            "ADDR 1:1 ADDR",
            "ADDR 1:1 TYPE",
            "NOT-USER default",
            "LADDR 1:1",
        ] {
            let line = format!("CLIENT KILL {words}");
            assert_eq!(bystander.ask(&line).as_str(), direct.ask(&line).as_str(), "{}: {line}", flavour.name());
        }
        // Some of several.
        let mut many: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
        let ids: Vec<_> = many.iter_mut().map(|client| client.ask("CLIENT ID").as_str()).collect();
        let killed = bystander.ask(&format!("CLIENT KILL ID {} ID {}", ids[0], ids[1])).as_int();
        assert_eq!(killed, if flavour == Flavour::Valkey9 { 2 } else { 1 }, "{}", flavour.name());
        many[1].expect_eof();
        assert_eq!(many[2].ask("PING").as_str(), "PONG");
        assert_eq!(many[0].is_open(), flavour != Flavour::Valkey9);
    }
}

fn address_of(client: &mut TestClient, name: &str) -> String {
    let info = client.ask("CLIENT INFO").as_str();
    pairs(&info).into_iter().find(|(field, _)| field == name).expect("every line has it").1
}
