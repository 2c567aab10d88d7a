//! Which lane serves which [`RouteKey`], inside the budget.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;

use super::Node;
use super::lane::{Lane, LanePhase, LaneReport, run};
use crate::base::nanos;
use crate::link::Use;
use crate::router::Extent;
use crate::session::RouteKey;
use crate::telemetry::UpstreamCloseReason;

/// A lane must have been idle this long before it gives way to another key; bounds how often lanes are reopened
/// when more keys are in use than there are lanes.
const GIVE_WAY_AFTER: Duration = Duration::from_millis(100);

/// However early the server says -BUSY, a lane is not left before it owes a reply for this long.
const STUCK_AT_LEAST: Duration = Duration::from_millis(20);

/// For how long a -BUSY tells of the server: it is asked at every tick while a lane owes a reply.
const BUSY_FOR: Duration = Duration::from_millis(300);

/// The budget's lanes are all in use by other keys; the command goes over the pool instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The lanes of one worker.
#[derive(Default)]
pub struct Lanes {
    /// The lane of each key. `obtain` enters it; it leaves when it is retired, or with the end of its task.
    by_key: RefCell<crate::base::Map<RouteKey, Rc<Lane>>>,
    /// Lanes for long replies, where there is room for a second one.
    for_long_replies: RefCell<crate::base::Map<RouteKey, Rc<Lane>>>,
    /// Retired lanes that still have replies to read, or permits to give back.
    leaving: RefCell<Vec<Rc<Lane>>>,
    /// The number of the newest lane.
    serial: Cell<u64>,
}

impl Lanes {
    /// The lane for `key`, opened if there is a place for it. Requests may be submitted at once: they wait for the
    /// handshake.
    ///
    /// # Errors
    /// [`Full`] when every place is taken by a lane that is in use.
    pub fn obtain(&self, node: &Rc<Node>, key: &RouteKey) -> Result<Rc<Lane>, Full> {
        if let Some(lane) = self.by_key.borrow().get(key).filter(|lane| lane.accepting()) {
            return Ok(Rc::clone(lane));
        }
        if !self.has_place(node) && !self.make_place(node.rt.now()) {
            return Err(Full);
        }
        self.serial.set(self.serial.get() + 1);
        let lane = Lane::new(self.serial.get(), key.clone(), node, false);
        // One that was there takes no requests any more: it leaves when it has no replies to come, and counts until then.
        if let Some(old) = self.by_key.borrow_mut().insert(key.clone(), Rc::clone(&lane)) {
            self.leaving.borrow_mut().push(old);
        }
        spawn_local(run(Rc::clone(&lane), Rc::clone(node)));
        Ok(lane)
    }

    /// The lane for long replies to clients of `key`. `None` when it would take the last place, which may soon be
    /// wanted for another key; while the server limits replies it is worth that.
    pub fn obtain_long(&self, node: &Rc<Node>, key: &RouteKey) -> Option<Rc<Lane>> {
        if let Some(lane) = self.for_long_replies.borrow().get(key).filter(|lane| lane.accepting()) {
            return Some(Rc::clone(lane));
        }
        let spare = usize::from(!node.long_replies.is_guarded());
        if self.taken() + spare >= node.rt.budget.limit(Use::Lane) {
            return None;
        }
        self.serial.set(self.serial.get() + 1);
        let lane = Lane::new(self.serial.get(), key.clone(), node, true);
        if let Some(old) = self.for_long_replies.borrow_mut().insert(key.clone(), Rc::clone(&lane)) {
            self.leaving.borrow_mut().push(old);
        }
        spawn_local(run(Rc::clone(&lane), Rc::clone(node)));
        Some(lane)
    }

    /// A place for one more lane: not held by an open lane, nor promised to one that is opening.
    fn has_place(&self, node: &Node) -> bool {
        self.taken() < node.rt.budget.limit(Use::Lane)
    }

    fn taken(&self) -> usize {
        let leaving = self.leaving.borrow().iter().filter(|lane| !lane.is_replaced()).count();
        self.by_key.borrow().len() + self.for_long_replies.borrow().len() + leaving
    }

    /// Retires every lane that stands. Its clients go on, each when it has its answers, on one that takes its place; that
    /// one waits for the old one's permit where there is no other. A lane that is being opened goes where it should by
    /// itself.
    pub(super) fn rotate(&self, node: &Node) {
        let mut leaving = self.leaving.borrow_mut();
        for lanes in [&self.by_key, &self.for_long_replies] {
            let mut lanes = lanes.borrow_mut();
            let standing = lanes.extract_if(|_, lane| lane.phase() == LanePhase::Ready).map(|(_, lane)| lane);
            leaving.extend(standing.inspect(|lane| lane.replace()));
        }
        drop(leaving);
        node.rt.wake_all(); // whoever waits for room on one that goes
    }

    /// Retires the lane that has been idle longest, if any has been idle for long enough.
    fn make_place(&self, now: u64) -> bool {
        self.give_way(&self.for_long_replies, now) || self.give_way(&self.by_key, now)
    }

    fn give_way(&self, lanes: &RefCell<crate::base::Map<RouteKey, Rc<Lane>>>, now: u64) -> bool {
        let mut lanes = lanes.borrow_mut();
        let idle = lanes
            .values()
            .filter(|lane| lane.phase() == LanePhase::Ready && lane.idle_for(now, nanos(GIVE_WAY_AFTER)))
            .min_by_key(|lane| lane.last_used())
            .map(|lane| lane.key().clone());
        let Some(lane) = idle.and_then(|key| lanes.remove(&key)) else { return false };
        lane.retire(UpstreamCloseReason::Evicted);
        self.leaving.borrow_mut().push(lane);
        true
    }

    /// A lane has ended and its permit is back.
    pub(super) fn on_closed(&self, lane: &Rc<Lane>) {
        self.leaving.borrow_mut().retain(|l| !Rc::ptr_eq(l, lane));
        for lanes in [&self.by_key, &self.for_long_replies] {
            let mut lanes = lanes.borrow_mut();
            if lanes.get(lane.key()).is_some_and(|l| Rc::ptr_eq(l, lane)) {
                lanes.remove(lane.key());
            }
        }
    }

    /// The worker's tick over all lanes; also retires idle ones and steps around one that is stuck behind a long
    /// command, so that other clients get the server's own -BUSY on a new one (docs/design/semantics.md 3.4).
    pub(super) fn on_tick(&self, node: &Node, now: u64, healthy: bool) {
        let all = self.all();
        for lane in &all {
            lane.on_tick(node, now, healthy);
        }
        node.rt.shard.lanes_suspect.set(all.iter().filter(|lane| lane.is_suspect()).count() as u64);
        let idle = nanos(node.rt.config().upstream.idle_timeout);
        // A lane that waits for the end of a pause of writes is left at once; of all, every other one waits, too.
        let busy = match node.server_pause.extent() {
            Some(Extent::Write) => nanos(STUCK_AT_LEAST),
            Some(Extent::All) => u64::MAX,
            None => nanos(stuck_after(node)),
        };
        let mut room = node.rt.budget.limit(Use::Lane).saturating_sub(self.taken());
        let mut lanes = self.by_key.borrow_mut();
        let owes = |lane: &Rc<Lane>, long: u64| lane.oldest().is_some_and(|oldest| now.saturating_sub(oldest) >= long);
        if lanes.values().any(|lane| owes(lane, nanos(STUCK_AT_LEAST))) {
            node.control.check_now(); // is it a script?
        }
        let mut leaving = Vec::new();
        for lane in lanes.values().filter(|lane| lane.phase() == LanePhase::Ready) {
            // A suspect lane is left where another is better: the upstream has answered while it was silent.
            let alone = lane.is_suspect() && node.control.healthy_within(lane.silence(now));
            if (alone || owes(lane, busy)) && room > 0 {
                room -= 1;
                leaving.push((lane.key().clone(), UpstreamCloseReason::Timeout));
            } else if lane.idle_for(now, idle) {
                leaving.push((lane.key().clone(), UpstreamCloseReason::Idle));
            }
        }
        for (key, reason) in leaving {
            if let Some(lane) = lanes.remove(&key) {
                lane.retire(reason);
                self.leaving.borrow_mut().push(lane);
            }
        }
        let mut leaving = self.leaving.borrow_mut();
        leaving.extend(self.for_long_replies.borrow_mut().extract_if(|_, lane| lane.idle_for(now, idle)).map(
            |(_, lane)| {
                lane.retire(UpstreamCloseReason::Idle);
                lane
            },
        ));
    }

    /// Every lane that still exists, as it is now.
    pub(super) fn reports(&self, worker: usize, now: u64) -> Vec<LaneReport> {
        let (by_key, for_long_replies, leaving) =
            (self.by_key.borrow(), self.for_long_replies.borrow(), self.leaving.borrow());
        let mut reports: Vec<_> = by_key
            .values()
            .chain(leaving.iter())
            .map(|lane| lane.report(worker, false, now))
            .chain(for_long_replies.values().map(|lane| lane.report(worker, true, now)))
            .collect();
        reports.sort_by_key(|lane| lane.id);
        reports
    }

    /// Every lane that still exists.
    #[must_use]
    pub fn all(&self) -> Vec<Rc<Lane>> {
        let leaving = self.leaving.borrow();
        self.by_key
            .borrow()
            .values()
            .chain(self.for_long_replies.borrow().values())
            .chain(leaving.iter())
            .cloned()
            .collect()
    }
}

/// How long a lane owes a reply before it is left.
fn stuck_after(node: &Node) -> Duration {
    // The server says -BUSY from its own threshold on; where that is lower it counts. What it is now may be unknown:
    // changed by others a moment ago, or not for us to ask. Then its word counts.
    let servers = Duration::from_millis(node.facts.busy_millis());
    let servers = if node.control.busy_within(BUSY_FOR) { Duration::ZERO } else { servers };
    node.rt.config().lane.busy_threshold.min(servers.max(STUCK_AT_LEAST))
}
