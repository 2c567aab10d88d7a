//! `upstream.retry_reads`: what was written to a connection that broke is sent once more, if that can change nothing.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use bytes::{Buf, BytesMut};

use super::in_flight::{Owner, Slot};
use super::{Lane, LaneState};
use crate::telemetry::RetryOutcome;
use crate::upstream::Node;
use crate::upstream::client_key::ClientKey;

/// Half of the time over which requests and retries are counted, nanoseconds.
const HALF_WINDOW: u64 = 5_000_000_000;
/// Share of the requests, in percent, that may be sent again.
const PERCENT: u64 = 20;
/// Retries of a process that may come on top of that in a whole window: ten a second.
const ON_TOP: u64 = 100;

/// Keeps retries from becoming a load of their own while the upstream breaks again and again. One for each worker.
#[derive(Default)]
pub struct RetryBudget(RefCell<RetryWindow>);

#[derive(Default)]
struct RetryWindow {
    /// When the newer half has begun.
    since: u64,
    /// In the older half of the window and in the newer one.
    requests: [u64; 2],
    retries: [u64; 2],
}

impl RetryBudget {
    /// `count` requests were put on lanes.
    pub(super) fn on_requests(&self, count: usize, now: u64) {
        let mut window = self.0.borrow_mut();
        window.turn(now);
        window.requests[1] += count as u64;
    }

    /// Takes `count` retries, all or none.
    /// A client is answered for all of its requests or for none, since its replies must stay in order.
    fn take(&self, count: u64, workers: usize, now: u64) -> bool {
        let mut window = self.0.borrow_mut();
        window.turn(now);
        let requests: u64 = window.requests.iter().sum();
        let retries: u64 = window.retries.iter().sum();
        let allowed = requests * PERCENT / 100 + ON_TOP / workers.max(1) as u64;
        let granted = retries + count <= allowed;
        if granted {
            window.retries[1] += count;
        }
        granted
    }
}

impl RetryWindow {
    /// Moves on to the half that `now` is in. After two steps nothing of the old is left, and the window begins at
    /// `now`.
    fn turn(&mut self, now: u64) {
        for _ in 0..2 {
            if now.saturating_sub(self.since) < HALF_WINDOW {
                return;
            }
            self.requests = [self.requests[1], 0];
            self.retries = [self.retries[1], 0];
            self.since += HALF_WINDOW;
        }
        if now.saturating_sub(self.since) >= HALF_WINDOW {
            *self = Self { since: now, ..Self::default() };
        }
    }
}

/// Which clients' written requests may be sent again: those of whom every one is a read of the allow-list, alone, for
/// the first time, and not in the middle of its reply.
/// `freely`: whatever the budget says.
pub(super) fn candidates(node: &Node, sent: &[Slot], cut: bool, freely: bool) -> HashSet<ClientKey> {
    let mut clients: HashMap<ClientKey, Option<u64>> = HashMap::new();
    for (position, slot) in sent.iter().enumerate() {
        let Some(client) = slot.owner.client() else { continue };
        let plain = matches!(slot.owner, Owner::Forward(_)) && !slot.joined && !(position == 0 && cut);
        let harmless = plain && !slot.retried && node.rt.table.spec(slot.command).retry;
        if slot.retried {
            node.rt.shard.retries[RetryOutcome::Lost].inc();
        }
        let entry = clients.entry(client).or_insert(Some(0));
        *entry = entry.filter(|_| harmless).map(|count| count + 1);
    }
    let (workers, now) = (node.rt.config().workers, node.rt.now());
    let mut chosen = HashSet::new();
    // Who is closed already needs no answer.
    let stays = |client| node.rt.outboxes.with(client, |outbox| outbox.close_reason().is_none()) == Some(true);
    for (client, count) in clients.into_iter().filter_map(|(client, count)| Some((client, count?))) {
        if !stays(client) {
            continue;
        }
        if freely || node.retries.take(count, workers, now) {
            node.rt.shard.retries[RetryOutcome::Resent].add(count);
            chosen.insert(client);
        } else {
            node.rt.shard.retries[RetryOutcome::OverBudget].add(count);
        }
    }
    chosen
}

impl Lane {
    /// How many bytes of the output may be written now: all, but one request after the other of those that are sent
    /// again while it is looked for whose reply the server does not let pass.
    pub(super) fn sendable(&self, state: &LaneState) -> usize {
        if self.guard.is_solo() {
            if let Some(left) = state.in_flight.left_of_retried() {
                return left.min(state.out.len());
            }
            self.guard.set_solo(false);
        }
        state.out.len()
    }

    /// The server may have ended the connection for a reply above its limit. Whose it was is certain where one request
    /// was under way. A script may be the cause wherever it was under way, and cannot be run again to find out.
    pub(super) fn learn_from_loss(&self, node: &Node, sent: &[Slot]) {
        if !self.guard.is_on() {
            return;
        }
        let suspects = sent.iter().filter(|slot| self.guard.is_solo() || node.rt.chooses_its_errors(slot.command));
        for client in suspects.filter_map(|slot| slot.owner.client()) {
            if let Some(question) = node.rt.outboxes.with(client, |outbox| outbox.only_question()).flatten() {
                node.long_replies.learn(question, node.rt.now());
            }
        }
    }
}

/// The bytes of written requests, kept until they are answered; empty when nobody wants them again
/// ([`Lane::keeps_requests`](super::Lane)).
#[derive(Default)]
pub(super) struct Kept(BytesMut);

impl Kept {
    pub(super) fn on_written(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    #[inline]
    pub(super) fn on_answered(&mut self, bytes: usize) {
        if !self.0.is_empty() {
            self.0.advance(bytes.min(self.0.len()));
        }
    }

    /// The oldest request, of `bytes`; empty when nothing is kept.
    pub(super) fn oldest(&self, bytes: usize) -> &[u8] {
        self.0.get(..bytes).unwrap_or_default()
    }

    /// Bytes kept.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Everything kept, oldest first, with what is left to write of the last.
    pub(super) fn take(&mut self, rest: &[u8]) -> BytesMut {
        self.0.extend_from_slice(rest);
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_share_of_the_requests_and_a_little() {
        let budget = RetryBudget::default();
        assert!(budget.take(50, 2, 0) && !budget.take(1, 2, 0), "without requests there is the little only");
        budget.on_requests(1000, HALF_WINDOW);
        assert!(budget.take(200, 2, HALF_WINDOW) && !budget.take(1, 2, HALF_WINDOW));
        assert!(!budget.take(1, 2, 2 * HALF_WINDOW - 1));
        assert!(budget.take(50, 2, 9 * HALF_WINDOW) && !budget.take(1, 2, 9 * HALF_WINDOW), "all is forgotten");
    }
}
