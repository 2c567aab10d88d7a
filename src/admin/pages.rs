//! What the admin port answers: a function of the request, the telemetry and the time.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::telemetry::Telemetry;

/// A worker that was silent for longer is stuck.
const SILENCE: Duration = Duration::from_secs(10);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");

/// A page: its path, what it is, and how it is made at a unix time in milliseconds.
struct Page {
    path: &'static str,
    about: &'static str,
    make: fn(&Telemetry, u64) -> (StatusCode, String),
}

/// Every page.
static PAGES: &[Page] = &[
    Page { path: "/", about: "this list", make: |_, _| (StatusCode::OK, index()) },
    Page {
        path: "/metrics",
        about: "metrics for Prometheus",
        make: |telemetry, _| (StatusCode::OK, telemetry.render()),
    },
    Page { path: "/livez", about: "200 while every worker shows signs of life", make: |t, now| verdict(alive(t, now)) },
    Page { path: "/readyz", about: "200 while new clients are welcome", make: |t, _| verdict(ready(t)) },
    Page { path: "/startupz", about: "200 once the listeners are bound", make: |t, _| verdict(started(t)) },
];

/// The response to a request. `cross_site`: it has an `Origin` header, so a script of some web
/// page made it, and no page of ours does.
pub(super) fn page(
    method: &Method,
    path: &str,
    cross_site: bool,
    telemetry: &Telemetry,
    now: u64,
) -> Response<Full<Bytes>> {
    if cross_site {
        return text(StatusCode::FORBIDDEN, "requests with an Origin header are refused\n");
    }
    let Some(page) = PAGES.iter().find(|page| page.path == path) else {
        return text(StatusCode::NOT_FOUND, "no such page; / lists them\n");
    };
    // hyper leaves out the body of a response to HEAD and keeps its length.
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (status, body) = (page.make)(telemetry, now);
    let mut response = text(status, body);
    if page.path == "/metrics" {
        response.headers_mut().insert(CONTENT_TYPE, METRICS);
    }
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn index() -> String {
    let mut list = concat!("respmux ", env!("CARGO_PKG_VERSION"), "\n\n").to_owned();
    for page in PAGES {
        list += &format!("{:<10} {}\n", page.path, page.about);
    }
    list
}

fn verdict(verdict: Result<(), String>) -> (StatusCode, String) {
    match verdict {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

/// Whether every worker shows signs of life. One that never did is given as long as the others,
/// from the start of the process.
fn alive(telemetry: &Telemetry, now: u64) -> Result<(), String> {
    let mut stuck = Vec::new();
    for (worker, shard) in telemetry.shards.iter().enumerate() {
        let last = shard.heartbeat().max(telemetry.facts.started_unix_millis());
        // A clock that was set back makes no worker stuck.
        let silent = Duration::from_millis(now.saturating_sub(last));
        if silent > SILENCE {
            stuck.push(format!("worker {worker} is silent for {:.1} s", silent.as_secs_f64()));
        }
    }
    if stuck.is_empty() { Ok(()) } else { Err(stuck.join("\n")) }
}

/// Whether the process has come up. Stays true; the configuration was loaded before there was
/// anything to serve this page.
fn started(telemetry: &Telemetry) -> Result<(), String> {
    if telemetry.facts.listening() { Ok(()) } else { Err("listeners are not bound yet".to_owned()) }
}

/// Whether new clients are welcome. An upstream that is down does not matter: every replica would
/// go at once, and clients would lose a proxy that answers for a service that refuses them.
fn ready(telemetry: &Telemetry) -> Result<(), String> {
    started(telemetry)?;
    if telemetry.facts.draining() { Err("draining".to_owned()) } else { Ok(()) }
}
