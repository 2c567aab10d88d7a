//! The cap: how many upstream connections the process may have, and who holds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::WorkerShare;

/// What a connection is for; each use has its share of the worker's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Lane,
    Pool,
    Scratch,
    Control,
    /// A subscriber: carries the subscriptions of many clients.
    Hub,
}

/// One worker's part of the process-wide cap. The shares of all workers add up to it, so no worker can break it.
#[derive(Debug)]
pub struct Budget {
    limits: [usize; 5],
    used: [AtomicUsize; 5],
}

impl Budget {
    /// The budget of a worker with this share of the cap.
    #[must_use]
    pub fn new(share: WorkerShare) -> Arc<Self> {
        let WorkerShare { control, scratch, lanes, pool, hubs } = share;
        Arc::new(Self { limits: [lanes, pool, scratch, control, hubs], used: Default::default() })
    }

    /// A permit for one connection, or `None` when the share is used up.
    #[must_use]
    pub fn permit(self: &Arc<Self>, purpose: Use) -> Option<Permit> {
        let used = &self.used[purpose as usize];
        let limit = self.limits[purpose as usize];
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1)).ok()?;
        Some(Permit { budget: Arc::clone(self), purpose })
    }

    /// Permits handed out for this use.
    #[must_use]
    pub fn used(&self, purpose: Use) -> usize {
        self.used[purpose as usize].load(Ordering::Relaxed)
    }

    /// The share of this use.
    #[must_use]
    pub fn limit(&self, purpose: Use) -> usize {
        self.limits[purpose as usize]
    }
}

/// The right to have one upstream connection. A [`Link`](super::Link) cannot be built without one and owns it
/// until the connection is closed.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    purpose: Use,
}

impl Permit {
    /// What the connection is for.
    #[must_use]
    pub fn purpose(&self) -> Use {
        self.purpose
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used[self.purpose as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Use, WorkerShare};

    #[test]
    fn a_permit_comes_back_when_dropped_and_never_before() {
        let budget = Budget::new(WorkerShare { control: 1, scratch: 1, lanes: 1, pool: 0, hubs: 0 });
        let first = budget.permit(Use::Lane);
        assert!(first.is_some() && budget.permit(Use::Lane).is_none() && budget.permit(Use::Pool).is_none());
        drop(first);
        assert!(budget.permit(Use::Lane).is_some());
    }
}
