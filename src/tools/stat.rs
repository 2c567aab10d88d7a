//! `respmux stat`: one line a second, as `redis-cli --stat` and vmstat do it.

use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::samples::Samples;
use super::{http, reachable};
use crate::telemetry::reasons::LatencyClass;

/// Lines after which the heading is said again.
const HEADING_EVERY: u64 = 20;

/// The columns: heading, width, and the value between two scrapes so many seconds apart.
type StatColumn = (&'static str, usize, fn(&Samples, &Samples, f64) -> String);

const COLUMNS: &[StatColumn] = &[
    ("clients", 8, |_, now, _| whole(now.sum("respmux_client_connections", ""))),
    ("upstream", 9, |_, now, _| whole(now.sum("respmux_upstream_connections", ""))),
    ("cap", 6, |_, now, _| whole(now.sum("respmux_upstream_connections_max", "kind=\"total\""))),
    ("up", 3, |_, now, _| whole(now.sum("respmux_upstream_up", ""))),
    ("commands/s", 11, |before, now, seconds| rate(before, now, "respmux_commands_total", "", seconds)),
    ("p50", 8, |before, now, _| latency(before, now, 0.5)),
    ("p99", 8, |before, now, _| latency(before, now, 0.99)),
    ("own err/s", 10, |before, now, seconds| {
        rate(before, now, "respmux_command_errors_total", "origin=\"proxy\"", seconds)
    }),
    ("inflight", 9, |_, now, _| whole(now.sum("respmux_upstream_inflight_commands", ""))),
    ("pinned", 7, |_, now, _| whole(now.sum("respmux_client_pinned_connections", ""))),
    ("in line", 8, |_, now, _| whole(now.sum("respmux_pool_waiters", ""))),
    ("cpu", 6, |before, now, seconds| {
        let spent = now.sum("process_cpu_seconds_total", "") - before.sum("process_cpu_seconds_total", "");
        format!("{:.0}%", 100.0 * spent / seconds)
    }),
    ("rss", 8, |_, now, _| format!("{:.1}M", now.sum("process_resident_memory_bytes", "") / f64::from(1 << 20))),
];

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn rate(before: &Samples, now: &Samples, name: &str, label: &str, seconds: f64) -> String {
    whole((now.sum(name, label) - before.sum(name, label)).max(0.0) / seconds)
}

fn latency(before: &Samples, now: &Samples, share: f64) -> String {
    let name = "respmux_command_duration_seconds";
    let patient = LatencyClass::ALL.iter().filter(|class| !class.is_prompt());
    let without: Vec<_> = patient.map(|class| format!("class=\"{class}\"")).collect();
    match now.quantile_since(before, name, share, &without) {
        None => "-".to_owned(),
        // The last bound of the buckets.
        Some(seconds) if seconds >= 10.0 => ">10s".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0}us", seconds * 1e6),
        Some(seconds) => format!("{:.0}ms", seconds * 1e3),
    }
}

/// Writes a line for each interval, `count` of them or until the reader goes away.
///
/// # Errors
/// When the admin endpoint does not answer.
pub(crate) fn stat(
    admin: SocketAddr,
    interval: Duration,
    count: Option<u64>,
    out: &mut impl Write,
) -> Result<(), String> {
    let scrape = || http::get(reachable(admin), "/metrics", Duration::from_secs(5)).map(|text| Samples::parse(&text));
    let (mut before, mut at) = (scrape()?, Instant::now());
    for line in 0..count.unwrap_or(u64::MAX) {
        #[allow(clippy::disallowed_methods, reason = "a line each second is what was asked for")]
        thread::sleep(interval);
        let (now, since) = (scrape()?, Instant::now());
        let seconds = (since - at).as_secs_f64();
        let text = COLUMNS
            .iter()
            .fold(String::new(), |text, (_, width, value)| format!("{text}{:>width$}", value(&before, &now, seconds)));
        let heading = COLUMNS.iter().fold(String::new(), |text, (name, width, _)| format!("{text}{name:>width$}"));
        let heading = if line % HEADING_EVERY == 0 { heading + "\n" } else { String::new() };
        // A reader that went away (`| head`) is no failure.
        if writeln!(out, "{heading}{text}").and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        (before, at) = (now, since);
    }
    Ok(())
}
