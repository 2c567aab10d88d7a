//! PROXY POOLS, SERVERS and LANES: the upstream side as lines.

use crate::session::Flavour;
use crate::telemetry::{CircuitState, NodeFacts, ProcessFacts, unix_millis};
use crate::upstream::{LaneReport, Report};

/// One line for each worker and kind of connection.
pub(super) fn pools(reports: &[Report]) -> Vec<String> {
    let mut lines = Vec::new();
    for report in reports {
        for kind in &report.kinds {
            let mut line = format!(
                "worker={} kind={} max={} open={} in_use={} idle={} waiting={} longest_wait_ms={} waits={} timeouts={}",
                report.worker,
                kind.kind,
                kind.max,
                kind.open,
                kind.in_use,
                kind.open.saturating_sub(kind.in_use),
                kind.waiting,
                kind.longest_wait.as_millis(),
                kind.waits,
                kind.timeouts,
            );
            // Blocked clients may have only a part of the pool.
            if kind.kind == "pool" {
                let (max, in_use) = (report.blocked_max, report.blocked_in_use);
                line.push_str(&format!(" blocked_max={max} blocked_in_use={in_use}"));
            }
            lines.push(line);
        }
    }
    lines
}

/// One line for each server, as all workers together see it.
pub(super) fn servers(process: &ProcessFacts, reports: &[Report]) -> Vec<String> {
    process.nodes().iter().map(|node| server(node, reports)).collect()
}

/// The line of `node`. The reports of the workers count for all servers together: until they count for each, there is one.
fn server(node: &NodeFacts, reports: &[Report]) -> String {
    let mut line = format!("endpoint={} up={}", node.endpoint(), u8::from(node.is_up()));
    let flavour = flavour(reports);
    let (name, version) = version(flavour);
    line.push_str(&format!(" flavour={name} version={version} circuit={}", circuit(reports).label()));
    let open = reports.iter().filter(|report| report.circuit != CircuitState::Closed).count();
    line.push_str(&format!(" circuit_open_workers={open}"));
    for position in 0..reports.first().map_or(0, |report| report.kinds.len()) {
        let kind = reports[0].kinds[position].kind;
        let connections: usize = reports.iter().map(|report| report.kinds[position].open).sum();
        line.push_str(&format!(" {kind}={connections}"));
    }
    let sum = |pick: &dyn Fn(&Report) -> u64| reports.iter().map(pick).sum::<u64>();
    let errors = sum(&|report| report.connect_errors.iter().map(|(_, count)| count).sum());
    line.push_str(&format!(
        " in_flight={} connects={} connect_errors={errors}",
        sum(&|report| report.in_flight as u64),
        sum(&|report| report.opened)
    ));
    // Seconds since; -1 is never.
    let changed = match node.changed() {
        0 => -1,
        at => i64::try_from(unix_millis().saturating_sub(at) / 1000).unwrap_or(i64::MAX),
    };
    line.push_str(&format!(" last_change_s={changed}"));
    let (away, error) = trouble(node);
    line.push_str(&format!(" away_s={away}"));
    match error {
        None => line.push_str(" last_error_s=-1 last_error=\"\""),
        // The words are the operating system's or the server's own: quoted.
        Some((age, text)) => line.push_str(&format!(" last_error_s={age} last_error={text:?}")),
    }
    line.push_str(&format!(" upstream={}", node.name()));
    line
}

/// For how many seconds the server has been away (-1 if it is not), and what went wrong last how many seconds ago.
pub(super) fn trouble(node: &NodeFacts) -> (i64, Option<(u64, String)>) {
    let age = |millis: u64| unix_millis().saturating_sub(millis) / 1000;
    let away = node.away_since().map_or(-1, |since| i64::try_from(age(since)).unwrap_or(i64::MAX));
    (away, node.outage().last().map(|last| (age(last.at), last.text)))
}

/// Which server it is, as the first worker that knows has heard.
pub(super) fn flavour(reports: &[Report]) -> Flavour {
    reports.iter().map(|report| report.flavour).find(|flavour| flavour.major != 0).unwrap_or_default()
}

/// Its name and version for people.
pub(super) fn version(flavour: Flavour) -> (&'static str, String) {
    match (flavour.major, flavour.valkey) {
        (0, _) => ("unknown", "unknown".to_owned()),
        (_, valkey) => (if valkey { "valkey" } else { "redis" }, format!("{}.{}", flavour.major, flavour.minor)),
    }
}

/// The worst of all workers.
pub(super) fn circuit(reports: &[Report]) -> CircuitState {
    let has = |state: CircuitState| reports.iter().any(|report| report.circuit == state);
    [CircuitState::Open, CircuitState::HalfOpen].into_iter().find(|state| has(*state)).unwrap_or(CircuitState::Closed)
}

/// One line for each lane.
pub(super) fn lanes(lanes: &[LaneReport]) -> Vec<String> {
    lanes.iter().map(lane).collect()
}

fn lane(lane: &LaneReport) -> String {
    let mut modes = Vec::new();
    for (on, word) in
        [(lane.key.readonly, "readonly"), (lane.key.no_touch, "no-touch"), (lane.for_long_replies, "long-replies")]
    {
        if on {
            modes.push(word);
        }
    }
    let modes = if modes.is_empty() { "none".to_owned() } else { modes.join(",") };
    format!(
        "worker={} lane={} user={} resp={} db={} mode={modes} phase={} suspect={} retired={} in_flight={} oldest_ms={} \
         clients={} waiting={} queued={} age={} upstream_id={}",
        lane.worker,
        lane.id,
        String::from_utf8_lossy(lane.key.identity.name()),
        lane.key.resp.number(),
        lane.key.db,
        lane.phase,
        u8::from(lane.suspect),
        u8::from(lane.retired),
        lane.in_flight,
        lane.oldest.as_millis(),
        lane.clients,
        lane.waiting,
        lane.queued,
        lane.age.as_secs(),
        lane.upstream_id,
    )
}
