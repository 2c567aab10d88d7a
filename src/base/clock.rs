//! The one clock of what waits and what measures: the runtime's, so that a simulation may stop it. Outside of tests it
//! is the system's monotonic clock, at the same price.

use std::time::{Duration, Instant};

/// Now.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago `then` was.
#[must_use]
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A duration in nanoseconds, as the worker's clock counts.
#[must_use]
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
