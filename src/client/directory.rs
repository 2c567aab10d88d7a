//! The clients of a worker as CLIENT LIST, INFO, KILL and UNBLOCK see them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use super::address::Address;
use super::parting::Parting;
use crate::command::CommandId;
use crate::link::ServerClient;
use crate::router::PinReason;
use crate::session::{Family, Resp, Session};
use crate::telemetry;
use crate::upstream::{Outbox, Wait};

/// What a held connection adds to a client's line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    pub channels: u32,
    pub patterns: u32,
    pub shards: u32,
    /// Commands queued in MULTI, -1 outside.
    pub multi: i32,
    pub monitor: bool,
    /// Why it holds a connection, if it does.
    pub pin: Option<PinReason>,
    /// The connection on which the client is blocked, where the server can be asked to unblock it.
    pub blocked_on: Option<ServerClient>,
    /// The connection that it holds.
    pub link: Option<ServerClient>,
}

/// What a client is doing, in one word: all there are.
pub(super) const STATES: [&str; 5] = ["open", "blocked", "transaction", "subscribed", "monitor"];

/// How a client reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    /// With the user and the process at the other end, as they were when it connected; 0 for a process that the
    /// kernel does not name.
    Unix {
        uid: u32,
        pid: i32,
    },
}

/// One client.
pub(super) struct Profile {
    pub outbox: Rc<Outbox>,
    pub address: Address,
    pub transport: Transport,
    pub session: RefCell<Session>,
    pub holding: Cell<Holding>,
    /// It is blocked without a connection of its own.
    pub waiting: RefCell<Option<Rc<Wait>>>,
    pub command: Cell<CommandId>,
    /// Bytes of the arguments of the command that is carried out aside from the lane.
    pub arguments: Cell<u32>,
    /// Since when it has not logged in, nanoseconds of the worker's clock; 0 when it has, or need not.
    pub locked_at: Cell<u64>,
    pub connected: Instant,
    /// When it was last read, nanoseconds of the worker's clock.
    pub active: Cell<u64>,
    /// Something is under way for it aside from its lane that PROXY PAUSE waits for.
    pub busy: Cell<bool>,
    /// It is sent away.
    pub parting: Cell<Option<Parting>>,
    /// Bytes that it has sent.
    pub received: Cell<u64>,
}

/// A client's line, made of values only, so that it can travel between workers.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub id: u64,
    pub addr: String,
    pub laddr: String,
    pub transport: Transport,
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    pub user: Vec<u8>,
    pub age: u64,
    pub idle: u64,
    pub db: u32,
    pub resp: u8,
    pub channels: u64,
    pub patterns: u64,
    pub shards: u64,
    pub multi: i64,
    pub monitor: bool,
    pub blocked: bool,
    pub no_evict: bool,
    pub no_touch: bool,
    pub readonly: bool,
    /// Bytes of the arguments of the command under way.
    pub arguments: u64,
    /// Bytes of the request that asks for this line, in the line of whoever asks.
    pub request: usize,
    /// The upstream's id of the connection that it holds; 0 for none.
    pub link: Option<ServerClient>,
    /// One of [`STATES`].
    pub state: &'static str,
    pub command: CommandId,
    /// Why it holds a connection of its own, if it does.
    pub pin: Option<telemetry::PinReason>,
    /// What carries its commands now.
    pub route: &'static str,
    /// Bytes from it, and to it.
    pub received: u64,
    pub sent: u64,
    /// Bytes that it has not read yet.
    pub unsent: u64,
    /// Requests on a lane without an answer.
    pub pending: u32,
}

impl Profile {
    /// Messages may come for it at any time.
    pub(super) fn subscribes(&self) -> bool {
        let holding = self.holding.get();
        let own = holding.channels > 0 || holding.patterns > 0 || holding.shards > 0 || holding.monitor;
        own || !self.outbox.subscribed().is_empty()
    }

    /// Where it connected to. Its socket is asked: the listener may be one for all addresses of the machine.
    pub(super) fn local_address(&self) -> String {
        match &self.address {
            Address::Unix(_) => self.address.to_string(),
            Address::Ip(_) => self.outbox.local_address().map_or_else(String::new, |address| address.to_string()),
        }
    }

    /// The client's line now.
    pub(super) fn line(&self, now: u64) -> Line {
        let session = self.session.borrow();
        let labels = session.labels.as_deref().cloned().unwrap_or_default();
        let holding = self.holding.get();
        let shared = self.outbox.subscribed();
        Line {
            id: self.outbox.id(),
            addr: self.address.to_string(),
            laddr: self.local_address(),
            transport: self.transport,
            name: labels.name,
            lib_name: labels.lib_name,
            lib_version: labels.lib_version,
            user: session.key.identity.name().to_vec(),
            age: crate::base::since(self.connected).as_secs(),
            idle: now.saturating_sub(self.active.get()) / 1_000_000_000,
            db: session.key.db,
            resp: if session.key.resp == Resp::Three { 3 } else { 2 },
            channels: u64::from(holding.channels) + shared.of(Family::Channel),
            patterns: u64::from(holding.patterns) + shared.of(Family::Pattern),
            shards: u64::from(holding.shards) + shared.of(Family::Shard),
            multi: holding.multi.into(),
            monitor: holding.monitor,
            blocked: self.is_blocked(),
            no_evict: self.outbox.no_evict(),
            no_touch: session.key.no_touch,
            readonly: session.key.readonly,
            arguments: if self.is_blocked() && holding.link.is_none() { self.arguments.get().into() } else { 0 },
            request: 0,
            link: holding.link,
            state: self.state(),
            command: self.command.get(),
            pin: holding.pin.map(Into::into),
            route: match () {
                () if holding.pin.is_some() => "pool",
                () if self.waiting.borrow().is_some() => "fold",
                () if self.outbox.hub().is_some() => "hub",
                () => "lane",
            },
            received: self.received.get(),
            sent: self.outbox.total_sent(),
            unsent: self.outbox.unsent() as u64,
            pending: self.outbox.pending(),
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.holding.get().blocked_on.is_some() || self.waiting.borrow().is_some()
    }

    /// What it is doing, in one word of [`STATES`].
    pub(super) fn state(&self) -> &'static str {
        let holding = self.holding.get();
        let held = holding.channels + holding.patterns + holding.shards > 0;
        match () {
            () if holding.monitor => "monitor",
            () if self.is_blocked() => "blocked",
            () if holding.multi >= 0 => "transaction",
            () if held || !self.outbox.subscribed().is_empty() => "subscribed",
            () => "open",
        }
    }

    /// The client has sent `bytes` more.
    #[inline]
    pub(super) fn on_read(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// Who it is, for what outlives it.
    pub(super) fn who(&self) -> (String, Vec<u8>) {
        (self.address.to_string(), self.session.borrow().key.identity.name().to_vec())
    }
}

impl Line {
    /// What CLIENT LIST TYPE calls this client.
    pub(crate) fn kind(&self) -> &'static str {
        if self.channels + self.patterns + self.shards > 0 { "pubsub" } else { "normal" }
    }

    /// The `flags=` field.
    pub(crate) fn flags(&self) -> String {
        let marks = [('O', self.monitor), ('P', self.kind() == "pubsub"), ('x', self.multi >= 0), ('b', self.blocked)];
        let flags: String = marks.iter().filter(|(_, set)| *set).map(|(mark, _)| *mark).collect();
        if flags.is_empty() { "N".into() } else { flags }
    }
}

/// All clients of a worker, by virtual id.
#[derive(Default)]
pub(super) struct Directory {
    clients: RefCell<BTreeMap<u64, Rc<Profile>>>,
}

impl Directory {
    pub(super) fn enter(&self, profile: &Rc<Profile>) {
        self.clients.borrow_mut().insert(profile.outbox.id(), Rc::clone(profile));
    }

    pub(super) fn leave(&self, id: u64) {
        self.clients.borrow_mut().remove(&id);
    }

    pub(super) fn find(&self, id: u64) -> Option<Rc<Profile>> {
        self.clients.borrow().get(&id).cloned()
    }

    /// Runs `act` on every client.
    pub(super) fn each(&self, act: impl FnMut(&Rc<Profile>)) {
        self.clients.borrow().values().for_each(act);
    }

    pub(super) fn all(&self) -> Vec<Rc<Profile>> {
        self.clients.borrow().values().cloned().collect()
    }
}
