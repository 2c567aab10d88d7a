//! What one worker's upstream side looks like now, as values that can travel between workers. For PROXY.

use std::time::Duration;

use super::Upstreams;
use crate::link::Use;
use crate::telemetry::UpstreamKind;

/// One worker.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub worker: usize,
    pub clients: usize,
    /// Clients that hold a lent connection, by reason.
    pub pinned: Vec<(&'static str, u64)>,
    /// Places and connections of each kind: limit, used.
    pub kinds: Vec<(&'static str, usize, usize)>,
    /// Connections of the pool that nobody has.
    pub idle: usize,
    /// Clients in line for one, and how long the first has waited.
    pub waiting: usize,
    pub longest_wait: Duration,
    pub lanes: Vec<LaneReport>,
}

/// One lane.
#[derive(Clone, Debug)]
pub(crate) struct LaneReport {
    pub user: Vec<u8>,
    pub resp: u8,
    pub db: u32,
    pub phase: &'static str,
    pub in_flight: usize,
}

impl Upstreams {
    /// This worker, now.
    pub(crate) fn report(&self) -> Report {
        let uses = [Use::Lane, Use::Pool, Use::Scratch, Use::Control, Use::Hub];
        let kinds = uses.iter().map(|purpose| {
            let label = UpstreamKind::from(*purpose).label();
            (label, self.budget.limit(*purpose), self.budget.used(*purpose))
        });
        let lanes = self.lanes.all().into_iter().map(|lane| LaneReport {
            user: lane.key().identity.name().to_vec(),
            resp: lane.key().resp.number(),
            db: lane.key().db,
            phase: lane.phase().label(),
            in_flight: lane.in_flight(),
        });
        let reasons = crate::telemetry::reasons::PinReason::ALL;
        Report {
            worker: self.worker,
            clients: self.roster.len(),
            pinned: reasons.iter().map(|reason| (reason.label(), self.shard.pinned[*reason].value())).collect(),
            kinds: kinds.collect(),
            idle: self.pool.idle(),
            waiting: self.pool.waiting(),
            longest_wait: self.pool.longest_wait(),
            lanes: lanes.collect(),
        }
    }
}
