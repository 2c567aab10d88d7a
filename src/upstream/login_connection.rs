//! The connection on which the upstream proves identities: AUTH, HELLO … AUTH, and what a client is without either
//! (docs/design/semantics.md 4.3). Every use starts with RESET; one use at a time, first come first served.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use super::Node;
use crate::link::{Link, Patience, Start, Use, Wanted, decoded};
use crate::resp::encode;
use crate::telemetry::UpstreamCloseReason;

/// How long the answer to a probe may serve new clients, while no change of rights or settings passes by.
const PROBE_LIFE: Duration = Duration::from_secs(1);
/// Logins that may wait for the login connection.
const MAX_WAITING: usize = 16_384;

/// What the upstream thinks of a client that has not logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRequirement {
    /// May use the default user.
    Implicit,
    /// Must log in first.
    Unauthenticated,
}

/// The answer to a probe.
#[derive(Clone, Copy)]
struct Probe {
    asked: Instant,
    /// The changes of rights that had passed by before it was asked.
    rules: u64,
    login_requirement: LoginRequirement,
}

/// The login connection of a worker to one server.
pub struct LoginConnection {
    turn: Semaphore,
    link: RefCell<Option<Link>>,
    probe: Cell<Option<Probe>>,
    /// What the last probe said, however long ago.
    wants_login: Cell<bool>,
    waiting: Cell<usize>,
    /// Redis checks existence and arity before it asks for a login; Valkey 9 asks first (rule A5).
    login_first: Cell<Option<bool>>,
}

/// A login that waits, counted for as long as it does, however that ends.
struct QueuedLogin<'a>(&'a Cell<usize>);

impl<'a> QueuedLogin<'a> {
    fn new(waiting: &'a Cell<usize>) -> io::Result<Self> {
        if waiting.get() >= MAX_WAITING {
            return Err(io::Error::other("too many logins are waiting"));
        }
        waiting.set(waiting.get() + 1);
        Ok(Self(waiting))
    }
}

impl Drop for QueuedLogin<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Default for LoginConnection {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            link: RefCell::new(None),
            probe: Cell::new(None),
            wants_login: Cell::new(false),
            waiting: Cell::new(0),
            login_first: Cell::new(None),
        }
    }
}

impl LoginConnection {
    /// Runs `command` (one encoded request) on a connection that has just been reset, and returns its reply.
    ///
    /// # Errors
    /// The upstream is not available; nothing can be said about the login.
    pub async fn run(&self, node: &Rc<Node>, command: &[u8]) -> io::Result<Vec<u8>> {
        let _waiting = QueuedLogin::new(&self.waiting)?;
        let reply = node.within(node.rt.config().upstream.connect_wait, self.run_in_turn(node, command)).await;
        reply.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    /// As [`LoginConnection::run`], if `still_may` says so when its turn has come; else nothing is sent.
    ///
    /// # Errors
    /// The upstream is not available; nothing can be said about the login.
    pub async fn login(
        &self,
        node: &Rc<Node>,
        command: &[u8],
        still_may: impl Fn() -> bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let _waiting = QueuedLogin::new(&self.waiting)?;
        let judged = async {
            let _turn = self.turn.acquire().await.map_err(io::Error::other)?;
            if !still_may() {
                return Ok(None);
            }
            self.unit(node, command).await.map(Some)
        };
        let reply = node.within(node.rt.config().upstream.connect_wait, judged).await;
        reply.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn run_in_turn(&self, node: &Rc<Node>, command: &[u8]) -> io::Result<Vec<u8>> {
        let _turn = self.turn.acquire().await.map_err(io::Error::other)?;
        self.unit(node, command).await
    }

    /// The kept connection; one of the past is closed.
    async fn current(&self, node: &Node) -> Option<Link> {
        let kept = self.link.borrow_mut().take()?;
        if node.dialer.is_current(&kept) {
            return Some(kept);
        }
        drop(kept.close(UpstreamCloseReason::Moved).await);
        None
    }

    /// A kept connection that the server has closed is not kept any longer: that of a user who was deleted. The next
    /// use waits until it has given its place back.
    pub(super) fn on_tick(node: &Rc<Node>) {
        if node.login_connection.link.borrow().as_ref().is_none_or(|link| !link.is_closed()) {
            return;
        }
        let node = Rc::clone(node);
        spawn_local(async move {
            let Ok(_turn) = node.login_connection.turn.acquire().await else { return };
            let dead = node.login_connection.link.borrow_mut().take_if(|link| link.is_closed());
            if let Some(dead) = dead {
                drop(dead.close(UpstreamCloseReason::Upstream).await);
            }
        });
    }

    /// Connections are to move. The next use waits until this one has given its place back.
    pub(super) fn rotate(node: &Rc<Node>) {
        let node = Rc::clone(node);
        spawn_local(async move {
            let Ok(_turn) = node.login_connection.turn.acquire().await else { return };
            if let Some(link) = node.login_connection.current(&node).await {
                *node.login_connection.link.borrow_mut() = Some(link);
            }
        });
    }

    /// One unit: RESET, the command. A kept connection may have died with the user that it proved last, so a unit
    /// that fails on it is tried once more on a new one: proving an identity twice changes nothing.
    async fn unit(&self, node: &Rc<Node>, command: &[u8]) -> io::Result<Vec<u8>> {
        let kept = self.current(node).await;
        if let Some(link) = kept
            && let Ok(reply) = self.unit_on(node, link, command).await
        {
            return Ok(reply);
        }
        let link = self.open(node).await?;
        self.unit_on(node, link, command).await
    }

    /// The connection is owned while in use, so that an error or a cancelled wait in the middle closes it.
    async fn unit_on(&self, node: &Rc<Node>, mut link: Link, command: &[u8]) -> io::Result<Vec<u8>> {
        let name = format!("respmux:{}:{}:scratch", node.rt.config().instance, node.rt.worker);
        let mut batch = BytesMut::with_capacity(128 + command.len());
        batch.extend_from_slice(command);
        encode::command(&mut batch, &["CLIENT", "ID"]);
        encode::command(&mut batch, &["CLIENT", "SETNAME", &name]);
        let unit = async {
            // Not in one packet: Redis 8.2 sends no reply to a failed AUTH that arrives together with a RESET.
            link.silence().await?;
            link.call(&batch, 3).await
        };
        let result = node.within(node.rt.config().upstream.handshake_timeout, unit).await;
        let mut replies = match result.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
            Ok(replies) => replies,
            Err(error) => {
                drop(link.close((&error).into()).await);
                return Err(error);
            }
        };
        if let Some(id) = decoded(&replies[1])?.as_int() {
            link.learn_id(id);
        }
        *self.link.borrow_mut() = Some(link);
        Ok(replies.swap_remove(0))
    }

    /// A new connection. Whoever calls this has a limit of time around it.
    async fn open(&self, node: &Rc<Node>) -> io::Result<Link> {
        let Some(permit) = node.rt.budget.permit(Use::Login) else {
            return Err(io::Error::other("no permit for the login connection"));
        };
        let dialed = node.dialer.acquire(Start::New(permit), Wanted::Bare, Patience::Caller).await;
        dialed.map_err(|(error, _)| io::Error::new(io::ErrorKind::NotConnected, error))
    }

    /// What a client is that has sent nothing yet. One probe serves all clients of the next second (rule A4).
    ///
    /// # Errors
    /// The upstream is not available.
    pub async fn login_requirement(&self, node: &Rc<Node>) -> io::Result<LoginRequirement> {
        if let Some(known) = node.assumed_login_requirement().or_else(|| self.known(node)) {
            return Ok(known);
        }
        node.within(node.rt.config().upstream.connect_wait, self.probe(node))
            .await
            .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn probe(&self, node: &Rc<Node>) -> io::Result<LoginRequirement> {
        let _turn = self.turn.acquire().await.map_err(io::Error::other)?;
        if let Some(known) = self.known(node) {
            return Ok(known);
        }
        let (asked, rules) = (crate::base::now(), node.rt.process.rights_changes());
        let mut ping = BytesMut::new();
        encode::command(&mut ping, &["PING"]);
        let reply = self.unit(node, &ping).await?;
        // NOPERM, BUSY or LOADING are words to somebody who is known.
        let login_requirement =
            if reply.starts_with(b"-NOAUTH") { LoginRequirement::Unauthenticated } else { LoginRequirement::Implicit };
        self.probe.set(Some(Probe { asked, rules, login_requirement }));
        self.wants_login.set(login_requirement == LoginRequirement::Unauthenticated);
        if login_requirement == LoginRequirement::Unauthenticated && self.login_first.get().is_none() {
            let mut bad = BytesMut::new();
            encode::command(&mut bad, &["GET"]);
            let reply = self.unit(node, &bad).await?;
            self.login_first.set(Some(reply.starts_with(b"-NOAUTH")));
        }
        Ok(login_requirement)
    }

    /// The answer of a probe that is fresh enough. A CONFIG SET or an ACL command that passes by, in any worker, ends
    /// it at once: whoever has set or lifted a password finds new clients treated so.
    #[must_use]
    pub fn known(&self, node: &Node) -> Option<LoginRequirement> {
        let probe = self.probe.get()?;
        let is_fresh = probe.rules == node.rt.process.rights_changes() && crate::base::since(probe.asked) < PROBE_LIFE;
        is_fresh.then_some(probe.login_requirement)
    }

    /// Clients that were refused may be let in by now: the last probe was let in, or rights or settings have changed
    /// since, through respmux.
    #[must_use]
    pub fn may_have_opened(&self, node: &Node) -> bool {
        let opened = |probe: Probe| {
            probe.login_requirement == LoginRequirement::Implicit || probe.rules != node.rt.process.rights_changes()
        };
        self.probe.get().is_some_and(opened)
    }

    /// The upstream's users may have changed: ask again.
    pub fn forget_probe(&self) {
        self.probe.set(None);
    }

    /// Somebody waits for an answer.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.turn.available_permits() == 0
    }

    /// Clients have to log in, as far as is known.
    #[must_use]
    pub fn wants_login(&self) -> bool {
        self.wants_login.get()
    }

    /// The upstream asks for a login before it looks at a command's name and arity.
    #[must_use]
    pub fn login_first(&self) -> bool {
        self.login_first.get().unwrap_or(false)
    }
}
