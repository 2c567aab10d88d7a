//! Lends a client a connection of its own and gives it back (rules M2 to M6).

use std::future::poll_fn;
use std::rc::Rc;

use crate::client::connection::{Client, Closed};
use crate::client::error_reply;
use crate::client::pinned::{Pinned, PinnedEvent};
use crate::client::request::Request;
use crate::router::{Local, PinReason};
use crate::session::{Identity, RouteKey, TransactionGuard};
use crate::telemetry::{self, CloseReason, RefuseReason};
use crate::upstream::{Lease, LeaseError, Node, OutputClass, Return};

impl Client {
    /// Borrows a connection, runs `first` on it, and everything after it for as long as the connection's state is
    /// the client's.
    pub(in crate::client) async fn pin(&mut self, first: Request, reason: PinReason) -> Result<(), Closed> {
        let node = self.node();
        if reason == PinReason::Transaction {
            let mut session = self.record.session.borrow_mut();
            if session.guard == TransactionGuard::Poisoned {
                session.guard = TransactionGuard::Intact; // a new MULTI is a new attempt
            }
        }
        // The time in line counts for the slow log: the client has waited for it.
        let asked = node.rt.now();
        let lease = match self.lease_unless_paused(reason).await? {
            Ok(lease) => lease,
            Err(error) => return self.refuse_lease(reason, error),
        };
        // Behind the line: the connection may have been lost while the client stood there.
        if reason == PinReason::Wait && self.wrote.is_lost(&self.node()) {
            // Rule W4: another history would answer for the writes of the old one.
            lease.give_back(Return::Clean);
            return Err(Closed(CloseReason::UpstreamLost));
        }
        let pinned = PinCount::new(&node, reason);
        let result = self.serve_pinned(lease, first, reason, asked).await;
        drop(pinned);
        self.record.activity.is_unpinned();
        // It may have subscribed here; a client of a hub keeps its limit.
        if self.outbox().hub().is_none() {
            node.limit_output(self.outbox(), OutputClass::Normal);
        }
        // The next request looks for a lane anew: the key may have changed on the connection.
        (self.lane, self.on_long_lane) = (None, false);
        result
    }

    /// Waits in line; whose turn comes during PROXY PAUSE lets others go first.
    async fn lease_unless_paused(&mut self, reason: PinReason) -> Result<Result<Lease, LeaseError>, Closed> {
        loop {
            // In line nothing is begun, and it may take as long as others are blocked.
            self.record.activity.stands_in_line();
            let leased = self.lease(reason).await?;
            self.record.activity.goes_on();
            match leased {
                Ok(lease) if self.rt().is_paused() => {
                    // Nothing was sent on it, so it is clean. Behind the pause the client stands in line again.
                    lease.give_back(Return::Clean);
                    self.record.activity.stands_in_line();
                    self.resumed().await?;
                }
                leased => return Ok(leased),
            }
        }
    }

    /// Waits in line. A client that leaves meanwhile gives its turn up, unless it only half-closed and its
    /// commands do not block (rule F7).
    async fn lease(&mut self, reason: PinReason) -> Result<Result<Lease, LeaseError>, Closed> {
        let node = self.node();
        let mut key = self.record.session.borrow().key.clone();
        // SELECT itself would be refused while a script runs.
        if reason == PinReason::OutOfBand {
            key.db = 0;
        }
        // Another user and database, but the client's own protocol: the reply is passed on as it comes.
        if self.wait_as_respmux {
            key = RouteKey { resp: key.resp, ..RouteKey::fresh(Identity::Implicit, 0) };
        }
        // A server ends what only waits when its client has closed; what it has begun, it carries out.
        let dies_with_eof = matches!(
            reason,
            PinReason::Blocking | PinReason::Wait | PinReason::Subscribe | PinReason::Monitor | PinReason::Paused
        );
        let lend = async {
            match reason {
                PinReason::Blocking | PinReason::Wait => node.rt.pool.lease_for_blocked_in_line(&node, &key).await,
                // The server will hold this one back, maybe for long: it takes a place for blocked clients, and stands
                // in no line.
                PinReason::Paused => node.rt.pool.lease_for_blocked(&node, &key).await,
                _ => node.rt.pool.lease(&node, &key).await,
            }
        };
        tokio::select! {
            // A connection that is there is taken, even if the client closed in the same moment: it is given back at
            // once.
            biased;
            lease = lend => Ok(lease),
            closed = self.watch(dies_with_eof) => Err(closed),
        }
    }

    /// Relays on the lent connection until nothing of its state is the client's any more.
    async fn serve_pinned(
        &mut self,
        lease: Lease,
        first: Request,
        reason: PinReason,
        asked: u64,
    ) -> Result<(), Closed> {
        let mut pinned = Pinned::new(lease, &self.node(), reason, asked);
        pinned.begin(self, first);
        loop {
            match poll_fn(|cx| pinned.poll(self, cx)).await {
                PinnedEvent::Done => {
                    pinned.give_back();
                    return Ok(());
                }
                PinnedEvent::Closed(closed) => {
                    pinned.abandon(self);
                    return Err(closed);
                }
                PinnedEvent::Idle => {
                    self.rt().shard.pool_limits.idle_transactions.inc();
                    // What follows of the transaction must not run as if there had been none.
                    let guard = pinned.guard_when_idle();
                    self.record.session.borrow_mut().guard = guard;
                    pinned.give_back();
                    return Ok(());
                }
                // Its late answer must reach nobody: the connection goes, and the client only if it had state there.
                PinnedEvent::Late => return pinned.give_up(self),
                // RESET is not sent: the connection comes back in the cheapest way that its state allows (rule M4), and
                // the client begins anew.
                PinnedEvent::Reset(request) => {
                    pinned.give_back();
                    return self.answer(&request, Local::Reset).await;
                }
                PinnedEvent::Pause(request, relay) => {
                    self.show_command(&request);
                    if let Err(closed) = self.pause_while_pinned(&mut pinned, request, relay).await {
                        pinned.abandon(self);
                        return Err(closed);
                    }
                }
                PinnedEvent::Aside(request, aside) => {
                    self.show_command(&request);
                    if let Err(closed) = self.aside(&mut pinned, request, aside).await {
                        pinned.abandon(self);
                        return Err(closed);
                    }
                }
            }
        }
    }
}

impl Client {
    /// Answers a request for which no connection could be lent. The marks keep a client safe that ignores errors
    /// (rule M6).
    pub(in crate::client) fn refuse_lease(&self, reason: PinReason, error: LeaseError) -> Result<(), Closed> {
        let rejected = match error {
            LeaseError::Exhausted => RefuseReason::Pool,
            LeaseError::Dial(_) => RefuseReason::UpstreamDown,
        };
        self.rt().shard.commands_rejected[rejected].inc();
        let line = error_reply::no_lease(reason, error);
        self.reply_error(&line);
        self.mark_after_failure(reason);
        Ok(())
    }

    pub(in crate::client) fn mark_after_failure(&self, reason: PinReason) {
        let mut session = self.record.session.borrow_mut();
        session.guard = mark_after_failure(reason, session.guard);
    }
}

/// A client that holds a connection, counted for as long as it does, however that ends.
struct PinCount {
    node: Rc<Node>,
    reason: telemetry::PinReason,
    /// Nanoseconds of the worker's clock.
    since: u64,
}

impl PinCount {
    fn new(node: &Rc<Node>, reason: PinReason) -> Self {
        let reason = reason.into();
        node.rt.shard.pin_began(reason);
        Self { node: Rc::clone(node), reason, since: node.rt.now() }
    }
}

impl Drop for PinCount {
    fn drop(&mut self) {
        self.node.rt.shard.pin_ended(self.reason, self.node.rt.now().saturating_sub(self.since));
    }
}

/// The mark that a failed pin leaves (rule M6).
fn mark_after_failure(reason: PinReason, guard: TransactionGuard) -> TransactionGuard {
    match reason {
        // What follows of the body is refused until the client ends it or begins anew: without MULTI it would run at
        // once.
        PinReason::Transaction => TransactionGuard::Poisoned,
        // A poisoned transaction stays poisoned: that mark is the stricter one.
        PinReason::Watch if guard == TransactionGuard::Intact => TransactionGuard::WatchBroken,
        _ => guard,
    }
}
