//! Opens links: connect, handshake, and the patience between attempts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::handshake::{Credentials, Handshake, Login, Refused};
use super::{Link, Owned, Permit, Socket, now, since};
use crate::config::{Config, Endpoint, Upstream};
use crate::session::{Identity, RouteKey};
use crate::telemetry::{ConnectError, Shard, UpstreamKind};

/// Why no link could be opened. Nothing of any client was written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// Not reachable, closed during the handshake, or waiting out a back-off.
    #[error("upstream is not available: {text}")]
    Unavailable { cause: ConnectError, text: String },
    /// The upstream does not accept this identity; its words, without the dash.
    #[error("upstream refused the identity: {}", String::from_utf8_lossy(.0))]
    Identity(Vec<u8>),
    /// The upstream does not accept the database or mode; its words, without the dash.
    #[error("upstream refused the connection's state: {}", String::from_utf8_lossy(.0))]
    State(Vec<u8>),
}

/// What a socket was before its handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh,
    /// Fresh, and the identity may not run SELECT itself.
    SelectFirst,
    Used,
    Bare,
}

/// Opens the links of one worker. Attempts share one back-off (the upstream is one) and one rate limit.
pub struct Dialer {
    config: Arc<Config>,
    shard: Arc<Shard>,
    worker: usize,
    serial: Cell<u64>,
    failures: Cell<u32>,
    retry_at: Cell<Option<Instant>>,
    /// Tokens of the connect rate limit, and when they were counted.
    tokens: Cell<(f64, Instant)>,
    credentials: RefCell<HashMap<Identity, Credentials>>,
    owned: Owned,
}

/// A link that could not be opened, and the permit that it would have used.
pub type Dialed = Result<Link, (DialError, Permit)>;

impl Dialer {
    /// A dialer for worker number `worker`.
    #[must_use]
    pub fn new(config: Arc<Config>, shard: Arc<Shard>, worker: usize, owned: Owned) -> Self {
        let burst = connect_rate(&config);
        Self {
            config,
            shard,
            worker,
            serial: Cell::new(0),
            failures: Cell::new(0),
            retry_at: Cell::new(None),
            tokens: Cell::new((burst, now())),
            credentials: RefCell::default(),
            owned,
        }
    }

    /// Remembers what the upstream has just verified (rule A7): lanes must be able to reconnect.
    pub fn on_verified(&self, identity: &Identity, credentials: Credentials) {
        self.credentials.borrow_mut().insert(identity.clone(), credentials);
    }

    /// The credentials that prove `identity`: verified ones, or for clients that do not log in those of the
    /// configuration, read again at each login so that a rotated secret works.
    ///
    /// # Errors
    /// The secret's file cannot be read.
    pub fn credentials(&self, identity: &Identity) -> io::Result<Option<Credentials>> {
        if let Some(known) = self.credentials.borrow().get(identity) {
            return Ok(Some(known.clone()));
        }
        configured(&self.config.upstream)
    }

    /// When the next attempt may start, if the upstream is in back-off.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at.get().filter(|at| *at > now())
    }

    /// Opens one link in the state `key`. Waits for the rate limit, not for the back-off: callers decide about it.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, permit: Permit, key: &RouteKey) -> Dialed {
        let dialed = self.open(permit, key, Stage::Fresh).await;
        self.or_select_first(dialed, key).await
    }

    /// A user without the right to SELECT is in another database than 0 because it selected that before it logged in;
    /// its connections have to come there in the same way.
    async fn or_select_first(&self, dialed: Dialed, key: &RouteKey) -> Dialed {
        match dialed {
            Err((DialError::State(text), permit))
                if text.starts_with(b"NOPERM") && key.db != 0 && key.identity != Identity::Implicit =>
            {
                self.open(permit, key, Stage::SelectFirst).await.map_err(|(error, permit)| match error {
                    // Nor may those who do not log in: the user's own refusal is the answer.
                    DialError::State(_) => (DialError::State(text), permit),
                    error => (error, permit),
                })
            }
            dialed => dialed,
        }
    }

    /// Opens a link that has not said who it is: the scratch connection, whose every use starts with RESET.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_bare(&self, permit: Permit) -> Dialed {
        self.open(permit, &RouteKey::fresh(Identity::Implicit, 0), Stage::Bare).await
    }

    /// Makes a used link serve `key`: RESET, then the handshake again, all awaited (rule M4).
    ///
    /// # Errors
    /// See [`DialError`]; the link is closed then.
    pub async fn renew(&self, mut link: Link, key: &RouteKey) -> Dialed {
        link.unread.clear();
        match self.shake_in_time(&mut link, key, Stage::Used).await {
            Ok(()) => Ok(link),
            Err(error) => {
                let failed = Err((error, link.close().await));
                self.or_select_first(failed, key).await
            }
        }
    }

    async fn open(&self, permit: Permit, key: &RouteKey, stage: Stage) -> Dialed {
        self.wait_for_token().await;
        let started = now();
        let kind = UpstreamKind::from(permit.purpose());
        self.shard.upstream_connecting(kind);
        let result = self.attempt(permit, key, stage).await;
        match &result {
            Ok(_) => self.shard.upstream_connected(kind, since(started)),
            Err((error, _)) => self.shard.upstream_failed(kind, error.cause()),
        }
        match &result {
            Err((DialError::Unavailable { text, .. }, _)) => self.on_failure(text),
            Ok(_) | Err((DialError::Identity(_) | DialError::State(_), _)) => self.on_success(),
        }
        result
    }

    async fn attempt(&self, permit: Permit, key: &RouteKey, stage: Stage) -> Dialed {
        let settings = &self.config.upstream;
        let socket = match timeout(settings.connect_timeout, connect(&settings.endpoint)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err((DialError::io(&error), permit)),
            Err(_) => return Err((DialError::unavailable(ConnectError::Timeout, "connect timed out"), permit)),
        };
        let id = self.owned.entry();
        let mut link =
            Link { socket: Some(socket), permit: Some(permit), key: key.clone(), id, unread: BytesMut::new() };
        match self.shake_in_time(&mut link, key, stage).await {
            Ok(()) => Ok(link),
            Err(error) => Err((error, link.close().await)),
        }
    }

    async fn shake_in_time(&self, link: &mut Link, key: &RouteKey, stage: Stage) -> Result<(), DialError> {
        match timeout(self.config.upstream.handshake_timeout, self.shake(link, key, stage)).await {
            Ok(Err(DialError::Identity(text))) if is_greeting(&text) => {
                Err(DialError::unavailable(greeting_cause(&text), String::from_utf8_lossy(&text)))
            }
            Ok(result) => result,
            Err(_) => Err(DialError::unavailable(ConnectError::Timeout, "handshake timed out")),
        }
    }

    async fn shake(&self, link: &mut Link, key: &RouteKey, stage: Stage) -> Result<(), DialError> {
        let unavailable = |e: io::Error| DialError::io(&e);
        self.serial.set(self.serial.get() + 1);
        let name = format!("respmux:{}:{}:{}", self.config.instance, self.worker, self.serial.get());
        let handshake = match stage {
            Stage::Bare => Handshake::bare(&name),
            Stage::Fresh | Stage::SelectFirst | Stage::Used => {
                let credentials = self.credentials(&key.identity).map_err(unavailable)?;
                let nonce = format!("{name}:{:x}", fastrand::u64(..));
                if stage == Stage::Used {
                    // In a round trip of its own: Redis 8.2 sends no reply to a failed AUTH that arrives together with
                    // a RESET before it.
                    link.silence().await.map_err(unavailable)?;
                }
                let implicit = match stage {
                    Stage::SelectFirst => Some(self.credentials(&Identity::Implicit).map_err(unavailable)?),
                    Stage::Fresh | Stage::Used | Stage::Bare => None,
                };
                let select_as = implicit.as_ref().map(Option::as_ref);
                let credentials = credentials.as_ref();
                Handshake::new(&Login { key, credentials, select_as, name: &name, nonce: &nonce })
            }
        };
        link.open_socket().write_all(handshake.batch()).await.map_err(unavailable)?;
        for index in 0..handshake.replies() {
            let reply = link.read_frame().await.map_err(unavailable)?;
            match handshake.check(index, &reply) {
                Ok(Some(id)) => link.id.learn(id),
                Ok(None) => {}
                Err(Refused::Identity(text)) => return Err(DialError::Identity(text)),
                Err(Refused::State(text)) => return Err(DialError::State(text)),
                Err(Refused::OutOfStep(what)) => return Err(DialError::unavailable(ConnectError::Handshake, what)),
            }
        }
        link.key = key.clone();
        Ok(())
    }

    fn on_success(&self) {
        if self.failures.replace(0) > 0 {
            tracing::info!(worker = self.worker, "upstream is available again");
        }
        self.retry_at.set(None);
    }

    /// Exponential back-off with jitter between half and all of the step, so that workers do not march in step.
    fn on_failure(&self, reason: &str) {
        let settings = &self.config.upstream;
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let step = settings.backoff_min.saturating_mul(1 << failures.min(16)).min(settings.backoff_max);
        let pause = step.mul_f64(0.5 + fastrand::f64() / 2.0).max(settings.backoff_min.min(step));
        self.retry_at.set(Some(now() + pause));
        if failures.is_power_of_two() || failures == 0 {
            tracing::warn!(worker = self.worker, failures = failures + 1, reason, "upstream connect failed");
        }
    }

    /// Token bucket over all connects of this worker: a restart of the upstream must not meet a storm.
    async fn wait_for_token(&self) {
        let rate = connect_rate(&self.config);
        loop {
            let (tokens, counted) = self.tokens.get();
            let at = now();
            let tokens = (tokens + at.duration_since(counted).as_secs_f64() * rate).min(rate);
            if tokens >= 1.0 {
                self.tokens.set((tokens - 1.0, at));
                return;
            }
            self.tokens.set((tokens, at));
            tokio::time::sleep(Duration::from_secs_f64((1.0 - tokens) / rate)).await;
        }
    }
}

impl DialError {
    fn unavailable(cause: ConnectError, text: impl Into<String>) -> Self {
        Self::Unavailable { cause, text: text.into() }
    }

    fn io(error: &io::Error) -> Self {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectError::Refused,
            io::ErrorKind::TimedOut => ConnectError::Timeout,
            _ => ConnectError::Io,
        };
        Self::unavailable(cause, error.to_string())
    }

    fn cause(&self) -> ConnectError {
        match self {
            Self::Unavailable { cause, .. } => *cause,
            Self::Identity(_) => ConnectError::Auth,
            Self::State(_) => ConnectError::Handshake,
        }
    }
}

/// This worker's part of the process-wide connect rate, a second; never less than one.
fn connect_rate(config: &Config) -> f64 {
    #[allow(clippy::cast_precision_loss)] // a rate of 2^53 connects a second is not limited either way
    let rate = config.upstream.connects_per_second as f64 / config.workers as f64;
    rate.max(1.0)
}

fn greeting_cause(text: &[u8]) -> ConnectError {
    if text.starts_with(b"LOADING") { ConnectError::Loading } else { ConnectError::MaxClients }
}

/// Errors with which servers turn a connection away before they look at it.
fn is_greeting(text: &[u8]) -> bool {
    text.starts_with(b"ERR max number of clients") || text.starts_with(b"DENIED") || text.starts_with(b"LOADING")
}

/// The login that the configuration gives to clients that do not log in themselves.
fn configured(upstream: &Upstream) -> io::Result<Option<Credentials>> {
    let Some(source) = &upstream.password else { return Ok(None) };
    let password = source.read()?.expose().to_vec();
    let user = upstream.username.as_deref().unwrap_or("default").as_bytes().to_vec();
    Ok(Some(Credentials { user, password }))
}

async fn connect(endpoint: &Endpoint) -> io::Result<Socket> {
    #[cfg(test)]
    if let Some(socket) = super::memory::connect() {
        return socket.map(Socket::Memory);
    }
    match endpoint {
        Endpoint::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(Duration::from_secs(30))
                .with_interval(Duration::from_secs(10))
                .with_retries(3);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(Socket::Tcp(stream))
        }
    }
}
