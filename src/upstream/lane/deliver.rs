//! Replies of a lane, from bytes to their owners.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

use super::in_flight::{Owner, Popped, Slot};
use super::retry::candidates;
use super::slow;
use super::tell::{Failed, UNKNOWN_OUTCOME, tell};
use super::{Lane, LaneState, Withheld, canary_text};
use crate::base::bug;
use crate::command::CommandId;
use crate::config::{Integrity, OnLoss};
use crate::link::{decoded, tolerable};
use crate::resp::{Advance, FrameKind, encode};
use crate::session::{Identity, Resp, RouteKey};
use crate::telemetry::{AnomalyReason, CloseReason, RetryOutcome};
use crate::upstream::Node;
use crate::upstream::outbox::Answer;

/// Why a connection is not to be trusted, and what was being answered, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anomaly {
    pub reason: AnomalyReason,
    pub command: Option<CommandId>,
}

impl From<AnomalyReason> for Anomaly {
    fn from(reason: AnomalyReason) -> Self {
        Self { reason, command: None }
    }
}

/// A reply longer than this is passed on while it arrives, bytes.
const STREAM_FROM: usize = 64 << 10;

impl Lane {
    /// Gives `chunk`, just read, to the owners of the oldest slots.
    ///
    /// # Errors
    /// What makes the connection untrustworthy. Replies before the anomaly were delivered.
    pub(super) fn on_bytes(&self, node: &Node, chunk: &[u8], now: u64) -> Result<(), Anomaly> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.last_progress = now;
        state.last_answer = now;
        self.life.on_answer();
        let mut rest = chunk;
        while !rest.is_empty() {
            match state.scanner.advance(rest) {
                Advance::Complete { len, kind } => {
                    let (frame, after) = rest.split_at(len);
                    rest = after;
                    self.on_frame(node, state, frame, kind, now)?;
                }
                Advance::Partial => {
                    on_piece(node, self, state, rest)?;
                    rest = &[];
                }
                Advance::Invalid(_) => {
                    let command = state.in_flight.head().map(|slot| slot.command);
                    return Err(Anomaly { reason: AnomalyReason::ParseError, command });
                }
            }
        }
        Ok(())
    }

    /// The last piece of a reply; the pieces before it, if any, are in `carry` or already with the client.
    fn on_frame(
        &self,
        node: &Node,
        state: &mut LaneState,
        piece: &[u8],
        kind: FrameKind,
        now: u64,
    ) -> Result<(), Anomaly> {
        if kind.is_push() {
            // A push is never a reply (rule I1), and nothing on a lane asks for one: it is not the connection we made.
            return Err(AnomalyReason::Push.into());
        }
        let gone =
            |slot: &Slot| slot.owner.client().is_some_and(|client| node.rt.outboxes.with(client, |_| ()).is_none());
        if state.in_flight.head().is_some_and(gone) && bug("drop_tombstone") {
            state.in_flight.forget_head();
        }
        // Looked at before it is taken: a slot whose reply does not fit must stay, so that its client is closed with all
        // others that have one.
        let (key, refused) = (&self.key, state.unit_refused);
        let mut slot = match state.in_flight.pop_if(|slot| fits(node, key, refused, slot, kind.byte())) {
            Popped::Slot(slot) => slot,
            Popped::Nothing => return Err(AnomalyReason::NoSlot.into()),
            Popped::Unfit(command) => {
                return Err(Anomaly { reason: AnomalyReason::WrongType, command: Some(command) });
            }
        };
        // MULTI itself, or a request outside of transactions; what is joined to it does not change what it said.
        if !slot.joined {
            state.unit_refused = kind.is_error();
        }
        slot.written = state.in_flight.written_at(&slot);
        node.rt.replied(slot.command, now.saturating_sub(slot.written));
        // Nearly every reply lies whole in the read buffer and is not copied before it reaches its outbox.
        let carried;
        let frame: &[u8] = if state.carry.is_empty() {
            piece
        } else {
            state.carry.extend_from_slice(piece);
            carried = state.carry.split();
            &carried
        };
        let streamed = std::mem::take(&mut state.streaming);
        if self.guard.is_on() {
            self.guard.on_reply(frame.len() + if streamed { state.streamed } else { 0 });
        }
        // Before anything is handed over: in strict mode it is the canary that says whether what came before it is true.
        if let Owner::Canary(number) = slot.owner {
            let wrong = |reason| Anomaly { reason, command: Some(slot.command) };
            self.check_canary(node, number, frame, kind).map_err(wrong)?;
            self.release(node, state, now)?;
            state.kept.on_answered(slot.bytes as usize);
            return Ok(());
        }
        if self.config.integrity == Integrity::Strict {
            state.withheld.push(Withheld { slot, frame: frame.to_vec(), kind });
            return Ok(());
        }
        self.hand_over(node, state, &slot, frame, kind, streamed, now)
    }

    /// The canary behind them is back: what was kept until then is what it seems.
    fn release(&self, node: &Node, state: &mut LaneState, now: u64) -> Result<(), Anomaly> {
        let mut withheld = std::mem::take(&mut state.withheld);
        for Withheld { slot, frame, kind } in withheld.drain(..) {
            self.hand_over(node, state, &slot, &frame, kind, false, now)?;
        }
        state.withheld = withheld; // keeps the list's memory
        Ok(())
    }

    /// Gives a whole reply, or the end of a streamed one, to its owner.
    #[allow(clippy::too_many_arguments, reason = "the parts of one reply")]
    fn hand_over(
        &self,
        node: &Node,
        state: &mut LaneState,
        slot: &Slot,
        frame: &[u8],
        kind: FrameKind,
        streamed: bool,
        now: u64,
    ) -> Result<(), Anomaly> {
        // In this order: the key is read from the request that is kept, and then the request is let go.
        self.remember_key(node, state, slot, now);
        state.kept.on_answered(slot.bytes as usize);
        if slot.retried {
            node.rt.shard.retries[RetryOutcome::Answered].inc();
        }
        // Of an error that was streamed only the end is here. Scripts and unknown commands write errors as they like,
        // so those of theirs say nothing about the connection.
        if kind.is_error() && !streamed {
            node.on_error_reply(frame);
            if !node.rt.chooses_its_errors(slot.command) {
                self.check_identity(frame)?;
            }
        }
        match slot.owner {
            Owner::Forward(_) | Owner::Discard(_) | Owner::Call(_) => answer(node, state, slot, frame, streamed, now),
            Owner::Publish(_, by) => answer(node, state, slot, &recounted(frame, by.into()), false, now),
            Owner::Orphan => node.rt.shard.lane_tombstones.inc(),
            Owner::Inner(number) => {
                node.own_commands.answer(number, Answer::Reply(frame.to_vec()));
                node.answered(slot.command, now.saturating_sub(slot.at));
            }
            // Was checked when it came.
            Owner::Canary(_) => {}
            Owner::Audit => check_audit(&self.key, frame)?,
        }
        Ok(())
    }

    /// `-NOAUTH` on a lane that has proved its identity: the identity is gone, and with it the lane (rule K4).
    fn check_identity(&self, frame: &[u8]) -> Result<(), AnomalyReason> {
        let proved = matches!(self.key.identity, Identity::User(_));
        if proved && frame.starts_with(b"-NOAUTH") { Err(AnomalyReason::Identity) } else { Ok(()) }
    }

    fn check_canary(&self, node: &Node, number: u64, frame: &[u8], kind: FrameKind) -> Result<(), AnomalyReason> {
        // An error is in its place, too: the identity may not run PING, or the server is busy. Any other text is the reply
        // to something else.
        let text = canary_text(self.id, number);
        let right = if kind.is_error() {
            tolerable(frame.get(1..).unwrap_or_default())
        } else {
            frame.strip_suffix(b"\r\n").is_some_and(|f| f.ends_with(text.as_bytes()))
                && frame.starts_with(format!("${}\r\n", text.len()).as_bytes())
        };
        if right {
            return Ok(());
        }
        node.rt.shard.lane_canary_failures.inc();
        Err(AnomalyReason::Canary)
    }

    /// Sends every client that has new replies what its socket takes, one call each.
    pub(super) fn flush_touched(&self, node: &Node) {
        // Taken out, so that the lane is not borrowed while sockets are written to.
        let touched = std::mem::take(&mut self.state.borrow_mut().touched);
        for client in &touched {
            node.rt.outboxes.with(*client, |outbox| outbox.flush(&node.rt.buffers));
        }
        let mut state = self.state.borrow_mut();
        if state.touched.is_empty() {
            // Keeps the list's memory for the next turn.
            state.touched = touched;
            state.touched.clear();
        }
        // Half empty and not one slot: clients that are woken for one slot each would find it taken and wait again.
        let roomy = state.in_flight.len() <= self.guard.most_commands() / 2
            && state.in_flight.bytes() <= self.guard.most_bytes() / 2;
        if roomy && !state.crowd.is_empty() {
            for client in std::mem::take(&mut state.crowd) {
                node.rt.outboxes.with(client, |outbox| outbox.wake());
            }
        }
    }

    /// The connection is gone. Clients with a written request are closed (or told that the outcome is unknown);
    /// requests of which no byte was written stay, for the next connection. An anomaly closes every client that
    /// has a slot. Gives how many clients were closed.
    pub(super) fn on_lost(&self, node: &Node, anomaly: bool) -> usize {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let cut = std::mem::take(&mut state.streaming);
        let (waiting_for_replies, unsent) = state.in_flight.take_all();
        // A reply that was not given to anybody is none: its canary did not come.
        let withheld = std::mem::take(&mut state.withheld).into_iter().map(|withheld| withheld.slot);
        let sent: Vec<Slot> = withheld.chain(waiting_for_replies).collect();
        // `out` begins with what is left of a request that was written in part; the unwritten ones lie whole at its end.
        let unsent_bytes: usize = unsent.iter().map(|slot| slot.bytes as usize).sum();
        let mut old = state.out.split();
        let mut waiting = old.split_off(old.len() - unsent_bytes);
        state.scanner = crate::resp::ReplyScanner::new();
        state.carry = BytesMut::new();
        let reason = match () {
            () if anomaly => CloseReason::UpstreamAnomaly,
            () if self.guard.is_solo() => CloseReason::OutputLimit,
            () => CloseReason::UpstreamLost,
        };
        // Before anybody is told: what a client has asked can be seen only while it has no answer.
        self.learn_from_loss(node, &sent);
        let mut closed = HashSet::new();
        let mut close = |slot: &Slot| {
            let Some(client) = slot.owner.client() else { return };
            if node.rt.outboxes.with(client, |outbox| outbox.close(reason)).is_some() {
                closed.insert(client);
            }
        };
        state.unit_refused = false;
        // All written requests, with the rest of the one that was cut: what is sent again must be whole.
        let mut kept = state.kept.take(&old);
        let again = match (self.config.upstream.retry_reads || self.guard.is_on()) && !anomaly {
            true => candidates(node, &sent, cut, self.guard.is_on()),
            false => HashSet::new(),
        };
        self.guard.set_solo(self.guard.is_on() && !anomaly);
        // First those that were written, then those that were not: on the next connection each client finds its requests in
        // the order in which it sent them.
        for (position, slot) in sent.iter().enumerate() {
            let request = kept.split_to((slot.bytes as usize).min(kept.len()));
            if slot.owner.client().is_some_and(|client| again.contains(&client)) {
                state.out.extend_from_slice(&request);
                state.in_flight.push_again(slot);
                continue;
            }
            // Half a reply is out already: an error behind it would be read as part of it.
            let torn = position == 0 && cut;
            let stays = self.config.upstream.on_loss == OnLoss::Error && !anomaly && !torn;
            if stays || slot.owner.client().is_none() {
                state.touched.extend(tell(node, slot, Failed::Unknown(UNKNOWN_OUTCOME)));
            } else {
                close(slot);
            }
        }
        for slot in unsent {
            let request = waiting.split_to(slot.bytes as usize);
            let alive = match slot.owner {
                Owner::Inner(number) if anomaly => {
                    node.own_commands.lose(number);
                    false
                }
                Owner::Inner(_) => true,
                owner => owner
                    .client()
                    .is_some_and(|client| node.rt.outboxes.with(client, |o| o.close_reason().is_none()) == Some(true)),
            };
            if anomaly {
                close(&slot);
            } else if alive {
                state.out.extend_from_slice(&request);
                state.in_flight.keep(&slot);
            }
        }
        if self.config.integrity == Integrity::Strict && !state.in_flight.is_empty() {
            // What is sent again has lost its canaries, and nothing would release its replies.
            Self::push_canary(self.id, state, node, node.rt.now());
        }
        closed.len()
    }
}

/// Whether a reply that begins with `byte` can be the one of `slot`. Where MULTI was refused, what was to be queued has
/// run by itself.
#[inline]
fn fits(node: &Node, key: &RouteKey, unit_refused: bool, slot: &Slot, byte: u8) -> bool {
    slot.legal.allows(byte) || (slot.joined && unit_refused && by_itself(node, key, slot, byte))
}

/// By what the command replies outside of MULTI.
#[cold]
fn by_itself(node: &Node, key: &RouteKey, slot: &Slot, byte: u8) -> bool {
    let replies = node.rt.table.spec(slot.command).replies;
    if key.resp == Resp::Three { replies.three.allows(byte) } else { replies.two.allows(byte) }
}

/// A whole reply (or the end of a streamed one) for a client, who may have left.
fn answer(node: &Node, state: &mut LaneState, slot: &Slot, frame: &[u8], streamed: bool, now: u64) {
    let Some(client) = slot.owner.client() else { return };
    let present = node.rt.outboxes.with(client, |outbox| {
        match slot.owner {
            Owner::Forward(_) if bug("drop_reply") => {}
            Owner::Forward(key) | Owner::Publish(key, _) => {
                if outbox.push_noted(&node.rt.buffers, frame) {
                    state.touched.push(key);
                }
                if streamed {
                    outbox.on_reply_part(&node.rt.buffers, true);
                }
                if let Owner::Publish(..) = slot.owner {
                    outbox.on_own_publish(&node.rt.buffers, true);
                }
                if bug("duplicate_reply") {
                    outbox.push(&node.rt.buffers, frame);
                }
            }
            Owner::Call(_) => outbox.deliver(Answer::Reply(frame.to_vec())),
            Owner::Discard(_) | Owner::Orphan | Owner::Inner(_) | Owner::Canary(_) | Owner::Audit => {}
        }
        outbox.on_answered(slot.bytes as usize);
    });
    if present.is_none() {
        node.rt.shard.lane_tombstones.inc();
    }
    let took = now.saturating_sub(slot.at);
    node.answered(slot.command, took);
    if node.rt.slowlog.is_slow(took) {
        slow::keep(node, state, slot, client, now);
    }
}

/// Bytes in the middle of a reply. A long one is passed on at once: it belongs to the oldest request of its client,
/// so nothing can come before it.
fn on_piece(node: &Node, lane: &Lane, state: &mut LaneState, piece: &[u8]) -> Result<(), Anomaly> {
    let (key, strict) = (&lane.key, lane.config.integrity == Integrity::Strict);
    let Some(slot) = state.in_flight.head() else { return Err(AnomalyReason::NoSlot.into()) };
    let (owner, command) = (slot.owner, slot.command);
    let kind = state.scanner.kind();
    match kind {
        Some(b'>') => return Err(AnomalyReason::Push.into()),
        // Before any of it is passed on.
        Some(byte) if !state.streaming && !fits(node, key, state.unit_refused, slot, byte) => {
            return Err(Anomaly { reason: AnomalyReason::WrongType, command: Some(command) });
        }
        _ => {}
    }
    // What is changed on its way, judged, or handed to a task must be seen whole (rule L10); so must the beginning of a
    // reply that has not shown its kind.
    let whole_needed =
        kind.is_none() || !matches!(owner, Owner::Forward(_) | Owner::Discard(_) | Owner::Orphan) || strict;
    if !state.streaming && (whole_needed || state.carry.len() + piece.len() < STREAM_FROM) {
        state.carry.extend_from_slice(piece);
        return Ok(());
    }
    if !state.streaming {
        (state.streaming, state.streamed) = (true, 0);
    }
    let carried: Bytes = state.carry.split().freeze();
    let before = state.streamed;
    state.streamed += carried.len() + piece.len();
    // Once, and while it arrives: others that ask the same now need not wait behind it any more.
    if before <= node.long_replies.threshold() && state.streamed > node.long_replies.threshold() {
        let question = owner.client().and_then(|client| node.rt.outboxes.with(client, |outbox| outbox.only_question()));
        if let Some(question) = question.flatten() {
            node.long_replies.learn(question, state.last_progress);
        }
    }
    if let Owner::Forward(client) = owner {
        let touched = node.rt.outboxes.with(client, |outbox| {
            outbox.on_reply_part(&node.rt.buffers, false);
            let first = outbox.push_noted(&node.rt.buffers, &carried);
            outbox.push_noted(&node.rt.buffers, piece) || first
        });
        if touched == Some(true) {
            state.touched.push(client);
        }
    }
    Ok(())
}

/// The reply to a PUBLISH with `by` more receivers; an error stays what it is.
pub(crate) fn recounted(frame: &[u8], by: i64) -> BytesMut {
    let mut counted = BytesMut::with_capacity(16);
    match decoded(frame).ok().and_then(|value| value.as_int()) {
        // Less than none: a subscription that ended upstream and is not confirmed here yet.
        Some(told) => encode::integer(&mut counted, told.saturating_add(by).max(0)),
        None => counted.extend_from_slice(frame),
    }
    counted
}

/// CLIENT INFO of an idle lane must show what its handshake made it, and nothing else (rule L7).
fn check_audit(key: &RouteKey, frame: &[u8]) -> Result<(), AnomalyReason> {
    let Ok(value) = decoded(frame) else { return Err(AnomalyReason::UnexpectedReply) };
    let Some(text) = value.as_text() else { return Ok(()) }; // not permitted: nothing to compare
    let text = String::from_utf8_lossy(text);
    let field = |name: &str| text.split_ascii_whitespace().find_map(|pair| pair.strip_prefix(name));
    let resp = if key.resp == Resp::Three { "3" } else { "2" };
    let db = key.db.to_string();
    let expected =
        [("db=", db.as_str()), ("sub=", "0"), ("psub=", "0"), ("ssub=", "0"), ("watch=", "0"), ("resp=", resp)];
    for (name, wanted) in expected {
        // A field that this server does not show says nothing.
        if field(name).is_some_and(|found| found != wanted) {
            return Err(AnomalyReason::UnexpectedReply);
        }
    }
    if field("multi=").is_some_and(|multi| multi != "-1" && multi != "0") {
        return Err(AnomalyReason::UnexpectedReply);
    }
    Ok(())
}
