//! The I/O of a lane: connects, writes once per turn, reads, and decides what a loss means.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::ReadBuf;

use super::{Anomaly, Lane, NOT_EXECUTED, Phase};
use crate::link::{DialError, Link, Patience, Permit, Start, Use, Wanted};
use crate::session::Identity;
use crate::telemetry::{CloseReason, LossVerdict, UpstreamCloseReason};
use crate::upstream::Node;

/// Reads of at most 64 KiB after which the lane lets others run.
const READS_PER_TURN: u32 = 4;

/// How one connection of a lane ended.
enum End {
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
    let mut permit = None;
    while let Some(link) = open(&lane, &node, &mut permit).await {
        let mut link = link;
        lane.phase.set(Phase::Ready);
        lane.on_connection(link.client(), node.rt.now());
        lane.fate.on_connected(node.rt.now());
        lane.deferred.set(false);
        lane.full.set(false);
        lane.served.set(false);
        lane.condemned.set(None);
        // The time without a connection was no silence of this one.
        lane.state.borrow_mut().last_progress = node.rt.now();
        let ready = crate::base::now();
        let alone = lane.guard.is_solo();
        let end = poll_fn(|cx| lane.poll_turn(&node, &mut link, cx)).await;
        lane.phase.set(Phase::Opening);
        lane.on_connection(None, node.rt.now());
        lane.suspect.set(false);
        // Whose reply is too long ends a connection that was well.
        if !alone && !lane.served.get() && !matches!(end, End::Done | End::Anomaly(_)) {
            node.dialer.on_unproven_loss(ready, "lost before it had answered anything");
        }
        if !matches!(end, End::Done) {
            lane.fate.on_lost();
        }
        match &end {
            End::Done => {}
            End::Lost(_, reason) => {
                tracing::warn!(upstream = %node.address(), lane = lane.id, reason, verdict = %LossVerdict::Dead, "shared connection lost");
                node.rt.shard.lane_losses[LossVerdict::Dead].inc();
                node.on_connection_lost();
                lane.on_lost(&node, false);
            }
            End::GivenUp(verdict) => {
                let in_flight = lane.in_flight();
                tracing::warn!(upstream = %node.address(), lane = lane.id, in_flight, %verdict, "shared connection given up: it is connected, owes replies and is silent");
                node.rt.shard.lane_losses[*verdict].inc();
                node.on_connection_lost();
                let _ = lane.on_lost(&node, false);
            }
            End::Anomaly(Anomaly { reason, command }) => {
                node.rt.shard.anomaly(Use::Lane, *reason);
                node.on_connection_lost();
                let clients = lane.on_lost(&node, true);
                let command = node.rt.command_name(*command);
                tracing::error!(upstream = %node.address(), lane = lane.id, connection = link.client().map_or(0, |client| client.id), %reason, command, clients,
                    "shared connection killed: its replies cannot be trusted; its clients are closed");
            }
        }
        let reason = end.reason(&lane);
        lane.flush_touched(&node);
        permit = Some(link.close(reason).await);
        if lane.state.borrow().in_flight.is_empty() {
            break;
        }
    }
    lane.accepting.set(false);
    lane.phase.set(Phase::Closed);
    drop(permit);
    node.lanes.on_closed(&lane);
    // Whoever submitted between the last look and the end would wait for ever.
    lane.refuse_all(&node, NOT_EXECUTED);
}

impl End {
    fn failed(error: &std::io::Error) -> Self {
        Self::Lost(error.into(), error.to_string())
    }

    fn reason(&self, lane: &Lane) -> UpstreamCloseReason {
        match self {
            Self::Done => lane.leaves.get(),
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
        DialError::Unavailable { .. } => {}
        DialError::State(text) => {
            lane.accepting.set(false);
            lane.refuse_all(node, &text);
        }
        DialError::Identity(text) => {
            lane.accepting.set(false);
            on_identity_refused(lane, node, &text);
        }
    }
    None
}

/// Waits for `what`. While the circuit is open nobody waits for this lane: what is submitted is answered at once.
async fn meanwhile<F: Future>(lane: &Lane, node: &Node, what: F) -> F::Output {
    let mut what = pin!(what);
    poll_fn(|cx| {
        lane.remember(cx);
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
        !self.accepting.get() && self.state.borrow().in_flight.is_empty()
    }

    /// One turn: read everything that is there and send it on, then write what clients appended.
    ///
    /// The write waits for one more poll. A lane that is woken by its socket stands in the middle of the run queue:
    /// clients behind it have requests for the same write. Polled again, it stands behind all of them.
    fn poll_turn(&self, node: &Node, link: &mut Link, cx: &mut Context<'_>) -> Poll<End> {
        self.remember(cx);
        if let Some(anomaly) = self.distrusted.take() {
            return Poll::Ready(End::Anomaly(anomaly));
        }
        if let Some(verdict) = self.condemned.take() {
            return Poll::Ready(End::GivenUp(verdict));
        }
        if (self.deferred.take() || self.full.get())
            && let Err(e) = self.write_out(node, link, cx)
        {
            return Poll::Ready(End::failed(&e));
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
            return Poll::Ready(End::Done);
        }
        if self.wants_to_write() && !self.deferred.replace(true) {
            cx.waker().wake_by_ref();
        }
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

    fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// There are bytes to write, and the socket has not said that it is full.
    fn wants_to_write(&self) -> bool {
        let state = self.state.borrow();
        !self.full.get() && self.sendable(&state) > 0
    }

    /// Writes what is there; when the socket is full its readiness wakes the task.
    fn write_out(&self, node: &Node, link: &Link, cx: &mut Context<'_>) -> std::io::Result<()> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        self.full.set(false);
        match std::mem::take(&mut state.unwritten) {
            0 => {}
            commands => node.rt.shard.batch_written(commands),
        }
        let now = if state.out.is_empty() { 0 } else { node.rt.now() };
        loop {
            let ready = self.sendable(state);
            if ready == 0 {
                break;
            }
            let n = link.try_write(&state.out[..ready])?;
            if n == 0 {
                match link.poll_writable(cx) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => {
                        self.full.set(true);
                        break;
                    }
                }
            }
            if self.keeps_requests() {
                state.kept.on_written(&state.out[..n]);
            }
            state.out.advance(n);
            if n > 0 {
                state.in_flight.on_written(n, now);
            }
            node.rt.shard.upstream_written(n);
        }
        Ok(())
    }

    /// Reads once into the worker's buffer and delivers.
    fn read_in(&self, node: &Node, link: &mut Link, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut memory = node.rt.read_buffer.borrow_mut();
        let mut buf = ReadBuf::new(&mut memory);
        match link.poll_read(cx, &mut buf) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(e)) => return Poll::Ready(Err(End::failed(&e))),
            Poll::Ready(Ok(())) => {}
        }
        let chunk = buf.filled();
        if chunk.is_empty() {
            return Poll::Ready(Err(End::Lost(UpstreamCloseReason::Upstream, "closed by the upstream".into())));
        }
        node.rt.shard.upstream_read(chunk.len());
        Poll::Ready(self.on_bytes(node, chunk, node.rt.now()).map_err(End::Anomaly))
    }
}
