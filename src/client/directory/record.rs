//! One client of a worker: what CLIENT LIST, INFO, KILL and UNBLOCK see of it. Its own task moves it; others read.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use super::address::Address;
use super::line::{ClientLine, Transport};
use crate::client::drain::departure::Departure;
use crate::command::CommandId;
use crate::link::ServerClient;
use crate::router::PinReason;
use crate::session::{Family, Resp, Session};
use crate::upstream::{Outbox, Wait};

/// What a held connection adds to a client's line.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::client) struct PinnedFacts {
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

/// One client.
pub(in crate::client) struct ClientRecord {
    pub outbox: Rc<Outbox>,
    pub address: Address,
    pub transport: Transport,
    pub session: RefCell<Session>,
    pub holding: Cell<PinnedFacts>,
    /// The wait of a blocked client that holds no connection; set and cleared by its task.
    pub waiting: RefCell<Option<Rc<Wait>>>,
    pub command: Cell<CommandId>,
    /// Bytes of the arguments of the command that is carried out aside from the lane.
    pub arguments: Cell<u32>,
    /// Since when the client owes a login, nanoseconds of the worker's clock; 0 when it has, or need not.
    pub locked_at: Cell<u64>,
    pub connected: Instant,
    /// When it was last read, nanoseconds of the worker's clock.
    pub active: Cell<u64>,
    /// Something is under way for it aside from its lane that PROXY PAUSE waits for.
    pub busy: Cell<bool>,
    /// How far the client is on its way out; moved by `drain`.
    pub departure: Cell<Option<Departure>>,
    /// Bytes that it has sent.
    pub received: Cell<u64>,
}

impl ClientRecord {
    /// Messages may come for it at any time.
    pub(in crate::client) fn subscribes(&self) -> bool {
        let holding = self.holding.get();
        let own = holding.channels > 0 || holding.patterns > 0 || holding.shards > 0 || holding.monitor;
        own || !self.outbox.subscribed().is_empty()
    }

    /// Where it connected to. Its socket is asked: the listener may be one for all addresses of the machine.
    pub(in crate::client) fn local_address(&self) -> String {
        match &self.address {
            Address::Unix(_) => self.address.to_string(),
            Address::Ip(_) => self.outbox.local_address().map_or_else(String::new, |address| address.to_string()),
        }
    }

    /// The client's line now.
    pub(in crate::client) fn line(&self, now: u64) -> ClientLine {
        let session = self.session.borrow();
        let labels = session.labels.as_deref().cloned().unwrap_or_default();
        let holding = self.holding.get();
        let shared = self.outbox.subscribed();
        ClientLine {
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

    pub(in crate::client) fn is_blocked(&self) -> bool {
        self.holding.get().blocked_on.is_some() || self.waiting.borrow().is_some()
    }

    /// What it is doing, in one word of `STATES`.
    pub(in crate::client) fn state(&self) -> &'static str {
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
    pub(in crate::client) fn on_read(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// Who it is, for what outlives it.
    pub(in crate::client) fn who(&self) -> (String, Vec<u8>) {
        (self.address.to_string(), self.session.borrow().key.identity.name().to_vec())
    }

    /// Whether nothing of the client is in flight, and it is none of those that the server lets wait for ever:
    /// blocked, with subscriptions, MONITOR. The rest of a reply that it does not read has a limit of its own
    /// (`client.output_stall_time`).
    pub(in crate::client) fn may_be_idle(&self) -> bool {
        let waits = self.is_blocked() || self.busy.get() || self.subscribes();
        !waits && self.outbox.pending() == 0 && self.outbox.unsent() == 0
    }
}
