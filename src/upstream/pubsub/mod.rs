//! Subscriptions of many clients through one upstream connection, a *hub* (users read: subscription connection): one for each user
//! on a worker (docs/design/semantics.md 9).
//!
//! ```text
//!  client ──SUBSCRIBE──▶ core ──▶ out ──▶ upstream           registry: who wants, who hears
//!                         │                  │               expect:   what the upstream owes, in order
//!  outbox ◀── confirm ────┴──◀── push ◀──────┘
//!  outbox ◀── message, to every listener ◀───┘
//! ```
//!
//! [`core`] decides (pure); [`hub`] is the connection; [`deliver`] takes what it reads to the outboxes. A hub that dies
//! takes its clients along: messages are lost, and a silent resubscription would hide that (rule P4).

mod core;
mod deliver;
mod expect;
mod frame;
mod hidden_subscribers;
mod hub;
mod registry;
mod subscriber;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

pub use hidden_subscribers::HiddenSubscribers;
pub use hub::{Hub, Subscribe};
pub(super) use subscriber::Subscriber;

use super::Node;
use crate::link::Use;
use crate::session::Identity;
use crate::telemetry::UpstreamCloseReason;
use hub::{HubFailure, HubPhase};

/// For so long an identity that was refused a hub is not tried again.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Refusals that are remembered.
const MAX_REFUSED: usize = 1024;

/// Why a client cannot subscribe through a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHub {
    /// The share of the cap is used up, or the identity may not have one: a lent connection serves.
    UsePinned,
    /// The upstream is away; nothing was written.
    Unavailable,
}

/// The hubs of a worker.
#[derive(Default)]
pub struct Hubs {
    by_identity: RefCell<HashMap<Identity, Rc<Hub>>>,
    refused: RefCell<HashMap<Identity, u64>>,
    freed: Notify,
    serial: Cell<u64>,
}

impl Hubs {
    /// The hub of `identity`, connected; waits for the upstream up to `upstream.connect_wait`.
    ///
    /// # Errors
    /// See [`NoHub`].
    pub async fn obtain(&self, node: &Rc<Node>, identity: &Identity) -> Result<Rc<Hub>, NoHub> {
        loop {
            let hub = match self.existing(identity) {
                Some(hub) => hub,
                None => self.open(node, identity).await?,
            };
            let changed = hub.changed();
            match hub.phase() {
                HubPhase::Ready => return Ok(Rc::clone(&hub)),
                HubPhase::Opening => changed.await,
                HubPhase::Closed(_) => {}
            }
            match hub.phase() {
                HubPhase::Closed(Some(HubFailure::Refused)) => return Err(NoHub::UsePinned),
                HubPhase::Closed(Some(HubFailure::Unavailable)) => return Err(NoHub::Unavailable),
                HubPhase::Opening | HubPhase::Ready | HubPhase::Closed(None) => {}
            }
        }
    }

    fn existing(&self, identity: &Identity) -> Option<Rc<Hub>> {
        self.by_identity.borrow().get(identity).filter(|hub| hub.accepting()).cloned()
    }

    async fn open(&self, node: &Rc<Node>, identity: &Identity) -> Result<Rc<Hub>, NoHub> {
        let refused = self.refused.borrow().get(identity).copied();
        if refused.is_some_and(|at| u128::from(node.rt.now().saturating_sub(at)) < REFUSED_FOR.as_nanos()) {
            return Err(NoHub::UsePinned);
        }
        loop {
            let freed = self.freed.notified();
            if let Some(permit) = node.rt.budget.permit(Use::Hub) {
                self.serial.set(self.serial.get() + 1);
                let hub = Hub::new(self.serial.get(), identity.clone(), node.rt.now(), &node.rt.memory);
                self.by_identity.borrow_mut().insert(identity.clone(), Rc::clone(&hub));
                spawn_local(hub::run(Rc::clone(&hub), Rc::clone(node), permit));
                return Ok(hub);
            }
            if !self.make_place() || timeout(node.rt.config().upstream.connect_wait, freed).await.is_err() {
                return Err(NoHub::UsePinned);
            }
            if let Some(hub) = self.existing(identity) {
                return Ok(hub); // another client of the identity was quicker
            }
        }
    }

    /// A hub that nobody needs gives way to another identity, or is doing so already.
    fn make_place(&self) -> bool {
        let hubs = self.by_identity.borrow();
        if hubs.values().any(|hub| !hub.accepting()) {
            return true;
        }
        let idle = hubs.values().find(|hub| hub.is_idle());
        idle.inspect(|hub| hub.retire(UpstreamCloseReason::Evicted)).is_some()
    }

    fn on_refused(&self, identity: &Identity, now: u64) {
        let mut refused = self.refused.borrow_mut();
        if refused.len() >= MAX_REFUSED {
            refused.clear();
        }
        refused.insert(identity.clone(), now);
    }

    /// The hub's connection has ended and its permit is back.
    fn on_closed(&self, hub: &Rc<Hub>) {
        let mut hubs = self.by_identity.borrow_mut();
        if hubs.get(hub.identity()).is_some_and(|known| Rc::ptr_eq(known, hub)) {
            hubs.remove(hub.identity());
        }
        drop(hubs);
        self.freed.notify_waiters();
    }

    fn all(&self) -> Vec<Rc<Hub>> {
        self.by_identity.borrow().values().cloned().collect()
    }

    /// Connections are to move.
    pub(super) fn rotate(&self) {
        for hub in self.all() {
            hub.rotate();
        }
    }

    /// The worker's tick.
    pub(super) fn on_tick(&self, node: &Node, now: u64, healthy: bool) {
        for hub in self.all() {
            hub.on_tick(node, now, healthy);
        }
    }

    /// Rarer than the tick: a walk over all subscribers. Closes those that were slow for too long.
    pub(super) fn survey(&self, node: &Node, now: u64) {
        let (mut channels, mut subscribers) = (0, 0);
        for hub in self.all() {
            channels += hub.wanted() as u64;
            subscribers += hub.survey(node, now);
        }
        node.rt.shard.pubsub_channels.set(channels);
        node.rt.shard.pubsub_subscribers.set(subscribers);
    }
}
