//! Commands that the operator forbids: refused in the server's words, poisoning transactions as the server does, and
//! never sent.

use std::time::Duration;

use crate::relay::Relay;
use kit::{Flavour, Frame, Proxy, ProxyOptions, RealRedis, TestClient};

/// What is forbidden here, through the proxy by `commands.deny` and on the server itself by an ACL rule.
const DENIED: &[&str] = &["config", "client|list", "keys", "flushall", "getdel"];
const SETTING: &str = "commands.deny=CONFIG, client list,KEYS,FlushAll,GETDEL,FT.DROP";

/// Each with the row's name as the server prints it.
const LINES: &[&str] = &[
    "CONFIG GET maxmemory",
    "config SET maxmemory 1",
    "Config Bananas",
    "CLIENT LIST",
    "client list TYPE normal",
    "KEYS *",
    "FLUSHALL",
    "flushall ASYNC",
    "GETDEL k",
];

fn ours(frame: &Frame) -> String {
    // The server repeats the user's name; ours is the default user's.
    frame.as_str().replace("User limited has", "User default has")
}

/// What the server itself says to a user with the same rights.
fn server_side(redis: &RealRedis) -> TestClient {
    let mut direct = redis.connect();
    let rules: Vec<_> = DENIED.iter().map(|name| format!("-{name}")).collect();
    let set = direct.ask(&format!("ACL SETUSER limited on >pw ~* &* +@all {}", rules.join(" ")));
    assert_eq!(set.as_str(), "OK");
    assert_eq!(direct.ask("AUTH limited pw").as_str(), "OK");
    direct
}

fn refused_as_the_server_would(flavour: Flavour) {
    let redis = RealRedis::start(flavour, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set(SETTING));
    let (mut server, mut client) = (server_side(&redis), proxy.connect());
    client.ask("SET k kept");
    for line in LINES {
        let (wanted, got) = (server.ask(line), client.ask(line));
        // Redis 7.0 has no rows for subcommands that do not exist; it names the container.
        let odd = line.contains("Bananas");
        assert!(got.as_str().starts_with("NOPERM"), "{}: {line}: {got:?}", flavour.name());
        assert!(odd || ours(&wanted) == got.as_str(), "{}: {line}: {wanted:?} and {got:?}", flavour.name());
    }
    // In a transaction: the command is refused, and so is the whole.
    for line in ["MULTI", "SET k lost", "GETDEL k", "SET k lost", "EXEC", "GET k"] {
        let (wanted, got) = (server.ask(line), client.ask(line));
        assert_eq!(ours(&wanted), got.as_str(), "{}: {line}", flavour.name());
    }
    // The same in one packet, where it could ride a lane whole.
    let packet = b"MULTI\r\nSET k lost\r\nGETDEL k\r\nEXEC\r\nGET k\r\n";
    client.send(packet);
    let replies: Vec<_> = (0..5).map(|_| client.read_frame().as_str()).collect();
    assert!(replies[2].starts_with("NOPERM") && replies[3].starts_with("EXECABORT"), "{replies:?}");
    assert_eq!(replies[4], "kept");
    assert_eq!(redis.connect().ask("GET k").as_str(), "kept");
    let denied = proxy.metric("respmux_commands_rejected_total", &[("reason", "denied")]);
    assert_eq!(denied, Some(2.0 + 9.0));
}

/// The words differ over versions, and the first client may come before respmux knows the version.
#[test]
fn before_the_version_is_known() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let relay = Relay::slow_with(&redis, b"\r\nINFO\r\n", Duration::from_millis(500));
    let mut options = ProxyOptions::tight().set(SETTING);
    options.upstream = Some(format!("redis://{}", relay.address()));
    let proxy = Proxy::start(&redis, &options);
    let (wanted, got) = (server_side(&redis).ask("KEYS *"), proxy.connect().ask("KEYS *"));
    assert_eq!(ours(&wanted), got.as_str());
}

#[test]
fn on_redis_7_0() {
    refused_as_the_server_would(Flavour::Redis70);
}

#[test]
fn on_redis_8_2() {
    refused_as_the_server_would(Flavour::Redis82);
}

#[test]
fn on_valkey_9() {
    refused_as_the_server_would(Flavour::Valkey9);
}

#[test]
fn exempt_users_may_and_exceptions_hold() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    redis.connect().ask("ACL SETUSER admin on >pw ~* &* +@all");
    let options = ProxyOptions::tight()
        .set("commands.deny=@dangerous")
        .set("commands.allow=KEYS,CONFIG GET")
        .set("commands.exempt=admin");
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    for line in ["KEYS *", "CONFIG GET maxmemory", "CLIENT ID", "ACL WHOAMI", "CLIENT SETNAME x", "PING"] {
        assert!(!client.ask(line).is_error(), "{line}");
    }
    let odd = [&[&b"config"[..], b"set\0x", b"a", b"b"][..], &[b"FLUSHDB"], &[b"shutdown", b"now"], &[b"monitor"]];
    for words in odd {
        let reply = client.call(words);
        assert!(reply.as_str().starts_with("NOPERM"), "{words:?}: {reply:?}");
    }
    assert_eq!(client.ask("AUTH admin pw").as_str(), "OK");
    assert!(!client.ask("CLIENT LIST").is_error());
    assert_eq!(client.ask("FLUSHDB").as_str(), "OK");
    assert_eq!(client.ask("RESET").as_str(), "RESET");
    assert!(client.ask("FLUSHDB").as_str().starts_with("NOPERM"), "RESET gives the exemption away");
    // On a lent connection, and while subscribed.
    assert_eq!(client.ask("WATCH k").as_str(), "OK");
    assert!(client.ask("FLUSHDB").as_str().starts_with("NOPERM"));
    assert_eq!(client.ask("UNWATCH").as_str(), "OK");
    client.ask("SUBSCRIBE c");
    assert!(client.ask("FLUSHDB").as_str().starts_with("NOPERM"));
    assert_eq!(redis.connect().ask("PING").as_str(), "PONG", "it was not shut down");
}
