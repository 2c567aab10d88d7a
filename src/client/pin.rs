//! Lends a client a connection of its own and gives it back (rules M2 to M6).

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::ReadBuf;

use super::connection::{Client, Closed};
use super::directory::Holding;
use super::held::{Event, Held};
use super::request::Request;
use crate::command::{CommandId, Lookup};
use crate::router::{Local, PinReason};
use crate::session::{Guard, Identity, RouteKey};
use crate::telemetry::{self, CloseReason};
use crate::upstream::{Lease, LendError, Node, OutputClass, Return, Wants};

/// Input that is kept while a client waits for a connection or is blocked, bytes (rule F9).
pub(super) const WAITING_INPUT: usize = 64 << 10;

impl Client {
    /// Borrows a connection, runs `first` on it, and everything after it for as long as the connection's state is
    /// the client's.
    pub(super) async fn pin(&mut self, first: Request, reason: PinReason) -> Result<(), Closed> {
        let node = self.node();
        if reason == PinReason::Transaction {
            let mut session = self.profile.session.borrow_mut();
            if session.guard == Guard::Poisoned {
                session.guard = Guard::Intact; // a new MULTI is a new attempt
            }
        }
        let asked = node.rt.now();
        let lease = match self.lend_unless_paused(reason).await? {
            Ok(lease) => lease,
            Err(error) => return self.refuse_lease(reason, error),
        };
        if reason == PinReason::Wait && self.has_lost_writes() {
            // Rule W4: another history would answer for the writes of the old one.
            lease.give_back(Return::Clean);
            return Err(Closed(CloseReason::UpstreamLost));
        }
        let pinned = Pinned::new(&node, reason);
        let result = self.hold(lease, first, reason, asked).await;
        drop(pinned);
        self.profile.holding.set(Holding { multi: -1, ..Holding::default() });
        if self.outbox().hub().is_none() {
            node.limit_output(self.outbox(), OutputClass::Normal);
        }
        self.lane = None;
        result
    }

    /// Waits in line; whose turn comes during PROXY PAUSE lets others go first.
    async fn lend_unless_paused(&mut self, reason: PinReason) -> Result<Result<Lease, LendError>, Closed> {
        loop {
            // In line nothing is begun, and it may take as long as others are blocked.
            self.profile.busy.set(false);
            let lent = self.lend(reason).await?;
            self.profile.busy.set(true);
            match lent {
                Ok(lease) if self.rt().is_paused() => {
                    lease.give_back(Return::Clean);
                    self.profile.busy.set(false);
                    self.resumed().await?;
                }
                lent => return Ok(lent),
            }
        }
    }

    /// Waits in line. A client that leaves meanwhile gives its turn up, unless it only half-closed and its
    /// commands do not block (rule F7).
    async fn lend(&mut self, reason: PinReason) -> Result<Result<Lease, LendError>, Closed> {
        let node = self.node();
        let mut key = self.profile.session.borrow().key.clone();
        if reason == PinReason::OutOfBand {
            key.db = 0;
        }
        if self.wait_as_respmux {
            key = RouteKey { resp: key.resp, ..RouteKey::fresh(Identity::Implicit, 0) };
        }
        let dies_with_eof = matches!(
            reason,
            PinReason::Blocking | PinReason::Wait | PinReason::Subscribe | PinReason::Monitor | PinReason::Paused
        );
        let lend = async {
            match reason {
                PinReason::Blocking | PinReason::Wait => node.rt.pool.lend_for_blocked_in_line(&node, &key).await,
                PinReason::Paused => node.rt.pool.lend_for_blocked(&node, &key).await,
                _ => node.rt.pool.lend(&node, &key).await,
            }
        };
        tokio::select! {
            biased;
            lease = lend => Ok(lease),
            closed = self.watch(dies_with_eof) => Err(closed),
        }
    }

    /// Ends when the client is closed, or has closed if that ends its command.
    pub(super) async fn watch(&mut self, dies_with_eof: bool) -> Closed {
        poll_fn(|cx| {
            loop {
                if let Some(reason) = self.outbox().fate() {
                    return Poll::Ready(Closed(reason));
                }
                if self.has_ended() && dies_with_eof {
                    return Poll::Ready(Closed(CloseReason::Client));
                }
                // An error of the socket shows at the next read.
                let _ = self.outbox().poll_flush(cx, &self.rt().buffers);
                self.outbox().await_with(cx, Wants::Nothing);
                match self.poll_while_it_waits(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(closed)) => return Poll::Ready(closed),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Reads into `carry` up to `most` bytes, so that a close is noticed; pending when full or at the end.
    pub(super) fn poll_more(&mut self, cx: &mut std::task::Context<'_>, most: usize) -> Poll<Result<(), Closed>> {
        let ahead = self.read.is_ahead();
        if self.eof || self.carry.len() >= most || (!ahead && self.rt().pauses(self.outbox())) {
            return Poll::Pending;
        }
        let node = self.node();
        let mut memory = node.rt.read_buffer.borrow_mut();
        let room = (most - self.carry.len()).min(memory.len());
        let mut buf = ReadBuf::new(&mut memory[..room]);
        match self.read.poll_read(cx, &mut buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(Err(Closed(CloseReason::Client))),
            Poll::Ready(Ok(())) => {
                let chunk = buf.filled();
                self.eof = chunk.is_empty();
                if !ahead {
                    self.on_received(chunk.len(), node.rt.now());
                }
                self.carry.extend_from_slice(chunk);
                self.count_input();
                node.rt.relieve();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Relays on the lent connection until nothing of its state is the client's any more.
    async fn hold(&mut self, lease: Lease, first: Request, reason: PinReason, asked: u64) -> Result<(), Closed> {
        let mut held = Held::new(lease, &self.node(), reason, asked);
        held.begin(self, first);
        loop {
            match poll_fn(|cx| held.poll(self, cx)).await {
                Event::Done => {
                    held.give_back();
                    return Ok(());
                }
                Event::Closed(closed) => {
                    held.abandon(self);
                    return Err(closed);
                }
                Event::Idle => {
                    self.rt().shard.pool_limits.idle_transactions.inc();
                    let guard = held.guard_when_idle();
                    self.profile.session.borrow_mut().guard = guard;
                    held.give_back();
                    return Ok(());
                }
                Event::Late => return held.give_up(self),
                Event::Reset(request) => {
                    held.give_back();
                    return self.answer(&request, Local::Reset).await;
                }
                Event::Command(request, route) => {
                    let known = matches!(request.lookup(), Lookup::Known(_));
                    self.profile.command.set(if known { request.id() } else { CommandId::OTHER });
                    if let Err(closed) = self.aside(&mut held, request, route).await {
                        held.abandon(self);
                        return Err(closed);
                    }
                }
            }
        }
    }
}

/// A client that holds a connection, counted for as long as it does, however that ends.
struct Pinned {
    node: Rc<Node>,
    reason: telemetry::PinReason,
    /// Nanoseconds of the worker's clock.
    since: u64,
}

impl Pinned {
    fn new(node: &Rc<Node>, reason: PinReason) -> Self {
        let reason = reason.into();
        node.rt.shard.pin_began(reason);
        Self { node: Rc::clone(node), reason, since: node.rt.now() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.node.rt.shard.pin_ended(self.reason, self.node.rt.now().saturating_sub(self.since));
    }
}

/// How a connection comes back from this transaction state.
pub(super) fn return_for(queueing: bool, watching: bool) -> Return {
    match (queueing, watching) {
        (true, _) => Return::Queueing,
        (false, true) => Return::Watching,
        (false, false) => Return::Clean,
    }
}
