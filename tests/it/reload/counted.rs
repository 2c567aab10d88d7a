//! Whatever ends upstream connections: afterwards gauge, budget and the server itself agree on how many there are.

use std::time::Duration;

use super::{Configured, lines, reload, two_servers};
use kit::{Flavour, ReadEnd, RealRedis, TestClient, eventually, pause};

/// Hung lanes are given up soon, connects follow one another closely.
const HASTY: &str = "upstream.progress_timeout = '600ms'\nupstream.suspect_after = '300ms'\nupstream.handshake_timeout = '500ms'\n\
     upstream.connect_wait = '1s'\nupstream.backoff_max = '100ms'\nupstream.connects_per_second = 1000\n";

const KINDS: [&str; 5] = ["lane", "pool", "login", "control", "hub"];

/// Not by TCP, so that all TCP connections are respmux'.
fn direct(redis: &RealRedis) -> TestClient {
    TestClient::connect(&redis.unix_address())
}

/// A client that asks and may get no answer: who is away answers nothing.
fn tries(client: &mut TestClient, line: &str) {
    client.send_command(&line.split(' ').collect::<Vec<_>>());
    if let Err(end) = client.try_read_frame(Duration::from_millis(200)) {
        assert!(matches!(end, ReadEnd::Eof | ReadEnd::TimedOut));
    }
}

/// Every use of an upstream connection, begun and left in the middle.
fn stir(it: &Configured) {
    let mut clients: Vec<_> = (0..8).map(|_| it.proxy.connect()).collect();
    for (client, line) in clients.iter_mut().zip([
        "SET a 1",
        "HELLO 3",
        "WATCH a",
        "BLPOP q 0",
        "SUBSCRIBE c",
        "AUTH nobody wrong",
        "MONITOR",
        "SELECT 1",
    ]) {
        tries(client, line);
    }
    tries(&mut clients[2], "MULTI");
    tries(&mut clients[7], "GET a");
}

/// The numbers of one kind: what the gauge says, and what the budget has given out.
fn counted(it: &Configured, kind: &str, pools: &[String]) -> (f64, f64) {
    let gauge = it.proxy.metric("respmux_upstream_connections", &[("kind", kind)]).expect("the gauge has it");
    let of_kind = |line: &&String| line.contains(&format!(" kind={kind} "));
    let open = pools.iter().filter(of_kind).map(|line| {
        let number = line.split(' ').find_map(|part| part.strip_prefix("open=")).expect("open=");
        number.parse::<f64>().expect("a number")
    });
    (gauge, open.sum())
}

/// Gauge = budget = what the server lists, kind by kind, and as many were opened as have ended or are there.
#[track_caller]
fn agree(it: &Configured, servers: &[&RealRedis], after: &str) {
    eventually(Duration::from_secs(20), || {
        let asked = it.proxy.connect().ask("PROXY POOLS");
        if asked.is_error() {
            return Err(format!("after {after}: {asked:?}"));
        }
        let pools = lines(&asked);
        let listed: usize = servers
            .iter()
            .map(|redis| direct(redis).ask("CLIENT LIST").as_str())
            .map(|list| list.lines().filter(|line| line.contains(" addr=127.0.0.1:")).count())
            .sum();
        let kinds: Vec<_> = KINDS.iter().map(|kind| counted(it, kind, &pools)).collect();
        let gauge: f64 = kinds.iter().map(|(gauge, _)| gauge).sum();
        let metric = |name: &str, labels: &[(&str, &str)]| it.proxy.metric(name, labels).unwrap_or_default();
        let there = metric("respmux_upstream_connections_opened_total", &[])
            - metric("respmux_upstream_connections_closed_total", &[]);
        let unsettled = ["connecting", "closing"]
            .map(|state| metric("respmux_upstream_connections", &[("state", state)]))
            .iter()
            .sum::<f64>();
        let settled = kinds.iter().all(|(gauge, open)| (gauge - open).abs() < 0.5);
        #[allow(clippy::cast_precision_loss)] // dozens
        let same = |figure: f64| (figure - listed as f64).abs() < 0.5;
        if settled && same(gauge) && same(there) && unsettled < 0.5 {
            return Ok(());
        }
        Err(format!(
            "after {after}: gauge and budget of {KINDS:?} {kinds:?}, the server lists {listed}, opened less closed \
             {there}, unsettled {unsettled}"
        ))
    });
}

#[test]
fn the_gauge_follows_restarts_kills_and_hangs() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let it = Configured::start(&redis, HASTY);
    stir(&it);
    agree(&it, &[&redis], "the start");
    for _ in 0..4 {
        redis.kill();
        stir(&it); // nobody is there
        redis.start_again();
        stir(&it);
    }
    agree(&it, &[&redis], "four restarts");
    for _ in 0..4 {
        stir(&it);
        // Those that are in use and those that nobody holds.
        direct(&redis).ask("CLIENT KILL TYPE normal SKIPME yes");
        direct(&redis).ask("CLIENT KILL TYPE pubsub");
    }
    agree(&it, &[&redis], "kills");
    for _ in 0..2 {
        stir(&it);
        redis.signal("STOP");
        stir(&it);
        stir(&it); // connects and logins that are not answered, left by their clients
        pause(Duration::from_millis(900)); // longer than lanes may be silent
        stir(&it);
        redis.signal("CONT");
        stir(&it);
    }
    agree(&it, &[&redis], "a server that hung");
}

#[test]
fn the_gauge_follows_reconnects_and_reloads() {
    let (one, two) = two_servers();
    let it = Configured::start(&one, HASTY);
    let mut admin = it.proxy.connect();
    for _ in 0..3 {
        stir(&it);
        assert!(!admin.ask("PROXY RECONNECT").is_error());
        stir(&it);
    }
    agree(&it, &[&one, &two], "three PROXY RECONNECT");
    for (server, _) in [(&two, 0), (&one, 1), (&two, 2)] {
        stir(&it);
        it.write(&server.url(), HASTY);
        reload(&mut admin, "upstream.url");
        stir(&it);
    }
    agree(&it, &[&one, &two], "other upstreams");
    // Lanes alone are made anew.
    it.write(&two.url(), &format!("{HASTY}lane.canary_commands = 77\n"));
    reload(&mut admin, "lane.canary_commands");
    stir(&it);
    agree(&it, &[&one, &two], "other lanes");
    // Another user, then one that the server does not know, then the right one again.
    direct(&two).ask("ACL SETUSER app on >secret ~* &* +@all");
    for (user, password) in [("app", "secret"), ("app", "wrong"), ("app", "secret")] {
        let login = format!("upstream.username = '{user}'\nupstream.password = '{password}'\n");
        it.write(&two.url(), &format!("{HASTY}lane.canary_commands = 77\n{login}"));
        admin.send_command(&["PROXY", "RELOAD"]);
        let answer = admin.read_frame();
        assert!(!answer.is_error(), "{answer:?}");
        stir(&it);
    }
    agree(&it, &[&one, &two], "other credentials");
}

/// Connections of users that are gone, made over for others and refused.
#[test]
fn the_gauge_follows_users_that_go() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, HASTY);
    let mut direct = direct(&redis);
    for round in 0..3 {
        direct.ask("ACL SETUSER app on >secret ~* &* +@all");
        let mut clients: Vec<_> = (0..6).map(|_| it.proxy.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.ask("AUTH app secret").as_str(), "OK");
        }
        clients[0].ask("WATCH a"); // leaves a connection of app's in the pool
        clients[0].ask("UNWATCH");
        clients[1].ask("SUBSCRIBE c");
        direct.ask(if round == 1 { "ACL SETUSER app off" } else { "ACL DELUSER app" });
        for client in &mut clients[2..] {
            tries(client, "WATCH a");
        }
        stir(&it);
    }
    agree(&it, &[&redis], "users that were deleted");
    let moved = it.proxy.metric("respmux_pool_switches_total", &[]);
    assert!(moved.is_some_and(|switches| switches > 0.0), "no connection was made over: {moved:?}");
}

/// A connection of the pool is idle while nobody holds it, and only then.
#[test]
fn what_nobody_holds_is_idle() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let it = Configured::start(&redis, "");
    let pool = |state: &str, wanted: f64| {
        it.proxy.becomes("respmux_upstream_connections", &[("kind", "pool"), ("state", state)], |value| {
            (value - wanted).abs() < 0.5
        });
    };
    let mut clients: Vec<_> = (0..4).map(|_| it.proxy.connect()).collect();
    for client in &mut clients {
        client.ask("WATCH a");
    }
    pool("active", 4.0);
    pool("idle", 0.0);
    for client in &mut clients {
        client.ask("UNWATCH");
    }
    pool("active", 0.0);
    pool("idle", 4.0);
    clients[0].ask("WATCH a");
    pool("active", 1.0);
    pool("idle", 3.0);
}
