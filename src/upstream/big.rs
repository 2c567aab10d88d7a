//! Which requests had a long reply lately: they go over a lane of their own, where nobody waits behind them.
//!
//! A reply cannot be interrupted, and how long it is shows only when it comes. So the first one is in the way of the
//! others on its lane, and is remembered; the same question of any client then takes the lane for long replies.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use crate::command::CommandId;

/// A reply longer than this is a long one, bytes.
pub(super) const BIG_REPLY: usize = 256 << 10;
/// Questions that are remembered; with one more all are forgotten, and learnt again.
const MOST: usize = 4096;
/// How long, in nanoseconds: what was long once need not be long for ever.
const FORGET_AFTER: u64 = 60_000_000_000;

/// A command and its first argument, as a number. Two questions may have the same one: the worst is that a short reply
/// takes the lane for long ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Question(u32);

impl Question {
    /// Cheap: it is made for every request.
    #[inline]
    #[must_use]
    pub fn new(command: CommandId, argument: &[u8]) -> Self {
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut sum = (u64::from(command.0) ^ ((argument.len() as u64) << 16)).wrapping_mul(SPREAD);
        let (words, rest) = argument.as_chunks::<8>();
        for word in words {
            sum = (sum.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(SPREAD);
        }
        for byte in rest {
            sum = (sum.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(SPREAD);
        }
        Self((sum >> 32) as u32)
    }
}

/// The questions of one worker's clients that had long replies.
#[derive(Default)]
pub struct BigReplies {
    known: RefCell<HashSet<Question>>,
    any: Cell<bool>,
    since: Cell<u64>,
}

impl BigReplies {
    /// This one had a long reply.
    pub fn learn(&self, question: Question, now: u64) {
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST {
            known.clear();
        }
        if known.is_empty() {
            self.since.set(now);
        }
        known.insert(question);
        self.any.set(true);
    }

    /// Whether its reply is likely to be long.
    #[inline]
    pub fn knows(&self, question: Question) -> bool {
        self.any.get() && self.known.borrow().contains(&question)
    }

    /// The worker's tick.
    pub fn on_tick(&self, now: u64) {
        if self.any.get() && now.saturating_sub(self.since.get()) >= FORGET_AFTER {
            self.known.borrow_mut().clear();
            self.any.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_is_known_until_it_is_forgotten() {
        let big = BigReplies::default();
        let [one, two] = [b"some:key:1".as_slice(), b"some:key:2"].map(|key| Question::new(CommandId(7), key));
        big.learn(one, 5);
        assert!(big.knows(one) && !big.knows(two));
        assert!(!big.knows(Question::new(CommandId(8), b"some:key:1")), "another command");
        big.on_tick(FORGET_AFTER);
        assert!(big.knows(one));
        big.on_tick(FORGET_AFTER + 5);
        assert!(!big.knows(one));
    }

    #[test]
    fn it_does_not_grow_for_ever_and_questions_differ() {
        let big = BigReplies::default();
        let mut seen = HashSet::new();
        for number in 0..3 * MOST {
            let question = Question::new(CommandId(1), format!("key:{number}").as_bytes());
            seen.insert(question);
            big.learn(question, 0);
        }
        assert!(big.known.borrow().len() <= MOST);
        assert!(seen.len() > 3 * MOST - 10, "{} of {}", seen.len(), 3 * MOST);
    }
}
