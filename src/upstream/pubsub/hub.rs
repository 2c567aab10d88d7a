//! The I/O of a hub: writes once per turn, reads, and closes every client concerned when the connection dies.

mod life;
mod task;

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub(super) use life::{HubFailure, HubPhase};
pub(super) use task::run;

use self::life::Life;
use super::core::{Core, HubCommand};
use crate::base::nanos;
use crate::link::{Link, Pump};
use crate::resp::ReplyScanner;
use crate::session::{Family, Identity, Resp};
use crate::telemetry::{AnomalyReason, BufferKind, CloseReason, UpstreamCloseReason};
use crate::upstream::{Charge, ClientKey, Memory, Node, Outbox};

/// How a hub's connection ended.
enum HubEnd {
    /// Closed by us, for this reason: nobody needs it.
    Done(UpstreamCloseReason),
    /// To be gone on with on another connection.
    Moved,
    Lost(UpstreamCloseReason, String),
    Anomaly(AnomalyReason),
}

impl HubEnd {
    fn failed(error: &std::io::Error) -> Self {
        Self::Lost(error.into(), error.to_string())
    }
}

/// One upstream connection that carries subscriptions, and those who have them.
pub struct Hub {
    id: u64,
    identity: Identity,
    /// Connected, replaced and closed by the hub's task alone, which then wakes whoever waits for it; the tick, a rotation
    /// and other identities that need the place only say what is to happen.
    life: Life,
    /// When its task writes.
    pump: Pump,
    pub(super) state: RefCell<HubState>,
    changed: Notify,
}

pub(super) struct HubState {
    pub core: Core<ClientKey>,
    pub scanner: ReplyScanner,
    /// The beginning of a frame that is not complete.
    pub carry: BytesMut,
    /// Clients with new bytes in their outbox since the last flush.
    pub touched: Vec<ClientKey>,
    /// The message in progress as RESP2 clients see it.
    pub two: Vec<u8>,
    /// When something came, and when a client last asked for something; nanoseconds of the worker's clock.
    pub last_progress: u64,
    last_used: u64,
    /// What is to be sent upstream and the frame in progress take.
    charge: Charge,
}

impl Hub {
    pub(super) fn new(id: u64, identity: Identity, now: u64, memory: &Rc<Memory>) -> Rc<Self> {
        let state = HubState {
            core: Core::default(),
            scanner: ReplyScanner::new(),
            carry: BytesMut::new(),
            touched: Vec::new(),
            two: Vec::new(),
            last_progress: now,
            last_used: now,
            charge: Charge::new(memory, BufferKind::Upstream),
        };
        Rc::new(Self {
            id,
            identity,
            life: Life::new(),
            pump: Pump::default(),
            state: RefCell::new(state),
            changed: Notify::new(),
        })
    }

    /// Whose subscriptions it carries.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn phase(&self) -> HubPhase {
        self.life.phase()
    }

    /// Ready when the phase has changed.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Takes subscriptions, now or when it is connected.
    pub fn accepting(&self) -> bool {
        self.life.accepting()
    }

    /// Sends a (P|S)(UN)SUBSCRIBE of a client that has nothing else unanswered. When it is answered the client's task
    /// finds an empty [`Answer`](crate::upstream::Answer) in its outbox; what it is told is in the outbox before. False
    /// when the connection is not there any more; nothing was done then.
    pub fn submit(&self, node: &Node, outbox: &Outbox, order: &Subscribe<'_>) -> bool {
        if !self.life.is_ready() || !self.life.accepting() {
            return false;
        }
        let now = node.rt.now();
        let mut state = self.state.borrow_mut();
        state.last_used = now;
        let Subscribe { resp, family, suppressed, raw, .. } = *order;
        let core = HubCommand { client: outbox.key(), resp, family, suppressed, now, raw };
        if order.joins {
            state.core.subscribe(&core, order.names);
        } else {
            state.core.unsubscribe(&core, order.names);
        }
        drop(state);
        self.wake();
        true
    }

    /// The client speaks another protocol now.
    pub fn speaks(&self, client: ClientKey, resp: Resp) {
        self.state.borrow_mut().core.registry.speaks(client, resp);
    }

    /// The client is gone or has no subscriptions any more.
    pub fn leave(&self, node: &Node, client: ClientKey) {
        let mut state = self.state.borrow_mut();
        state.last_used = node.rt.now();
        state.core.leave(client, node.rt.now());
        self.carry_out(node, &mut state, &[]);
        drop(state);
        self.wake();
    }

    /// Whether the hub has nothing to do and nobody to serve.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.borrow();
        self.life.is_ready() && state.core.is_idle() && state.core.registry.len() == 0
    }

    /// Takes nobody any more; its task closes it.
    pub(super) fn retire(&self, reason: UpstreamCloseReason) {
        self.life.retire(reason);
        self.wake();
    }

    /// Goes on with another connection as soon as nothing is owed on this one: then it is closed, and the subscriptions
    /// are made again on the new one. Messages that others publish in between are lost, as they are to a client that
    /// connects again; nothing is heard twice.
    pub(super) fn rotate(&self) {
        if self.life.rotate() {
            self.wake();
        }
    }

    /// The connection is another one.
    fn begin_again(&self, node: &Node) {
        let mut state = self.state.borrow_mut();
        (state.scanner, state.last_progress) = (ReplyScanner::new(), node.rt.now());
        state.core.begin_again(node.rt.now());
        self.carry_out(node, &mut state, &[]);
        self.life.on_replaced();
        self.pump.begin_again();
    }

    /// Names that somebody wants.
    pub(super) fn wanted(&self) -> usize {
        self.state.borrow().core.registry.wanted()
    }

    /// Closes clients that were slow for too long; how many subscribers there are.
    pub(super) fn survey(&self, node: &Node, now: u64) -> u64 {
        let members: Vec<_> = self.state.borrow().core.registry.members().collect();
        let limits = &node.rt.config().pubsub;
        for client in &members {
            node.rt
                .outboxes
                .with(*client, |outbox| outbox.check_pace(limits.output_soft, limits.output_soft_time, now));
        }
        members.len() as u64
    }

    /// Keepalive, expiry, and the end of a connection that hangs.
    pub(super) fn on_tick(&self, node: &Node, now: u64, healthy: bool) {
        if !self.life.is_ready() {
            return;
        }
        let mut state = self.state.borrow_mut();
        state.core.on_tick(now);
        let settings = &node.rt.config().upstream;
        let quiet = now.saturating_sub(state.last_progress);
        if let Some(oldest) = state.core.oldest() {
            let silent = now.saturating_sub(oldest.max(state.last_progress));
            if silent >= nanos(settings.progress_timeout) && !healthy {
                self.life.condemn();
            }
        } else if state.core.is_idle() && now.saturating_sub(state.last_used) >= nanos(settings.idle_timeout) {
            self.life.retire(UpstreamCloseReason::Idle);
        } else if !node.keepalive().is_zero() && quiet >= nanos(node.keepalive()) {
            state.core.ping(now);
        }
        drop(state);
        self.wake();
    }

    fn wake(&self) {
        self.pump.wake();
    }

    fn on_connected(&self) {
        self.life.on_connected();
        self.changed.notify_waiters();
    }

    /// The hub ends; `failure` says why there is no connection, where one could not be made.
    fn close(&self, failure: Option<HubFailure>) {
        self.life.close(failure);
        self.changed.notify_waiters();
    }

    fn poll_turn(&self, node: &Node, link: &mut Link, cx: &mut Context<'_>) -> Poll<HubEnd> {
        let writes = self.pump.begin_turn(cx);
        if self.life.is_hung() {
            return Poll::Ready(HubEnd::Lost(UpstreamCloseReason::Timeout, "hung".to_owned()));
        }
        if writes && let Err(e) = self.write_out(link, cx) {
            return Poll::Ready(HubEnd::failed(&e));
        }
        loop {
            match self.read_in(node, link, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => {
                    self.flush_touched(node);
                    return Poll::Ready(end);
                }
                Poll::Pending => break,
            }
            // Before the next read: a burst must not pile up in the outboxes of clients that do read.
            self.flush_touched(node);
        }
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.charge.set(state.core.out.len() + state.carry.len() + state.two.capacity());
        if let Some(reason) = self.life.leaves_as().filter(|_| state.core.is_idle() && state.core.registry.len() == 0) {
            return Poll::Ready(HubEnd::Done(reason));
        }
        if state.core.lacks {
            let refused = "a subscription was refused on the new connection".to_owned();
            return Poll::Ready(HubEnd::Lost(UpstreamCloseReason::Dirty, refused));
        }
        if self.life.is_moving() && state.core.is_quiet() && !state.scanner.mid_frame() {
            return Poll::Ready(HubEnd::Moved);
        }
        self.pump.end_turn(cx, !state.core.out.is_empty());
        Poll::Pending
    }

    fn write_out(&self, link: &Link, cx: &mut Context<'_>) -> std::io::Result<()> {
        self.pump.write(cx, link, &mut self.state.borrow_mut().core.out)
    }

    fn read_in(&self, node: &Node, link: &mut Link, cx: &mut Context<'_>) -> Poll<Result<(), HubEnd>> {
        let mut memory = node.rt.read_buffer.borrow_mut();
        let chunk = match ready!(link.poll_chunk(cx, &mut memory)) {
            Ok(chunk) => chunk,
            Err(error) => return Poll::Ready(Err(HubEnd::failed(&error))),
        };
        Poll::Ready(self.on_bytes(node, chunk, node.rt.now()).map_err(HubEnd::Anomaly))
    }

    /// The connection is gone: messages may be lost, so everybody with a subscription is closed (rule P4).
    fn on_lost(&self, node: &Node, reason: CloseReason) {
        let (clients, differences) = self.state.borrow_mut().core.take_all();
        for (family, name, by) in differences {
            node.interest.change(family, &name, -by);
        }
        for client in clients {
            node.rt.outboxes.with(client, |outbox| outbox.close(reason));
        }
    }
}

/// A (P|S)(UN)SUBSCRIBE.
#[derive(Clone, Copy)]
pub struct Subscribe<'a> {
    /// Not UNSUBSCRIBE.
    pub joins: bool,
    pub family: Family,
    pub names: &'a [&'a [u8]],
    /// The client's protocol.
    pub resp: Resp,
    /// The client wants no error replies.
    pub suppressed: bool,
    /// The whole request, canonical.
    pub raw: &'a [u8],
}
