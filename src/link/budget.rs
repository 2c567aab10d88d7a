//! The cap: how many upstream connections the process may have, and who holds them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::WorkerShare;

/// What a connection is for; each use has its share of the worker's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Lane,
    Pool,
    Login,
    Control,
    /// A subscriber: carries the subscriptions of many clients.
    Hub,
}

/// One worker's part of the process-wide cap. The shares of all workers add up to it, so no worker can break it.
///
/// Who waits for a permit stands in line: one that comes back goes to the first, and nobody who comes later and finds
/// it free can take it first.
#[derive(Debug)]
pub struct Budget {
    limits: [usize; 5],
    free: [Arc<Semaphore>; 5],
}

impl Budget {
    /// The budget of a worker with this share of the cap.
    #[must_use]
    pub fn new(share: WorkerShare) -> Arc<Self> {
        let WorkerShare { control, login, lanes, pool, hubs } = share;
        let limits = [lanes, pool, login, control, hubs];
        let free = limits.map(|limit| Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))));
        Arc::new(Self { limits, free })
    }

    /// A permit for one connection, or `None` when the share is used up.
    #[must_use]
    pub fn permit(&self, purpose: Use) -> Option<Permit> {
        let place = Arc::clone(&self.free[purpose as usize]).try_acquire_owned().ok()?;
        Some(Permit { _place: place, purpose })
    }

    /// A permit for one connection, as soon as one comes back where the share is used up: when the upstream has closed
    /// its side of another connection, too.
    pub async fn wait(&self, purpose: Use) -> Permit {
        let place = Arc::clone(&self.free[purpose as usize]).acquire_owned().await;
        Permit { _place: place.expect("the budget is never closed"), purpose }
    }

    /// Permits handed out for this use.
    #[must_use]
    pub fn used(&self, purpose: Use) -> usize {
        self.limit(purpose).saturating_sub(self.free[purpose as usize].available_permits())
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
    /// Goes back to the budget, or to the first who waits, with the drop.
    _place: OwnedSemaphorePermit,
    purpose: Use,
}

impl Permit {
    /// What the connection is for.
    #[must_use]
    pub fn purpose(&self) -> Use {
        self.purpose
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::{Budget, Permit, Use, WorkerShare};

    type Waiter<'a> = Pin<Box<dyn Future<Output = Permit> + 'a>>;

    #[test]
    fn a_permit_comes_back_when_dropped_and_never_before() {
        let budget = Budget::new(WorkerShare { control: 1, login: 1, lanes: 1, pool: 0, hubs: 0 });
        let first = budget.permit(Use::Lane);
        assert!(first.is_some() && budget.permit(Use::Lane).is_none() && budget.permit(Use::Pool).is_none());
        drop(first);
        assert!(budget.permit(Use::Lane).is_some());
    }

    #[test]
    fn a_permit_that_comes_back_goes_to_the_first_who_waits() {
        let budget = Budget::new(WorkerShare { control: 1, login: 1, lanes: 1, pool: 0, hubs: 0 });
        let (held, mut cx) = (budget.permit(Use::Lane), Context::from_waker(Waker::noop()));
        let mut waiting: [Option<Waiter<'_>>; 3] =
            [0, 1, 2].map(|_| Some(Box::pin(budget.wait(Use::Lane)) as Waiter<'_>));
        let mut poll = |waiter: &mut Option<Waiter<'_>>| match waiter.as_mut()?.as_mut().poll(&mut cx) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        };
        assert!(waiting.iter_mut().all(|waiter| poll(waiter).is_none()));
        waiting[0] = None; // has given up
        drop(held);
        assert!(budget.permit(Use::Lane).is_none(), "nobody overtakes those who wait");
        let second = poll(&mut waiting[1]);
        assert!(second.is_some() && poll(&mut waiting[2]).is_none());
        drop(second);
        drop(poll(&mut waiting[2]));
        assert_eq!(budget.used(Use::Lane), 0);
    }
}
