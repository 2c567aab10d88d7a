//! PROXY STATS: counters, and what they were over the last seconds.

use crate::telemetry::reasons::LatencyClass;
use crate::telemetry::{Counters, Durations};
use crate::upstream::Report;

/// The counters of all workers, and of what came in the last seconds.
pub(super) struct Totals {
    pub now: Counters,
    pub last: Counters,
}

impl Totals {
    pub(super) fn of(reports: &[Report]) -> Self {
        let mut totals = Self { now: Counters::default(), last: Counters::default() };
        for report in reports {
            totals.now.add(&report.now);
            totals.last.add(&report.now.since(&report.before));
        }
        totals
    }

    /// What the last seconds are, exactly.
    #[allow(clippy::cast_precision_loss)] // seconds
    pub(super) fn seconds(&self) -> f64 {
        (self.last.at as f64 / 1e9).max(1e-3)
    }

    /// A count of the last seconds as a rate.
    #[allow(clippy::cast_precision_loss)] // a rate of 2^53 is exact enough
    pub(super) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds()
    }
}

/// Below this is that share, microseconds; 0 when there was nothing.
pub(super) fn micros(durations: &Durations, share: f64) -> f64 {
    durations.quantile(share).map_or(0.0, |nanos| nanos / 1e3)
}

/// One line for all, then one for each class of commands.
pub(super) fn lines(reports: &[Report]) -> Vec<String> {
    let totals = Totals::of(reports);
    let (now, last) = (&totals.now, &totals.last);
    let mut all = format!("class=all interval_s={:.1}", totals.seconds());
    add_durations(&mut all, &totals, now.requests(), last.requests(), &last.all_prompt());
    for (name, so_far, lately) in [
        ("client_in_bytes", now.client_in, last.client_in),
        ("client_out_bytes", now.client_out, last.client_out),
        ("upstream_in_bytes", now.upstream_in, last.upstream_in),
        ("upstream_out_bytes", now.upstream_out, last.upstream_out),
        ("own_errors", now.own_errors, last.own_errors),
        ("upstream_errors", now.upstream_errors, last.upstream_errors),
        ("pool_waits", now.pool_waits, last.pool_waits),
        ("pool_timeouts", now.pool_timeouts, last.pool_timeouts),
    ] {
        all.push_str(&format!(" {name}={so_far} {name}_per_s={:.1}", totals.per_second(lately)));
    }
    let mut lines = vec![all];
    for (position, class) in LatencyClass::ALL.iter().enumerate() {
        let mut line = format!("class={class}");
        let (so_far, lately) = (&now.classes[position], &last.classes[position]);
        add_durations(&mut line, &totals, so_far.count(), lately.count(), lately);
        lines.push(line);
    }
    lines
}

fn add_durations(line: &mut String, totals: &Totals, so_far: u64, lately: u64, durations: &Durations) {
    line.push_str(&format!(
        " requests={so_far} requests_per_s={:.1} mean_us={:.0} p50_us={:.0} p99_us={:.0}",
        totals.per_second(lately),
        durations.mean() / 1e3,
        micros(durations, 0.5),
        micros(durations, 0.99),
    ));
}
