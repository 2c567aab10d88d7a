//! The events that the data path reports, and the counters they move: one call an event, so that no room has to
//! know which metrics belong together.
//!
//! Bytes of upstream connections are missing here: a link counts its own (`link::counted`).
//!
//! The `From`s translate what rooms above telemetry call a thing into the label that metrics have for it. They are not one
//! enum each because the label is a promise to dashboards and the other a decision of the code: two ways to be pinned
//! may have one label, and a `match` here does not compile until a new one has been given its label.

use std::time::Duration;

use crate::base::nanos;
use crate::command::{CommandId, LatencyKind};
use crate::link::Use;
use crate::router;
use crate::telemetry::reasons::{AnomalyReason, ClientState, LatencyClass, PinReason, UpstreamKind};
use crate::telemetry::{Shard, unix_millis};

impl Shard {
    /// A connection was killed because its replies could not be trusted.
    pub fn anomaly(&self, purpose: Use, reason: AnomalyReason) {
        self.integrity_violations[UpstreamKind::from(purpose)][reason].inc();
    }

    /// A lane wrote this many commands at once.
    #[inline]
    pub fn batch_written(&self, commands: usize) {
        self.batch_commands.record(commands as u64);
    }

    /// A client waited this long for a lent connection.
    pub fn pool_waited(&self, waited: Duration) {
        self.pool_wait.record(nanos(waited));
    }

    /// Requests on lanes without a reply, and the age of the oldest.
    pub fn lanes_observed(&self, in_flight: usize, oldest: Option<Duration>) {
        self.inflight.set(in_flight as u64);
        #[allow(clippy::cast_precision_loss)] // milliseconds fit a double until the year 287,396
        let now = unix_millis() as f64 / 1000.0;
        self.oldest_inflight_start.set(oldest.map_or(0.0, |age| now - age.as_secs_f64()));
    }

    /// Clients at work, those that wait without a connection of their own, and what was and is to be sent to all. Who
    /// holds a connection is in `pinned`.
    pub fn clients_observed(&self, active: u64, grouped: u64, unsent: u64, sent: u64) {
        self.clients_by_state[ClientState::Active].set(active);
        let blocked = self.pinned[PinReason::Blocking].value() + self.pinned[PinReason::Wait].value() + grouped;
        self.clients_by_state[ClientState::Blocked].set(blocked);
        let subscribed = self.pinned[PinReason::Pubsub].value() + self.pubsub_subscribers.value();
        self.clients_by_state[ClientState::Subscribed].set(subscribed);
        self.client_output_buffer_bytes.set(unsent);
        self.client_sent_bytes.add(sent);
    }

    /// One command was answered.
    #[inline]
    pub fn answered(&self, id: CommandId, kind: LatencyKind, nanos: u64) {
        self.command(id.0);
        self.latency(kind.into(), nanos);
    }
}

impl From<LatencyKind> for LatencyClass {
    fn from(kind: LatencyKind) -> Self {
        match kind {
            LatencyKind::Read => Self::Read,
            LatencyKind::Write => Self::Write,
            LatencyKind::Blocking => Self::Blocking,
            LatencyKind::Pubsub => Self::Pubsub,
            LatencyKind::Script => Self::Script,
            LatencyKind::Transaction => Self::Transaction,
            LatencyKind::Admin => Self::Admin,
            LatencyKind::Other => Self::Other,
        }
    }
}

impl From<router::PinReason> for PinReason {
    fn from(reason: router::PinReason) -> Self {
        match reason {
            router::PinReason::Transaction => Self::Transaction,
            router::PinReason::Watch => Self::Watch,
            router::PinReason::Blocking => Self::Blocking,
            router::PinReason::Wait => Self::Wait,
            router::PinReason::Subscribe => Self::Pubsub,
            router::PinReason::Monitor => Self::Monitor,
            router::PinReason::Tracking => Self::Tracking,
            router::PinReason::Session => Self::Session,
            router::PinReason::Isolated | router::PinReason::OutOfBand => Self::Isolated,
            router::PinReason::Paused => Self::Paused,
            router::PinReason::Large => Self::Large,
            router::PinReason::Overflow => Self::Overflow,
        }
    }
}
