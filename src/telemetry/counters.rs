//! The counters of one worker at one moment, as plain values that can be added, subtracted and sent to another thread:
//! what rates and quantiles over a time are made of.

use super::histogram::{Histogram, LATENCY, quantile};
use super::reasons::{ErrorCode, LatencyClass, Origin};
use super::shard::Shard;

/// Buckets of a duration, the last one without a bound.
const BUCKETS: usize = LATENCY.buckets();

/// Durations by bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    buckets: [u64; BUCKETS],
    /// The sum of all durations, nanoseconds.
    sum: f64,
}

impl Durations {
    fn of(histogram: &Histogram) -> Self {
        let mut durations = Self { sum: histogram.sum(), ..Self::default() };
        for (bucket, count) in durations.buckets.iter_mut().zip(histogram.cells()) {
            *bucket = count;
        }
        durations
    }

    fn combine(&mut self, other: &Self, with: fn(u64, u64) -> u64, sum: f64) {
        for (bucket, count) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket = with(*bucket, count);
        }
        self.sum += sum * other.sum;
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add, 1.0);
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their mean, nanoseconds; 0 when there are none.
    #[allow(clippy::cast_precision_loss)] // a mean over 2^53 requests is exact enough
    pub fn mean(&self) -> f64 {
        let count = self.count();
        if count == 0 { 0.0 } else { self.sum.max(0.0) / count as f64 }
    }

    /// Below this is that share of them, nanoseconds; see [`quantile`].
    #[allow(clippy::cast_precision_loss)] // as above
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let bound = |bucket: usize| LATENCY.bound(bucket).map_or(f64::INFINITY, |bound| bound as f64);
        quantile(self.buckets.iter().enumerate().map(|(bucket, count)| (*count as f64, bound(bucket))), share)
    }
}

/// What one worker, or several together, have counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// When it was read, nanoseconds of the worker's clock; of a difference, how long it covers.
    pub at: u64,
    /// Durations by class, in the order of [`LatencyClass::ALL`].
    pub classes: [Durations; LatencyClass::ALL.len()],
    /// Bytes from and to clients.
    pub client_in: u64,
    pub client_out: u64,
    /// Bytes from and to the upstream.
    pub upstream_in: u64,
    pub upstream_out: u64,
    /// Errors that clients got from respmux, and from the upstream.
    pub own_errors: u64,
    pub upstream_errors: u64,
    /// Waits for a connection of the pool, and those that timed out.
    pub pool_waits: u64,
    pub pool_timeouts: u64,
}

impl Counters {
    /// The counters of `shard` at `at`.
    pub fn of(shard: &Shard, at: u64) -> Self {
        let errors =
            |origin: Origin| ErrorCode::ALL.iter().map(|code| shard.command_errors[origin][*code].value()).sum();
        let mut counters = Self {
            at,
            client_in: shard.client_received_bytes.value(),
            client_out: shard.client_sent_bytes.value(),
            upstream_in: shard.upstream_received_bytes.value(),
            upstream_out: shard.upstream_sent_bytes.value(),
            own_errors: errors(Origin::Proxy),
            upstream_errors: errors(Origin::Upstream),
            pool_waits: shard.pool_wait.count(),
            pool_timeouts: shard.pool_limits.timeouts.value(),
            ..Self::default()
        };
        for (durations, class) in counters.classes.iter_mut().zip(LatencyClass::ALL) {
            *durations = Durations::of(&shard.command_duration[*class]);
        }
        counters
    }

    fn counters(&mut self) -> [&mut u64; 8] {
        [
            &mut self.client_in,
            &mut self.client_out,
            &mut self.upstream_in,
            &mut self.upstream_out,
            &mut self.own_errors,
            &mut self.upstream_errors,
            &mut self.pool_waits,
            &mut self.pool_timeouts,
        ]
    }

    fn combine(&mut self, other: &Self, with: fn(u64, u64) -> u64, sum: f64) {
        for (durations, others) in self.classes.iter_mut().zip(&other.classes) {
            durations.combine(others, with, sum);
        }
        let mut other = other.clone();
        for (counter, others) in self.counters().into_iter().zip(other.counters()) {
            *counter = with(*counter, *others);
        }
    }

    /// Adds what another worker has counted; the longer of the two times stays.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add, 1.0);
        self.at = self.at.max(other.at);
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut difference = self.clone();
        difference.combine(before, u64::saturating_sub, -1.0);
        difference.at = self.at.saturating_sub(before.at);
        difference
    }

    /// All classes together but those that wait for somebody else.
    pub fn all_prompt(&self) -> Durations {
        let mut all = Durations::default();
        for (durations, class) in self.classes.iter().zip(LatencyClass::ALL) {
            if class.is_prompt() {
                all.add(durations);
            }
        }
        all
    }

    /// Requests of all classes.
    pub fn requests(&self) -> u64 {
        self.classes.iter().map(Durations::count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::reasons::Origin;

    #[test]
    fn a_difference_has_only_what_came_since() {
        let shard = Shard::new(1);
        shard.latency(LatencyClass::Read, 60_000);
        shard.client_received_bytes.add(10);
        let before = Counters::of(&shard, 1_000);
        for nanos in [60_000, 60_000, 60_000, 20_000_000_000] {
            shard.latency(LatencyClass::Write, nanos);
        }
        shard.latency(LatencyClass::Blocking, 1_000_000_000);
        shard.client_received_bytes.add(5);
        shard.error(Origin::Proxy, b"ERR");
        let now = Counters::of(&shard, 3_000);
        let since = now.since(&before);
        assert_eq!((since.at, since.client_in, since.own_errors, since.upstream_errors), (2_000, 5, 1, 0));
        assert_eq!((since.requests(), now.requests()), (5, 6));
        let write = since.classes[LatencyClass::Write as usize];
        assert_eq!(write.count(), 4);
        // Two of the three between 50 and 100 us; above the last bound that bound is all that is known.
        assert!((write.quantile(0.5).unwrap() - 83_333.3).abs() < 0.1);
        assert_eq!(write.quantile(0.99), Some(1e10));
        assert!((write.mean() - 5_000_045_000.0).abs() < 1.0);
        let read = since.classes[LatencyClass::Read as usize];
        assert_eq!((read.count(), read.quantile(0.5)), (0, None));
        assert_eq!(since.all_prompt().count(), 4);
        let mut both = since.clone();
        both.add(&since);
        assert_eq!((both.at, both.requests(), both.client_in), (2_000, 10, 10));
    }
}
