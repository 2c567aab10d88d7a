//! How many bytes the buffers of all workers have together, and what follows from that.
//!
//! Each worker counts its own with plain cells and tells the sum here when it has changed by some KiB: one relaxed
//! store and one load for each other worker, never a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How near the limit is. Each state includes what the ones before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below 75 %.
    #[default]
    None,
    /// From 75 %: clients that hold most are not read.
    Pause,
    /// From 90 %: new clients are refused. When that, or the pausing, lasts, unread output gives way.
    Refuse,
    /// From 95 %: clients with most unread output are closed until it is 90 %.
    Close,
    /// At the limit: every worker closes clients of its own, however little that worker holds.
    Over,
}

impl Pressure {
    /// What `bytes` mean under `limit`.
    #[must_use]
    pub fn of(bytes: u64, limit: u64) -> Self {
        let reaches = |percent: u128| u128::from(bytes) * 100 >= u128::from(limit) * percent;
        match () {
            () if reaches(100) => Self::Over,
            () if reaches(95) => Self::Close,
            () if reaches(90) => Self::Refuse,
            () if reaches(75) => Self::Pause,
            () => Self::None,
        }
    }

    /// As the metric shows it: 0 to 3.
    #[must_use]
    pub fn number(self) -> u8 {
        (self as u8).min(Self::Close as u8)
    }
}

/// A cell that shares its cache line with no other worker's.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Told {
    bytes: AtomicU64,
    paused: AtomicU64,
}

/// What the workers have told.
#[derive(Debug)]
pub struct Total {
    limit: AtomicU64,
    workers: Box<[Told]>,
}

impl Total {
    pub(super) fn new(limit: u64, workers: usize) -> Self {
        Self { limit: AtomicU64::new(limit), workers: (0..workers).map(|_| Told::default()).collect() }
    }

    /// Bytes that all may have together.
    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Sets another limit, after a reload.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// How many workers report their share.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Worker `index` has this many bytes now. Gives the sum of all.
    pub fn tell(&self, index: usize, bytes: u64) -> u64 {
        if let Some(cell) = self.workers.get(index) {
            cell.bytes.store(bytes, Relaxed);
        }
        self.sum()
    }

    /// Bytes of all, as of when each told last.
    pub fn sum(&self) -> u64 {
        self.workers.iter().map(|told| told.bytes.load(Relaxed)).sum()
    }

    /// Worker `index` does not read this many clients now. Gives the sum of all.
    pub fn tell_throttled(&self, index: usize, clients: u64) -> u64 {
        if let Some(cell) = self.workers.get(index) {
            cell.paused.store(clients, Relaxed);
        }
        self.workers.iter().map(|told| told.paused.load(Relaxed)).sum()
    }

    /// How near the sum of all workers is to the limit.
    pub fn pressure(&self) -> Pressure {
        Pressure::of(self.sum(), self.limit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_begins_at_its_share_of_the_limit() {
        let steps = [0, 74, 75, 89, 90, 94, 95, 99, 100, 1000].map(|bytes| Pressure::of(bytes, 100).number());
        assert_eq!(steps, [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]);
        assert_eq!(Pressure::of(u64::MAX, u64::MAX), Pressure::Over);
        assert!(Pressure::of(99, 100) < Pressure::of(100, 100));
    }

    #[test]
    fn the_sum_is_of_what_each_told_last() {
        let total = Total::new(100, 2);
        assert_eq!(total.tell(0, 50), 50);
        assert_eq!(total.tell(1, 40), 90);
        assert_eq!(total.pressure(), Pressure::Refuse);
        assert_eq!(total.tell(0, 1), 41);
        assert_eq!(total.tell(7, 1000), 41, "nobody has that number");
    }
}
