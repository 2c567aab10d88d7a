//! The admin port as a peer sees it: bytes over TCP.

use std::net::SocketAddr;
use std::time::Instant;

use http_body_util::BodyExt;
use hyper::http::request::Parts;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};

use super::*;
use crate::client::{AdminCommand, AdminRequest};
use crate::config::{Secret, SecretSource};
use crate::telemetry::ProcessFacts;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A served admin port.
struct Admin {
    address: SocketAddr,
    telemetry: Arc<Telemetry>,
    admin_handle: mpsc::Receiver<AdminRequest>,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

/// A state with `workers` workers whose facts are `facts`; nobody answers questions.
fn state(workers: usize, token: Option<&str>) -> (Rc<AdminState>, mpsc::Receiver<AdminRequest>) {
    let facts = Arc::new(ProcessFacts::new("redis://u:hunter2@db:6379", "c0ffee"));
    let telemetry = Arc::new(Telemetry::new(workers, &["GET".to_owned()], facts));
    let mut config = Config::from_toml("[upstream]\nurl = 'redis://u:hunter2@db:6379'").unwrap();
    config.admin_token = token.map(|token| SecretSource::Inline(Secret::new(token.as_bytes())));
    let (ways, admin_handle) = AdminHandle::new();
    let peers = Peers::new(Vec::new(), ways.clone());
    let config = Arc::new(config);
    let config = Box::new(move || Arc::clone(&config));
    (
        Rc::new(AdminState { telemetry, config, peers, admin_handle: ways, commands: Arc::new(CommandTable::new()) }),
        admin_handle,
    )
}

impl Admin {
    async fn within(limits: Limits) -> Self {
        Self::with_token(limits, None).await
    }

    async fn with_token(limits: Limits, token: Option<&str>) -> Self {
        let (state, admin_handle) = state(2, token);
        let telemetry = Arc::clone(&state.telemetry);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, told) = oneshot::channel();
        let server = tokio::task::spawn_local(serve_within(limits, listener, state, async {
            told.await.unwrap();
        }));
        Self { address, telemetry, admin_handle, shutdown, server }
    }

    /// Everything the server sends, to the end of the connection, after `request`.
    async fn says(&self, request: &str) -> String {
        let mut stream = self.sent(request).await;
        rest(&mut stream).await
    }

    async fn sent(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn get(&self, path: &str) -> String {
        self.says(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert!(response.contains("\r\ncontent-type: application/json\r\n"), "{response}");
        serde_json::from_str(body(&response)).unwrap()
    }
}

/// What is left to read, to the end of the connection. A reset is an end as well: a server that closes with unread
/// input ends that way.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    String::from_utf8(bytes).unwrap()
}

fn status(response: &str) -> &str {
    response.lines().next().unwrap_or_default()
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").unwrap().1
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

fn request(path: &str, headers: &[(&str, &str)]) -> Parts {
    let request = headers.iter().fold(Request::builder().uri(path), |all, (name, value)| all.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

/// Status and body of the answer to `peer` at `now`.
fn ask_at(now: u64, head: &Parts, peer: &str, state: &AdminState) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let response = pages::respond(head, peer.parse().unwrap(), state, now).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    })
}

#[test]
fn metrics_are_served_in_the_text_format() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        admin.telemetry.shards[1].command(0);
        let response = admin.get("/metrics").await;
        assert_eq!(status(&response), "HTTP/1.1 200 OK");
        assert!(response.contains("\r\ncontent-type: text/plain; version=0.0.4\r\n"), "{response}");
        let series = "\nrespmux_commands_total{upstream=\"default\",cmd=\"get\"} 1\n";
        assert!(body(&response).contains(series), "{response}");
    });
}

#[test]
fn the_index_lists_pages_that_exist() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        admin.telemetry.facts.set_listening();
        let index = admin.get("/").await;
        let paths: Vec<_> = body(&index)
            .lines()
            .filter_map(|line| line.split_whitespace().next().filter(|word| word.starts_with('/')))
            .collect();
        let wanted = ["/", "/metrics", "/livez", "/readyz", "/startupz", "/healthz", "/status.json", "/certs"];
        assert_eq!(paths[..wanted.len()], wanted);
        assert_eq!(
            paths[wanted.len()..],
            ["/config", "/clients.json", "/reload", "/pause", "/resume", "/reconnect", "/drain"]
        );
        let changes = ["/reload", "/pause", "/resume", "/reconnect", "/drain"];
        for path in paths.into_iter().filter(|path| !changes.contains(path)) {
            assert_eq!(status(&admin.get(path).await), "HTTP/1.1 200 OK", "{path}");
        }
    });
}

#[test]
fn readiness_follows_listeners_and_drain_but_not_the_upstream() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        let facts = &admin.telemetry.facts;
        for path in ["/readyz", "/startupz"] {
            let response = admin.get(path).await;
            assert_eq!(status(&response), "HTTP/1.1 503 Service Unavailable");
            assert_eq!(body(&response), "listeners are not bound yet\n");
        }
        facts.set_listening();
        assert!(!facts.upstream_up());
        for path in ["/readyz", "/startupz", "/livez"] {
            let response = admin.get(path).await;
            assert_eq!((status(&response), body(&response)), ("HTTP/1.1 200 OK", "ok\n"), "{path}");
        }
        facts.set_draining(true);
        let response = admin.get("/readyz").await;
        assert_eq!(status(&response), "HTTP/1.1 503 Service Unavailable");
        assert_eq!(body(&response), "draining\n");
        assert_eq!(status(&admin.get("/startupz").await), "HTTP/1.1 200 OK");
        assert_eq!(status(&admin.get("/livez").await), "HTTP/1.1 200 OK");
    });
}

#[test]
fn a_silent_worker_is_not_alive() {
    let (state, _wishes) = state(2, None);
    let telemetry = &state.telemetry;
    let start = telemetry.facts.started_unix_millis();
    let livez = |now| ask_at(now, &request("/livez", &[]), "127.0.0.1", &state).0;
    assert_eq!(livez(start), 200);
    assert_eq!(livez(start + 10_000), 200, "both have time to start");
    telemetry.shards[0].beat(start + 9_000);
    assert_eq!(livez(start + 10_001), 503, "worker 1 never showed up");
    telemetry.shards[1].beat(start + 9_500);
    assert_eq!(livez(start + 10_001), 200);
    assert_eq!(livez(start + 19_001), 503, "worker 0 stopped");
    assert_eq!(livez(start - 60_000), 200, "the clock was set back");
}

#[test]
fn the_silent_worker_is_named() {
    let (state, _wishes) = state(3, None);
    let start = state.telemetry.facts.started_unix_millis();
    state.telemetry.shards[0].beat(start + 12_000);
    state.telemetry.shards[2].beat(start + 12_000);
    let (_, body) = ask_at(start + 12_500, &request("/livez", &[]), "127.0.0.1", &state);
    assert_eq!(body, "worker 1 is silent for 12.5 s\n");
}

#[test]
fn the_status_has_what_is_known_and_no_secret() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        let facts = &admin.telemetry.facts;
        facts.set_listening();
        facts.set_upstream_max(64, &[(crate::telemetry::UpstreamKind::Lane, 40)]);
        for _ in 0..3 {
            admin.telemetry.shards[0].client_began();
        }
        admin.telemetry.acceptor.client_rejected[crate::telemetry::RejectReason::Limit].add(5);
        admin.telemetry.beat();
        let status = admin.json("/status.json").await;
        for (path, value) in [
            ("/format", Value::from(1)),
            ("/state", "serving".into()),
            ("/clients/now", 3.into()),
            ("/clients/idle", 3.into()),
            ("/clients/refused", 5.into()),
            ("/upstream/max", 64.into()),
            ("/upstream/endpoint", "redis://db:6379".into()),
            ("/upstream/up", false.into()),
            ("/upstream/kinds/0/max", 40.into()),
            ("/latency/p99", Value::Null),
            ("/config/sha256", "c0ffee".into()),
            ("/trouble/0/count", 5.into()),
            ("/workers/1/clients", 0.into()),
        ] {
            assert_eq!(status.pointer(path), Some(&value), "{path} in {status:#}");
        }
        assert!(status["events"].as_array().unwrap().len() >= 2, "{status:#}");
        let settings = admin.json("/config").await;
        let url = &settings["settings"]["upstream.url"];
        assert!(url["value"].as_str().unwrap().contains("db:6379"), "{url}");
        assert_eq!(
            settings["settings"]["pool.wait_timeout"],
            serde_json::json!({ "value": "5s", "effective": "5s", "origin": "default" })
        );
        for page in ["/", "/status.json", "/config", "/certs", "/metrics"] {
            assert!(!admin.get(page).await.contains("hunter2"), "{page}");
        }
    });
}

#[test]
fn the_page_is_for_browsers() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        let html = admin.says("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html,*/*\r\n\r\n").await;
        assert!(html.contains("\r\ncontent-type: text/html; charset=utf-8\r\n"), "{html}");
        let policy = html.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
        assert!(policy.starts_with("content-security-policy: default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(body(&html).starts_with("<!doctype html>"));
        let list = admin.says("GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n").await;
        assert!(list.contains("\r\ncontent-type: text/plain"), "{list}");
        for response in [html, list, admin.get("/nothing").await, admin.get("/status.json").await] {
            for header in ["x-content-type-options: nosniff", "x-frame-options: DENY", "cache-control: no-store"] {
                assert!(response.contains(&format!("\r\n{header}\r\n")), "{header} in {response}");
            }
        }
    });
}

#[test]
fn what_is_not_for_everybody_wants_this_machine_or_the_token() {
    let (open, _wishes) = state(1, None);
    let (locked, _wishes) = state(1, Some("s3cret"));
    let now = open.telemetry.facts.started_unix_millis();
    let from_here = [("host", "localhost:9380")];
    for path in ["/config", "/clients.json"] {
        let ask =
            |headers: &[(&str, &str)], peer, state: &AdminState| ask_at(now, &request(path, headers), peer, state).0;
        assert_eq!(ask(&from_here, "127.0.0.1", &open), 200, "{path}");
        assert_eq!(ask(&from_here, "10.0.0.7", &open), 403, "{path}");
        assert_eq!(ask(&from_here, "10.0.0.7", &locked), 401, "{path}");
        assert_eq!(ask(&[("authorization", "Bearer guess")], "10.0.0.7", &locked), 401, "{path}");
        assert_eq!(ask(&[("authorization", "Bearer s3cret")], "10.0.0.7", &locked), 200, "{path}");
        assert_eq!(ask(&[("host", "rebound.example")], "127.0.0.1", &open), 403, "{path}");
    }
    for path in ["/", "/metrics", "/status.json", "/livez", "/certs"] {
        assert_ne!(ask_at(now, &request(path, &[]), "10.0.0.7", &locked).0, 401, "{path} is for everybody");
    }
}

#[test]
fn a_drain_is_asked_for_by_post_and_passed_on() {
    run(async {
        let mut admin = Admin::within(LIMITS).await;
        let response = admin.get("/drain").await;
        assert_eq!(status(&response), "HTTP/1.1 405 Method Not Allowed");
        assert!(response.contains("\r\nallow: POST\r\n"), "{response}");
        let post = "POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        let evil = post.replacen("Host", "Origin: http://localhost\r\nHost", 1);
        assert_eq!(status(&admin.says(&evil).await), "HTTP/1.1 403 Forbidden");
        assert_eq!(status(&admin.says(&post.replace("localhost", "evil.example")).await), "HTTP/1.1 403 Forbidden");
        assert!(admin.admin_handle.try_recv().is_err(), "nothing was passed on yet");
        for (answer, wanted, text) in [
            (Ok(vec!["draining".to_owned()]), "HTTP/1.1 200 OK", "draining\n"),
            (Err("no".to_owned()), "HTTP/1.1 409 Conflict", "no\n"),
        ] {
            let mut stream = admin.sent(post).await;
            let asked = timeout(PATIENCE, admin.admin_handle.recv()).await.unwrap().unwrap();
            assert_eq!(asked.admin_command, AdminCommand::Drain);
            asked.answer(answer);
            let response = rest(&mut stream).await;
            assert_eq!((status(&response), body(&response)), (wanted, text));
        }
    });
}

#[test]
fn head_has_the_length_and_not_the_body() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        let response = admin.says("HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(status(&response), "HTTP/1.1 200 OK");
        assert!(response.contains("\r\ncontent-length: 3\r\n"), "{response}");
        assert_eq!(body(&response), "");
    });
}

#[test]
fn other_paths_methods_and_origins_are_refused() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        assert_eq!(status(&admin.get("/metricsx").await), "HTTP/1.1 404 Not Found");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let request = format!("{method} /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            let response = admin.says(&request).await;
            assert_eq!(status(&response), "HTTP/1.1 405 Method Not Allowed", "{method}");
            assert!(response.contains("\r\nallow: GET, HEAD\r\n"), "{response}");
        }
        let request = "GET /metrics HTTP/1.1\r\nHost: a\r\nOrigin: http://evil.example\r\n\r\n";
        let response = admin.says(request).await;
        assert_eq!(status(&response), "HTTP/1.1 403 Forbidden");
        assert!(!response.contains("respmux_"), "{response}");
    });
}

#[test]
fn a_request_may_come_byte_by_byte() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in b"GET /livez?x=1 HTTP/1.0\r\n\r\n" {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(status(&rest(&mut stream).await), "HTTP/1.0 200 OK");
    });
}

#[test]
fn too_much_of_a_head_is_refused() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        let many = "X-A: 1\r\n".repeat(MAX_HEADERS + 1);
        let large = format!("X-A: {}\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
        for headers in [many, large] {
            let response = admin.says(&format!("GET / HTTP/1.1\r\n{headers}\r\n")).await;
            // The refusal can be lost with the connection: unread input resets it.
            let refused = "HTTP/1.1 431 Request Header Fields Too Large";
            assert!(["", refused].contains(&status(&response)), "{response}");
        }
        assert_eq!(status(&admin.get("/livez").await), "HTTP/1.1 200 OK");
    });
}

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    run(async {
        let head = Duration::from_millis(100);
        let admin = Admin::within(Limits { head, ..LIMITS }).await;
        for start in ["", "GET /livez HTTP/1.1\r\nHost:"] {
            let began = Instant::now();
            let mut stream = admin.sent(start).await;
            assert!(!rest(&mut stream).await.contains("200 OK"));
            assert!(began.elapsed() >= head, "closed after {:?}", began.elapsed());
        }
    });
}

#[test]
fn a_connection_has_a_deadline_of_its_own() {
    run(async {
        let connection = Duration::from_millis(200);
        let admin = Admin::within(Limits { connections: 1, head: 2 * PATIENCE, connection }).await;
        let began = Instant::now();
        // Holds the only place, and by the limit for heads it could do so for longer than we wait.
        let _held = admin.sent("GET /").await;
        assert_eq!(status(&admin.get("/livez").await), "HTTP/1.1 200 OK");
        assert!(began.elapsed() >= connection, "answered after {:?}", began.elapsed());
    });
}

#[test]
fn connections_beyond_the_limit_wait() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        let mut held = Vec::new();
        for _ in 0..LIMITS.connections {
            held.push(admin.sent("GET ").await);
        }
        let mut waiting = admin.sent("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut byte = [0];
        let early = timeout(Duration::from_millis(200), waiting.read(&mut byte)).await;
        assert!(early.is_err(), "answered beside {} others", held.len());
        held.pop();
        assert_eq!(status(&rest(&mut waiting).await), "HTTP/1.1 200 OK");
    });
}

#[test]
fn shutdown_ends_the_server_and_its_connections() {
    run(async {
        let admin = Admin::within(LIMITS).await;
        assert_eq!(status(&admin.get("/livez").await), "HTTP/1.1 200 OK");
        let mut idle = admin.sent("GET /").await;
        admin.shutdown.send(()).unwrap();
        timeout(PATIENCE, admin.server).await.expect("the server ends").unwrap();
        assert!(!rest(&mut idle).await.contains("200 OK"));
        assert!(TcpStream::connect(admin.address).await.is_err(), "the port is closed");
    });
}
