//! What the admin port answers: a function of the request, what the process knows of itself, and the time.

use std::net::IpAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, ORIGIN, REFERRER_POLICY, VARY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::{sleep, timeout};

use super::access::{self, Denial};
use super::{AdminState, html, status};
use crate::client::{AdminCommand, ClientLine};
use crate::command::CommandTable;
use crate::telemetry::Telemetry;

/// A worker that was silent for longer is stuck.
const SILENCE: Duration = Duration::from_secs(10);

/// How long workers may take to tell about themselves; a stuck one must not take the page with it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who guesses tokens waits.
const WRONG_TOKEN: Duration = Duration::from_millis(250);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// A page: its path, who may have it, what it is.
struct Page {
    path: &'static str,
    about: &'static str,
    rule: Rule,
    what: PageKind,
}

/// Who may ask for a page, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A page for whoever reaches the port.
    Look,
    /// A page that shows clients or the configuration: see [`access`].
    Know,
    /// A page that changes something: a POST, and see [`access`].
    Change,
}

enum PageKind {
    Home,
    Metrics,
    Live,
    Ready,
    Started,
    Status,
    Certificates,
    Config,
    Clients,
    AdminCommand(AdminCommand),
}

const fn page(path: &'static str, rule: Rule, what: PageKind, about: &'static str) -> Page {
    Page { path, about, rule, what }
}

/// Every page.
static PAGES: &[Page] = &[
    page("/", Rule::Look, PageKind::Home, "the status page; this list for clients that do not accept HTML"),
    page("/metrics", Rule::Look, PageKind::Metrics, "metrics for Prometheus"),
    page("/livez", Rule::Look, PageKind::Live, "200 while every worker is alive"),
    page("/readyz", Rule::Look, PageKind::Ready, "200 while new clients are accepted"),
    page("/startupz", Rule::Look, PageKind::Started, "200 once the listeners are bound"),
    page("/healthz", Rule::Look, PageKind::Live, "the same as /livez"),
    page("/status.json", Rule::Look, PageKind::Status, "what the status page shows"),
    page("/certs", Rule::Look, PageKind::Certificates, "when the certificates in use expire"),
    page("/config", Rule::Know, PageKind::Config, "the settings: value, value in effect, origin; without secrets"),
    page("/clients.json", Rule::Know, PageKind::Clients, "who is connected"),
    page(
        "/reload",
        Rule::Change,
        PageKind::AdminCommand(AdminCommand::Reload),
        "POST: read the configuration again, as SIGHUP does",
    ),
    page(
        "/pause",
        Rule::Change,
        PageKind::AdminCommand(AdminCommand::Pause(None)),
        "POST: hold all commands of clients until /resume",
    ),
    page("/resume", Rule::Change, PageKind::AdminCommand(AdminCommand::Resume), "POST: end the pause"),
    page(
        "/reconnect",
        Rule::Change,
        PageKind::AdminCommand(AdminCommand::Reconnect),
        "POST: replace every upstream connection",
    ),
    page(
        "/drain",
        Rule::Change,
        PageKind::AdminCommand(AdminCommand::Drain),
        "POST: let clients finish, then exit, as SIGTERM does",
    ),
];

/// What is sent, without the headers that every response has.
struct PageReply {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl PageReply {
    fn new(status: StatusCode, kind: &'static str, body: impl Into<String>) -> Self {
        Self { status, kind, body: body.into() }
    }

    fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self::new(status, TEXT, body)
    }

    fn json(value: &Value) -> Self {
        Self::new(StatusCode::OK, JSON, format!("{value}\n"))
    }
}

/// The response to a request from `peer` at `now`, unix time in milliseconds.
pub(super) async fn respond(head: &Parts, peer: IpAddr, state: &AdminState, now: u64) -> Response<Full<Bytes>> {
    if head.headers.contains_key(ORIGIN) {
        // A script of some web page made it, and no page of ours does.
        let reply = PageReply::text(StatusCode::FORBIDDEN, "requests with an Origin header are refused\n");
        return finished(reply);
    }
    let Some(page) = PAGES.iter().find(|page| page.path == head.uri.path()) else {
        return finished(PageReply::text(StatusCode::NOT_FOUND, "no such page; / lists them\n"));
    };
    if let Some(allowed) = wrong_method(page.rule, &head.method) {
        let reply = PageReply::text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed}\n"));
        return with(finished(reply), ALLOW, allowed);
    }
    if page.rule != Rule::Look
        && let Err(denial) = access::check(&head.headers, peer, (state.config)().admin_token.as_ref())
    {
        return denied(page, peer, denial).await;
    }
    if page.rule == Rule::Change {
        tracing::info!(%peer, path = page.path, "asked over HTTP");
    }
    let reply = page.what.answer(head, state, now).await;
    let is_html = reply.kind == HTML;
    let response = finished(reply);
    match (&page.what, is_html) {
        (PageKind::Home, true) => with(with(response, CONTENT_SECURITY_POLICY, &html::POLICY), VARY, "accept"),
        (PageKind::Home, false) => with(response, VARY, "accept"),
        _ => response,
    }
}

fn wrong_method(rule: Rule, method: &Method) -> Option<&'static str> {
    match rule {
        Rule::Change => (method != Method::POST).then_some("POST"),
        // hyper leaves out the body of a response to HEAD and keeps its length.
        Rule::Look | Rule::Know => (method != Method::GET && method != Method::HEAD).then_some("GET, HEAD"),
    }
}

async fn denied(page: &Page, peer: IpAddr, denial: Denial) -> Response<Full<Bytes>> {
    let status = match denial {
        Denial::Remote | Denial::StrangeHost => StatusCode::FORBIDDEN,
        Denial::NoToken | Denial::WrongToken => StatusCode::UNAUTHORIZED,
        Denial::NoSecret => StatusCode::SERVICE_UNAVAILABLE,
    };
    if denial == Denial::WrongToken {
        tracing::warn!(%peer, path = page.path, "wrong token at the admin port");
        sleep(WRONG_TOKEN).await;
    }
    let response = finished(PageReply::text(status, denial.text()));
    if status == StatusCode::UNAUTHORIZED { with(response, WWW_AUTHENTICATE, "Bearer") } else { response }
}

/// A response with the headers that all have: it is not kept, not guessed at, not framed, and loads nothing.
fn finished(reply: PageReply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(reply.body.into()));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, reply.kind),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

fn with(mut response: Response<Full<Bytes>>, name: hyper::header::HeaderName, value: &str) -> Response<Full<Bytes>> {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

impl PageKind {
    async fn answer(&self, head: &Parts, state: &AdminState, now: u64) -> PageReply {
        let telemetry = &state.telemetry;
        match self {
            Self::Home if takes_html(head) => {
                PageReply::new(StatusCode::OK, HTML, html::page(&current(state, now).await))
            }
            Self::Home => PageReply::text(StatusCode::OK, index()),
            Self::Metrics => PageReply::new(StatusCode::OK, METRICS, telemetry.render()),
            Self::Live => verdict(alive(telemetry, now)),
            Self::Ready => verdict(ready(telemetry)),
            Self::Started => verdict(started(telemetry)),
            Self::Status => PageReply::json(&current(state, now).await),
            Self::Certificates => PageReply::json(&status::certificates(telemetry)),
            Self::Config => PageReply::json(&settings(state)),
            Self::Clients => match timeout(PATIENCE, state.peers.lines()).await {
                Ok(lines) => PageReply::json(&lines.iter().map(|line| client(&state.commands, line)).collect()),
                Err(_) => PageReply::text(StatusCode::SERVICE_UNAVAILABLE, "a worker does not answer\n"),
            },
            Self::AdminCommand(admin_command) => match state.admin_handle.ask(admin_command.clone()).await {
                Ok(lines) => PageReply::text(StatusCode::OK, lines.join("\n") + "\n"),
                Err(reason) => PageReply::text(StatusCode::CONFLICT, reason + "\n"),
            },
        }
    }
}

/// What the process is doing. Workers that do not answer in time are left out of what only they know.
async fn current(state: &AdminState, now: u64) -> Value {
    let asked = async { (state.peers.reports().await, state.peers.lanes().await) };
    let (reports, lanes) = timeout(PATIENCE, asked).await.unwrap_or_default();
    status::status(&state.telemetry, &(state.config)(), &reports, &lanes, now)
}

/// Browsers say so; curl and wget take anything.
fn takes_html(head: &Parts) -> bool {
    head.headers.get(ACCEPT).is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")))
}

fn index() -> String {
    let mut list = concat!("respmux ", env!("CARGO_PKG_VERSION"), "\n\n").to_owned();
    for page in PAGES {
        list += &format!("{:<14} {}\n", page.path, page.about);
    }
    list
}

fn settings(state: &AdminState) -> Value {
    json!({
        "sha256": state.telemetry.facts.config_sha256(),
        "settings": (state.config)().shown.json(),
    })
}

/// What PROXY CLIENTS says of one.
fn client(commands: &CommandTable, line: &ClientLine) -> Value {
    line.fields(commands).into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
}

fn verdict(verdict: Result<(), String>) -> PageReply {
    match verdict {
        Ok(()) => PageReply::text(StatusCode::OK, "ok\n"),
        Err(reason) => PageReply::text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

/// Whether every worker shows signs of life. One that never did is given as long as the others, from the start of the
/// process.
fn alive(telemetry: &Telemetry, now: u64) -> Result<(), String> {
    let mut stuck = Vec::new();
    for (worker, silent) in telemetry.silences(now).enumerate() {
        if silent > SILENCE {
            stuck.push(format!("worker {worker} is silent for {:.1} s", silent.as_secs_f64()));
        }
    }
    if stuck.is_empty() { Ok(()) } else { Err(stuck.join("\n")) }
}

/// Whether the process has come up. Stays true; the configuration was loaded before there was anything to serve this
/// page.
fn started(telemetry: &Telemetry) -> Result<(), String> {
    if telemetry.facts.listening() { Ok(()) } else { Err("listeners are not bound yet".to_owned()) }
}

/// Whether new clients are welcome. An upstream that is down does not matter: every replica would go at once, and
/// clients would lose a proxy that answers for a service that refuses them.
fn ready(telemetry: &Telemetry) -> Result<(), String> {
    started(telemetry)?;
    if telemetry.facts.draining() { Err("draining".to_owned()) } else { Ok(()) }
}
