//! What the proxy tells about itself.
//!
//! A worker counts into its own [`Shard`] ([`cells`] says how); facts of the whole process are in
//! [`ProcessFacts`]; [`catalogue`] is the list of metrics; [`Telemetry::render`] makes the text of
//! a scrape. Reasons are enums in [`reasons`]: the same value is the log field, the metric label
//! and what a test names.
//!
//! ```text
//! worker 0 --writes--> Shard 0 --\
//! worker 1 --writes--> Shard 1 ---+--> Telemetry::render <-- admin, GET /metrics
//! main ----writes--> ProcessFacts-/
//! ```

pub mod catalogue;
pub mod cells;
pub mod facts;
pub mod histogram;
pub mod log;
pub mod log_count;
pub mod memory;
pub mod reading;
pub mod reasons;
mod registry;
pub mod shard;

use std::sync::Arc;

pub use facts::{ProcessFacts, unix_millis};
pub use log_count::LogCount;
pub use memory::{Pressure, Total};
pub use reading::{Durations, Reading};
pub use reasons::{
    AcceptError, AnomalyReason, BufferKind, CircuitState, CloseReason, ConnectError, FoldState, FoldWay,
    HandshakeResult, LoginResult, LossVerdict, Origin, PinReason, RefuseReason, RejectReason, ReloadResult,
    RequestOutcome, RetryOutcome, ShedStep, StallReason, TlsSide, UpstreamCloseReason, UpstreamKind,
};
pub use shard::Shard;

/// All that the process knows about itself.
pub struct Telemetry {
    /// One for each worker, by its number.
    pub shards: Vec<Arc<Shard>>,
    /// The process as a whole.
    pub facts: Arc<ProcessFacts>,
    /// What the accept loop counts: it runs on the main thread, and a shard has one writer.
    pub acceptor: Arc<Shard>,
    registry: registry::Registry,
}

impl Telemetry {
    /// Telemetry for `workers` workers. `command_names` are the names of the command table by id
    /// (any case, subcommands after a space); only commands that were seen are exported.
    pub fn new(workers: usize, command_names: &[String], facts: Arc<ProcessFacts>) -> Self {
        let shards = (0..workers).map(|_| Arc::new(Shard::new(command_names.len()))).collect();
        let registry = registry::Registry::new(&facts, command_names);
        let acceptor = Arc::new(Shard::new(command_names.len()));
        Self { shards, facts, acceptor, registry }
    }

    /// All metrics in the text format of Prometheus, version 0.0.4, in a stable order.
    ///
    /// Reads files in /proc; takes a millisecond or two. Not for a worker thread.
    pub fn render(&self) -> String {
        self.registry.render(&self.shards, &self.acceptor, &self.facts)
    }
}

#[cfg(test)]
mod tests;
