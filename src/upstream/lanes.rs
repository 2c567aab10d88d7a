//! Which lane serves which [`RouteKey`], inside the budget.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::Upstreams;
use super::lane::{Lane, Phase, nanos, run};
use crate::link::{Budget, Permit, Use};
use crate::session::RouteKey;

/// A lane must have been idle this long before it gives way to another key; bounds how often lanes are reopened
/// when more keys are in use than there are lanes.
const GIVE_WAY_AFTER: Duration = Duration::from_millis(100);

/// However early the server says -BUSY, a lane is not left before it owes a reply for this long.
const STUCK_AT_LEAST: Duration = Duration::from_millis(20);

/// The budget's lanes are all in use by other keys; the command goes over the pool instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The lanes of one worker.
#[derive(Default)]
pub struct Lanes {
    by_key: RefCell<crate::link::Map<RouteKey, Rc<Lane>>>,
    /// Retired lanes that still have replies to read, or permits to give back.
    leaving: RefCell<Vec<Rc<Lane>>>,
    serial: Cell<u64>,
    freed: Notify,
}

impl Lanes {
    /// The lane for `key`, opened if there is a place for it. Requests may be submitted at once: they wait for the
    /// handshake.
    ///
    /// # Errors
    /// [`Full`] when every place is taken by a lane that is in use.
    pub fn obtain(&self, up: &Rc<Upstreams>, key: &RouteKey) -> Result<Rc<Lane>, Full> {
        if let Some(lane) = self.by_key.borrow().get(key).filter(|lane| lane.accepting()) {
            return Ok(Rc::clone(lane));
        }
        if !self.has_place(up) && !self.make_place(up.now()) {
            return Err(Full);
        }
        self.serial.set(self.serial.get() + 1);
        let lane = Lane::new(self.serial.get(), key.clone(), up.now());
        if let Some(old) = self.by_key.borrow_mut().insert(key.clone(), Rc::clone(&lane)) {
            self.leaving.borrow_mut().push(old);
        }
        spawn_local(run(Rc::clone(&lane), Rc::clone(up)));
        Ok(lane)
    }

    /// A place for one more lane: not held by an open lane, nor promised to one that is opening.
    fn has_place(&self, up: &Upstreams) -> bool {
        self.by_key.borrow().len() + self.leaving.borrow().len() < up.budget.limit(Use::Lane)
    }

    /// Retires the lane that has been idle longest, if any has been idle for long enough.
    fn make_place(&self, now: u64) -> bool {
        let mut lanes = self.by_key.borrow_mut();
        let idle = lanes
            .values()
            .filter(|lane| lane.phase() == Phase::Ready && lane.idle_for(now, nanos(GIVE_WAY_AFTER)))
            .min_by_key(|lane| lane.last_used())
            .map(|lane| lane.key().clone());
        let Some(lane) = idle.and_then(|key| lanes.remove(&key)) else { return false };
        lane.retire();
        self.leaving.borrow_mut().push(lane);
        true
    }

    /// Waits for a permit: every lane that was promised a place gets one, when the lane that gave way has closed.
    pub(super) async fn permit(&self, budget: &Arc<Budget>) -> Permit {
        loop {
            let freed = self.freed.notified();
            if let Some(permit) = budget.permit(Use::Lane) {
                return permit;
            }
            freed.await;
        }
    }

    /// A lane has ended and its permit is back.
    pub(super) fn on_closed(&self, lane: &Rc<Lane>) {
        self.leaving.borrow_mut().retain(|l| !Rc::ptr_eq(l, lane));
        let mut lanes = self.by_key.borrow_mut();
        if lanes.get(lane.key()).is_some_and(|l| Rc::ptr_eq(l, lane)) {
            lanes.remove(lane.key());
        }
        self.freed.notify_waiters();
    }

    /// The worker's tick over all lanes; also retires idle ones and steps around one that is stuck behind a long
    /// command, so that other clients get the server's own -BUSY on a new one (semantics.md 3.4).
    pub(super) fn on_tick(&self, up: &Upstreams, now: u64, healthy: bool) {
        for lane in self.all() {
            lane.on_tick(up, now, healthy);
        }
        let idle = nanos(up.config.upstream.idle_timeout);
        // The server says -BUSY from its own threshold on; where that is lower it counts.
        let servers = Duration::from_millis(up.process.upstream_busy_millis()).max(STUCK_AT_LEAST);
        let busy = nanos(up.config.lane.busy_threshold.min(servers));
        let mut lanes = self.by_key.borrow_mut();
        let mut room = up.budget.limit(Use::Lane).saturating_sub(lanes.len() + self.leaving.borrow().len());
        let mut leaving = Vec::new();
        for lane in lanes.values().filter(|lane| lane.phase() == Phase::Ready) {
            let stuck = lane.oldest().is_some_and(|oldest| now.saturating_sub(oldest) >= busy);
            if stuck && room > 0 {
                room -= 1;
                leaving.push(lane.key().clone());
            } else if lane.idle_for(now, idle) {
                leaving.push(lane.key().clone());
            }
        }
        for key in leaving {
            if let Some(lane) = lanes.remove(&key) {
                lane.retire();
                self.leaving.borrow_mut().push(lane);
            }
        }
    }

    /// Every lane that still exists.
    #[must_use]
    pub fn all(&self) -> Vec<Rc<Lane>> {
        let leaving = self.leaving.borrow();
        self.by_key.borrow().values().chain(leaving.iter()).cloned().collect()
    }
}
