//! Upstream connections that are lent to one client at a time: a bounded pool with a first-in first-out line and a
//! deadline.
//!
//! [`Pool`] owns the places and the line, whichever servers the connections lead to; [`IdleLinks`] owns those to one server
//! that nobody is lent now; whoever gets a [`Lease`] owns its connection until it gives it back. A connection comes back
//! clean or is made clean (rule M4); it is never closed and reopened between users, because connects are what drives an
//! upstream's CPU. A [`Lease`] that is dropped without being given back closes its connection: nobody may inherit a state
//! that was not proved.

mod lease;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;

pub use lease::{Lease, Return};

use super::Node;
use super::unblock_guard::UnblockGuard;
use crate::link::{DialError, Link, Patience, Start, Use, Wanted};
use crate::session::RouteKey;
use crate::telemetry::UpstreamCloseReason;

/// Why no connection was lent. Nothing of the client was written.
#[derive(Debug)]
pub enum LeaseError {
    /// The deadline passed, or too many wait already.
    Exhausted,
    Dial(DialError),
}

struct Idle {
    link: Link,
    /// Needs RESET and a handshake before it may serve anybody.
    dirty: bool,
    /// When it came back.
    since: Instant,
}

/// The places of one worker for lent connections, whichever servers they lead to, and the line of those that wait for
/// one.
pub struct Pool {
    /// How many places there are, and how many of them blocked clients may have.
    sizes: (usize, usize),
    /// Fair: whoever waits longest gets the next place. A place comes back with the drop of its lease, or when its
    /// connection has been made clean.
    places: Arc<Semaphore>,
    /// How many of them blocked clients may have: transactions never wait for those.
    for_blocked: Arc<Semaphore>,
    /// When each client in line began to wait, by its number.
    line: RefCell<BTreeMap<u64, Instant>>,
    last_in_line: Cell<u64>,
}

/// The connections to one server that nobody is lent now.
#[derive(Default)]
pub struct IdleLinks {
    links: RefCell<Vec<Idle>>,
    /// A connection may be lent that could not be a moment ago: it came back, or nothing is aimed at it any more.
    pub(super) again: Notify,
    pub(super) unblock_guard: UnblockGuard,
}

/// The right to one lent connection.
struct PoolPlace {
    _any: OwnedSemaphorePermit,
    _for_blocked: Option<OwnedSemaphorePermit>,
}

impl Pool {
    /// A pool of `size` places, `for_blocked` of which clients may have that wait on the server.
    #[must_use]
    pub fn new(size: usize, for_blocked: usize) -> Self {
        let sizes = (size, for_blocked);
        let for_blocked = Arc::new(Semaphore::new(for_blocked));
        Self {
            sizes,
            places: Arc::new(Semaphore::new(size)),
            for_blocked,
            line: RefCell::default(),
            last_in_line: Cell::new(0),
        }
    }

    /// Lends a connection in the state `key`, first come first served, within `pool.wait_timeout`.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub async fn lease(&self, node: &Rc<Node>, key: &RouteKey) -> Result<Lease, LeaseError> {
        let place = PoolPlace { _any: self.place(node).await?, _for_blocked: None };
        self.open(node, key, place).await
    }

    /// Lends a connection to wait on, if there is a place for that now; nobody stands in line for one.
    ///
    /// # Errors
    /// [`LeaseError::Exhausted`] at once when there is no place, otherwise as [`Pool::lease`].
    pub async fn lease_for_blocked(&self, node: &Rc<Node>, key: &RouteKey) -> Result<Lease, LeaseError> {
        let for_blocked = Arc::clone(&self.for_blocked).try_acquire_owned().map_err(|_| LeaseError::Exhausted)?;
        let any = Arc::clone(&self.places).try_acquire_owned().map_err(|_| LeaseError::Exhausted)?;
        self.open(node, key, PoolPlace { _any: any, _for_blocked: Some(for_blocked) }).await
    }

    /// As [`Pool::lease_for_blocked`], but stands in line, within `pool.wait_timeout`: for commands that can only wait on
    /// the server. Wait groups give way to them.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub async fn lease_for_blocked_in_line(&self, node: &Rc<Node>, key: &RouteKey) -> Result<Lease, LeaseError> {
        let for_blocked = match Arc::clone(&self.for_blocked).try_acquire_owned() {
            Ok(place) => place,
            // Waiters that a wait group serves can be served another way, slower; these commands cannot.
            Err(_) => {
                super::WaitGroups::give_way(node);
                self.in_line(node, &self.for_blocked).await?
            }
        };
        let any = self.place(node).await?;
        self.open(node, key, PoolPlace { _any: any, _for_blocked: Some(for_blocked) }).await
    }

    /// Nobody would have to wait now.
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.places.available_permits() > 0
    }

    /// Whether a blocked client would get a place now.
    #[must_use]
    pub fn has_place_for_blocked(&self) -> bool {
        self.places_for_blocked() > 0
    }

    /// How many blocked clients would get a place now.
    #[must_use]
    pub fn places_for_blocked(&self) -> usize {
        self.for_blocked.available_permits().min(self.places.available_permits())
    }

    /// The connection for a place: an idle one, made to fit, or a new one.
    async fn open(&self, node: &Rc<Node>, key: &RouteKey, place: PoolPlace) -> Result<Lease, LeaseError> {
        let deadline = crate::base::now() + node.rt.config().upstream.connect_wait;
        let start = loop {
            // Before the look, so that no connection comes back unnoticed between the two.
            let idle_again = node.idle.again.notified();
            match node.idle.take(key) {
                Some(idle) if idle.link.is_closed() => drop(idle.link.close(UpstreamCloseReason::Upstream).await),
                Some(idle) if !node.dialer.is_current(&idle.link) => {
                    drop(idle.link.close(UpstreamCloseReason::Moved).await);
                }
                Some(idle) if !idle.dirty && idle.link.key() == key => return Ok(Lease::new(idle.link, place, node)),
                Some(idle) => {
                    node.rt.shard.pool_switches.inc();
                    break Start::Used(idle.link);
                }
                None if node.dialer.is_away() => return Err(LeaseError::Dial(DialError::waiting())),
                // There are as many permits as places. Who has a place and finds no permit waits for a connection that
                // is still closing, or for one at which an UNBLOCK is aimed: that one is idle, and is lent when the
                // UNBLOCK has been answered. (An idle connection to another server has a permit as well: with several of
                // them it has to give way here.)
                None => tokio::select! {
                    biased;
                    permit = node.rt.budget.wait(Use::Pool) => break Start::New(permit),
                    () = idle_again => {}
                },
            }
        };
        match node.dialer.acquire(start, Wanted::Ready(key.clone()), Patience::Until(deadline)).await {
            Ok(link) => Ok(Lease::new(link, place, node)),
            Err((error, _)) => Err(LeaseError::Dial(error)),
        }
    }

    /// Waits in line for a place.
    async fn place(&self, node: &Node) -> Result<OwnedSemaphorePermit, LeaseError> {
        self.in_line(node, &self.places).await
    }

    async fn in_line(&self, node: &Node, places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, LeaseError> {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Ok(place);
        }
        if self.waiting() >= node.rt.config().pool.max_waiters {
            node.rt.shard.pool_limits.line_full.inc();
            return Err(LeaseError::Exhausted);
        }
        // The clock of the wait stands still while the server is paused: nobody can give a connection back then.
        let waiting = PoolWaiter::new(self, node);
        let place = node.within(node.rt.config().pool.wait_timeout, Arc::clone(places).acquire_owned()).await;
        drop(waiting);
        match place {
            Some(Ok(place)) => Ok(place),
            Some(Err(_)) | None => {
                node.rt.shard.pool_limits.timeouts.inc();
                Err(LeaseError::Exhausted)
            }
        }
    }

    /// Clients in line.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.borrow().len()
    }

    /// How long the first of them has waited.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.line.borrow().first_key_value().map_or(Duration::ZERO, |(_, since)| crate::base::since(*since))
    }

    /// Places that somebody has.
    pub(super) fn leased(&self) -> usize {
        self.sizes.0.saturating_sub(self.places.available_permits())
    }

    /// How many places blocked clients may have, and have.
    pub(super) fn blocked(&self) -> (usize, usize) {
        (self.sizes.1, self.sizes.1.saturating_sub(self.for_blocked.available_permits()))
    }
}

/// Counts a waiter, also when it gives up.
struct PoolWaiter<'a> {
    pool: &'a Pool,
    node: &'a Node,
    number: u64,
    started: Instant,
}

impl<'a> PoolWaiter<'a> {
    fn new(pool: &'a Pool, node: &'a Node) -> Self {
        let (number, started) = (pool.last_in_line.get() + 1, crate::base::now());
        pool.last_in_line.set(number);
        pool.line.borrow_mut().insert(number, started);
        node.rt.shard.pool_waiters.add(1);
        Self { pool, node, number, started }
    }
}

impl Drop for PoolWaiter<'_> {
    fn drop(&mut self) {
        self.pool.line.borrow_mut().remove(&self.number);
        self.node.rt.shard.pool_waiters.sub(1);
        self.node.rt.shard.pool_waited(crate::base::since(self.started));
    }
}

impl IdleLinks {
    /// An idle connection that fits, else any idle one when no new one may be opened.
    fn take(&self, key: &RouteKey) -> Option<Idle> {
        let mut idle = self.links.borrow_mut();
        let last = |wanted: &dyn Fn(&Idle) -> bool| {
            idle.iter().rposition(|idle| wanted(idle) && !self.unblock_guard.is_at(&idle.link))
        };
        let chosen = last(&|idle| !idle.dirty && idle.link.key() == key)
            .or_else(|| last(&|idle| idle.dirty))
            .or_else(|| last(&|_| true))?;
        let mut chosen = idle.swap_remove(chosen);
        chosen.link.on_leased();
        Some(chosen)
    }

    /// Nobody is lent one of the connections that stand any more. Those that are lent are closed when they come back.
    pub(super) fn rotate(&self) {
        for idle in self.links.take() {
            spawn_local(idle.link.close(UpstreamCloseReason::Moved));
        }
    }

    /// Closes connections that nobody has needed for `upstream.idle_timeout`, dead ones, and those that nobody may be
    /// lent any more.
    pub(super) fn on_tick(&self, node: &Rc<Node>) {
        let limit = node.idle_limit();
        let mut idle = self.links.borrow_mut();
        let mut position = 0;
        while position < idle.len() {
            let Idle { link, since, .. } = &idle[position];
            let reason = if self.unblock_guard.is_quarantined(link) {
                UpstreamCloseReason::Dirty
            } else if link.is_closed() {
                UpstreamCloseReason::Upstream
            } else if crate::base::since(*since) >= limit {
                UpstreamCloseReason::Idle
            } else {
                position += 1;
                continue;
            };
            spawn_local(idle.swap_remove(position).link.close(reason));
        }
    }

    /// Back to the others, unless they were told to move meanwhile.
    async fn put(&self, node: &Node, link: Link, dirty: bool) {
        if node.dialer.is_current(&link) {
            self.keep(link, dirty);
        } else {
            drop(link.close(UpstreamCloseReason::Moved).await);
        }
    }

    fn keep(&self, mut link: Link, dirty: bool) {
        link.on_returned();
        self.links.borrow_mut().push(Idle { link, dirty, since: crate::base::now() });
        self.again.notify_waiters();
    }
}
