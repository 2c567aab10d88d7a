//! What a worker had counted over the last seconds, for rates.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::telemetry::{Reading, Shard};

/// Time between two readings, nanoseconds.
const STEP: u64 = 1_000_000_000;
/// Readings that are kept: rates are over about ten seconds.
const KEPT: usize = 10;

/// The last readings of one worker, oldest first.
#[derive(Default)]
pub(crate) struct History(RefCell<VecDeque<Reading>>);

impl History {
    /// Takes a reading when one is due.
    pub(super) fn on_tick(&self, shard: &Shard, now: u64) {
        let mut readings = self.0.borrow_mut();
        if readings.back().is_some_and(|last| now.saturating_sub(last.at) < STEP) {
            return;
        }
        if readings.len() == KEPT {
            readings.pop_front();
        }
        readings.push_back(Reading::of(shard, now));
    }

    /// The oldest reading; zero, of the worker's start, before there is any.
    pub(super) fn oldest(&self) -> Reading {
        self.0.borrow().front().cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_reach_ten_seconds_back() {
        let (history, shard) = (History::default(), Shard::new(0));
        assert_eq!(history.oldest(), Reading::default());
        for tick in 0..300 {
            shard.client_received_bytes.inc();
            history.on_tick(&shard, tick * 100_000_000);
        }
        let oldest = history.oldest();
        assert_eq!((oldest.at, oldest.client_in), (20_000_000_000, 201));
    }
}
