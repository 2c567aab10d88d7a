//! What the metrics say is what is.

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, SetOnDrop, eventually};

#[test]
fn connections_are_counted_as_they_are() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12));
    for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
        assert_eq!(proxy.http(path).unwrap().0, 200, "{path}");
    }
    assert_eq!(proxy.http("/nothing").unwrap().0, 404);
    proxy.becomes("respmux_client_connections", &[], |value| value == 0.0);
    let mut clients: Vec<_> = (0..7).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.ask("PING");
    }
    clients[0].ask("WATCH k");
    proxy.becomes("respmux_client_connections", &[], |value| value == 7.0);
    // The gauge of the cap is the server's own count, without ours.
    eventually(PATIENCE, || {
        let counted = proxy.metric("respmux_upstream_connections", &[]).unwrap_or(-1.0);
        let connected = (redis.info("connected_clients") - 1) as f64;
        if (counted - connected).abs() < 0.5 {
            Ok(())
        } else {
            Err(format!("counted {counted}, connected {connected}"))
        }
    });
    drop(clients);
    proxy.becomes("respmux_client_connections", &[], |value| value == 0.0);
}

/// Every line is one that Prometheus can read, and every family says what it is.
#[test]
fn the_metrics_are_well_formed() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut client = proxy.connect();
    for line in ["PING", "GET a", "MULTI", "EXEC", "NOSUCH", "BLPOP q 0.01"] {
        client.ask(line);
    }
    let text = proxy.metrics();
    let mut typed = std::collections::HashSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("name and kind");
            assert!(["counter", "gauge", "histogram", "summary"].contains(&kind), "{line}");
            assert!(typed.insert(name.to_owned()), "{name} is typed twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("series and value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(typed.contains(family) || typed.contains(name), "{line} has no TYPE before it");
        }
    }
    assert!(typed.iter().filter(|name| name.starts_with("respmux_")).count() >= 10, "{typed:?}");
    for secret in ["password", "requirepass"] {
        assert!(!text.contains(secret));
    }
}

/// Looking is not traffic: what PROXY asks the server is no client's command. And who may not is told what to do.
#[test]
fn watching_is_not_counted_as_traffic() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut client = proxy.connect();
    for hello in ["HELLO 2", "HELLO 3"] {
        client.ask(hello);
        for line in ["PROXY INFO", "PROXY POOLS", "PROXY CLIENTS", "PROXY SLOWLOG LEN"] {
            let answer = client.ask(line);
            assert!(!answer.is_error(), "{line}: {answer:?}");
        }
    }
    let refused = client.ask("PROXY PAUSE").as_str();
    assert!(
        refused.ends_with("(respmux: set auth.proxy_write = [\"default\"], or POST /pause on the admin port)"),
        "{refused}"
    );
    let rejected = |reason| proxy.metric("respmux_commands_rejected_total", &[("reason", reason)]);
    assert_eq!((rejected("proxy_right"), rejected("denied")), (Some(1.0), Some(0.0)));
    let other = proxy.metric("respmux_commands_total", &[("cmd", "other")]).unwrap_or_default();
    assert!(other < 0.5, "{other} questions are counted as commands");
    let killed = proxy.metric("respmux_integrity_violations_total", &[]);
    assert_eq!(killed, Some(0.0), "an answer to respmux' own question was not one it can have");
}

/// Two numbers of one document are of one moment.
#[test]
fn what_is_in_flight_is_what_the_lanes_show() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = proxy.connect();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.send(&b"PING\r\n".repeat(300));
                    for _ in 0..300 {
                        client.read_frame();
                    }
                }
            });
        }
        let mut seen = 0;
        for _ in 0..40 {
            let (_, text) = proxy.http("/status.json").unwrap();
            let status: serde_json::Value = serde_json::from_str(&text).unwrap();
            let lanes = status["lanes"].as_array().unwrap().iter();
            let owed: u64 = lanes.map(|lane| lane["in_flight"].as_u64().unwrap()).sum();
            let upstream = &status["upstream"];
            if status["pools"].as_array().unwrap().len() == 2 {
                assert_eq!(upstream["in_flight"].as_u64(), Some(owed));
                assert_eq!(upstream["oldest_in_flight"].is_null(), owed == 0);
                seen += u64::from(owed > 0);
            }
        }
        assert!(seen > 0, "nothing was ever under way");
    });
}
