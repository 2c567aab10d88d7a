//! What users may do through the proxy is what they may do on the server (rule C1), whoever answers.

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually};

/// The rules of each user, behind `on >p`.
const USERS: &[&str] = &[
    "~* &* +@all",
    "~* resetchannels +@all",
    "~* &* -@all",
    "~* &* -@all +get",
    "~* &* -@all +blpop +get",
    "~* &* -@all +client|id",
    "~* &* -@all +client|setname",
    "~* &* -@all +client|reply +client|caching +client|getredir",
    "~* &* -@all +@connection",
    "~* &* -@all +@read",
    "~* &* -@all +@write",
    "~* &* +@all -@connection",
    "~* &* +@all -@admin",
    "~* &* +@all -@dangerous",
    "~* &* +@all -client",
    "~* &* +@all -client|id -client|getname",
    "~* &* +@all -client|list -client|kill -client|info",
    "~* &* +@all -multi",
    "~* &* +@all -exec",
    "~* &* +@all -select",
    "~* &* +@all -hello",
    "~* &* +@all -ping",
    "~* &* +@all -wait",
    "~* &* +@all -subscribe -unsubscribe",
    "%R~* &* +@all",
    "~other:* &* +@all",
    "~* &* +@all -script -readonly -asking -watch",
];

/// What each of them tries, in this order.
const COMMANDS: &[&str] = &[
    "ACL WHOAMI",
    "PING",
    "ECHO x",
    "GET k",
    "SET k 1",
    "DEL k",
    "MGET k l",
    "BLPOP q 0.01",
    "XREAD STREAMS s 0",
    "WAIT 0 10",
    "WAIT 1 1",
    "WAIT x 0",
    "WAIT 0 x",
    "CLIENT ID",
    "CLIENT GETNAME",
    "CLIENT SETNAME n",
    "CLIENT SETNAME ''",
    "CLIENT SETNAME",
    "CLIENT SETINFO lib-name l",
    "CLIENT SETINFO lib-ver 1",
    "CLIENT SETINFO x y",
    "CLIENT REPLY ON",
    "CLIENT REPLY x",
    "CLIENT CACHING YES",
    "CLIENT CACHING x",
    "CLIENT GETREDIR",
    "CLIENT TRACKINGINFO",
    "CLIENT INFO",
    "CLIENT LIST",
    "CLIENT LIST TYPE x",
    "CLIENT KILL 1.2.3.4:5",
    "CLIENT KILL ID 99999999",
    "CLIENT UNBLOCK 99999999",
    "CLIENT NO-EVICT ON",
    "CLIENT NO-EVICT x",
    "CLIENT NO-TOUCH OFF",
    "CLIENT UNPAUSE",
    "CLIENT HELP",
    "CLIENT FOO",
    "CLIENT TRACKING OFF",
    "SCRIPT DEBUG NO",
    "READONLY",
    "READWRITE",
    "ASKING",
    "SELECT 1",
    "SELECT 0",
    "WATCH k",
    "UNWATCH",
    "MULTI",
    "GET k",
    "EXEC",
    "DISCARD",
    "EXEC",
    "MULTI",
    "CLIENT ID",
    "CLIENT SETNAME m",
    "EXEC",
    "PUBLISH c m",
    "PUBSUB NUMSUB c",
    "PUBSUB CHANNELS",
    "SUBSCRIBE c",
    "UNSUBSCRIBE c",
    "CONFIG GET maxmemory",
    "DBSIZE",
    "EVAL return(1) 0",
    "HELLO",
    "HELLO 2",
    "AUTH default x",
    "RESET",
    "QUIT",
];

/// A reply without what differs from one connection to the next: errors whole, of anything else the kind.
fn essence(command: &str, reply: &kit::Frame) -> String {
    let whole = ["PING", "ECHO", "GET", "WAIT", "CLIENT GETNAME", "CLIENT REPLY", "CLIENT GETREDIR", "ACL WHOAMI"];
    match reply.is_error() || whole.iter().any(|name| command.starts_with(name)) {
        true => reply.as_str(),
        false => format!("{}, {} items", reply.kind, reply.items.len()),
    }
}

fn play(client: &mut TestClient, user: usize, resp3: bool) -> Vec<String> {
    let login = if resp3 { format!("HELLO 3 AUTH u{user} p") } else { format!("AUTH u{user} p") };
    assert!(!client.ask(&login).is_error());
    COMMANDS.iter().map(|command| format!("{command}: {}", essence(command, &client.ask(command)))).collect()
}

/// 27 users, 70 commands, in both protocols, on three servers.
#[test]
fn every_user_may_what_it_may_on_the_server() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 12));
        let mut direct = redis.connect();
        for (user, rules) in USERS.iter().enumerate() {
            assert!(!direct.ask(&format!("ACL SETUSER u{user} on >p {rules}")).is_error(), "{rules}");
        }
        let mut different = Vec::new();
        for (user, rules) in USERS.iter().enumerate() {
            for resp3 in [false, true] {
                let wanted = play(&mut redis.connect(), user, resp3);
                let got = play(&mut proxy.connect(), user, resp3);
                let pairs = wanted.iter().zip(&got).filter(|(wanted, got)| wanted != got);
                let user = format!("{}, {rules} (RESP3: {resp3})", flavour.name());
                different.extend(pairs.map(|(wanted, got)| format!("{user}: {got}, and directly {wanted}")));
            }
        }
        assert!(different.is_empty(), "{} differences:\n{}", different.len(), different.join("\n"));
    }
}

/// The upstream is asked once, not for each command; a change that passes by counts at once, one made elsewhere soon.
#[test]
fn rights_are_asked_for_once_and_again_when_they_change() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12));
        let (mut direct, mut admin) = (redis.connect(), proxy.connect());
        direct.ask("ACL SETUSER u on nopass ~* &* +@all");
        let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.ask("AUTH u x");
            assert!(!client.ask("CLIENT ID").is_error());
        }
        let asked = |direct: &mut TestClient| {
            let stats = direct.ask("INFO commandstats").as_str();
            let line =
                stats.lines().find(|line| line.starts_with("cmdstat_client|id:")).expect("it was asked").to_owned();
            line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u32>().ok()).expect("a number")
        };
        let before = asked(&mut direct);
        for _ in 0..500 {
            assert!(!clients[0].ask("CLIENT ID").is_error());
        }
        let questions = asked(&mut direct) - before;
        assert!(questions < 250, "{}: {questions} questions for 500 commands", flavour.name());
        // Through the proxy: at once, for clients of every worker.
        assert_eq!(admin.ask("ACL SETUSER u -client|id").as_str(), "OK");
        for client in &mut clients {
            assert!(client.ask("CLIENT ID").as_str().starts_with("NOPERM"), "{}", flavour.name());
        }
        assert_eq!(admin.ask("ACL SETUSER u +client|id").as_str(), "OK");
        for client in &mut clients {
            assert!(!client.ask("CLIENT ID").is_error(), "{}", flavour.name());
        }
        direct.ask("ACL SETUSER u -client|id");
        for client in &mut clients {
            eventually(PATIENCE, || {
                let reply = client.ask("CLIENT ID");
                if reply.as_str().starts_with("NOPERM") { Ok(()) } else { Err(reply.as_str()) }
            });
        }
    }
}
