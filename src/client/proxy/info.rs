//! PROXY INFO: everything in the format of INFO.

use std::fmt::Write as _;

use super::counters::{Totals, micros};
use super::servers::{self, circuit, flavour, version};
use crate::client::request::Request;
use crate::command::token_is;
use crate::router::Args;
use crate::telemetry::catalogue::REVISION;
use crate::telemetry::reasons::LatencyClass;
use crate::telemetry::{Origin, unix_millis};
use crate::upstream::{Node, Report};

/// Writes one section's lines.
type Section = fn(&mut Lines, &Node, &[Report]);

const SECTIONS: &[(&str, Section)] = &[
    ("Server", server),
    ("Clients", clients),
    ("Upstreams", upstreams),
    ("Pools", pools),
    ("Commands", commands),
    ("Errors", errors),
    ("Memory", memory),
];

/// Lines of `key:value`.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn put(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{key}:{value}\r\n");
    }
}

/// The sections that the request names; all of them when it names none. As with INFO a name that is none gives nothing.
pub(super) fn text(node: &Node, reports: &[Report], request: &Request) -> String {
    let every = request.count() == 2;
    let wanted = |name: &str| {
        let all = ["all", "default", "everything"];
        every || request.args_from(2).any(|arg| token_is(arg, name) || all.iter().any(|word| token_is(arg, word)))
    };
    let mut lines = Lines::default();
    for (name, section) in SECTIONS.iter().filter(|(name, _)| wanted(name)) {
        if !lines.0.is_empty() {
            lines.0.push_str("\r\n");
        }
        let _ = write!(lines.0, "# {name}\r\n");
        section(&mut lines, node, reports);
    }
    lines.0
}

fn sum(reports: &[Report], pick: impl Fn(&Report) -> usize) -> usize {
    reports.iter().map(pick).sum()
}

/// Counts of the same names, over all workers.
fn summed<'a>(
    reports: &'a [Report],
    pick: impl Fn(&'a Report) -> &'a [(&'static str, u64)] + Copy,
) -> impl Iterator<Item = (&'static str, u64)> {
    // Every worker lists the same names in the same order.
    let names = reports.first().map_or(&[][..], pick);
    names
        .iter()
        .enumerate()
        .map(move |(position, (name, _))| (*name, reports.iter().map(|report| pick(report)[position].1).sum()))
}

fn server(lines: &mut Lines, node: &Node, reports: &[Report]) {
    lines.put("respmux_version", env!("CARGO_PKG_VERSION"));
    lines.put("revision", REVISION);
    lines.put("process_id", std::process::id());
    lines.put("instance", node.rt.config().instance);
    lines.put("workers", reports.len());
    lines.put("uptime_in_seconds", unix_millis().saturating_sub(node.rt.process.started_unix_millis()) / 1000);
    lines.put("config_sha256", node.rt.process.config_sha256());
    lines.put("config_pending_restart", node.rt.process.pending_restart().join(","));
    lines.put("draining", u8::from(node.rt.process.draining()));
    lines.put("paused", u8::from(node.rt.process.paused()));
}

fn clients(lines: &mut Lines, node: &Node, reports: &[Report]) {
    let clients = sum(reports, |report| report.clients);
    lines.put("clients", clients);
    lines.put("clients_max", node.rt.config().client.max_connections);
    let mut busy = 0;
    for (state, count) in summed(reports, |report| &report.states) {
        lines.put(&format!("clients_{state}"), count);
        busy += count;
    }
    // Nobody counts idle clients: they are those that are in no other state.
    lines.put("clients_idle", (clients as u64).saturating_sub(busy));
    for (reason, count) in summed(reports, |report| &report.pinned) {
        lines.put(&format!("pinned_{reason}"), count);
        // Its old name, for one minor version.
        lines.put(&format!("lent_{reason}"), count);
    }
}

fn upstreams(lines: &mut Lines, node: &Node, reports: &[Report]) {
    let (name, version) = version(flavour(reports));
    lines.put("upstream", node.facts.endpoint());
    lines.put("upstream_name", node.facts.name());
    lines.put("upstream_up", u8::from(node.facts.is_up()));
    let (away, error) = servers::trouble(&node.facts);
    lines.put("upstream_away_seconds", away);
    lines.put("upstream_last_error", error.map_or_else(String::new, |(_, text)| text.replace(['\r', '\n'], " ")));
    lines.put("upstream_flavour", name);
    lines.put("upstream_version", version);
    lines.put("upstream_circuit", circuit(reports).label());
    lines.put("upstream_connections_max", node.rt.config().upstream.max_connections);
    let open = |report: &Report| report.kinds.iter().map(|kind| kind.open).sum();
    lines.put("upstream_connections", sum(reports, open));
    for position in 0..reports.first().map_or(0, |report| report.kinds.len()) {
        let kind = reports[0].kinds[position].kind;
        lines.put(&format!("upstream_connections_{kind}"), sum(reports, |report| report.kinds[position].open));
    }
    lines.put("lanes", sum(reports, |report| report.lanes));
    lines.put("commands_in_flight", sum(reports, |report| report.in_flight));
    lines.put("upstream_connects", reports.iter().map(|report| report.opened).sum::<u64>());
    for (reason, count) in summed(reports, |report| &report.connect_errors) {
        lines.put(&format!("upstream_connect_errors_{reason}"), count);
    }
}

fn pools(lines: &mut Lines, _: &Node, reports: &[Report]) {
    let pool = |report: &Report| report.kinds.iter().find(|kind| kind.kind == "pool").cloned();
    let pools: Vec<_> = reports.iter().filter_map(pool).collect();
    lines.put("pool_max", pools.iter().map(|pool| pool.max).sum::<usize>());
    lines.put("pool_open", pools.iter().map(|pool| pool.open).sum::<usize>());
    lines.put("pool_in_use", pools.iter().map(|pool| pool.in_use).sum::<usize>());
    lines.put("pool_waiting", pools.iter().map(|pool| pool.waiting).sum::<usize>());
    lines.put("pool_longest_wait_ms", pools.iter().map(|pool| pool.longest_wait.as_millis()).max().unwrap_or(0));
    lines.put("pool_waits", pools.iter().map(|pool| pool.waits).sum::<u64>());
    lines.put("pool_timeouts", pools.iter().map(|pool| pool.timeouts).sum::<u64>());
    lines.put("pool_blocked_max", sum(reports, |report| report.blocked_max));
    lines.put("pool_blocked_in_use", sum(reports, |report| report.blocked_in_use));
}

fn commands(lines: &mut Lines, node: &Node, reports: &[Report]) {
    let totals = Totals::of(reports);
    lines.put("commands", totals.now.requests());
    lines.put("commands_per_second", format_args!("{:.1}", totals.per_second(totals.last.requests())));
    lines.put("interval_s", format_args!("{:.1}", totals.seconds()));
    for (position, class) in LatencyClass::ALL.iter().enumerate() {
        let (so_far, lately) = (&totals.now.classes[position], &totals.last.classes[position]);
        let value = format!(
            "calls={},per_second={:.1},p50_us={:.0},p99_us={:.0}",
            so_far.count(),
            totals.per_second(lately.count()),
            micros(lately, 0.5),
            micros(lately, 0.99)
        );
        lines.put(&format!("class_{class}"), value);
    }
    lines.put("hotkeys_sample", node.rt.hotkeys.every());
    lines.put("client_in_bytes", totals.now.client_in);
    lines.put("client_out_bytes", totals.now.client_out);
    lines.put("upstream_in_bytes", totals.now.upstream_in);
    lines.put("upstream_out_bytes", totals.now.upstream_out);
}

fn errors(lines: &mut Lines, _: &Node, reports: &[Report]) {
    let totals = Totals::of(reports);
    lines.put("errors_proxy", totals.now.own_errors);
    lines.put("errors_upstream", totals.now.upstream_errors);
    let codes = reports.first().map_or(&[][..], |report| &report.errors);
    for (position, (origin, code, _)) in codes.iter().enumerate() {
        let count: u64 = reports.iter().map(|report| report.errors[position].2).sum();
        // As in INFO: only what has occurred.
        if count > 0 {
            let origin = if *origin == Origin::Proxy { "proxy" } else { "upstream" };
            lines.put(&format!("errorstat_{origin}_{code}"), format_args!("count={count}"));
        }
    }
    for (reason, count) in summed(reports, |report| &report.refused) {
        lines.put(&format!("refused_{reason}"), count);
    }
}

fn memory(lines: &mut Lines, node: &Node, reports: &[Report]) {
    let buffers = summed(reports, |report| &report.buffered);
    lines.put("buffers", buffers.map(|(_, bytes)| bytes).sum::<u64>());
    lines.put("buffers_max", node.rt.process.memory().limit());
    for (kind, bytes) in summed(reports, |report| &report.buffered) {
        lines.put(&format!("buffers_{kind}"), bytes);
    }
    lines.put("shed_state", node.rt.process.memory().pressure().number());
}
