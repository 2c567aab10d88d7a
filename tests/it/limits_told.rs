//! Whoever is throttled, refused or closed by a limit finds out which one it was: a metric counts, the status page has an
//! event that names the setting, and so has the log. Each limit is reached here, by a client, one proxy for each.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use kit::{Flavour, PATIENCE, Pki, Proxy, ProxyOptions, RealRedis, TestClient, encode, eventually};

const MIB: usize = 1 << 20;

/// What keeps the limit reached while it is looked for.
#[derive(Default)]
#[expect(dead_code, reason = "kept, not used")]
struct Kept(Vec<TestClient>, Vec<TcpStream>);

impl From<Vec<TestClient>> for Kept {
    fn from(clients: Vec<TestClient>) -> Self {
        Self(clients, Vec::new())
    }
}

struct Limit {
    key: &'static str,
    settings: &'static [&'static str],
    metric: (&'static str, &'static [(&'static str, &'static str)]),
    reach: fn(&Proxy, &RealRedis) -> Kept,
}

const REJECTED: &str = "respmux_client_connections_rejected_total";
const CLOSED: &str = "respmux_client_connections_closed_total";
const STALLS: &str = "respmux_client_stalls_total";
const OUTPUT: &[(&str, &str)] = &[("reason", "output_limit")];

/// So many clients that have been served, or refused.
fn clients(proxy: &Proxy, count: usize, line: &str) -> Vec<TestClient> {
    (0..count)
        .map(|_| {
            let mut client = proxy.connect();
            client.send(format!("{line}\r\n").as_bytes());
            let _ = client.try_read_frame(PATIENCE);
            client
        })
        .collect()
}

/// One client that has sent this, and reads nothing.
fn sends(proxy: &Proxy, bytes: &[u8]) -> Kept {
    let mut client = proxy.connect();
    client.send(bytes);
    vec![client].into()
}

fn big(redis: &RealRedis) {
    redis.connect().call(&[b"SET".as_slice(), b"big", &vec![b'x'; 16 * MIB]]);
}

/// A subscriber that does not read what is published.
fn deaf_subscriber(proxy: &Proxy, _: &RealRedis) -> Kept {
    let subscriber = clients(proxy, 1, "SUBSCRIBE news");
    let (mut publisher, message) = (proxy.connect(), vec![b'm'; MIB]);
    for _ in 0..16 {
        publisher.call(&[b"PUBLISH".as_slice(), b"news", &message]);
    }
    subscriber.into()
}

const OPEN: &[Limit] = &[
    Limit {
        key: "client.accept_rate",
        settings: &["client.accept_rate=20", "client.accept_burst=1"],
        metric: ("respmux_client_accept_stalls_total", &[]),
        reach: |proxy, _| clients(proxy, 5, "PING").into(),
    },
    Limit {
        key: "client.max_connections",
        settings: &["client.max_connections=1"],
        metric: (REJECTED, &[("reason", "limit")]),
        reach: |proxy, _| clients(proxy, 3, "PING").into(),
    },
    Limit {
        key: "client.max_per_source",
        settings: &["client.max_per_source=1"],
        metric: (REJECTED, &[("reason", "source")]),
        reach: |proxy, _| clients(proxy, 3, "PING").into(),
    },
    Limit {
        key: "client.inflight_commands",
        settings: &["client.inflight_commands=2"],
        metric: (STALLS, &[("reason", "inflight")]),
        reach: |proxy, _| sends(proxy, &encode(&["GET", "k"]).repeat(50)),
    },
    Limit {
        key: "client.inflight_bytes",
        settings: &["client.inflight_bytes=1KiB"],
        metric: (STALLS, &[("reason", "inflight")]),
        reach: |proxy, _| sends(proxy, &encode(&["ECHO", &"x".repeat(900)]).repeat(5)),
    },
    Limit {
        key: "lane.max_inflight_commands",
        settings: &["lane.max_inflight_commands=1"],
        metric: (STALLS, &[("reason", "lane_full")]),
        reach: |proxy, _| sends(proxy, &encode(&["GET", "k"]).repeat(50)),
    },
    Limit {
        key: "lane.max_inflight_bytes",
        settings: &["lane.max_inflight_bytes=1KiB", "lane.max_command_bytes=1KiB"],
        metric: (STALLS, &[("reason", "lane_full")]),
        reach: |proxy, _| sends(proxy, &encode(&["ECHO", &"x".repeat(900)]).repeat(5)),
    },
    Limit {
        key: "client.request_timeout",
        settings: &["client.request_timeout=200ms"],
        metric: ("respmux_request_timeouts_total", &[]),
        reach: |proxy, redis| {
            let mut client = proxy.connect();
            client.ask("GET k");
            redis.signal("STOP");
            client.ask("GET k");
            redis.signal("CONT");
            vec![client].into()
        },
    },
    Limit {
        key: "client.output_soft",
        settings: &["client.output_soft=1KiB"],
        metric: (STALLS, &[("reason", "output")]),
        reach: |proxy, redis| {
            big(redis);
            sends(proxy, &encode(&["GET", "big"]).repeat(2))
        },
    },
    Limit {
        key: "client.output_limit",
        settings: &["client.output_limit=64KiB", "client.output_soft=64KiB"],
        metric: (CLOSED, OUTPUT),
        reach: |proxy, redis| {
            big(redis);
            sends(proxy, &encode(&["GET", "big"]))
        },
    },
    Limit {
        key: "client.output_stall_time",
        settings: &["client.output_stall_time=1s"],
        metric: (CLOSED, OUTPUT),
        reach: |proxy, redis| {
            big(redis);
            sends(proxy, &encode(&["GET", "big"]))
        },
    },
    Limit {
        key: "client.pubsub_output_limit",
        settings: &["client.pubsub_output_limit=64KiB"],
        metric: (CLOSED, OUTPUT),
        reach: deaf_subscriber,
    },
    Limit {
        key: "pubsub.output_soft",
        settings: &["pubsub.output_soft=64KiB", "pubsub.output_soft_time=500ms"],
        metric: (CLOSED, OUTPUT),
        reach: deaf_subscriber,
    },
    Limit {
        key: "client.query_buffer_limit",
        settings: &["client.query_buffer_limit=1MiB"],
        metric: (CLOSED, &[("reason", "query_buffer")]),
        reach: |proxy, _| sends(proxy, &encode(&["ECHO", &"x".repeat(2 * MIB)])[..MIB + MIB / 2]),
    },
    Limit {
        key: "client.partial_timeout",
        settings: &["client.partial_timeout=1s"],
        metric: (CLOSED, &[("reason", "partial_request")]),
        reach: |proxy, _| sends(proxy, b"*2\r\n$4\r\nECHO"),
    },
    Limit {
        key: "pool.wait_timeout",
        settings: &["pool.wait_timeout=100ms"],
        metric: ("respmux_pool_timeouts_total", &[]),
        reach: |proxy, _| clients(proxy, 3, "WATCH k").into(),
    },
    Limit {
        key: "pool.max_waiters",
        settings: &["pool.max_waiters=0"],
        metric: ("respmux_pool_queue_full_total", &[]),
        reach: |proxy, _| clients(proxy, 3, "WATCH k").into(),
    },
    Limit {
        key: "pool.idle_transaction_timeout",
        settings: &["pool.idle_transaction_timeout=200ms"],
        metric: ("respmux_pool_idle_transactions_total", &[]),
        reach: |proxy, _| clients(proxy, 1, "MULTI").into(),
    },
    Limit {
        key: "memory.limit",
        settings: &["memory.limit=4MiB", "client.partial_timeout=0s"],
        metric: (REJECTED, &[("reason", "memory")]),
        reach: |proxy, _| {
            let request = encode(&["SET", "k", &"v".repeat(2_900_000)]);
            let mut held: Vec<_> = (0..2).map(|_| proxy.connect()).collect();
            held[0].send(&request[..2_800_000]);
            proxy.becomes("respmux_buffered_bytes", &[("kind", "input")], |bytes| bytes >= 2_800_000.0);
            held[1].send(&request[..1_100_000]);
            proxy.becomes("respmux_shed_state", &[], |state| state == 2.0);
            held.extend(clients(proxy, 1, "PING"));
            held.into()
        },
    },
];

const LOCKED: &[Limit] = &[
    Limit {
        key: "auth.timeout",
        settings: &["auth.timeout=300ms"],
        metric: (CLOSED, &[("reason", "auth_timeout")]),
        reach: |proxy, _| clients(proxy, 1, "PING").into(),
    },
    Limit {
        key: "auth.max_commands",
        settings: &["auth.max_commands=2"],
        metric: (CLOSED, &[("reason", "auth_commands")]),
        reach: |proxy, _| sends(proxy, &b"PING\r\n".repeat(3)),
    },
    Limit {
        key: "auth.max_input",
        settings: &["auth.max_input=64KiB"],
        metric: (CLOSED, &[("reason", "auth_input")]),
        reach: |proxy, _| {
            let mut client = clients(proxy, 1, "PING");
            let argument = format!("$16384\r\n{}\r\n", "x".repeat(16_384));
            client[0].send(format!("*10\r\n$4\r\nMGET\r\n{}", argument.repeat(8)).as_bytes());
            client.into()
        },
    },
    Limit {
        key: "auth.max_output",
        settings: &["auth.max_output=1KiB", "auth.max_commands=100000000"],
        metric: (CLOSED, OUTPUT),
        reach: |proxy, _| {
            let mut client = proxy.connect();
            eventually(Duration::from_secs(60), || {
                client.send(&b"PING\r\n".repeat(10_000));
                match proxy.metric(CLOSED, OUTPUT) {
                    Some(count) if count > 0.0 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
            vec![client].into()
        },
    },
    Limit {
        key: "auth.failure_delay",
        settings: &["auth.failure_delay=50ms"],
        metric: ("respmux_client_logins_delayed_total", &[]),
        reach: |proxy, _| clients(proxy, 2, "AUTH wrong").into(),
    },
    Limit {
        key: "auth.max_failures",
        settings: &["auth.max_failures=1"],
        metric: ("respmux_client_logins_total", &[("result", "throttled")]),
        reach: |proxy, _| clients(proxy, 2, "AUTH wrong").into(),
    },
];

const TLS: &[Limit] = &[
    Limit {
        key: "tls.max_handshakes",
        settings: &["tls.max_handshakes=1"],
        metric: (REJECTED, &[("reason", "handshakes")]),
        reach: |proxy, _| Kept(Vec::new(), hellos(proxy, 3)),
    },
    Limit {
        key: "tls.handshake_timeout",
        settings: &["tls.handshake_timeout=300ms"],
        metric: ("respmux_tls_handshakes_total", &[("result", "timeout")]),
        reach: |proxy, _| Kept(Vec::new(), hellos(proxy, 1)),
    },
];

/// Handshakes that begin and do not go on.
fn hellos(proxy: &Proxy, count: usize) -> Vec<TcpStream> {
    let begin = |_| {
        let mut stream = TcpStream::connect(proxy.tcp_address()).unwrap();
        let _ = stream.write_all(&[22, 3, 1, 1, 0, 1]);
        stream
    };
    (0..count).map(begin).collect()
}

/// Reaches the limit, and finds it named in all three places.
fn is_told(limit: &Limit, redis: &RealRedis, options: ProxyOptions) {
    let options = limit.settings.iter().fold(options, |options, setting| options.set(setting));
    let proxy = Proxy::start(redis, &options);
    let kept = (limit.reach)(&proxy, redis);
    let (metric, labels) = limit.metric;
    proxy.becomes(metric, labels, |count| count > 0.0);
    eventually(PATIENCE, || {
        let (_, status) = proxy.http("/status.json").unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let events = status["events"].as_array().unwrap().iter().filter_map(|event| event["text"].as_str());
        if events.clone().any(|text| text.contains(limit.key)) {
            return Ok(());
        }
        Err(format!("{}: no event but {:?}", limit.key, events.collect::<Vec<_>>()))
    });
    eventually(PATIENCE, || {
        let log = proxy.log();
        let said = log.lines().any(|line| line.contains("limit reached") && line.contains(limit.key));
        if said { Ok(()) } else { Err(format!("{}: no line of log", limit.key)) }
    });
    drop(kept);
}

/// Several at once: most of it is waiting.
fn all_are_told(limits: &[Limit], arguments: &[&str], options: impl Fn() -> ProxyOptions + Sync) {
    for some in limits.chunks(4) {
        std::thread::scope(|scope| {
            for limit in some {
                scope.spawn(|| is_told(limit, &RealRedis::start(Flavour::Redis70, arguments), options()));
            }
        });
    }
}

#[test]
fn every_limit_on_clients_is_told() {
    all_are_told(OPEN, &[], || ProxyOptions::sized(1, 7));
}

#[test]
fn every_limit_before_a_login_is_told() {
    all_are_told(LOCKED, &["--requirepass", "right"], ProxyOptions::tight);
}

#[test]
fn every_limit_on_handshakes_is_told() {
    let pki = std::sync::Arc::new(Pki::new());
    all_are_told(TLS, &[], || ProxyOptions { tls: Some(std::sync::Arc::clone(&pki)), ..ProxyOptions::tight() });
}

/// A client that connects for every request is not slowed down unless somebody wants it so.
#[test]
fn plain_connections_have_no_rate_by_default() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    // More than any burst that there ever was by default.
    for _ in 0..2500 {
        assert_eq!(proxy.connect().ask("PING").as_str(), "PONG");
    }
    assert_eq!(proxy.metric("respmux_client_accept_stalls_total", &[]), Some(0.0));
}
