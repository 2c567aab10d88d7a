//! Opens links: connect, handshake, and the patience between attempts.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::circuit::{AttemptFailure, Circuit};
use super::counted::Counted;
use super::error_hints;
use super::handshake::{Handshake, HandshakeLogin, Refused};
use super::keyring::{Keyring, configured};
use super::login_refusal::LoginRefusals;
use super::open_socket::{connect, resolve};
use super::tls::{ClientTls, TlsStream, server_name};
use super::{Link, Occupancy, OwnIds, Permit, ServerRef, Socket};
use crate::base::{TokenBucket, now};
use crate::config::{Config, Endpoint};
use crate::session::{Identity, RouteKey};
use crate::telemetry::{CircuitState, ConnectError, NameLookup, NodeFacts, Shard, UpstreamCloseReason};
use crate::topology::{NodeId, PeerAddresses};

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
pub(super) enum SocketStage {
    Fresh,
    /// Fresh, while the upstream is silent.
    Suspicious,
    /// Fresh, and the identity may not run SELECT itself.
    SelectFirst,
    Used,
    Bare,
}

/// Opens the links of one worker to one server. Attempts share one back-off and one rate limit.
pub struct Dialer {
    pub(super) config: RefCell<Rc<Config>>,
    /// Where the server is. Moved by [`Dialer::on_readdressed`] only.
    pub(super) address: RefCell<Rc<Endpoint>>,
    pub(super) shard: Arc<Shard>,
    /// What all workers together know of the server.
    pub(super) facts: Arc<NodeFacts>,
    worker: usize,
    serial: Cell<u64>,
    /// The server to which new connections lead; moved by [`Dialer::rotate`].
    pub(super) server: Cell<ServerRef>,
    pub(super) circuit: RefCell<Circuit>,
    pub(super) refused: LoginRefusals,
    pub(super) rate: RefCell<TokenBucket>,
    /// The worker's: it is asked at each handshake and never written to from here.
    keyring: Rc<Keyring>,
    owned: OwnIds,
    pub(super) tls: RefCell<Option<ClientTls>>,
    peers: RefCell<PeerAddresses>,
    /// The upstream is paused: it answers no handshake before the end of that.
    pub(super) patient: Cell<bool>,
    /// Handshakes under way.
    pub(super) shaking: Cell<u32>,
}

/// What a dialer is built from: beside its address: what is the worker's, and the facts of the server.
pub struct DialerParts {
    pub config: Rc<Config>,
    pub shard: Arc<Shard>,
    /// What all workers together know of the server.
    pub facts: Arc<NodeFacts>,
    pub worker: usize,
    pub owned: OwnIds,
    pub keyring: Rc<Keyring>,
    /// How to speak TLS; none if the server does not.
    pub tls: Option<ClientTls>,
}

/// A link that could not be opened, and the permit that it would have used.
pub type Dialed = Result<Link, (DialError, Permit)>;

impl Dialer {
    /// A dialer for `node` at `address` that has not connected to anything yet.
    #[must_use]
    pub fn new(node: NodeId, address: Endpoint, parts: DialerParts) -> Self {
        let DialerParts { config, shard, facts, worker, owned, keyring, tls } = parts;
        let rate = connect_rate(&config);
        let circuit = Circuit::new(&config.upstream);
        shard.circuit[circuit.state()].set(1);
        Self {
            config: RefCell::new(config),
            address: RefCell::new(Rc::new(address)),
            shard,
            facts,
            worker,
            serial: Cell::new(0),
            server: Cell::new(ServerRef::first(node)),
            circuit: RefCell::new(circuit),
            refused: LoginRefusals::default(),
            rate: RefCell::new(TokenBucket::new(rate, rate)),
            keyring,
            owned,
            tls: RefCell::new(tls),
            peers: RefCell::default(),
            patient: Cell::new(false),
            shaking: Cell::new(0),
        }
    }

    /// Looks up where the upstream's name leads now.
    pub async fn look_up(&self) -> NameLookup {
        let settings = &self.config().upstream;
        match timeout(settings.connect_timeout, resolve(&self.address())).await {
            Ok(Ok(addresses)) if self.peers.borrow_mut().on_resolved(&addresses) => NameLookup::Moved,
            Ok(Ok(_)) => NameLookup::Same,
            _ => NameLookup::Failed,
        }
    }

    /// Where the server is.
    pub fn address(&self) -> Rc<Endpoint> {
        Rc::clone(&self.address.borrow())
    }

    pub(super) fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// When the next attempt may start, if the upstream is in back-off or another attempt is under way that tries
    /// whether it is back.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.circuit.borrow().retry_at(now())
    }

    /// Whether the circuit is open: nobody waits for the upstream, because it has been away for long.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.circuit.borrow().state() != CircuitState::Closed
    }

    /// Commands were answered since the last look.
    pub fn on_service(&self) {
        if self.circuit.borrow_mut().on_service(now()) {
            let upstream = self.address();
            tracing::debug!(worker = self.worker, %upstream, "in service again: the pauses between connects are short");
        }
    }

    /// A connection ended that stood since `ready` and had served nobody: the same to the back-off as one that could
    /// not be made.
    pub fn on_unproven_loss(&self, ready: Instant, reason: &str) {
        self.note_trouble(reason);
        self.on_failure(ready, AttemptFailure::Silent, reason);
    }

    /// Opens one link in the state `key`. Waits for the rate limit, not for the back-off:
    /// [`Dialer::acquire`] decides about it, and is the way for all who need a link for clients.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, permit: Permit, key: &RouteKey) -> Dialed {
        let dialed = self.open(permit, key, SocketStage::Fresh).await;
        self.or_select_first(dialed, key).await
    }

    /// A user without the right to SELECT is in another database than 0 because it selected that before it logged in;
    /// its connections have to come there in the same way.
    async fn or_select_first(&self, dialed: Dialed, key: &RouteKey) -> Dialed {
        match dialed {
            Err((DialError::State(text), permit))
                if text.starts_with(b"NOPERM") && key.db != 0 && key.identity != Identity::Implicit =>
            {
                self.open(permit, key, SocketStage::SelectFirst).await.map_err(|(error, permit)| match error {
                    // Nor may those who do not log in: the user's own refusal is the answer.
                    DialError::State(_) => (DialError::State(text), permit),
                    error => (error, permit),
                })
            }
            dialed => dialed,
        }
    }

    /// Opens a link that has not said who it is: the login connection, whose every use starts with RESET.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(super) async fn dial_bare(&self, permit: Permit) -> Dialed {
        self.open(permit, &RouteKey::fresh(Identity::Implicit, 0), SocketStage::Bare).await
    }

    /// Makes a used link serve `key`: RESET, then the handshake again, all awaited (rule M4).
    ///
    /// # Errors
    /// See [`DialError`]; the link is closed then.
    pub(super) async fn renew(&self, mut link: Link, key: &RouteKey) -> Dialed {
        link.unread.clear();
        match self.shake_in_time(&mut link, key, SocketStage::Used).await {
            Ok(()) => Ok(link),
            Err(error) => {
                let failed = Err((error, link.close(UpstreamCloseReason::Dirty).await));
                self.or_select_first(failed, key).await
            }
        }
    }

    pub(super) async fn open(&self, permit: Permit, key: &RouteKey, stage: SocketStage) -> Dialed {
        let settings = &self.config().upstream;
        let configured_login = is_configured_login(key, stage);
        if configured_login && let Some(text) = self.refused.still(|| configured(settings).ok().flatten()) {
            return Err((DialError::Identity(text), permit));
        }
        let limit = settings.connect_timeout + settings.handshake_timeout + Duration::from_secs(1);
        // The circuit lets one attempt through at a time while it is open. Whoever is let through has to tell how it ended;
        // if nobody does, the next may try after `limit`.
        if !self.moved(|circuit| circuit.begin(now(), limit)) {
            return Err((DialError::waiting(), permit));
        }
        self.wait_for_token().await;
        let started = now();
        let result = self.attempt(permit, key, stage).await;
        if let Err((error, _)) = &result {
            self.shard.upstream_connect_errors[error.cause()].inc();
            self.note_trouble(&error.to_string());
        }
        match &result {
            Err((error, _)) if error.is_pause() => self.on_connected(),
            Err((DialError::Unavailable { text, cause }, _)) => {
                self.on_failure(started, AttemptFailure::of(*cause), text)
            }
            Err((DialError::Identity(text), _)) => {
                self.on_connected();
                if configured_login && let Ok(Some(login)) = configured(settings) {
                    self.on_login_refused(login, text);
                }
            }
            Ok(_) => {
                self.on_connected();
                if configured_login {
                    self.on_login_accepted();
                }
            }
            Err((DialError::State(_), _)) => self.on_connected(),
        }
        result
    }

    async fn attempt(&self, permit: Permit, key: &RouteKey, stage: SocketStage) -> Dialed {
        let (settings, server) = (&self.config().upstream, self.server.get());
        // From here on it is in the figures, and out of them however this ends.
        let counted = Counted::new(Arc::clone(&self.shard), permit.purpose());
        let socket = match timeout(settings.connect_timeout, connect(&self.address())).await {
            Ok(Ok((socket, peer))) => {
                self.peers.borrow_mut().on_connected(peer);
                socket
            }
            Ok(Err(error)) => return Err((error, permit)),
            Err(_) => return Err((DialError::unavailable(ConnectError::Timeout, "connect timed out"), permit)),
        };
        // A link before its handshake: the server counts the connection, so the permit must live as long as it does.
        let mut link = Link {
            socket: Some(socket),
            place: Some(Occupancy { permit, counted }),
            key: key.clone(),
            id: self.owned.entry(server.node()),
            unread: BytesMut::new(),
            server,
        };
        match self.secure_and_shake(&mut link, key, stage).await {
            Ok(()) => {
                link.counted().on_ready();
                Ok(link)
            }
            Err(error) => Err((error, link.close(UpstreamCloseReason::Dirty).await)),
        }
    }

    async fn secure_and_shake(&self, link: &mut Link, key: &RouteKey, stage: SocketStage) -> Result<(), DialError> {
        let tls = self.tls.borrow().clone();
        if let Some(tls) = tls {
            self.secure_in_time(link, &tls).await?;
        }
        self.shake_in_time(link, key, stage).await
    }

    /// From plain TCP to TLS. The upstream counts the connection already, so it stays a link and keeps its permit.
    async fn secure_in_time(&self, link: &mut Link, tls: &ClientTls) -> Result<(), DialError> {
        let failed = |text: String| DialError::unavailable(ConnectError::Tls, format!("TLS: {text}"));
        let config = self.config();
        if !matches!(&link.socket, Some(Socket::Tcp(_))) {
            return Ok(());
        }
        let name = server_name(&config.upstream.tls, &self.address()).map_err(failed)?;
        let shown = name.to_str().into_owned();
        let Some(Socket::Tcp(stream)) = link.socket.take() else { return Ok(()) };
        let session = TlsStream::client(stream, tls.current(), name).map_err(|e| failed(e.to_string()))?;
        link.socket = Some(Socket::Tls(Rc::clone(&session)));
        match timeout(config.upstream.handshake_timeout, session.handshake()).await {
            Ok(result) => result.map_err(|e| failed(error_hints::of_handshake(&e, &shown))),
            Err(_) => Err(DialError::unavailable(ConnectError::Timeout, error_hints::SILENT_HANDSHAKE)),
        }
    }

    pub(super) async fn shake(&self, link: &mut Link, key: &RouteKey, stage: SocketStage) -> Result<(), DialError> {
        let tls = self.tls.borrow().is_some();
        let unavailable = |e: io::Error| DialError::io_saying(&e, error_hints::of_greeting(&e, tls));
        self.serial.set(self.serial.get() + 1);
        let config = self.config();
        let name = format!("respmux:{}:{}:{}", config.instance, self.worker, self.serial.get());
        let handshake = match stage {
            SocketStage::Bare => Handshake::bare(&name),
            SocketStage::Fresh | SocketStage::Suspicious | SocketStage::SelectFirst | SocketStage::Used => {
                let credentials = self.keyring.credentials(&key.identity, &config).map_err(unavailable)?;
                let nonce = format!("{name}:{:x}", fastrand::u64(..));
                if stage == SocketStage::Used {
                    // In a round trip of its own: Redis 8.2 sends no reply to a failed AUTH that arrives together with
                    // a RESET before it.
                    link.silence().await.map_err(unavailable)?;
                }
                let implicit = match stage {
                    SocketStage::SelectFirst => {
                        Some(self.keyring.credentials(&Identity::Implicit, &config).map_err(unavailable)?)
                    }
                    SocketStage::Fresh | SocketStage::Suspicious | SocketStage::Used | SocketStage::Bare => None,
                };
                let select_as = implicit.as_ref().map(Option::as_ref);
                let credentials = credentials.as_ref();
                Handshake::new(&HandshakeLogin { key, credentials, select_as, name: &name, nonce: &nonce })
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

    /// Token bucket over all connects of this worker: a restart of the upstream must not meet a storm.
    async fn wait_for_token(&self) {
        while let Some(backoff) = self.missing() {
            tokio::time::sleep(backoff).await;
        }
        self.rate.borrow().take();
    }

    fn missing(&self) -> Option<Duration> {
        self.rate.borrow().missing()
    }
}

impl DialError {
    pub(super) fn unavailable(cause: ConnectError, text: impl Into<String>) -> Self {
        Self::Unavailable { cause, text: text.into() }
    }

    pub(super) fn io(error: &io::Error) -> Self {
        Self::io_saying(error, error.to_string())
    }

    fn io_saying(error: &io::Error, text: String) -> Self {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectError::Refused,
            io::ErrorKind::TimedOut => ConnectError::Timeout,
            _ => ConnectError::Io,
        };
        Self::unavailable(cause, text)
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
pub(super) fn connect_rate(config: &Config) -> f64 {
    #[allow(clippy::cast_precision_loss)] // a rate of 2^53 connects a second is not limited either way
    let rate = config.upstream.connects_per_second as f64 / config.workers as f64;
    rate.max(1.0)
}

/// Logs in as the configuration says.
fn is_configured_login(key: &RouteKey, stage: SocketStage) -> bool {
    key.identity == Identity::Implicit && stage != SocketStage::Bare
}

pub(super) fn greeting_cause(text: &[u8]) -> ConnectError {
    if text.starts_with(b"LOADING") { ConnectError::Loading } else { ConnectError::MaxClients }
}

/// Errors with which servers turn a connection away before they look at it.
pub(super) fn is_greeting(text: &[u8]) -> bool {
    text.starts_with(b"ERR max number of clients") || text.starts_with(b"DENIED") || text.starts_with(b"LOADING")
}
