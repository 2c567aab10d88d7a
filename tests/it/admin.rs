//! The admin port of a running proxy: what it says is what is, and what is asked for happens.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, eventually};

/// Status and body of a request that was sent as `head` and the usual rest.
fn request(proxy: &Proxy, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&proxy.admin(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub(crate) fn json(proxy: &Proxy, path: &str) -> Value {
    let (status, body) = request(proxy, &format!("GET {path}"));
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Waits until the status has `wanted` at each place.
fn status_becomes(proxy: &Proxy, wanted: &[(&str, Value)]) -> Value {
    eventually(PATIENCE, || {
        let status = json(proxy, "/status.json");
        let wrong: Vec<_> = wanted
            .iter()
            .filter(|(path, value)| status.pointer(path) != Some(value))
            .map(|(path, value)| format!("{path} is {:?}, not {value}", status.pointer(path)))
            .collect();
        if wrong.is_empty() { Ok(status) } else { Err(wrong.join("\n")) }
    })
}

fn events(status: &Value) -> Vec<String> {
    status["events"].as_array().unwrap().iter().map(|event| event["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_status_is_what_is() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 16).set("client.max_connections=6"));
    // The one that found out whether the proxy is up may still be counted.
    let admitted = || {
        eventually(PATIENCE, || {
            let mut client = proxy.connect();
            client.send_command(&["SET", "k", "v"]);
            match client.try_read_frame(PATIENCE) {
                Ok(reply) if reply.as_str() == "OK" => Ok(client),
                other => Err(format!("{other:?}")),
            }
        })
    };
    let mut clients: Vec<_> = (0..6).map(|_| admitted()).collect();
    clients[0].ask("WATCH k");
    let mut refused = proxy.connect();
    assert!(refused.read_frame().is_error());
    let status = status_becomes(
        &proxy,
        &[
            ("/state", "serving".into()),
            ("/clients/now", 6.into()),
            ("/clients/max", 6.into()),
            ("/clients/pinned/watch", 1.into()),
            ("/upstream/up", true.into()),
            ("/upstream/max", 16.into()),
            ("/trouble/0/text", "clients refused: client.max_connections".into()),
        ],
    );
    assert_eq!(status["upstream"]["connections"].as_i64().unwrap(), redis.info("connected_clients") - 1);
    assert_eq!(status["workers"].as_array().unwrap().len(), 2);
    let lent = status["pools"].as_array().unwrap().iter().map(|pool| pool["open"].as_i64().unwrap()).sum::<i64>();
    assert!(lent >= 1, "{status:#}");
    assert!(!status["lanes"].as_array().unwrap().is_empty(), "{status:#}");
    // All that was answered over shared connections was also timed at the upstream.
    let timed = |name: &str| proxy.metric(&format!("{name}_count"), &[("class", "write")]).unwrap();
    assert!(timed("respmux_upstream_duration_seconds") >= 6.0);
    assert!((timed("respmux_upstream_duration_seconds") - timed("respmux_command_duration_seconds")).abs() < 0.5);
    let took = |name: &str| proxy.metric(&format!("{name}_sum"), &[("class", "write")]).unwrap();
    assert!(took("respmux_upstream_duration_seconds") <= took("respmux_command_duration_seconds"));

    // Events come from samples: what was never seen up cannot be seen to go.
    eventually(PATIENCE, || match events(&json(&proxy, "/status.json")) {
        seen if seen.iter().any(|text| text == "the upstream answers") => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
    redis.kill();
    let away = status_becomes(&proxy, &[("/upstream/up", false.into()), ("/state", "serving".into())]);
    assert_eq!(away["upstream"]["endpoint"], status["upstream"]["endpoint"]);
    eventually(PATIENCE, || {
        let seen = events(&json(&proxy, "/status.json"));
        let told = seen.iter().any(|text| text == "the upstream does not answer")
            && seen.iter().any(|text| text == "a shared connection was lost")
            && seen.iter().any(|text| text.ends_with(" started"));
        if told { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let logged = |level| proxy.metric("respmux_log_messages_total", &[("level", level)]).unwrap();
    assert!(logged("info") >= 1.0 && logged("warn") >= 1.0, "lines of the log are counted");
    assert!(logged("debug").abs() < 0.5, "what is not logged is not counted");
}

#[test]
fn the_settings_and_the_clients_are_shown_to_who_may_know() {
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", "s3cret"]);
    let upstream = format!("redis://:s3cret@127.0.0.1:{}", redis.port());
    let options = ProxyOptions { upstream: Some(upstream), ..ProxyOptions::tight() };
    let proxy = Proxy::start(&redis, &options.set("pool.wait_timeout=7s").set("admin_token=t0ken"));
    let mut client = proxy.connect();
    client.ask("AUTH s3cret");
    client.ask("CLIENT SETNAME worker-7");
    let settings = json(&proxy, "/config");
    assert_eq!(settings["settings"]["pool.wait_timeout"]["value"], "7s");
    assert!(settings["settings"]["pool.wait_timeout"]["origin"].as_str().unwrap().contains("--set"), "{settings}");
    let clients = json(&proxy, "/clients.json");
    let named: Vec<_> = clients.as_array().unwrap().iter().filter(|client| client["name"] == "worker-7").collect();
    assert_eq!((named.len(), &named[0]["addr"]), (1, &Value::from(client.local_address())));
    // Under another name the port says nothing of either.
    assert_eq!(proxy.http("/clients.json").unwrap().0, 403);
    assert_eq!(proxy.http("/config").unwrap().0, 403);
    for page in ["/", "/status.json", "/config", "/clients.json", "/metrics", "/certs"] {
        let (_, body) = request(&proxy, &format!("GET {page}"));
        assert!(!body.contains("s3cret") && !body.contains("t0ken"), "{page}: {body}");
        assert_eq!(body.contains("worker-7"), page == "/clients.json", "{page}");
    }
}

#[test]
fn a_drain_over_http_is_a_drain() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut client = proxy.connect();
    client.ask("PING");
    assert_eq!(request(&proxy, "GET /drain").0, 405);
    assert!(proxy.runs());
    let (status, body) = request(&proxy, "POST /drain");
    assert_eq!((status, body.as_str()), (200, "draining\n"));
    client.expect_eof();
    assert!(proxy.wait_exit(PATIENCE).success());
}
