//! The I/O of a lane: connects, writes once per turn, reads, and decides what a loss means.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Buf;

use super::life::Cause;
use super::{Anomaly, Lane, LaneState, NOT_EXECUTED};
use crate::link::{DialError, Link, Outgoing, Patience, Permit, Start, Use, Wanted};
use crate::session::Identity;
use crate::telemetry::{CloseReason, LossVerdict, UpstreamCloseReason};
use crate::upstream::Node;

/// Reads of at most 64 KiB after which the lane lets others run.
const READS_PER_TURN: u32 = 4;

/// How one connection of a lane ended.
enum LaneEnd {
    /// Closed by us: idle, retired, and nothing in flight.
    Done,
    Lost(UpstreamCloseReason, String),
    /// Given up by us, although the connection stands.
    GivenUp(LossVerdict),
    /// Nothing that comes from it can be trusted.
    Anomaly(Anomaly),
}

/// Runs a lane to its end: until it is retired, idle and drained, or cannot be opened.
pub(crate) async fn run(lane: Rc<Lane>, node: Rc<Node>) {
    // Goes from one connection to the next, so that a lane that connects again does not have to wait in line.
    let mut permit = None;
    while let Some(link) = open(&lane, &node, &mut permit).await {
        let mut link = link;
        lane.life.on_connected();
        lane.on_connection(link.client(), node.rt.now());
        lane.history.on_connected(node.rt.now());
        lane.pump.begin_again();
        // The time without a connection was no silence of this one.
        lane.state.borrow_mut().last_progress = node.rt.now();
        let ready = crate::base::now();
        let alone = lane.guard.is_solo();
        let end = poll_fn(|cx| lane.poll_turn(&node, &mut link, cx)).await;
        let answered = lane.life.on_disconnected();
        lane.on_connection(None, node.rt.now());
        // Whose reply is too long ends a connection that was well.
        if !alone && !answered && !matches!(end, LaneEnd::Done | LaneEnd::Anomaly(_)) {
            node.dialer.on_unproven_loss(ready, "lost before it had answered anything");
        }
        if !matches!(end, LaneEnd::Done) {
            lane.history.on_lost();
        }
        match &end {
            LaneEnd::Done => {}
            LaneEnd::Lost(_, reason) => {
                tracing::warn!(upstream = %node.address(), lane = lane.id, reason, verdict = %LossVerdict::Dead, "shared connection lost");
                node.rt.shard.lane_losses[LossVerdict::Dead].inc();
                node.on_connection_lost();
                lane.on_lost(&node, false);
            }
            LaneEnd::GivenUp(verdict) => {
                let in_flight = lane.in_flight();
                tracing::warn!(upstream = %node.address(), lane = lane.id, in_flight, %verdict, "shared connection given up: it is connected, owes replies and is silent");
                node.rt.shard.lane_losses[*verdict].inc();
                node.on_connection_lost();
                let _ = lane.on_lost(&node, false);
            }
            LaneEnd::Anomaly(Anomaly { reason, command }) => {
                node.rt.shard.anomaly(Use::Lane, *reason);
                node.on_connection_lost();
                let clients = lane.on_lost(&node, true);
                let command = node.rt.command_name(*command);
                tracing::error!(upstream = %node.address(), lane = lane.id, connection = link.client().map_or(0, |client| client.id), %reason, command, clients,
                    "shared connection killed: its replies cannot be trusted; its clients are closed");
            }
        }
        // Before the close, which may take a second: clients that were told something read it now.
        let reason = end.reason(&lane);
        lane.flush_touched(&node);
        permit = Some(link.close(reason).await);
        // Requests of which nothing was written wait for the next connection. Without any the lane ends, and whoever
        // comes next opens another.
        if lane.state.borrow().in_flight.is_empty() {
            break;
        }
    }
    lane.life.close();
    // Before the lane leaves the list: whoever looks for a place counts either the lane or its free permit.
    drop(permit);
    node.lanes.on_closed(&lane);
    // Whoever submitted between the last look and the end would wait for ever.
    lane.refuse_all(&node, NOT_EXECUTED);
}

impl LaneEnd {
    fn failed(error: &std::io::Error) -> Self {
        Self::Lost(error.into(), error.to_string())
    }

    fn reason(&self, lane: &Lane) -> UpstreamCloseReason {
        match self {
            Self::Done => lane.life.leaves_as(),
            Self::Lost(reason, _) => *reason,
            Self::GivenUp(_) => UpstreamCloseReason::Timeout,
            Self::Anomaly(_) => UpstreamCloseReason::Anomaly,
        }
    }
}

/// Waits for a permit and for the upstream, as long as anybody needs the lane. `None` when it has nothing more to do, or
/// never will. `kept` is the permit of the connection before, and of the one that could not be made: the lane gives it
/// back last of all, so that nobody finds a free place while the lane is still listed.
async fn open(lane: &Rc<Lane>, node: &Rc<Node>, kept: &mut Option<Permit>) -> Option<Link> {
    if lane.idle_and_unwanted() {
        return None;
    }
    let permit = match kept.take() {
        Some(permit) => permit,
        // Every lane that was promised a place gets one, when the lane that gave way has closed.
        None => node.rt.budget.wait(Use::Lane).await,
    };
    let needed = || !lane.idle_and_unwanted();
    let link = node.dialer.acquire(Start::New(permit), Wanted::Ready(lane.key.clone()), Patience::While(&needed));
    let (error, permit) = match meanwhile(lane, node, link).await {
        Ok(link) => return Some(link),
        Err(failed) => failed,
    };
    *kept = Some(permit);
    match error {
        // Nobody has needed the lane any more.
        DialError::Unavailable { .. } => {}
        // The words are the answer to whoever wanted this database or mode (rule L3).
        DialError::State(text) => {
            lane.life.retire(UpstreamCloseReason::Idle);
            lane.refuse_all(node, &text);
        }
        DialError::Identity(text) => {
            lane.life.retire(UpstreamCloseReason::Idle);
            on_identity_refused(lane, node, &text);
        }
    }
    None
}

/// Waits for `what`. While the circuit is open nobody waits for this lane: what is submitted is answered at once.
async fn meanwhile<F: Future>(lane: &Lane, node: &Node, what: F) -> F::Output {
    let mut what = pin!(what);
    poll_fn(|cx| {
        lane.pump.remember(cx);
        let result = what.as_mut().poll(cx);
        if result.is_pending() && node.dialer.is_open() {
            lane.refuse_before(node, u64::MAX);
        }
        result
    })
    .await
}

/// A verified identity that is refused now is gone: its clients are closed (rule A7). Clients that did not log in
/// get the server's own words.
fn on_identity_refused(lane: &Lane, node: &Node, text: &[u8]) {
    match lane.key.identity {
        Identity::User(_) => lane.close_all(node, CloseReason::Auth),
        Identity::Implicit if text.starts_with(b"NOAUTH") => lane.refuse_all(node, b"NOAUTH Authentication required."),
        Identity::Implicit => {
            tracing::error!(upstream = %node.address(), reason = %String::from_utf8_lossy(text), "upstream refused the configured identity");
            lane.refuse_all(node, b"ERR respmux could not log in to the upstream, command was not executed");
        }
    }
}

impl Lane {
    /// Retired before it was needed.
    fn idle_and_unwanted(&self) -> bool {
        !self.life.accepting() && self.state.borrow().in_flight.is_empty()
    }

    /// One turn: read everything that is there and send it on, then write what clients appended.
    ///
    /// The write waits for one more poll, for the reason given at [`Pump`](crate::link::Pump).
    fn poll_turn(&self, node: &Node, link: &mut Link, cx: &mut Context<'_>) -> Poll<LaneEnd> {
        let writes = self.pump.begin_turn(cx);
        // First of all: a connection that is given up delivers nothing more.
        match self.life.sentence() {
            None => {}
            Some(Cause::Distrusted(anomaly)) => return Poll::Ready(LaneEnd::Anomaly(anomaly)),
            Some(Cause::GivenUp(verdict)) => return Poll::Ready(LaneEnd::GivenUp(verdict)),
        }
        if writes && let Err(e) = self.write_out(node, link, cx) {
            return Poll::Ready(LaneEnd::failed(&e));
        }
        for reads in 1.. {
            match self.read_in(node, link, cx) {
                // Everybody else of the worker has a turn before a long reply goes on.
                Poll::Ready(Ok(())) if reads == READS_PER_TURN => {
                    node.rt.relieve();
                    cx.waker().wake_by_ref();
                    break;
                }
                Poll::Ready(Ok(())) => node.rt.relieve(),
                Poll::Ready(Err(end)) => {
                    self.flush_touched(node);
                    return Poll::Ready(end);
                }
                Poll::Pending => break,
            }
        }
        self.flush_touched(node);
        self.count(node);
        if self.idle_and_unwanted() {
            return Poll::Ready(LaneEnd::Done);
        }
        let more = !self.pump.is_full() && self.sendable(&self.state.borrow()) > 0;
        self.pump.end_turn(cx, more);
        Poll::Pending
    }

    /// What the lane keeps counts against the memory of all.
    fn count(&self, node: &Node) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.charge.set(state.out.len() + state.carry.len() + state.kept.len());
        drop(guard);
        node.rt.relieve();
    }

    /// Writes what is there, as far as the lane lets it go; when the socket is full its readiness wakes the task.
    fn write_out(&self, node: &Node, link: &Link, cx: &mut Context<'_>) -> std::io::Result<()> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        match std::mem::take(&mut state.unwritten) {
            0 => {}
            commands => node.rt.shard.batch_written(commands),
        }
        // One look at the clock serves every write of the turn, and none is needed for none.
        let now = if state.out.is_empty() { 0 } else { node.rt.now() };
        self.pump.write(cx, link, &mut Out { lane: self, state, now })
    }

    /// Reads once into the worker's buffer and delivers.
    fn read_in(&self, node: &Node, link: &mut Link, cx: &mut Context<'_>) -> Poll<Result<(), LaneEnd>> {
        let mut memory = node.rt.read_buffer.borrow_mut();
        let chunk = match ready!(link.poll_chunk(cx, &mut memory)) {
            Ok(chunk) => chunk,
            Err(error) => return Poll::Ready(Err(LaneEnd::failed(&error))),
        };
        Poll::Ready(self.on_bytes(node, chunk, node.rt.now()).map_err(LaneEnd::Anomaly))
    }
}

/// The requests of a lane on their way to the socket.
struct Out<'a> {
    lane: &'a Lane,
    state: &'a mut LaneState,
    /// When this turn writes, nanoseconds of the worker's clock.
    now: u64,
}

impl Outgoing for Out<'_> {
    fn ready(&self) -> &[u8] {
        &self.state.out[..self.lane.sendable(self.state)]
    }

    /// From its first byte on a request counts as sent: its client must not be told any more that it was not executed.
    fn on_taken(&mut self, bytes: usize) {
        if self.lane.keeps_requests() {
            self.state.kept.on_written(&self.state.out[..bytes]);
        }
        self.state.out.advance(bytes);
        self.state.in_flight.on_written(bytes, self.now);
    }
}
