//! What time alone makes happen to a lane: canaries, audits, suspicion, and giving up.

use bytes::Buf;

use super::life::Cause;
use super::tell::{Failed, tell};
use super::{Lane, LanePhase, LaneState, NOT_EXECUTED, Owner, Slot, TOO_LATE, slow};
use crate::base::nanos;
use crate::command::{CommandId, Pausing, ReplyMask};
use crate::resp::encode;
use crate::telemetry::{LossVerdict, RequestOutcome};
use crate::upstream::Node;

/// A lane with fewer requests than this is not given up for what it owes to nobody: one slow command must not cost
/// the connection.
const MANY: usize = 16;

impl Lane {
    /// The worker's tick: canary, audit, expiry of what waits in vain. `healthy` says that the control connection
    /// had an answer lately: then a silent lane is slow, not dead.
    pub fn on_tick(&self, node: &Node, now: u64, healthy: bool) {
        match self.life.phase() {
            LanePhase::Opening => self.expire(node, now),
            LanePhase::Ready => {
                self.give_up_requests(node, now);
                self.check_abandoned(node, now);
                self.check(node, now, healthy);
            }
            LanePhase::Closed => {}
        }
    }

    /// Idle since at least `nanos`, and nothing in flight.
    pub fn idle_for(&self, now: u64, nanos: u64) -> bool {
        let state = self.state.borrow();
        state.in_flight.is_empty() && now.saturating_sub(state.last_used) >= nanos
    }

    /// Owes a reply to something that a pause of writes holds back, and has been silent for `nanos`.
    pub(in crate::upstream) fn may_be_held(&self, node: &Node, now: u64, least: u64) -> bool {
        let silent = self.life.phase() == LanePhase::Ready && nanos(self.silence(now)) >= least;
        let command = self.state.borrow().in_flight.head().map(|slot| slot.command);
        silent && command.is_some_and(|id| id == CommandId::OURS || node.rt.table.spec(id).pausing != Pausing::Never)
    }

    /// When a reply came last.
    pub(in crate::upstream) fn progress(&self) -> u64 {
        self.state.borrow().last_progress
    }

    fn check(&self, node: &Node, now: u64, healthy: bool) {
        let interval = nanos(node.rt.config().lane.canary_interval);
        let keepalive = nanos(node.keepalive());
        self.guard.on_tick(now);
        // Taken before the state is borrowed: it looks at the state itself.
        let silent = nanos(self.silence(now));
        let mut state = self.state.borrow_mut();
        let quiet = now.saturating_sub(state.last_progress.max(state.last_canary));
        let paused = node.server_pause.is_all(); // what is sent now stands before everybody else at its end
        let kept_alive = !paused && state.in_flight.is_empty() && keepalive > 0 && quiet >= keepalive;
        let due = !paused && state.since_canary > 0 && now.saturating_sub(state.last_canary) >= interval;
        let audit =
            !paused && state.in_flight.is_empty() && !state.audited && now.saturating_sub(state.last_used) >= interval;
        if kept_alive || due {
            Self::push_canary(self.id, &mut state, node, now);
        } else if audit {
            state.audited = true;
            let before = state.out.len();
            encode::command(&mut state.out, &["CLIENT", "INFO"]);
            let length = state.out.len() - before;
            state.in_flight.push(Owner::Audit, CommandId::OURS, ReplyMask::TEXT, length, now);
        }
        drop(state);
        if kept_alive || due || audit {
            self.wake();
        }
        self.judge_silence(node, silent, healthy);
    }

    /// A connection that stands and says nothing is not dead: first it is suspect, then hung.
    fn judge_silence(&self, node: &Node, silent: u64, healthy: bool) {
        // What a pause of the server has taken was no silence of the lane.
        let silent = silent.min(node.server_pause.ended_before());
        let suspect = silent >= nanos(node.rt.config().upstream.suspect_after) && !node.server_pause.excuses_silence();
        // Said once for each silence, not at every tick.
        if self.life.on_silence(suspect) {
            let silent_ms = silent / 1_000_000;
            tracing::warn!(
                upstream = %node.address(),
                lane = self.id,
                silent_ms,
                healthy,
                "shared connection is suspect: it owes replies and is silent"
            );
        }
        if silent >= nanos(node.rt.config().upstream.progress_timeout) && !healthy {
            node.rt.shard.lane_detection.record(silent);
            self.condemn(Cause::GivenUp(LossVerdict::Hung));
        }
    }

    /// Not connected: requests that have waited too long are answered with the truth, that nothing was executed.
    fn expire(&self, node: &Node, now: u64) {
        let wait = node.rt.config().upstream.connect_wait;
        let timeout = node.rt.config().client.request_timeout;
        let wait = if timeout.is_zero() { wait } else { wait.min(timeout) };
        if node.server_pause.is_all_and_alive() || node.server_pause.ended_before() < nanos(wait) {
            return; // it is there, and answers the handshake at the end of its pause
        }
        self.refuse_before(node, now.saturating_sub(nanos(wait)));
    }

    /// Answers every request that was submitted before `deadline` to a lane that is not connected.
    pub(super) fn refuse_before(&self, node: &Node, deadline: u64) {
        loop {
            let mut state = self.state.borrow_mut();
            // The oldest is at the front of both lists, and nothing was written: its bytes are the first of `out`.
            let Some(slot) = state.in_flight.pop_unsent_before(deadline) else { break };
            state.out.advance(slot.bytes as usize);
            drop(state);
            self.refuse_slot(node, slot, NOT_EXECUTED);
        }
        self.flush_touched(node);
    }

    /// `client.request_timeout`: requests that have waited too long are answered with what is true of them. Those that
    /// were written keep their place; the connection lives on. In order: of one client the older ones come first.
    fn give_up_requests(&self, node: &Node, now: u64) {
        let timeout = node.rt.config().client.request_timeout;
        let deadline = now.saturating_sub(nanos(timeout));
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let oldest = state.withheld.first().map(|withheld| withheld.slot.at).or_else(|| state.in_flight.oldest());
        if timeout.is_zero() || oldest.is_none_or(|oldest| oldest >= deadline) {
            return;
        }
        // Nothing may be said to a client in the middle of a reply.
        let spare = state.in_flight.head().filter(|_| state.streaming).and_then(|slot| slot.owner.client());
        // Replies that wait for their canary come before those that have not come at all.
        let mut late = give_up_withheld(state, deadline);
        late.extend(state.in_flight.orphan_before(deadline, spare));
        let withdrawn = state.in_flight.withdraw_before(deadline, &mut state.out, spare);
        for slot in &late {
            if let Some(client) = slot.owner.client() {
                state.slow_key = None; // of another
                slow::keep(node, state, slot, client, node.rt.now());
            }
            state.touched.extend(tell(node, slot, Failed::Unknown(TOO_LATE)));
        }
        drop(guard);
        for _ in &late {
            node.rt.shard.request_timeouts[RequestOutcome::Unknown].inc();
        }
        for slot in withdrawn {
            node.rt.shard.request_timeouts[RequestOutcome::NotExecuted].inc();
            self.refuse_slot(node, slot, NOT_EXECUTED);
        }
        self.flush_touched(node);
    }

    /// A lane of which most replies are for nobody, for longer than it may be silent, serves nobody: clients behind
    /// them are better off on a new one (rule R4).
    fn check_abandoned(&self, node: &Node, now: u64) {
        if node.server_pause.excuses_silence() {
            return;
        }
        let settings = &node.rt.config().upstream;
        let state = self.state.borrow();
        let suspicious = now.saturating_sub(nanos(settings.suspect_after));
        if state.in_flight.oldest().is_none_or(|oldest| oldest >= suspicious) {
            return;
        }
        let is_gone = |client| node.rt.outboxes.with(client, |_| ()).is_none();
        let (abandoned, given_up) = state.in_flight.abandoned_before(suspicious, is_gone);
        let most = state.in_flight.len() >= MANY && abandoned * 2 > state.in_flight.len();
        let limit = nanos(node.rt.config().client.request_timeout).saturating_add(nanos(settings.progress_timeout));
        let too_old = given_up.is_some_and(|at| now.saturating_sub(at) >= limit);
        drop(state);
        if most || too_old {
            self.condemn(Cause::GivenUp(LossVerdict::Abandoned));
        }
    }
}

/// The withheld replies to requests that were submitted before `deadline` are for nobody any more.
fn give_up_withheld(state: &mut LaneState, deadline: u64) -> Vec<Slot> {
    let withheld = state.withheld.iter_mut().map(|withheld| &mut withheld.slot);
    let late = withheld.filter(|slot| slot.at < deadline && slot.owner.client().is_some());
    late.map(|slot| {
        let given_up = *slot;
        slot.owner = Owner::Orphan;
        given_up
    })
    .collect()
}
