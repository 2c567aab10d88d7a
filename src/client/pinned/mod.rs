//! A client that is pinned to a connection of its own: its requests go there one to one, its replies come back from
//! there, and the replies say when nothing of the connection's state is the client's any more (rule M3).
//!
//! ```text
//!   client input ──▶ route ──▶ out ──▶ upstream          expect: one entry per request, oldest first
//!   outbox ◀── replies, messages ◀────────┘              barrier: what follows depends on the answer
//! ```
//!
//! Owns the lease and the state of its connection for as long as the client is pinned; the client's own task drives it.

mod aside;
mod expect;
mod lease;
mod relay;
mod replies;
mod request_timeout;
mod sticky;
mod subscriptions;
mod tracking_redirect;

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::time::{Sleep, sleep};

use expect::{Expect, Queued};
use sticky::{Aftermath, Sticky};
use subscriptions::Subscriptions;

use super::activity::PinnedFacts;
use super::connection::{Client, Closed};
use super::read::WAITING_INPUT;
use super::request::Request;
use crate::resp::ReplyScanner;
use crate::router::{Aside, PinReason, PinnedView, Relay};
use crate::session::{Resp, Transaction, TransactionGuard};
use crate::telemetry::{BufferKind, CloseReason, UpstreamCloseReason};
use crate::upstream::{Charge, Lease, Node, Return, Wants};

/// What the holder of the connection must decide.
pub(super) enum PinnedEvent {
    /// The connection's state is nobody's: it may go back.
    Done,
    Closed(Closed),
    /// A transaction was left open for too long (rule M5).
    Idle,
    /// The oldest command has no answer for `client.request_timeout`.
    Late,
    /// A command that does not run on this connection; everything before it is answered.
    Aside(Request, Aside),
    /// The server begins to pause when it gets this: everybody must be ready for that first.
    Pause(Request, Relay),
    /// RESET: the connection goes back, the client stays.
    Reset(Request),
}

/// One lent connection and what its client has done to it.
pub(super) struct Pinned {
    /// Taken once, when the connection goes back. Dropped with this, it is closed.
    lease: Option<Lease>,
    node: Rc<Node>,
    /// Why the client was pinned. It may stay for another reason, which `sticky` says.
    reason: PinReason,
    /// Requests that the upstream has not taken yet. Filled by `relay`, emptied by `write_out`.
    out: BytesMut,
    /// One entry for each request that has no reply yet, oldest first: position is all that tells what a reply answers.
    expect: VecDeque<Expect>,
    /// How far the reply in progress is.
    scanner: ReplyScanner,
    /// The beginning of a reply that must be seen whole.
    partial: BytesMut,
    /// The reply in progress is passed on piece by piece.
    streaming: bool,
    /// Followed from the replies, never from the requests: the server alone knows what it accepted.
    transaction: Transaction,
    /// Commands of the body whose elements in EXEC's reply are changed or obeyed. Cleared by MULTI.
    queued: Vec<Queued>,
    /// respmux refused a command of the body: EXEC must not execute (rule M7).
    refused: bool,
    /// The client had written something before its MULTI.
    wrote_before: bool,
    /// Followed from the counts in the confirmations.
    subscriptions: Subscriptions,
    /// Confirmations that the subscribe command under way still brings.
    confirmations: u64,
    /// What only replies tell of the connection's state; `sticky()` adds what the transaction and the subscriptions
    /// say.
    stuck: Sticky,
    /// Moved by what was sent, when it is sent: a reply that never comes must not hide it.
    aftermath: Aftermath,
    /// Subscriptions are made here, not on a hub.
    subscribes: bool,
    /// Requests that were sent here; an overflow lease ends after some of them, so that others have a turn.
    relayed: u32,
    /// When the first request was asked for, until it is sent.
    asked: Option<u64>,
    /// The client has begun a request whose end is not there. Moved by each scan of its input.
    incomplete: bool,
    /// Runs while a transaction is open and nothing happens; begun again by each request.
    idle: Option<Pin<Box<Sleep>>>,
    /// When the oldest command may be late.
    late: Option<Pin<Box<Sleep>>>,
    /// What `out` and `partial` take.
    charge: Charge,
}

impl Pinned {
    /// Borrowed for a request that was asked for at `asked`, nanoseconds of the worker's clock.
    pub(super) fn new(lease: Lease, node: &Rc<Node>, reason: PinReason, asked: u64) -> Self {
        Self {
            lease: Some(lease),
            node: Rc::clone(node),
            reason,
            out: BytesMut::new(),
            expect: VecDeque::new(),
            scanner: ReplyScanner::new(),
            partial: BytesMut::new(),
            streaming: false,
            transaction: Transaction::default(),
            queued: Vec::new(),
            refused: false,
            wrote_before: false,
            subscriptions: Subscriptions::default(),
            confirmations: 0,
            stuck: Sticky::default(),
            aftermath: match reason {
                PinReason::Isolated | PinReason::OutOfBand => Aftermath::Unproved,
                _ => Aftermath::Known,
            },
            subscribes: reason == PinReason::Subscribe,
            relayed: 0,
            asked: Some(asked),
            incomplete: false,
            idle: None,
            late: None,
            charge: Charge::new(&node.rt.memory, BufferKind::Upstream),
        }
    }

    /// One turn: send, read what the upstream says, relay what the client says, until something else must act.
    pub(super) fn poll(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<PinnedEvent> {
        loop {
            if let Some(reason) = client.outbox().close_reason() {
                return Poll::Ready(PinnedEvent::Closed(Closed(reason)));
            }
            let flushed = match client.outbox().poll_flush(cx, &self.node.rt.buffers) {
                Poll::Ready(Err(_)) => return Poll::Ready(PinnedEvent::Closed(Closed(CloseReason::IoError))),
                other => other.is_ready(),
            };
            // Requests first: their replies may be what the client waits for before it reads.
            if let Err(error) = self.write_out(cx) {
                return Poll::Ready(PinnedEvent::Closed(self.lost((&error).into())));
            }
            // As long as one of the three directions moves, the others are looked at again: what one has read may be
            // what another one waits for.
            let mut progress = false;
            // The upstream waits for a client that does not read. Subscribers are read on: their limit closes them.
            client.behind &= !flushed;
            if flushed || self.unstoppable() || !client.is_behind() {
                match self.read_in(client, cx) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(closed)) => return Poll::Ready(PinnedEvent::Closed(closed)),
                    Poll::Pending => {}
                }
            }
            // Behind the replies: how the next request is routed depends on them.
            match self.relay_input(client) {
                Ok(relayed) => progress |= relayed,
                Err(event) => {
                    self.show(client); // what runs aside may be CLIENT INFO
                    return Poll::Ready(event);
                }
            }
            self.show(client);
            self.charge.set(self.out.len() + self.partial.len());
            client.count_input();
            self.node.rt.relieve();
            // Before more is read: what the client sends next may be for its lane again.
            if let Some(event) = self.settled(client) {
                return Poll::Ready(event);
            }
            match self.read_on(client, cx) {
                Ok(read) => progress |= read,
                Err(closed) => return Poll::Ready(PinnedEvent::Closed(closed)),
            }
            if !progress {
                if self.at_boundary()
                    && let Poll::Ready(reason) = client.poll_departure(cx, false)
                {
                    return Poll::Ready(PinnedEvent::Closed(Closed(reason)));
                }
                if self.awaits_rest(client) && !client.carry.is_empty() {
                    if client.carry.len() >= self.node.rt.largest_request() {
                        return Poll::Ready(PinnedEvent::Closed(Closed(CloseReason::QueryBuffer)));
                    }
                    client.outbox().await_rest();
                }
                client.outbox().await_with(cx, Wants::Nothing);
                if self.poll_late(cx).is_ready() {
                    return Poll::Ready(PinnedEvent::Late);
                }
                return self.poll_idle(cx);
            }
            // Something happened: the client goes on with its transaction.
            self.idle = None;
        }
    }

    /// Whether this is over, one way or the other.
    fn settled(&self, client: &Client) -> Option<PinnedEvent> {
        let quiet = self.expect.is_empty() && self.out.is_empty();
        // A connection is given back with nothing asked and nothing kept; what came in behind that is routed anew.
        if quiet && self.sticky().is_empty() {
            return Some(PinnedEvent::Done);
        }
        if (client.eof && quiet) || (client.has_ended() && (self.blocked() || self.held_back())) {
            // Rule F7: a blocked command ends with its client; whatever is pipelined behind it is dropped.
            return Some(PinnedEvent::Closed(Closed(CloseReason::Client)));
        }
        None
    }

    /// What was lent for is held back by the server, which forgets it when the connection ends.
    fn held_back(&self) -> bool {
        self.reason == PinReason::Paused && self.node.server_pause.extent().is_some() && !self.expect.is_empty()
    }

    /// Whether nothing is asked, owed or begun on this connection.
    fn at_boundary(&self) -> bool {
        let quiet = self.expect.is_empty() && self.out.is_empty() && self.transaction.clean();
        quiet && !self.scanner.mid_frame() && self.partial.is_empty()
    }

    /// What of the connection's state is this client's.
    fn sticky(&self) -> Sticky {
        let queueing = self.transaction.queueing();
        self.stuck
            | Sticky::MULTI.when(queueing)
            | Sticky::WATCH.when(!queueing && !self.transaction.clean())
            | Sticky::SUBSCRIBED.when(self.subscriptions.any())
    }

    /// Replies come whether the client reads them or not.
    fn unstoppable(&self) -> bool {
        self.sticky().has_any(Sticky::SUBSCRIBED | Sticky::MONITOR)
    }

    /// The newest request waits on the server; nothing may be sent behind it.
    fn blocked(&self) -> bool {
        self.expect.back().is_some_and(Expect::blocks)
    }

    /// Whether the client is in MULTI, by the replies so far.
    pub(super) fn queueing(&self) -> bool {
        self.transaction.queueing()
    }

    /// A command of the body was refused by respmux.
    pub(super) fn on_refused(&mut self) {
        if self.transaction.queueing() {
            self.refused = true;
            self.transaction.on_refused();
        }
    }

    /// The mark that an abandoned transaction leaves (rule M6).
    pub(super) fn guard_when_idle(&self) -> TransactionGuard {
        if self.transaction.queueing() { TransactionGuard::Poisoned } else { TransactionGuard::WatchBroken }
    }

    /// Puts what the client subscribes to from here on on this connection: no hub can be had.
    pub(super) fn take_subscriptions(&mut self) {
        self.subscribes = true;
    }

    /// The client's subscriptions are on this connection, or are to be.
    fn has_subscriptions(&self) -> bool {
        self.subscribes || self.sticky().has_any(Sticky::NEEDS_RESET)
    }

    /// How routing sees this connection.
    fn view(&self) -> PinnedView {
        let resp2 = self.key_resp() == Resp::Two;
        if self.transaction.queueing() {
            PinnedView::Queueing
        } else if resp2 && self.subscriptions.any() {
            PinnedView::Subscribed
        } else {
            PinnedView::Open
        }
    }

    fn key_resp(&self) -> Resp {
        self.lease.as_ref().map_or(Resp::Two, |lease| lease.key().resp)
    }

    /// The client has begun a request, and nothing but its end is missing.
    fn awaits_rest(&self, client: &Client) -> bool {
        self.incomplete && self.may_send(client)
    }

    /// Reads what the client says; whether it did.
    fn read_on(&self, client: &mut Client, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let most = if self.awaits_rest(client) { self.node.rt.largest_request() } else { WAITING_INPUT };
        match client.poll_more(cx, most) {
            Poll::Ready(result) => result.map(|()| true),
            // Only the client itself, or another one, can end these waits.
            Poll::Pending if client.carry.len() < most => Ok(false),
            Poll::Pending if client.is_behind() => client.wait_until_read(cx),
            Poll::Pending if self.blocked() => client.read_ahead(cx),
            Poll::Pending => Ok(false),
        }
    }

    fn lost(&mut self, reason: UpstreamCloseReason) -> Closed {
        self.spoil(reason);
        self.node.on_connection_lost();
        Closed(CloseReason::UpstreamLost)
    }

    /// What runs here leaves this behind.
    fn becomes(&mut self, aftermath: Aftermath) {
        self.aftermath = self.aftermath.max(aftermath);
    }

    /// The connection is of no use to anybody.
    fn spoil(&mut self, reason: UpstreamCloseReason) {
        if let Some(lease) = self.lease.as_mut() {
            lease.spoil(reason);
        }
    }

    /// Whether the socket takes all of it does not matter here: its readiness wakes the client's task.
    fn write_out(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        let Some(lease) = self.lease.as_mut() else { return Ok(()) };
        match lease.link().poll_write_out(cx, &mut self.out) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    fn read_in(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let node = Rc::clone(&self.node);
        let mut memory = node.rt.read_buffer.borrow_mut();
        let Some(lease) = self.lease.as_mut() else { return Poll::Pending };
        match ready!(lease.link().poll_chunk(cx, &mut memory)) {
            Ok(chunk) => Poll::Ready(self.on_bytes(client, chunk)),
            Err(error) => Poll::Ready(Err(self.lost((&error).into()))),
        }
    }

    /// A transaction that nobody goes on with does not keep a connection for ever.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<PinnedEvent> {
        let open = !self.transaction.clean() && self.expect.is_empty();
        if !open || self.sticky().has_any(Sticky::SUBSCRIBED | Sticky::TRACKING | Sticky::SESSION) {
            return Poll::Pending;
        }
        let patience = self.node.rt.config().pool.idle_transaction_timeout;
        if patience.is_zero() {
            return Poll::Pending; // never
        }
        let timer = self.idle.get_or_insert_with(|| Box::pin(sleep(patience)));
        timer.as_mut().poll(cx).map(|()| PinnedEvent::Idle)
    }

    /// What CLIENT LIST and UNBLOCK show of this.
    fn show(&mut self, client: &Client) {
        let (blocked, there) = (self.blocked(), self.node.control.server());
        let quiet = self.expect.is_empty() && self.out.is_empty() && self.transaction.clean();
        // CLIENT LIST takes from the server's own line what only the server knows of a connection.
        let link = self.lease.as_mut().and_then(|lease| lease.link().client());
        // Only a connection to the server that can be asked to unblock it.
        let blocked_on = link.filter(|link| blocked && link.server == there);
        let multi = if self.queueing() { i32::try_from(self.transaction.queued()).unwrap_or(i32::MAX) } else { -1 };
        client.record.activity.shows(PinnedFacts {
            channels: small(self.subscriptions.channels),
            patterns: small(self.subscriptions.patterns),
            shards: small(self.subscriptions.shards),
            multi,
            monitor: self.stuck.has_any(Sticky::MONITOR),
            reason: self.reason,
            under_way: !quiet && !blocked,
            blocked_on,
            link,
        });
    }

    /// The client needs the connection no more and everything is answered.
    pub(super) fn give_back(mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        if self.aftermath >= Aftermath::Spent {
            lease.spoil(UpstreamCloseReason::Dirty); // closed
        } else if self.aftermath == Aftermath::Unproved || self.sticky().has_any(Sticky::NEEDS_RESET) {
            lease.give_back(Return::Unknown);
        } else {
            lease.give_back(return_for(self.transaction.queueing(), self.transaction.watching()));
        }
    }

    /// The client is gone. What it left unfinished on the connection is ended there, never handed on.
    pub(super) fn abandon(mut self, client: &Client) {
        let lost =
            matches!(client.outbox().close_reason(), Some(CloseReason::UpstreamLost | CloseReason::UpstreamAnomaly));
        let torn = self.aftermath == Aftermath::Broken
            || !self.out.is_empty()
            || self.scanner.mid_frame()
            || !self.partial.is_empty()
            || lost;
        // Half a request or half a reply: the next user of the connection would read the other half.
        if torn || self.held_back() {
            return; // dropping the lease closes the connection
        }
        if self.blocked() && self.aftermath < Aftermath::Spent {
            if let Some(lease) = self.lease.take() {
                // UNBLOCK ends the command on the server, and the connection is worth keeping. For a connection that is
                // closed the server might give an element to nobody.
                lease.cancel();
            }
            return;
        }
        // Replies are still owed, and the next user would get them: the connection is reset (rule M4).
        if !self.expect.is_empty() {
            self.becomes(Aftermath::Unproved);
        }
        self.give_back();
    }
}

/// How a connection comes back from this transaction state.
fn return_for(queueing: bool, watching: bool) -> Return {
    match (queueing, watching) {
        (true, _) => Return::Queueing,
        (false, true) => Return::Watching,
        (false, false) => Return::Clean,
    }
}

/// A count of channels as it is kept: nobody subscribes to 2^32 of them.
fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
