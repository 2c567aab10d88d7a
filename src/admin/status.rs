//! What the process is doing, as JSON: the status page shows it, and programs may read it.
//!
//! Names stay; `format` is raised when one goes or changes its meaning, not when one is added. Times are unix seconds,
//! durations seconds, sizes bytes. What nobody knows yet is null. Nothing of a client's data is in it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::telemetry::reasons::{CircuitState, ClientState, Label, PinReason, TlsSide, UpstreamKind, UpstreamState};
use crate::telemetry::{Event, Rates, Shard, Telemetry, process_numbers};
use crate::upstream::{LaneReport, Report};

/// The version of the fields below.
const FORMAT: u32 = 1;

/// The document. `reports` and `lanes` are of the workers that answered in time; `now` is unix time in milliseconds.
pub(super) fn status(
    telemetry: &Telemetry,
    config: &Config,
    reports: &[Report],
    lanes: &[LaneReport],
    now: u64,
) -> Value {
    let facts = &telemetry.facts;
    let rates = telemetry.rates();
    let state = match () {
        () if facts.draining() => "draining",
        () if !facts.listening() => "starting",
        () if facts.paused() => "paused",
        () => "serving",
    };
    json!({
        "format": FORMAT,
        "time": seconds(now),
        "version": env!("CARGO_PKG_VERSION"),
        "revision": crate::telemetry::catalogue::REVISION,
        "instance": config.instance,
        "state": state,
        "started": seconds(facts.started_unix_millis()),
        "uptime": seconds(now.saturating_sub(facts.started_unix_millis())),
        "listen": config.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "clients": clients(telemetry),
        "upstream": upstream(telemetry, in_flight(telemetry, reports, lanes, now)),
        "rates": rates_of(&rates),
        "latency": latency(&rates),
        "pools": pools(reports),
        "lanes": lanes.iter().map(lane).collect::<Vec<_>>(),
        "workers": workers(telemetry, &rates, now),
        "memory": memory(telemetry),
        "trouble": trouble(telemetry),
        "config": {
            "sha256": facts.config_sha256(),
            "loaded": seconds(facts.loaded_unix_millis()),
            "last_load_good": facts.last_load_good(),
            "pending_restart": facts.pending_restart(),
        },
        "certificates": certificates(telemetry),
        "events": telemetry.events.latest().iter().map(event).collect::<Vec<_>>(),
        "history": history(&rates),
    })
}

/// The certificates in use and when they end.
pub(super) fn certificates(telemetry: &Telemetry) -> Value {
    let expiry = |side: &TlsSide| telemetry.facts.certificate_expiry(side.index());
    let known = TlsSide::ALL.iter().filter(|side| expiry(side) > 0.0);
    known.map(|side| json!({ "side": side.label(), "expires": expiry(side) })).collect()
}

fn shards(telemetry: &Telemetry) -> impl Iterator<Item = &Shard> {
    telemetry.shards.iter().chain([&telemetry.acceptor]).map(|shard| &**shard)
}

fn sum(telemetry: &Telemetry, read: impl Fn(&Shard) -> u64) -> u64 {
    shards(telemetry).map(read).sum()
}

/// One number for each value of a label.
fn by_label<E: Label + std::fmt::Display>(read: impl Fn(E) -> u64) -> Value {
    E::ALL.iter().map(|value| (value.to_string(), json!(read(*value)))).collect::<Map<_, _>>().into()
}

fn clients(telemetry: &Telemetry) -> Value {
    let total = |read: fn(&Shard) -> u64| sum(telemetry, read);
    json!({
        "now": total(|s| s.clients.value()),
        "max": telemetry.facts.client_max(),
        "idle": total(Shard::idle_clients),
        "doing": by_label(|state: ClientState| sum(telemetry, |s| s.clients_by_state[state].value())),
        "pinned": by_label(|reason: PinReason| sum(telemetry, |s| s.pinned[reason].value())),
        "opened": total(|s| s.client_opened.value()),
        "closed": total(|s| s.client_closed.as_slice().iter().map(|count| count.value()).sum()),
        "refused": total(|s| s.client_rejected.as_slice().iter().map(|count| count.value()).sum()),
        "subscribers": total(|s| s.pubsub_subscribers.value()),
        "waiting_without_connection": total(|s| s.group_waiters.as_slice().iter().map(|level| level.value()).sum()),
    })
}

/// Commands without a reply, and for how many seconds the oldest has waited. Both of the lanes that the same document
/// shows; only when a worker did not answer, of what all workers published last.
fn in_flight(telemetry: &Telemetry, reports: &[Report], lanes: &[LaneReport], now: u64) -> (u64, Option<f64>) {
    if reports.len() == telemetry.shards.len() {
        let owing = lanes.iter().filter(|lane| lane.in_flight > 0).map(|lane| lane.oldest.as_secs_f64());
        return (lanes.iter().map(|lane| lane.in_flight as u64).sum(), owing.max_by(f64::total_cmp));
    }
    let oldest = shards(telemetry).map(|s| s.oldest_inflight_start.value()).filter(|start| *start > 0.0);
    let age = oldest.min_by(f64::total_cmp).map(|start| (seconds(now) - start).max(0.0));
    (sum(telemetry, |s| s.inflight.value()), age)
}

fn upstream(telemetry: &Telemetry, (in_flight, oldest): (u64, Option<f64>)) -> Value {
    let facts = &telemetry.facts;
    // The shards count for all servers together: until they count for each, there is one.
    let node = facts.node(0);
    let open =
        |kind: UpstreamKind, state: UpstreamState| sum(telemetry, |s| s.upstream_connections[kind][state].value());
    let of_kind = |kind: UpstreamKind| UpstreamState::ALL.iter().map(|state| open(kind, *state)).sum::<u64>();
    let kinds = UpstreamKind::ALL.iter().map(|kind| {
        json!({ "kind": kind.label(), "connections": of_kind(*kind), "max": facts.upstream_max_of(kind.index()) })
    });
    json!({
        "name": node.name(),
        "endpoint": node.endpoint(),
        "up": node.is_up(),
        "away_since": node.away_since().map(seconds),
        "last_error": node.outage().last().map(|last| json!({ "time": seconds(last.at), "text": last.text })),
        "connections": UpstreamKind::ALL.iter().map(|kind| of_kind(*kind)).sum::<u64>(),
        "max": facts.upstream_max(),
        "kinds": kinds.collect::<Vec<_>>(),
        "in_flight": in_flight,
        "oldest_in_flight": oldest,
        "circuit": by_label(|state: CircuitState| sum(telemetry, |s| s.circuit[state].value())),
        "opened": sum(telemetry, |s| s.upstream_opened.as_slice().iter().map(|count| count.value()).sum()),
        "lost": sum(telemetry, |s| s.lane_losses.as_slice().iter().map(|count| count.value()).sum()),
    })
}

fn rates_of(rates: &Rates) -> Value {
    json!({
        "over": rates.rate_over,
        "commands": rates.commands,
        "errors_of_respmux": rates.own_errors,
        "errors_of_upstream": rates.upstream_errors,
        "bytes_from_clients": rates.received,
        "bytes_to_clients": rates.sent,
        "commands_per_write": rates.commands_per_write,
    })
}

/// `own` is what respmux adds: the mean of commands less the mean at the upstream, and its share of the former.
fn latency(rates: &Rates) -> Value {
    let own = rates.mean.zip(rates.upstream_mean).map(|(all, upstream)| (all - upstream).max(0.0));
    json!({
        "over": rates.latency_over,
        "p50": rates.p50,
        "p99": rates.p99,
        "p999": rates.p999,
        "mean": rates.mean,
        "upstream_mean": rates.upstream_mean,
        "own_mean": own,
        "own_share": own.zip(rates.mean).filter(|(_, mean)| *mean > 0.0).map(|(own, mean)| own / mean),
    })
}

fn pools(reports: &[Report]) -> Vec<Value> {
    let one = |report: &Report| {
        let pool = report.kinds.iter().find(|kind| kind.kind == UpstreamKind::Pool.label())?;
        Some(json!({
            "worker": report.worker,
            "max": pool.max,
            "open": pool.open,
            "idle": pool.open.saturating_sub(pool.in_use),
            "waiting": pool.waiting,
            "longest_wait": pool.longest_wait.as_secs_f64(),
        }))
    };
    reports.iter().filter_map(one).collect()
}

/// Without the users: whoever may read this need not know them.
fn lane(lane: &LaneReport) -> Value {
    json!({
        "worker": lane.worker,
        "resp": lane.key.resp.number(),
        "db": lane.key.db,
        "phase": lane.phase,
        "in_flight": lane.in_flight,
    })
}

fn workers(telemetry: &Telemetry, rates: &Rates, now: u64) -> Vec<Value> {
    let one = |(index, (shard, silent)): (usize, (&std::sync::Arc<Shard>, Duration))| {
        json!({
            "worker": index,
            "clients": shard.clients.value(),
            "load": rates.loads.get(index),
            "silent": silent.as_secs_f64(),
        })
    };
    telemetry.shards.iter().zip(telemetry.silences(now)).enumerate().map(one).collect()
}

fn memory(telemetry: &Telemetry) -> Value {
    let (memory, process) = (telemetry.facts.memory(), process_numbers());
    json!({
        "buffers": memory.sum(),
        "limit": memory.limit(),
        "pressure": memory.pressure().number(),
        "resident": process.resident_memory_bytes,
        "open_files": process.open_fds,
        "max_files": process.max_fds,
        "cpu_seconds": process.cpu_seconds_total,
    })
}

fn trouble(telemetry: &Telemetry) -> Vec<Value> {
    let one = |(level, text, count): (crate::telemetry::reasons::LogLevel, &str, u64)| json!({ "level": level.label(), "text": text, "count": count });
    telemetry.trouble().into_iter().map(one).collect()
}

fn event(event: &Event) -> Value {
    json!({
        "first": seconds(event.first),
        "last": seconds(event.last),
        "count": event.count,
        "level": event.level.label(),
        "text": event.text,
    })
}

fn history(rates: &Rates) -> Value {
    let points = &rates.points;
    json!({
        "step": crate::telemetry::rates::STEP.as_secs_f64(),
        "commands": points.iter().map(|p| p.commands.round()).collect::<Vec<_>>(),
        "clients": points.iter().map(|p| p.clients).collect::<Vec<_>>(),
        "upstream": points.iter().map(|p| p.upstream).collect::<Vec<_>>(),
        "p99": points.iter().map(|p| p.p99).collect::<Vec<_>>(),
    })
}

#[allow(clippy::cast_precision_loss)] // milliseconds fit a double until the year 287,396
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}
