//! CLIENT through the proxy: who is shown, who is killed (docs/design/semantics.md 5).

use std::collections::HashSet;

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually};

/// The value of a field in a line of CLIENT LIST.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{line:?} has no {name}"))
}

fn list(client: &mut TestClient) -> Vec<String> {
    client.ask("CLIENT LIST").as_str().lines().map(str::to_owned).collect()
}

/// 5.1: unique over all workers, increasing, above any real id, below 2^53.
#[test]
fn ids_are_unique_increasing_and_large() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12));
    let mut seen = HashSet::new();
    let mut last = 0;
    for _ in 0..50 {
        let id = proxy.connect().ask("CLIENT ID").as_int();
        assert!((1_000_000_000_000..1 << 53).contains(&id), "{id}");
        assert!(id > last, "{id} after {last}");
        assert!(seen.insert(id), "{id} twice");
        last = id;
    }
}

/// 5.2: the proxy's own connections are not shown, its clients are, and so is everybody else.
#[test]
fn list_shows_everybody_but_the_proxy() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12));
        let mut direct = redis.connect();
        direct.ask("CLIENT SETNAME direct");
        let mut clients: Vec<_> = (0..5).map(|_| proxy.connect()).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            client.ask(&format!("CLIENT SETNAME client-{index}"));
            client.ask(&format!("SELECT {index}"));
            client.ask("SET k 1");
        }
        clients[4].ask("WATCH k");
        let lines = list(&mut clients[0]);
        let mut names: Vec<_> = lines.iter().map(|line| field(line, "name").to_owned()).collect();
        names.sort();
        assert_eq!(names, ["client-0", "client-1", "client-2", "client-3", "client-4", "direct"], "{lines:#?}");
        for line in lines.iter().filter(|line| field(line, "name") != "direct") {
            let index: usize = field(line, "name").trim_start_matches("client-").parse().unwrap();
            assert_eq!(field(line, "db"), index.to_string(), "{line}");
            assert_eq!(field(line, "addr"), clients[index].local_address(), "{line}");
            assert!(field(line, "id").parse::<i64>().unwrap() > 1_000_000_000, "{line}");
        }
        // The server itself shows who is who: the connections of the proxy are named as such, but for the one of each
        // worker that proves logins, which starts every proof with RESET.
        let upstream = direct.ask("CLIENT LIST").as_str();
        let unnamed = upstream.lines().filter(|line| field(line, "name").is_empty()).count();
        assert!(unnamed <= 2, "{}: {unnamed} connections of the proxy have no name:\n{upstream}", flavour.name());
    }
}

/// RQ finds itself, and Bull its workers, by name.
#[test]
fn a_client_finds_itself_by_name() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut worker = proxy.connect();
    worker.ask("CLIENT SETNAME worker.7");
    let lines = list(&mut worker);
    let own: Vec<_> = lines.iter().filter(|line| field(line, "name") == "worker.7").collect();
    assert_eq!(own.len(), 1, "{lines:#?}");
    assert_eq!(field(own[0], "addr"), worker.local_address());
    assert_eq!(field(own[0], "id"), worker.ask("CLIENT ID").as_str());
}

/// Kills by address mean the address that clients have, not that of a lane.
#[test]
fn kill_by_address() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12));
    let (mut killer, mut first, mut second, mut bystander) =
        (proxy.connect(), proxy.connect(), proxy.connect(), proxy.connect());
    for client in [&mut first, &mut second, &mut bystander] {
        client.ask("PING");
    }
    assert_eq!(killer.ask(&format!("CLIENT KILL {}", first.local_address())).as_str(), "OK");
    first.expect_eof();
    assert_eq!(killer.ask(&format!("CLIENT KILL ADDR {}", second.local_address())).as_int(), 1);
    second.expect_eof();
    assert!(killer.ask("CLIENT KILL 127.0.0.1:1").is_error());
    assert_eq!(bystander.ask("PING").as_str(), "PONG");
    // A lane's own address is nobody's: it can not be killed through the proxy.
    let upstream = redis.connect().ask("CLIENT LIST").as_str();
    for line in upstream.lines().filter(|line| !field(line, "cmd").starts_with("client")) {
        let reply = killer.ask(&format!("CLIENT KILL ADDR {}", field(line, "addr")));
        assert_eq!(reply.as_str(), "0", "{line}");
    }
    assert_eq!(bystander.ask("PING").as_str(), "PONG");
}

/// A blocked client can be killed, and its connection serves the next one.
#[test]
fn a_blocked_client_can_be_killed() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut killer = proxy.connect();
    for _ in 0..10 {
        let mut blocked = proxy.connect();
        let id = blocked.ask("CLIENT ID").as_str();
        blocked.send_command(&["BLPOP", "q", "0"]);
        eventually(PATIENCE, || if redis.info("blocked_clients") == 1 { Ok(()) } else { Err("not blocked yet") });
        assert_eq!(killer.ask(&format!("CLIENT KILL ID {id}")).as_int(), 1);
        blocked.expect_eof();
        eventually(PATIENCE, || {
            if redis.info("blocked_clients") == 0 { Ok(()) } else { Err("still blocked in the server") }
        });
    }
    redis.connect().ask("RPUSH q x");
    assert_eq!(killer.ask("LLEN q").as_int(), 1, "nobody is left to take it");
}

/// What redis-cli shows of the proxy: each kind of connection with its limit, and who waits.
#[test]
fn proxy_pools_shows_limits_and_waiters() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 8));
    let mut client = proxy.connect();
    let lines = |client: &mut TestClient| -> Vec<String> {
        client.ask("PROXY POOLS").items.iter().map(kit::Frame::as_str).collect()
    };
    let first = lines(&mut client);
    let total: usize =
        first.iter().filter(|line| line.contains("kind=")).map(|l| field(l, "max").parse::<usize>().unwrap()).sum();
    assert_eq!(total, 8, "{first:?}");
    let mut watchers: Vec<_> = (0..5).map(|_| proxy.connect()).collect();
    for watcher in &mut watchers {
        watcher.send_command(&["WATCH", "k"]);
    }
    eventually(PATIENCE, || {
        let lines = lines(&mut client);
        let pool = lines.iter().find(|line| line.contains("kind=pool")).expect("there is a pool");
        let (max, in_use) = (field(pool, "max").to_owned(), field(pool, "in_use").to_owned());
        let waiting: usize = field(pool, "waiting").parse().unwrap();
        if max == in_use && waiting == 5 - max.parse::<usize>().unwrap() { Ok(()) } else { Err(pool.clone()) }
    });
}
