//! The admin port as a peer sees it: bytes over TCP.

use std::net::SocketAddr;
use std::time::Instant;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet};

use super::*;
use crate::telemetry::ProcessFacts;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A served admin port.
struct Admin {
    address: SocketAddr,
    telemetry: Arc<Telemetry>,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Admin {
    async fn within(limits: Limits) -> Self {
        let facts = Arc::new(ProcessFacts::new("db:6379", "c0ffee"));
        let telemetry = Arc::new(Telemetry::new(2, &["GET".to_owned()], facts));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(AdminState { telemetry: Arc::clone(&telemetry) });
        let (shutdown, told) = oneshot::channel();
        let server = tokio::task::spawn_local(serve_within(limits, listener, state, async {
            told.await.unwrap();
        }));
        Self { address, telemetry, shutdown, server }
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
        self.says(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await
    }
}

/// What is left to read, to the end of the connection. A reset is an end as well: a server that
/// closes with unread input ends that way.
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
        assert_eq!(paths, ["/", "/metrics", "/livez", "/readyz", "/startupz"]);
        for path in paths {
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
    let facts = Arc::new(ProcessFacts::new("db:6379", ""));
    let telemetry = Telemetry::new(2, &[], facts);
    let start = telemetry.facts.started_unix_millis();
    let livez = |now| pages::page(&hyper::Method::GET, "/livez", false, &telemetry, now).status();
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
    run(async {
        let facts = Arc::new(ProcessFacts::new("db:6379", ""));
        let telemetry = Telemetry::new(3, &[], facts);
        let start = telemetry.facts.started_unix_millis();
        telemetry.shards[0].beat(start + 12_000);
        telemetry.shards[2].beat(start + 12_000);
        let response = pages::page(&hyper::Method::GET, "/livez", false, &telemetry, start + 12_500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "worker 1 is silent for 12.5 s\n");
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
