//! One client of a worker: what CLIENT LIST, INFO, KILL and UNBLOCK see of it. Its own task moves it; others read.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use super::address::Address;
use super::line::{ClientLine, Transport};
use crate::client::activity::{Activity, PinnedFacts};
use crate::client::drain::departure::Departure;
use crate::command::CommandId;
use crate::session::{Family, Resp, Session};
use crate::upstream::Outbox;

/// One client.
pub(in crate::client) struct ClientRecord {
    /// What is to be sent to the client, and whether it is to be closed: the way by which everybody else reaches its task.
    pub outbox: Rc<Outbox>,
    pub address: Address,
    pub transport: Transport,
    /// Moved by the client's task. Borrowed for the moment only: replies of its lane look at it as well.
    pub session: RefCell<Session>,
    /// Moved by its own verbs, called from the client's task.
    pub activity: Activity,
    /// The last command that was routed.
    pub command: Cell<CommandId>,
    /// Since when the client owes a login, nanoseconds of the worker's clock; 0 when it has, or need not.
    pub locked_at: Cell<u64>,
    /// For its age. Never moved.
    pub connected: Instant,
    /// When it was last read, nanoseconds of the worker's clock.
    pub active: Cell<u64>,
    /// How far the client is on its way out; moved by `drain`.
    pub departure: Cell<Option<Departure>>,
    /// Bytes that it has sent.
    pub received: Cell<u64>,
}

impl ClientRecord {
    /// Messages may come for it at any time.
    pub(in crate::client) fn subscribes(&self) -> bool {
        self.activity.pinned().is_some_and(|pinned| pinned.is_stream()) || self.is_on_hub()
    }

    /// It has subscriptions on a hub.
    fn is_on_hub(&self) -> bool {
        !self.outbox.subscribed().is_empty()
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
        let pinned = self.activity.pinned();
        let of_pinned = |count: fn(&PinnedFacts) -> u32| u64::from(pinned.as_ref().map_or(0, count));
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
            channels: of_pinned(|pinned| pinned.channels) + shared.of(Family::Channel),
            patterns: of_pinned(|pinned| pinned.patterns) + shared.of(Family::Pattern),
            shards: of_pinned(|pinned| pinned.shards) + shared.of(Family::Shard),
            multi: pinned.map_or(-1, |pinned| pinned.multi.into()),
            monitor: pinned.is_some_and(|pinned| pinned.monitor),
            blocked: self.activity.is_blocked(),
            no_evict: self.outbox.no_evict(),
            no_touch: session.key.no_touch,
            readonly: session.key.readonly,
            arguments: self.activity.arguments().into(),
            request: 0,
            link: pinned.and_then(|pinned| pinned.link),
            state: self.state(),
            command: self.command.get(),
            pin: pinned.map(|pinned| pinned.reason.into()),
            route: match () {
                () if pinned.is_some() => "pool",
                () if self.activity.is_blocked_together() => "fold",
                () if self.outbox.hub().is_some() => "hub",
                () => "lane",
            },
            received: self.received.get(),
            sent: self.outbox.total_sent(),
            unsent: self.outbox.unsent() as u64,
            pending: self.outbox.pending(),
        }
    }

    /// What it is doing, in one word.
    pub(in crate::client) fn state(&self) -> &'static str {
        self.activity.state(self.is_on_hub())
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
        let waits = self.activity.is_blocked() || self.activity.is_under_way() || self.subscribes();
        !waits && self.outbox.pending() == 0 && self.outbox.unsent() == 0
    }
}
