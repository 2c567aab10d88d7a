//! Which requests had a long reply lately: they go over a lane of their own, where nobody waits behind them.
//!
//! A reply cannot be interrupted, and how long it is shows only when it comes. So the first one is in the way of the
//! others on its lane, and is remembered; the same question of any client then takes the lane for long replies.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use crate::command::CommandId;

/// A reply longer than this is a long one, bytes.
const LONG_REPLY: usize = 256 << 10;
/// Questions that are remembered; with one more all are forgotten, and learnt again.
const MOST: usize = 4096;
/// How long, in nanoseconds: what was long once need not be long for ever.
const FORGET_AFTER: u64 = 60_000_000_000;

/// A command and its first argument, as a number. Two questions may have the same one: the worst is that a short reply
/// takes the lane for long ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint(u32);

impl Fingerprint {
    /// Cheap: it is made for every request.
    #[inline]
    #[must_use]
    pub fn new(command: CommandId, argument: &[u8]) -> Self {
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        // The upper half of a product knows little of the upper half of what was multiplied: fold it down each time.
        let step = |sum: u64, next: u64| {
            let product = (sum.rotate_left(5) ^ next).wrapping_mul(SPREAD);
            product ^ (product >> 32)
        };
        let (words, rest) = argument.as_chunks::<8>();
        let mut sum = step(u64::from(command.0), argument.len() as u64);
        sum = words.iter().fold(sum, |sum, word| step(sum, u64::from_le_bytes(*word)));
        sum = rest.iter().fold(sum, |sum, byte| step(sum, u64::from(*byte)));
        Self((sum.wrapping_mul(SPREAD) >> 32) as u32)
    }
}

/// How a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// With all others.
    Lane,
    /// Over the lane for long replies.
    LongLane,
    /// Over a connection of its own: so long a reply may end the connection.
    Lease,
}

/// The questions of one worker's clients that had long replies.
#[derive(Default)]
pub struct LongReplies {
    known: RefCell<HashSet<Fingerprint>>,
    /// Somebody is known, or the server limits replies.
    watchful: Cell<bool>,
    since: Cell<u64>,
    /// What the server lets wait for one connection, bytes; 0 is no limit.
    ceiling: Cell<usize>,
}

impl LongReplies {
    /// This one had a long reply.
    pub fn learn(&self, fingerprint: Fingerprint, now: u64) {
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST {
            known.clear();
        }
        if known.is_empty() {
            self.since.set(now);
        }
        known.insert(fingerprint);
        self.watchful.set(true);
    }

    /// The way of a request. `may_be_long` says of its command whether that is a read whose reply may be of any length.
    #[inline]
    pub fn way(&self, fingerprint: Fingerprint, may_be_long: impl FnOnce() -> bool) -> Carrier {
        if self.watchful.get() { self.chosen_way(fingerprint, may_be_long()) } else { Carrier::Lane }
    }

    /// Kept out of the way of requests while nobody is known and nothing limited.
    #[cold]
    fn chosen_way(&self, fingerprint: Fingerprint, may_be_long: bool) -> Carrier {
        match (self.is_guarded(), self.known.borrow().contains(&fingerprint)) {
            (true, true) => Carrier::Lease,
            (false, true) => Carrier::LongLane,
            // A connection that the server may end for a reply nobody could foresee: there only what can be asked again.
            (true, false) if may_be_long => Carrier::LongLane,
            (_, false) => Carrier::Lane,
        }
    }

    /// The server lets so many bytes of replies wait for one connection; 0 is no limit.
    pub(super) fn guard(&self, ceiling: usize) {
        self.ceiling.set(ceiling);
        self.watchful.set(ceiling > 0 || !self.known.borrow().is_empty());
    }

    /// Whether there is such a limit.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.ceiling.get() > 0
    }

    /// A reply longer than this is a long one, bytes.
    pub(super) fn threshold(&self) -> usize {
        if self.is_guarded() { LONG_REPLY.min(self.ceiling.get() / 8) } else { LONG_REPLY }
    }

    /// The worker's tick.
    pub fn on_tick(&self, now: u64) {
        if self.watchful.get() && now.saturating_sub(self.since.get()) >= FORGET_AFTER {
            self.known.borrow_mut().clear();
            self.watchful.set(self.is_guarded());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_is_known_until_it_is_forgotten() {
        let long = LongReplies::default();
        let [one, two] = [b"some:key:1".as_slice(), b"some:key:2"].map(|key| Fingerprint::new(CommandId(7), key));
        long.learn(one, 5);
        let way = |fingerprint| long.way(fingerprint, || true);
        assert_eq!((way(one), way(two)), (Carrier::LongLane, Carrier::Lane));
        assert_eq!(way(Fingerprint::new(CommandId(8), b"some:key:1")), Carrier::Lane, "another command");
        long.on_tick(FORGET_AFTER);
        assert_eq!(way(one), Carrier::LongLane);
        long.on_tick(FORGET_AFTER + 5);
        assert_eq!(way(one), Carrier::Lane);
    }

    #[test]
    fn while_the_server_limits_replies_reads_travel_apart_and_long_ones_alone() {
        let long = LongReplies::default();
        let fingerprint = Fingerprint::new(CommandId(7), b"key");
        assert_eq!(long.way(fingerprint, || true), Carrier::Lane);
        long.guard(1 << 20);
        assert_eq!(
            (long.way(fingerprint, || true), long.way(fingerprint, || false)),
            (Carrier::LongLane, Carrier::Lane)
        );
        assert_eq!(long.threshold(), 128 << 10);
        long.learn(fingerprint, 0);
        assert_eq!((long.way(fingerprint, || true), long.way(fingerprint, || false)), (Carrier::Lease, Carrier::Lease));
        long.on_tick(FORGET_AFTER);
        assert_eq!(long.way(fingerprint, || true), Carrier::LongLane);
        long.guard(0);
        assert_eq!(long.way(fingerprint, || true), Carrier::Lane);
    }

    #[test]
    fn it_does_not_grow_for_ever_and_questions_differ() {
        let long = LongReplies::default();
        let mut seen = HashSet::new();
        for number in 0..3 * MOST {
            let fingerprint = Fingerprint::new(CommandId(1), format!("key:{number}").as_bytes());
            seen.insert(fingerprint);
            long.learn(fingerprint, 0);
        }
        assert!(long.known.borrow().len() <= MOST);
        assert!(seen.len() > 3 * MOST - 10, "{} of {}", seen.len(), 3 * MOST);
    }
}
