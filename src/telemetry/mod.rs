//! What the proxy tells about itself: metrics, log, events.
//!
//! Owns the counters, the list of metrics, and the reasons and states that label them. Every room but the pure ones counts here and
//! none asks it anything for a decision; `admin` and PROXY read it.
//!
//! A worker counts into its own [`Shard`] ([`cells`] says how); facts of the whole process are in [`ProcessFacts`],
//! those of one server in [`NodeFacts`]; [`catalogue`] is the list of metrics; [`Telemetry::render`] makes the text of
//! a scrape. Reasons are enums in [`reasons`]: the same value is the log field, the metric label and what a test names.
//!
//! ```text
//! worker 0 --writes--> Shard 0 --\
//! worker 1 --writes--> Shard 1 ---+--> Telemetry::render <-- admin, GET /metrics
//! main ----writes--> ProcessFacts-/
//! ```

pub mod catalogue;
pub mod cells;
mod counter_events;
pub mod counters;
pub mod events;
pub mod facts;
pub mod histogram;
pub mod log;
pub mod log_count;
pub mod memory;
mod node_facts;
pub mod outage;
pub mod rates;
pub mod reasons;
mod registry;
mod server_limits;
pub mod shard;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use events::{Event, Events};
pub use facts::{ProcessFacts, unix_millis};

pub use counters::{Counters, Durations};
pub use memory::Pressure;
pub use metrics_process::collector::collect as process_numbers;
pub use node_facts::NodeFacts;
pub use outage::Met;
pub use rates::{RateHistory, Rates};
pub use reasons::{
    AcceptError, AnomalyReason, BufferKind, CircuitState, CloseReason, ConnectError, ElementVia, HandoffResult,
    HandshakeResult, LoginResult, LossVerdict, NameLookup, Origin, PinReason, RefuseReason, RejectReason, ReloadResult,
    RequestOutcome, RetryOutcome, ShedStep, StallReason, TlsSide, UpstreamCloseReason, UpstreamKind, UpstreamState,
    WaiterState,
};
pub use server_limits::{OutputLimit, ServerLimits};
pub use shard::Shard;

/// All that the process knows about itself.
pub struct Telemetry {
    /// One for each worker, by its number.
    pub shards: Vec<Arc<Shard>>,
    /// The process as a whole.
    pub facts: Arc<ProcessFacts>,
    /// What the accept loop counts: it belongs to no worker, although it runs on the thread of one.
    pub acceptor: Arc<Shard>,
    /// What happened lately, for people.
    pub events: Events,
    sampler: rates::RateSampler,
    commands: Vec<String>,
    registry: Mutex<Labelled>,
}

/// The series, and what their labels say.
struct Labelled {
    endpoints: Vec<String>,
    config_sha256: String,
    registry: registry::MetricsRegistry,
}

impl Labelled {
    fn new(facts: &ProcessFacts, commands: &[String]) -> Self {
        let registry = registry::MetricsRegistry::new(facts, commands);
        Self { endpoints: facts.endpoints(), config_sha256: facts.config_sha256(), registry }
    }
}

impl Telemetry {
    /// Telemetry for `workers` workers. `command_names` are the names of the command table by id (any case, subcommands
    /// after a space); only commands that were seen are exported.
    pub fn new(workers: usize, command_names: &[String], facts: Arc<ProcessFacts>) -> Self {
        let shards = (0..workers).map(|_| Arc::new(Shard::new(command_names.len()))).collect();
        let registry = Mutex::new(Labelled::new(&facts, command_names));
        let acceptor = Arc::new(Shard::new(command_names.len()));
        let (events, sampler) = (Events::default(), rates::RateSampler::new());
        Self { shards, facts, acceptor, events, sampler, commands: command_names.to_vec(), registry }
    }

    /// All metrics in the text format of Prometheus, version 0.0.4, in a stable order.
    ///
    /// Reads files in /proc; takes a millisecond or two. Not for a worker thread.
    pub fn render(&self) -> String {
        let mut labelled = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // The values are all in the shards, so that series with other labels lose nothing.
        if labelled.endpoints != self.facts.endpoints() || labelled.config_sha256 != self.facts.config_sha256() {
            *labelled = Labelled::new(&self.facts, &self.commands);
        }
        labelled.registry.render(&self.shards, &self.acceptor, &self.facts)
    }

    /// Takes the sample of this second; to be called every [`rates::STEP`] by whoever shows [`Telemetry::rates`].
    pub fn beat(&self) {
        self.sampler.beat(self, Instant::now());
    }

    /// Rates and latencies of the last seconds, and a graph of the last minutes.
    pub fn rates(&self) -> Rates {
        self.sampler.rates()
    }

    /// How long each worker has shown no sign of life at `now`, unix time in milliseconds; one that never did, since the
    /// start of the process. A clock that was set back makes no worker silent.
    pub fn silences(&self, now: u64) -> impl Iterator<Item = Duration> {
        let started = self.facts.started_unix_millis();
        self.shards.iter().map(move |shard| Duration::from_millis(now.saturating_sub(shard.heartbeat().max(started))))
    }

    /// Limits that were hit and failures since the start: level, words, how often.
    pub fn trouble(&self) -> Vec<(reasons::LogLevel, &str, u64)> {
        self.sampler.trouble(self)
    }
}

#[cfg(test)]
mod tests;
