//! Limits that the server sets on connections, on three servers: what the client that reaches one sees, through respmux
//! as directly, and that nobody else pays. One connection of the server is many clients here.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, SetOnDrop, TestClient, encode, eventually, pause};

const SERVERS: [Flavour; 3] = [Flavour::Redis70, Flavour::Redis82, Flavour::Valkey9];
const MIB: usize = 1 << 20;

/// A proxy that has heard that the server limits the output of normal clients.
fn limited(redis: &RealRedis, options: &ProxyOptions) -> Proxy {
    let proxy = Proxy::start(redis, options);
    proxy.connect().ask("PING");
    hears_of_output_limit(&proxy, 1);
    proxy
}

/// Waits until a proxy with one worker has heard of such a limit so many times.
fn hears_of_output_limit(proxy: &Proxy, times: usize) {
    eventually(PATIENCE, || {
        let heard = proxy.log().matches("the upstream limits the output of normal clients").count();
        if heard >= times { Ok(()) } else { Err(format!("heard of {heard} times")) }
    });
}

/// One bystander: reads and writes of its own, each answer checked, until told to stop. How many rounds it had.
fn bystand(mut client: TestClient, number: usize, begun: &AtomicUsize, stop: &AtomicBool) -> i64 {
    let (counter, own) = (format!("counter:{number}"), format!("own:{number}"));
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        rounds += 1;
        assert_eq!(client.call(&["INCR", &counter]).as_int(), rounds);
        assert_eq!(client.call(&["GET", &counter]).as_str(), rounds.to_string());
        // In one packet: reads and writes of one client keep their order, whatever way each takes.
        client.send(
            &[
                encode(&["SET", &own, &rounds.to_string()]),
                encode(&["GET", &own]),
                encode(&["APPEND", &own, "x"]),
                encode(&["GET", &own]),
            ]
            .concat(),
        );
        assert_eq!(client.read_frame().as_str(), "OK");
        assert_eq!(client.read_frame().as_str(), rounds.to_string());
        assert_eq!(client.read_frame().as_int(), rounds.to_string().len() as i64 + 1);
        assert_eq!(client.read_frame().as_str(), format!("{rounds}x"));
        if rounds == 1 {
            begun.fetch_add(1, Ordering::Relaxed);
        }
    }
    rounds
}

/// Runs `cause` beside twelve bystanders, and checks that these lost nothing.
fn beside_bystanders(proxy: &Proxy, redis: &RealRedis, cause: impl FnOnce()) {
    let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rounds: Vec<i64> = std::thread::scope(|scope| {
        let end = SetOnDrop(&stop);
        let (stop, begun) = (&stop, &begun);
        let bystanders: Vec<_> = (0..12)
            .map(|number| {
                let client = proxy.connect();
                scope.spawn(move || bystand(client, number, begun, stop))
            })
            .collect();
        eventually(PATIENCE, || match begun.load(Ordering::Relaxed) {
            12 => Ok(()),
            begun => Err(format!("{begun} bystanders were served")),
        });
        let caused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(cause));
        drop(end);
        let rounds = bystanders.into_iter().map(|bystander| bystander.join().expect("a bystander lost something"));
        let rounds = rounds.collect();
        if let Err(panic) = caused {
            std::panic::resume_unwind(panic);
        }
        rounds
    });
    let mut direct = redis.connect();
    for (number, rounds) in rounds.into_iter().enumerate() {
        assert!(rounds > 0, "bystander {number} was never served");
        assert_eq!(direct.call(&["GET", &format!("counter:{number}")]).as_str(), rounds.to_string());
    }
}

/// Report 51's kind: a reply above `client-output-buffer-limit normal` ends the connection that asked for it, and on a
/// lane that was everybody's.
#[test]
fn a_reply_above_the_output_limit_closes_its_client_and_nobody_else() {
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &["--client-output-buffer-limit", "normal 1mb 0 0"]);
        let mut direct = redis.connect();
        // Not one long value: Valkey does not count what it need not copy.
        let element = vec![b'x'; 60 << 10];
        for _ in 0..50 {
            direct.call(&[b"RPUSH".as_slice(), b"big", &element]);
        }
        direct.send_command(&["LRANGE", "big", "0", "-1"]);
        direct.expect_eof(); // the server's own way
        let proxy = limited(&redis, &ProxyOptions::sized(1, 12));
        beside_bystanders(&proxy, &redis, || {
            for _ in 0..5 {
                let mut causer = proxy.connect();
                assert_eq!(causer.ask("PING").as_str(), "PONG");
                causer.send_command(&["LRANGE", "big", "0", "-1"]);
                causer.expect_eof();
            }
        });
        proxy.becomes("respmux_client_connections_closed_total", &[("reason", "output_limit")], |n| n >= 1.0);
        assert_eq!(proxy.metric("respmux_integrity_violations_total", &[]), Some(0.0));
    }
}

/// A script is not run again to find out whose reply it was. The first time its connection is everybody's; from then on
/// it has one of its own.
#[test]
fn a_script_whose_reply_is_above_the_output_limit_harms_others_once_at_most() {
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &["--client-output-buffer-limit", "normal 1mb 0 0"]);
        let proxy = limited(&redis, &ProxyOptions::sized(1, 12));
        let run = |causer: &mut TestClient| {
            causer.send_command(&[
                "EVAL",
                "local t = {} for i = 1, 50 do t[i] = string.rep('x', 60000) end return t",
                "0",
            ]);
            causer.expect_eof();
        };
        // A lane that was made before the limit was heard of is replaced within a tick.
        eventually(PATIENCE, || {
            run(&mut proxy.connect());
            match proxy.metric("respmux_client_pins_total", &[("reason", "large")]) {
                Some(pins) if pins > 0.0 => Ok(()),
                other => Err(format!("{other:?} had a connection of its own")),
            }
        });
        beside_bystanders(&proxy, &redis, || (0..5).for_each(|_| run(&mut proxy.connect())));
        assert_eq!(proxy.metric("respmux_integrity_violations_total", &[]), Some(0.0));
    }
}

/// Each reply is well below the limit, and all together are far above it: none of these clients would be closed by the
/// server.
#[test]
fn replies_of_many_clients_are_not_counted_together() {
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &["--client-output-buffer-limit", "normal 1mb 512kb 1"]);
        redis.connect().call(&[b"SET".as_slice(), b"some", &vec![b'x'; 100 << 10]]);
        let proxy = limited(&redis, &ProxyOptions::sized(1, 12));
        let mut readers: Vec<_> = (0..60).map(|_| proxy.connect()).collect();
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            readers.iter_mut().for_each(|reader| reader.send_command(&["GET", "some"]));
            readers.iter_mut().for_each(|reader| assert_eq!(reader.read_frame().text.len(), 100 << 10));
        }
    }
}

/// What waits for a client that does not read counts as on the server: at once above the hard limit, after its seconds
/// above the soft one. Set while clients are connected, by one of them.
#[test]
fn unread_output_is_limited_as_by_the_server() {
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &[]);
        redis.connect().call(&[b"SET".as_slice(), b"part", &vec![b'x'; 200 << 10]]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 12).set("client.output_soft=64MiB"));
        let mut admin = proxy.connect();
        let ask = encode(&["GET", "part"]).repeat(200); // 40 MB, of which kernels hold some
        for (times, limit) in [(1, "normal 8mb 0 0"), (2, "normal 0 4mb 1")] {
            assert_eq!(admin.call(&["CONFIG", "SET", "client-output-buffer-limit", limit]).as_str(), "OK");
            hears_of_output_limit(&proxy, times);
            let (mut slow, mut quick) = (proxy.connect(), proxy.connect());
            slow.send(&ask);
            for _ in 0..100 {
                assert_eq!(quick.call(&["GET", "part"]).text.len(), 200 << 10, "{limit}");
            }
            let closed = "respmux_client_connections_closed_total";
            proxy.becomes(closed, &[("reason", "output_limit")], |n| n == times as f64);
            assert_eq!(admin.ask("PING").as_str(), "PONG");
        }
    }
}

/// `timeout`: idle clients are closed, those that wait are not, and respmux' own connections are there when they are
/// needed.
#[test]
fn idle_clients_are_closed_by_the_servers_timeout_and_own_connections_live_on() {
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &["--timeout", "2"]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 12));
        let mut idle = proxy.connect();
        assert_eq!(idle.ask("SET k v").as_str(), "OK");
        let [mut blocked, mut subscribed, mut monitor, mut busy] = std::array::from_fn(|_| proxy.connect());
        blocked.send_command(&["BLPOP", "queue", "0"]);
        subscribed.ask("SUBSCRIBE news");
        assert_eq!(monitor.ask("MONITOR").as_str(), "OK");
        let mut transaction = proxy.connect();
        assert_eq!(transaction.ask("MULTI").as_str(), "OK");
        let opened = redis.info("total_connections_received");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(6) {
            assert_eq!(busy.ask("PING").as_str(), "PONG");
            pause(Duration::from_millis(200));
        }
        idle.expect_eof();
        transaction.expect_eof();
        // Lanes were idle for longer, too: nobody notices.
        let mut new = proxy.connect();
        assert_eq!(new.ask("GET k").as_str(), "v");
        // Not more of it: a server whose cron runs in the turn in which it unblocks a client closes that as idle.
        assert!(blocked.is_open() && monitor.is_open());
        assert_eq!(new.ask("PUBLISH news m").as_int(), 1);
        assert_eq!(subscribed.read_frame().items[2].as_str(), "m");
        proxy.becomes("respmux_client_connections_closed_total", &[("reason", "idle")], |n| n >= 2.0);
        // Its own connections were not closed and opened again all the time.
        let again = redis.info("total_connections_received") - opened;
        assert!(again <= 6, "{again} connections were opened meanwhile");
        let log = proxy.log();
        assert!(!log.contains("shared connection lost"), "{log}");
    }
}

/// `maxmemory-clients`: who holds most goes, but not who said CLIENT NO-EVICT.
#[test]
fn clients_are_evicted_by_the_servers_limit_but_not_who_said_no_evict() {
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &[]);
        redis.connect().call(&[b"SET".as_slice(), b"big", &vec![b'x'; 12 * MIB]]);
        redis.connect().call(&["CONFIG", "SET", "maxmemory-clients", "4mb"]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 12));
        let mut good = proxy.connect();
        assert_eq!(good.ask("PING").as_str(), "PONG");
        let (mut kept, mut evicted) = (proxy.connect(), proxy.connect());
        assert_eq!(kept.ask("CLIENT NO-EVICT on").as_str(), "OK");
        kept.send_command(&["GET", "big"]);
        evicted.send_command(&["GET", "big"]);
        proxy.becomes("respmux_client_connections_closed_total", &[("reason", "evicted")], |n| n == 1.0);
        assert_eq!(kept.read_frame().text.len(), 12 * MIB);
        assert_eq!(good.ask("PING").as_str(), "PONG");
        // Ours are not evicted by the server.
        let list = redis.connect().ask("CLIENT LIST");
        let lanes = list.as_str().lines().filter(|line| line.contains("name=respmux:")).count();
        let kept = list.as_str().lines().filter(|l| l.contains("name=respmux:") && flags(l).contains('e')).count();
        assert!(kept > 0 && kept + 1 >= lanes, "{kept} of {lanes} are kept:\n{}", list.as_str());
    }
}

fn flags(line: &str) -> &str {
    line.split(' ').find_map(|field| field.strip_prefix("flags=")).unwrap_or_default()
}

/// `client-query-buffer-limit`: counts what is not understood yet, as the server does, and not the whole request.
#[test]
fn a_request_above_the_query_buffer_limit_closes_its_client() {
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &["--client-query-buffer-limit", "1mb"]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 12));
        eventually(PATIENCE, || {
            let mut client = proxy.connect();
            client.send(&encode(&[b"SET".as_slice(), b"k", &vec![b'v'; 2 * MIB]]));
            match client.try_read_frame(PATIENCE) {
                Err(_) => Ok(()),
                Ok(frame) => Err(format!("{frame:?}")), // the limit was not heard of yet
            }
        });
        let half = vec![b'v'; 600 << 10];
        let many: Vec<&[u8]> = std::iter::once(b"MSET".as_slice())
            .chain([b"a", b"b", b"c", b"d"].into_iter().flat_map(|key| [key.as_slice(), half.as_slice()]))
            .collect();
        for (way, mut client) in [("directly", redis.connect()), ("through respmux", proxy.connect())] {
            assert_eq!(client.call(&many).as_str(), "OK", "{way}, {}", flavour.name());
            client.send(&encode(&[b"SET".as_slice(), b"k", &vec![b'v'; 2 * MIB]]));
            client.expect_eof();
        }
        beside_bystanders(&proxy, &redis, || {
            for _ in 0..3 {
                let mut client = proxy.connect();
                client.send(&encode(&[b"SET".as_slice(), b"k", &vec![b'v'; 2 * MIB]]));
                client.expect_eof();
            }
        });
    }
}

/// Who may not ask leaves respmux without the limits; it says so once, and serves.
#[test]
fn a_user_who_may_not_ask_for_the_limits_is_told_of() {
    for flavour in SERVERS {
        let redis =
            RealRedis::start(flavour, &"--user default on nopass ~* &* +@all -config".split(' ').collect::<Vec<_>>());
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 12));
        let mut client = proxy.connect();
        assert_eq!(client.ask("PING").as_str(), "PONG");
        let words = "does not tell its limits";
        eventually(PATIENCE, || if proxy.log().contains(words) { Ok(()) } else { Err("nothing was said") });
        assert_eq!(proxy.log().matches(words).count(), 1);
    }
}

/// Fewer connections than the cap: said, with both numbers.
#[test]
fn a_maxclients_below_the_cap_is_told_of() {
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &["--maxclients", "10"]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 24));
        assert_eq!(proxy.connect().ask("PING").as_str(), "PONG");
        let words = "accepts fewer connections than upstream.max_connections";
        eventually(PATIENCE, || if proxy.log().contains(words) { Ok(()) } else { Err(proxy.log()) });
    }
}

/// deploy/server-parameters.md names every parameter of the three servers once, and none that no server has.
#[test]
fn every_parameter_of_the_servers_was_judged() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/server-parameters.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
    let (_, others) = text.split_once("## Not about connections").expect("the last part");
    let others = others.split(|byte: char| byte.is_whitespace() || byte == ',' || byte == '.');
    let mut judged: Vec<&str> = rows.filter(|name| *name != "parameter").chain(others).collect();
    judged.retain(|name| !name.is_empty());
    judged.sort_unstable();
    let twice: Vec<_> = judged.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert!(twice.is_empty(), "judged twice: {twice:?}");
    let mut there = std::collections::BTreeSet::new();
    for flavour in SERVERS {
        let redis = RealRedis::start(flavour, &[]);
        let settings = redis.connect().call(&["CONFIG", "GET", "*"]);
        let names: Vec<_> = settings.items.iter().step_by(2).map(|name| name.as_str()).collect();
        assert!(names.len() > 150, "{} names {} parameters", flavour.name(), names.len());
        let missing: Vec<_> = names.iter().filter(|name| judged.binary_search(&name.as_str()).is_err()).collect();
        assert!(missing.is_empty(), "{} has parameters that nobody has judged: {missing:?}", flavour.name());
        there.extend(names);
    }
    let gone: Vec<_> = judged.iter().filter(|name| !there.contains(**name)).collect();
    assert!(gone.is_empty(), "no server has these: {gone:?}");
}
