//! A lane: one shared, pipelined upstream connection, fixed to one [`RouteKey`].
//!
//! ```text
//!  client tasks ──submit──▶ out ─┐                        ┌─▶ outbox of client 1 ─▶ socket
//!                            │   ├─ one write per turn ─▶ upstream
//!                        in flight (FIFO) ◀─ replies ─────┴─▶ outbox of client 2 ─▶ socket
//! ```
//!
//! Owns the connection, the bytes that wait for it, and the list of requests whose replies are outstanding. Clients
//! append to `out` and to that list in one step; the lane's task runs after them and writes everything with one call.
//! It reads replies into the worker's one read buffer, gives each to the owner of the oldest slot, and sends every
//! touched client its replies with one call. Any surprise kills the connection (rule I5); nothing is ever
//! resynchronised.
//!
//! [`in_flight`] is the list (pure), [`task`] the I/O, [`deliver`] the way of a reply, [`health`] what time alone
//! makes happen, [`retry`] and [`limit_guard`] what may be sent again and what the server's limits allow, [`slow`] and
//! [`report`] what people may see.

mod deliver;
mod health;
mod history;
mod in_flight;
mod life;
mod limit_guard;
mod report;
mod retry;
mod slow;
mod task;
mod tell;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use deliver::Anomaly;
pub(crate) use deliver::recounted;
pub use history::LaneHistory;
pub(crate) use in_flight::{InFlight, Owner, Slot};
pub use life::LanePhase;
pub(crate) use report::LaneReport;
pub use retry::RetryBudget;
pub(crate) use task::run;
pub(crate) use tell::{NOT_EXECUTED, TOO_LATE};

use life::{Cause, Life};
use limit_guard::LimitGuard;
use retry::Kept;
use tell::{Failed, tell};

use super::client_key::ClientKey;
use super::{Charge, Node};
use crate::base::bug;
use crate::command::{CommandId, ReplyMask};
use crate::config::{Config, Integrity};
use crate::link::Pump;
use crate::resp::{FrameKind, ReplyScanner, encode};
use crate::session::{Resp, RouteKey};
use crate::telemetry::{AnomalyReason, BufferKind, CloseReason, Pressure, UpstreamCloseReason};

/// While memory is short, no more than this waits for the upstream, bytes.
const TIGHT_OUT: usize = 64 << 10;

/// One command of a transaction that rides whole.
pub(crate) struct Part {
    pub command: CommandId,
    /// Length in the unit, bytes.
    pub bytes: usize,
    /// Who gets its reply; set before it is submitted.
    pub owner: Option<Owner>,
}

/// A reply that has come and that nobody has seen.
struct Withheld {
    slot: Slot,
    frame: Vec<u8>,
    kind: FrameKind,
}

/// A shared upstream connection.
pub struct Lane {
    id: u64,
    key: RouteKey,
    /// As it was when the lane was made: what its replies must be does not change under way.
    config: Rc<Config>,
    guard: LimitGuard,
    life: Life,
    /// When its task writes.
    pump: Pump,
    /// CLIENT ID of the connection on the upstream; 0 without one.
    upstream_id: Cell<i64>,
    history: Rc<LaneHistory>,
    state: RefCell<LaneState>,
}

struct LaneState {
    /// Requests that the socket has not taken. Appended to by clients, emptied by the lane's task.
    out: BytesMut,
    /// One slot for each request in `out` and for each that was written and has no reply: clients append in the same step
    /// as to `out`, replies take from the front.
    in_flight: InFlight,
    scanner: ReplyScanner,
    /// The beginning of a reply that is not complete and not streamed.
    carry: BytesMut,
    /// Only with `upstream.retry_reads`.
    kept: Kept,
    /// The head's reply is being passed on piece by piece.
    streaming: bool,
    /// The MULTI of the transaction under way was refused, so what follows runs by itself.
    unit_refused: bool,
    /// Replies whose canary is not back yet (`integrity = "strict"`), in order.
    withheld: Vec<Withheld>,
    /// Bytes of it so far.
    streamed: usize,
    /// Clients that found the lane full, in order.
    crowd: Vec<ClientKey>,
    /// Clients with new bytes in their outbox since the last flush.
    touched: Vec<ClientKey>,
    /// Commands submitted behind the newest canary.
    since_canary: usize,
    /// Commands submitted since the last write.
    unwritten: usize,
    /// The number of the newest canary.
    canaries: u64,
    /// CLIENT INFO was asked since the last command: an idle lane is audited once.
    audited: bool,
    /// Nanoseconds of the worker's clock.
    last_canary: u64,
    last_used: u64,
    /// The beginning of the silence that is judged: an answer, or the connection itself.
    last_progress: u64,
    /// When something came from the upstream, on this connection or one before.
    last_answer: u64,
    /// When it was connected, or wanted.
    since: u64,
    /// Of the request that is being answered, if it was slow.
    slow_key: Option<Vec<u8>>,
    /// What `out` and `carry` take, as of the end of the last turn.
    charge: Charge,
}

impl Lane {
    /// A lane that is not connected yet, or one for long replies; `id` is unique in the worker.
    #[must_use]
    pub fn new(id: u64, key: RouteKey, node: &Node, for_long_replies: bool) -> Rc<Self> {
        let (now, config) = (node.rt.now(), node.rt.config());
        let state = LaneState {
            out: BytesMut::new(),
            in_flight: InFlight::default(),
            scanner: ReplyScanner::new(),
            carry: BytesMut::new(),
            kept: Kept::default(),
            streaming: false,
            unit_refused: false,
            withheld: Vec::new(),
            streamed: 0,
            crowd: Vec::new(),
            touched: Vec::new(),
            since_canary: 0,
            unwritten: 0,
            canaries: 0,
            audited: true,
            last_canary: now,
            last_used: now,
            last_progress: now,
            last_answer: 0,
            since: now,
            slow_key: None,
            charge: Charge::new(&node.rt.memory, BufferKind::Upstream),
        };
        Rc::new(Self {
            id,
            key,
            guard: LimitGuard::new(&config.lane, &node.server_limits(), for_long_replies, now),
            config,
            life: Life::new(),
            pump: Pump::default(),
            upstream_id: Cell::new(0),
            history: Rc::default(),
            state: RefCell::new(state),
        })
    }

    /// The state that every request on it sees.
    pub fn key(&self) -> &RouteKey {
        &self.key
    }

    /// Takes new requests.
    pub fn accepting(&self) -> bool {
        self.life.accepting()
    }

    /// Where it is in its life.
    pub fn phase(&self) -> LanePhase {
        self.life.phase()
    }

    /// Requests without a reply.
    pub fn in_flight(&self) -> usize {
        self.state.borrow().in_flight.len()
    }

    /// When its oldest request was submitted, nanoseconds of the worker's clock.
    pub fn oldest(&self) -> Option<u64> {
        self.state.borrow().in_flight.oldest()
    }

    /// Room for `commands` more of `bytes` together.
    pub fn has_room(&self, node: &Node, commands: usize, bytes: usize) -> bool {
        let state = self.state.borrow();
        if node.rt.memory.pressure() >= Pressure::Refuse && state.out.len() >= TIGHT_OUT {
            return false;
        }
        state.in_flight.is_empty()
            || (state.in_flight.len() + commands <= self.guard.most_commands()
                && state.in_flight.bytes() + bytes <= self.guard.most_bytes())
    }

    /// Appends one whole, canonical request and its slot; the lane's task writes it in its next turn.
    pub fn submit(&self, node: &Node, owner: Owner, command: CommandId, request: &[u8], now: u64) {
        let mut state = self.state.borrow_mut();
        state.out.extend_from_slice(request);
        let legal = self.legal(node, command);
        state.in_flight.push(owner, command, legal, request.len(), now);
        state.in_flight.note_arguments(slow::arguments(request));
        if let (true, Owner::Forward(key)) = (bug("double_write"), owner) {
            state.out.extend_from_slice(request);
            state.in_flight.push(Owner::Discard(key), command, legal, request.len(), now);
            node.rt.outboxes.with(key, |outbox| outbox.on_submitted(request.len()));
        }
        self.on_submitted(&mut state, node, 1, now);
        drop(state);
        self.wake();
    }

    /// Appends a whole transaction, its parts in `unit` one behind the other: not even a canary may come between them.
    pub(crate) fn submit_unit(&self, node: &Node, parts: &[Part], unit: &[u8], now: u64) {
        let mut state = self.state.borrow_mut();
        state.out.extend_from_slice(unit);
        let unchecked = self.config.integrity == Integrity::Loose;
        let mut rest = unit;
        for (position, part) in parts.iter().enumerate() {
            let owner = part.owner.expect("the client has said who gets the replies");
            // MULTI itself, EXEC, and +QUEUED for what stands between them.
            let own = position == 0 || position + 1 == parts.len();
            let legal = if own || unchecked { self.legal(node, part.command) } else { ReplyMask::STATUS };
            state.in_flight.append(owner, part.command, legal, part.bytes, now, position > 0);
            state.in_flight.note_arguments(slow::arguments(rest));
            rest = rest.get(part.bytes..).unwrap_or_default();
        }
        self.on_submitted(&mut state, node, parts.len(), now);
        drop(state);
        self.wake();
    }

    /// The types that a reply to `command` can have here.
    #[inline]
    fn legal(&self, node: &Node, command: CommandId) -> ReplyMask {
        if self.config.integrity == Integrity::Loose {
            return ReplyMask::ANY;
        }
        if command == CommandId::OURS {
            return ReplyMask::OURS;
        }
        let replies = node.rt.table.spec(command).replies;
        if self.key.resp == Resp::Three { replies.three } else { replies.two }
    }

    /// Counts what was appended, and sends a canary behind it when one is due.
    fn on_submitted(&self, state: &mut LaneState, node: &Node, commands: usize, now: u64) {
        state.last_used = now;
        state.unwritten += commands;
        if self.config.upstream.retry_reads {
            node.retries.on_requests(commands, now);
        }
        state.since_canary += commands;
        state.audited = false;
        if state.since_canary >= self.config.lane.canary_commands || self.config.integrity == Integrity::Strict {
            Self::push_canary(self.id, state, node, now);
        }
    }

    /// A PING whose echo proves the position of every reply around it.
    fn push_canary(id: u64, state: &mut LaneState, node: &Node, now: u64) {
        state.canaries += 1;
        state.since_canary = 0;
        state.last_canary = now;
        let before = state.out.len();
        encode::command(&mut state.out, &["PING", &canary_text(id, state.canaries)]);
        let length = state.out.len() - before;
        state.in_flight.push(Owner::Canary(state.canaries), CommandId::OURS, ReplyMask::ANY, length, now);
        node.rt.shard.lane_canaries.inc();
    }

    /// Takes no more requests; its task closes it when the last reply is in.
    pub fn retire(&self, reason: UpstreamCloseReason) {
        self.life.retire(reason);
        self.wake();
    }

    /// As [`Lane::retire`], and its place is promised to another connection already.
    pub fn replace(&self) {
        self.retire(UpstreamCloseReason::Moved);
    }

    /// Its place is promised.
    pub fn is_replaced(&self) -> bool {
        self.life.is_replaced()
    }

    /// The connection must not be used any more; its task tears it down.
    fn condemn(&self, cause: Cause) {
        self.life.condemn(cause);
        self.wake();
    }

    /// What it answered to `command` can not be: its task kills it, and closes every client that has a slot on it.
    pub fn distrust(&self, reason: AnomalyReason, command: CommandId) {
        self.condemn(Cause::Distrusted(Anomaly { reason, command: Some(command) }));
    }

    /// Owes replies and has been silent for `upstream.suspect_after`.
    pub fn is_suspect(&self) -> bool {
        self.life.is_suspect()
    }

    /// When something came from the upstream last, nanoseconds of the worker's clock; 0 before the first.
    pub fn last_answer(&self) -> u64 {
        self.state.borrow().last_answer
    }

    /// For how long it has owed a reply without saying anything.
    pub fn silence(&self, now: u64) -> Duration {
        let state = self.state.borrow();
        let since = state.in_flight.oldest().map_or(now, |oldest| oldest.max(state.last_progress));
        Duration::from_nanos(now.saturating_sub(since))
    }

    /// When the last request was submitted, nanoseconds of the worker's clock.
    pub fn last_used(&self) -> u64 {
        self.state.borrow().last_used
    }

    /// Answers a request that was never written with an error line.
    fn refuse_slot(&self, node: &Node, slot: Slot, error: &[u8]) {
        let touched = tell(node, &slot, Failed::NotExecuted(error));
        self.state.borrow_mut().touched.extend(touched);
    }

    /// Every request that waits is refused with the server's own words: the lane cannot be opened.
    pub(super) fn refuse_all(&self, node: &Node, error: &[u8]) {
        let (sent, unsent) = self.take_slots();
        debug_assert!(sent.is_empty(), "a lane that was never ready has written nothing");
        for slot in unsent {
            self.refuse_slot(node, slot, error);
        }
        self.flush_touched(node);
    }

    /// Every client that waits is closed: its identity does not exist any more.
    pub(super) fn close_all(&self, node: &Node, reason: CloseReason) {
        let (sent, unsent) = self.take_slots();
        for slot in sent.iter().chain(&unsent) {
            match slot.owner {
                Owner::Inner(number) => node.own_commands.lose(number),
                owner => _ = owner.client().map(|client| node.rt.outboxes.with(client, |outbox| outbox.close(reason))),
            }
        }
    }

    fn take_slots(&self) -> (Vec<Slot>, Vec<Slot>) {
        let mut state = self.state.borrow_mut();
        state.out.clear();
        state.in_flight.take_all()
    }

    fn wake(&self) {
        self.pump.wake();
    }
}

/// The text of canary `number`: no other lane and no other position has it.
fn canary_text(lane: u64, number: u64) -> String {
    format!("respmux-{lane}-{number}")
}
