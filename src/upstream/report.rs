//! What one worker's upstream side looks like now, as values that can travel between workers. For PROXY.

use std::time::Duration;

use super::Node;
use super::lane::LaneReport;
use crate::link::Use;
use crate::session::Flavour;
use crate::telemetry::reasons::{BufferKind, ClientState, ErrorCode, Label, Origin, PinReason, RefuseReason};
use crate::telemetry::{CircuitState, ConnectError, Counters, UpstreamKind};

/// Names with numbers.
pub(crate) type Counts = Vec<(&'static str, u64)>;

/// The number of each label value, in their order.
fn counts<L: Label>(read: impl Fn(L) -> u64) -> Counts {
    L::LABELS.iter().zip(L::ALL).map(|(label, value)| (*label, read(*value))).collect()
}

/// One worker.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub worker: usize,
    pub clients: usize,
    /// What clients are doing; the rest is idle.
    pub states: Counts,
    /// Clients that hold a lent connection, by reason.
    pub pinned: Counts,
    pub kinds: Vec<KindReport>,
    /// Places of the pool that blocked clients may have, and have.
    pub blocked_max: usize,
    pub blocked_in_use: usize,
    pub in_flight: usize,
    pub lanes: usize,
    pub connect_errors: Counts,
    pub opened: u64,
    pub circuit: CircuitState,
    pub flavour: Flavour,
    /// Bytes of buffers.
    pub buffered: Counts,
    /// Error replies to clients: who made them, their code, how many.
    pub errors: Vec<(Origin, &'static str, u64)>,
    pub refused: Counts,
    /// The counters now, and some seconds ago.
    pub now: Counters,
    pub before: Counters,
}

/// The upstream connections of one kind.
#[derive(Clone, Debug)]
pub(crate) struct KindReport {
    pub kind: &'static str,
    /// Places.
    pub max: usize,
    /// Connections, those being opened or closed included.
    pub open: usize,
    /// The open connections that somebody needs now.
    pub in_use: usize,
    /// Clients in line, and how long the first has waited.
    pub waiting: usize,
    pub longest_wait: Duration,
    /// Waits that have ended, and those of them that timed out.
    pub waits: u64,
    pub timeouts: u64,
}

impl Node {
    /// This worker, now.
    pub(crate) fn report(&self) -> Report {
        let shard = &self.rt.shard;
        let lanes = self.lanes.all();
        let errors = |origin: Origin| {
            ErrorCode::ALL.iter().map(move |code| (origin, code.label(), shard.command_errors[origin][*code].value()))
        };
        let (blocked_max, blocked_in_use) = self.rt.pool.blocked();
        Report {
            worker: self.rt.worker,
            clients: self.rt.outboxes.len(),
            states: counts(|state: ClientState| shard.clients_by_state[state].value()),
            pinned: counts(|reason: PinReason| shard.pinned[reason].value()),
            kinds: [Use::Lane, Use::Pool, Use::Login, Use::Control, Use::Hub].map(|purpose| self.kind(purpose)).into(),
            blocked_max,
            blocked_in_use,
            in_flight: lanes.iter().map(|lane| lane.in_flight()).sum(),
            lanes: lanes.len(),
            connect_errors: counts(|error: ConnectError| shard.upstream_connect_errors[error].value()),
            opened: UpstreamKind::ALL.iter().map(|kind| shard.upstream_opened[*kind].value()).sum(),
            circuit: self.dialer.circuit(),
            flavour: self.control.flavour(),
            buffered: counts(|kind: BufferKind| shard.buffered[kind].value()),
            errors: errors(Origin::Proxy).chain(errors(Origin::Upstream)).collect(),
            refused: counts(|reason: RefuseReason| shard.commands_rejected[reason].value()),
            now: Counters::of(shard, self.rt.now()),
            before: self.rt.rates.oldest(),
        }
    }

    fn kind(&self, purpose: Use) -> KindReport {
        let open = self.rt.budget.used(purpose);
        let mut report = KindReport {
            kind: UpstreamKind::from(purpose).label(),
            max: self.rt.budget.limit(purpose),
            open,
            in_use: open,
            waiting: 0,
            longest_wait: Duration::ZERO,
            waits: 0,
            timeouts: 0,
        };
        match purpose {
            Use::Lane => {
                let lanes = self.lanes.all();
                report.in_use = lanes.iter().filter(|lane| lane.in_flight() > 0).count();
                report.waiting = lanes.iter().map(|lane| lane.crowd()).sum();
            }
            Use::Pool => {
                report.in_use = self.rt.pool.leased();
                report.waiting = self.rt.pool.waiting();
                report.longest_wait = self.rt.pool.longest_wait();
                report.waits = self.rt.shard.pool_wait.count();
                report.timeouts = self.rt.shard.pool_limits.timeouts.value();
            }
            Use::Login | Use::Control | Use::Hub => {}
        }
        report
    }

    /// Its lanes, now; who uses them is known to the client side only.
    pub(crate) fn lane_reports(&self) -> Vec<LaneReport> {
        self.lanes.reports(self.rt.worker, self.rt.now())
    }
}
