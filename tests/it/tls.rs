//! TLS on both sides.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kit::{
    Address, Flavour, PATIENCE, Pair, Pki, Proxy, ProxyOptions, RealRedis, SetOnDrop, TestClient, encode, eventually,
    free_port, path_of, pause,
};

fn tls_options(pki: &Arc<Pki>) -> ProxyOptions {
    ProxyOptions { tls: Some(Arc::clone(pki)), ..ProxyOptions::tight() }
}

/// A small proxy whose clients speak TLS.
fn secured(redis: &RealRedis, pki: &Arc<Pki>) -> Proxy {
    Proxy::start(redis, &tls_options(pki))
}

fn with(proxy: &Proxy, pki: &Pki, own: Option<&Pair>) -> TestClient {
    TestClient::connect(&Address::Tls(proxy.tcp_address(), pki.client(own)))
}

#[test]
fn a_client_with_tls_is_a_client() {
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let proxy = secured(&redis, &pki);
    let mut client = proxy.connect();
    assert_eq!(client.ask("SET a 1").as_str(), "OK");
    assert!(client.ask("PROXY CLIENTS").items[0].as_str().contains(" via=tls "));
    for line in ["MULTI", "INCR a", "EXEC", "SUBSCRIBE c"] {
        assert!(!client.ask(line).is_error(), "{line}");
    }
    let mut other = proxy.connect();
    assert_eq!(other.ask("PUBLISH c hello").as_int(), 1);
    assert_eq!(client.read_frame().items[2].as_str(), "hello");
    other.send_command(&["BLPOP", "q", "0"]);
    redis.connect().ask("RPUSH q x");
    assert_eq!(other.read_frame().items[1].as_str(), "x");
    // Thousands of requests in few records, and one request in many.
    other.send(&encode(&["ECHO", "e"]).repeat(5000));
    other.expect(&b"$1\r\ne\r\n".repeat(5000));
    let large = vec![b'v'; 3_000_000];
    assert_eq!(other.call(&[b"SET", &b"l"[..], &large]).as_str(), "OK");
    assert_eq!(other.ask("GET l").text, large);
    let ok = [("result", "ok")];
    proxy.becomes("respmux_tls_handshakes_total", &ok, |n| n == 2.0);
    assert!(proxy.metric("respmux_tls_certificate_expiry_timestamp_seconds", &[("side", "client")]) > Some(4e9));
}

/// The writing side is closed: what was asked is answered first (rule F7), with a goodbye or without.
#[test]
fn half_close_and_slow_readers() {
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let proxy = secured(&redis, &pki);
    redis.connect().call(&[b"SET", &b"l"[..], &vec![b'v'; 1_000_000]]);
    let mut client = proxy.connect();
    // More than all buffers on the way hold: the proxy must go on when the socket takes more.
    client.send(&encode(&["GET", "l"]).repeat(12));
    client.shut_write();
    pause(Duration::from_millis(300));
    for _ in 0..12 {
        assert_eq!(client.read_frame().text.len(), 1_000_000);
    }
    client.expect_eof();
    let mut cut = proxy.connect();
    cut.ask("PING");
    cut.reset();
    eventually(PATIENCE, || match proxy.metric("respmux_client_connections", &[]) {
        Some(0.0) => Ok(()),
        other => Err(format!("{other:?} clients")),
    });
}

#[test]
fn nothing_before_the_handshake_is_looked_at() {
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let proxy = Proxy::start(&redis, &tls_options(&pki).set("tls.handshake_timeout=300ms"));
    let mut plain = TcpStream::connect(proxy.tcp_address()).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(&encode(&["SET", "k", "v"])).unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"+OK"), "{said:?}");
    // An alert (record type 21) or nothing at all, if the kernel threw it away with our own bytes.
    assert!(said.is_empty() || said[0] == 21, "{said:?}");
    assert_eq!(redis.connect().ask("EXISTS k").as_int(), 0);
    // Somebody who says nothing.
    let began = Instant::now();
    let mut silent = TcpStream::connect(proxy.tcp_address()).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(silent.read(&mut [0; 8]).unwrap_or(0), 0);
    assert!(began.elapsed() >= Duration::from_millis(250), "closed after {:?}", began.elapsed());
    let ended = |result| proxy.metric("respmux_tls_handshakes_total", &[("result", result)]);
    // The look whether the proxy is there was one that failed.
    assert!(ended("failed") >= Some(1.0) && ended("timeout") == Some(1.0));
    assert_eq!(proxy.metric("respmux_tls_handshakes_in_progress", &[]), Some(0.0));
}

#[test]
fn clients_show_their_certificates() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let (pki, foreign) = (Pki::new(), Pki::new());
    let own = pki.issue("client", &["client"], 2099);
    let expired = pki.issue("expired", &["client"], 2021);
    let other = foreign.issue("client", &["client"], 2099);
    let ca = format!("tls.client_ca_file={}", pki.ca().display());
    for auth in ["required", "optional"] {
        let options = tls_options(&pki).set(&ca).set(&format!("tls.client_auth={auth}"));
        let proxy = Proxy::start(&redis, &ProxyOptions { start_unready: true, ..options });
        let answer = |own| {
            let mut client = with(&proxy, &pki, own);
            client.handshake().map_err(|e| e.to_string())?;
            // A server's refusal comes after the client's end of a handshake of TLS 1.3.
            client.send_command(&["PING"]);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.try_read_frame(PATIENCE).is_ok()))
                .map_err(|_| "refused".to_owned())
                .and_then(|answered| answered.then_some(()).ok_or_else(|| "closed".to_owned()))
        };
        assert_eq!(answer(Some(&own)), Ok(()), "{auth}");
        assert_eq!(answer(None).is_ok(), auth == "optional", "{auth}");
        assert!(answer(Some(&other)).is_err(), "{auth}, another authority");
        assert!(answer(Some(&expired)).is_err(), "{auth}, expired");
        // The server's certificate is checked by the client.
        assert!(with(&proxy, &foreign, None).handshake().is_err());
    }
}

/// A secret of Kubernetes: `tls.crt` is a link to `..data/tls.crt`, and `..data` a link that is swapped.
fn mount(directory: &Path, version: &str, pair: &Pair) {
    let folder = directory.join(version);
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&pair.cert, folder.join("tls.crt")).unwrap();
    std::fs::copy(&pair.key, folder.join("tls.key")).unwrap();
    let fresh = directory.join("..data_tmp");
    std::os::unix::fs::symlink(version, &fresh).unwrap();
    std::fs::rename(&fresh, directory.join("..data")).unwrap();
}

#[test]
fn certificates_are_taken_up_without_a_failed_request() {
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let secret = tempfile::tempdir().unwrap();
    mount(secret.path(), "one", &pki.issue("one", &["127.0.0.1"], 2031));
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), secret.path().join(name)).unwrap();
    }
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let at = |name: &str| secret.path().join(name).display().to_string();
    let mut options = ProxyOptions::tight().set("tls.reload_interval=100ms");
    options.arguments = vec!["--listen".to_owned(), format!("tls:{address}")];
    let options =
        options.set(&format!("tls.cert_file={}", at("tls.crt"))).set(&format!("tls.key_file={}", at("tls.key")));
    let proxy = Proxy::start(&redis, &options);
    let target = Address::Tls(address, pki.client(None));
    let shown = || {
        let mut client = TestClient::connect(&target);
        client.handshake().unwrap();
        client.peer_certificate().unwrap()
    };
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let end = SetOnDrop(&stop);
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut old = TestClient::connect(&target);
                    while !stop.load(Ordering::Relaxed) {
                        let mut new = TestClient::connect(&target);
                        assert_eq!(new.ask("ECHO n").as_str(), "n");
                        assert_eq!(old.ask("ECHO o").as_str(), "o");
                        served.fetch_add(2, Ordering::Relaxed);
                        pause(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        let reloads = |result| proxy.metric("respmux_tls_reloads_total", &[("side", "client"), ("result", result)]);
        let until = |result, count: f64| {
            eventually(PATIENCE, || (reloads(result) == Some(count)).then_some(()).ok_or("not read again"));
        };
        let first = shown();
        mount(secret.path(), "two", &pki.issue("two", &["127.0.0.1"], 2032));
        until("success", 1.0);
        let second = shown();
        assert_ne!(first, second);
        // A key of another certificate, then no certificate at all: the last good one stays.
        let three = pki.issue("three", &["127.0.0.1"], 2033);
        let torn = Pair { cert: three.cert, key: pki.issue("other", &["127.0.0.1"], 2033).key };
        mount(secret.path(), "torn", &torn);
        until("failure", 1.0);
        std::fs::write(&torn.cert, "rubbish").unwrap();
        mount(secret.path(), "rubbish", &torn);
        until("failure", 2.0);
        assert_eq!(shown(), second);
        mount(secret.path(), "good", &pki.issue("three", &["127.0.0.1"], 2033));
        until("success", 2.0);
        assert_ne!(shown(), second);
        eventually(PATIENCE, || (served.load(Ordering::Relaxed) > 100).then_some(()).ok_or("no load"));
        drop(end);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    assert!(proxy.log().contains("cannot be used"));
    let expiry = proxy.metric("respmux_tls_certificate_expiry_timestamp_seconds", &[("side", "client")]);
    assert_eq!(expiry, Some(2_019_600_000.0), "end of 2033");
}

#[test]
fn the_upstream_speaks_tls() {
    let pki = Pki::new();
    let port = free_port();
    let redis = RealRedis::start_tls(Flavour::Redis70, &pki, port, &["--requirepass", "s", "--port", "0"]);
    let own = pki.issue("own", &["respmux"], 2099);
    let upstream = Some(format!("rediss://:s@127.0.0.1:{port}/1"));
    let options = ProxyOptions { upstream, ..ProxyOptions::tight() };
    let mutual = options
        .set(&format!("upstream.tls_ca_file={}", pki.ca().display()))
        .set(&format!("upstream.tls_cert_file={}", own.cert.display()))
        .set(&format!("upstream.tls_key_file={}", own.key.display()));
    let proxy = Proxy::start(&redis, &mutual);
    let mut client = proxy.connect();
    client.ask("AUTH s");
    let large = vec![b'v'; 2_000_000];
    assert_eq!(client.call(&[b"SET", &b"l"[..], &large]).as_str(), "OK");
    assert_eq!(client.ask("GET l").text, large);
    client.send(&encode(&["GET", "l"]).repeat(10));
    for _ in 0..10 {
        assert_eq!(client.read_frame().text.len(), large.len());
    }
    for line in ["WATCH l", "MULTI", "STRLEN l", "EXEC", "BLPOP none 0.01", "SUBSCRIBE c"] {
        assert!(!client.ask(line).is_error(), "{line}");
    }
    let expiry = proxy.metric("respmux_tls_certificate_expiry_timestamp_seconds", &[("side", "upstream")]);
    assert!(expiry > Some(4e9));
}

#[test]
fn an_upstream_that_is_not_who_it_should_be_is_not_used() {
    let (pki, foreign) = (Pki::new(), Pki::new());
    let elsewhere = pki.issue("elsewhere", &["elsewhere.example"], 2099);
    let expired = pki.issue("expired", &["127.0.0.1"], 2021);
    let ca = |pki: &Pki| format!("upstream.tls_ca_file={}", pki.ca().display());
    let name = "upstream.tls_server_name=elsewhere.example".to_owned();
    let anybody = "upstream.tls_insecure_skip_verify=true".to_owned();
    for (pair, settings, good) in [
        (&elsewhere, vec![ca(&pki)], false),
        (&elsewhere, vec![ca(&pki), name.clone()], true),
        (&elsewhere, vec![ca(&foreign), name.clone()], false),
        (&elsewhere, vec![ca(&foreign), name, anybody], true),
        (&expired, vec![ca(&pki)], false),
    ] {
        let port = free_port();
        let redis = RealRedis::start_tls_with(Flavour::Redis70, &pki, pair, port, &["--tls-auth-clients", "no"]);
        let upstream = Some(format!("rediss://127.0.0.1:{port}"));
        let options = ProxyOptions { upstream, settings: settings.clone(), ..ProxyOptions::tight() };
        let options = ProxyOptions { start_unready: !good, ..options.set("upstream.connect_wait=300ms") };
        let proxy = Proxy::start(&redis, &options);
        let answer = proxy.connect().ask("PING").as_str();
        let errors = proxy.metric("respmux_upstream_connect_errors_total", &[("reason", "tls")]);
        if good {
            assert_eq!((answer.as_str(), errors), ("PONG", Some(0.0)), "{settings:?}");
        } else {
            assert!(answer.starts_with("LOADING") && errors > Some(0.0), "{settings:?}: {answer} {errors:?}");
            assert!(proxy.log().contains("invalid peer certificate"), "{settings:?}: {}", proxy.log());
        }
    }
}

/// A library as applications use it.
#[test]
fn redis_py_over_tls() {
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let proxy = Proxy::start(&redis, &ProxyOptions { tls: Some(pki.clone()), ..ProxyOptions::sized(2, 64) });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/redis_py.py");
    let mut command = std::process::Command::new(path_of("PYTHON"));
    command.arg(&script).args(["--protocol", "3", "--level", "short", "--tls-ca"]).arg(pki.ca());
    command.args(["--port", &proxy.tcp_address().port().to_string()]);
    command.args(["--direct-port", &redis.port().to_string()]).env("PYTHONDONTWRITEBYTECODE", "1");
    let run = command.output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(proxy.metric("respmux_tls_handshakes_total", &[("result", "ok")]) > Some(20.0));
}

/// Proof T18, short: clients that begin and never end their handshakes.
#[test]
fn a_flood_of_handshakes_leaves_others_alone() {
    const FLOOD: usize = 400;
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let options = tls_options(&pki).set("tls.handshake_timeout=4s").set("tls.max_handshakes=300");
    let proxy = Proxy::start(&redis, &options);
    let mut good = proxy.connect();
    good.ask("PING");
    let (mut flood, started) = (Vec::new(), Instant::now());
    let (mut worst, mut newcomers) = (Duration::ZERO, 0);
    for number in 0..FLOOD {
        let mut stream = TcpStream::connect(proxy.tcp_address()).unwrap();
        if number % 2 == 0 {
            // The head of a record that never comes.
            let _ = stream.write_all(&[22, 3, 1, 1, 0, 1]);
        }
        flood.push(stream);
        let began = Instant::now();
        assert_eq!(good.ask("ECHO e").as_str(), "e");
        worst = worst.max(began.elapsed());
        if number % 50 == 0 && number < 250 {
            assert_eq!(proxy.connect().ask("PING").as_str(), "PONG", "a good client comes in");
            newcomers += 1;
        }
    }
    eprintln!("{FLOOD} half-open in {:?}, worst reply {worst:?}", started.elapsed());
    assert!(worst < Duration::from_millis(500), "{worst:?}");
    // The accept loop may be behind its clients.
    eventually(PATIENCE, || {
        let refused = proxy.metric("respmux_client_connections_rejected_total", &[("reason", "handshakes")]);
        if refused == Some((FLOOD - 300) as f64) { Ok(()) } else { Err(format!("{refused:?} refused")) }
    });
    let waiting = || proxy.metric("respmux_tls_handshakes_in_progress", &[]);
    assert!(waiting() <= Some(300.0));
    eventually(PATIENCE, || (waiting() == Some(0.0)).then_some(()).ok_or("not reaped"));
    let timeouts = proxy.metric("respmux_tls_handshakes_total", &[("result", "timeout")]);
    assert_eq!(timeouts, Some(300.0), "{newcomers} newcomers");
    assert_eq!(proxy.connect().ask("PING").as_str(), "PONG");
}

/// The sessions of clients count against `memory.limit`, whatever their clients do; nobody comes in when they fill it.
#[test]
fn tls_sessions_count_as_memory() {
    const SESSION: usize = 12 << 10;
    const MOST: usize = (4 << 20) / SESSION;
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let proxy = Proxy::start(&redis, &tls_options(&pki).set("memory.limit=4MiB"));
    let held = |kind| proxy.metric("respmux_buffered_bytes", &[("kind", kind)]).unwrap_or_default();
    let counts = |sessions: usize| {
        eventually(PATIENCE, || match held("tls") {
            bytes if bytes == (sessions * SESSION) as f64 => Ok(()),
            bytes => Err(format!("{bytes} bytes for {sessions} sessions")),
        });
    };
    let mut clients: Vec<_> = (0..MOST / 2).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("PING").as_str(), "PONG"));
    counts(clients.len());
    let refused = || proxy.metric("respmux_client_connections_rejected_total", &[("reason", "memory")]);
    while refused() == Some(0.0) {
        let mut client = proxy.connect();
        if client.handshake().is_ok() && client.is_open() {
            clients.push(client);
        }
        assert!(clients.len() < MOST, "{} clients are let in", clients.len());
    }
    assert!(clients.len() * 100 > MOST * 85, "{} clients are let in", clients.len());
    for client in &mut clients[..MOST / 2] {
        assert_eq!(client.ask("ECHO here").as_str(), "here");
    }
    drop(clients);
    counts(0);
    assert_eq!(proxy.connect().ask("PING").as_str(), "PONG");
}

#[test]
fn a_certificate_that_is_not_there_is_said_at_the_start() {
    let text = "listen = ['tls:127.0.0.1:0']\nadmin = 'off'\n[tls]\ncert_file = '/none.pem'\nkey_file = '/none.key'";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_respmux")).arg("run").arg("--config").arg(&file).output();
    let run = run.unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && said.contains("/none.pem"), "{said}");
}
