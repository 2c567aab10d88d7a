//! The metrics: one row each, with name, help, labels and where the value comes from.
//!
//! The rules are those of docs/design/operations.md 2: one prefix, base units, `_total` for counters, timestamps rather
//! than ages, a bounded number of series. The `listener` label of that list is left out: a worker counts over all its
//! listeners, and a label can be added later without breaking a `sum by`.

use metrics_process::collector::Metrics as Process;

use super::facts::ProcessFacts;
use super::histogram::Histogram;
use super::reasons::{
    AcceptError, AnomalyReason, BufferKind, CircuitState, ClientState, CloseReason, ConnectError, ElementVia,
    ErrorCode, HandoffResult, HandshakeResult, LatencyClass, LogLevel, LoginResult, LossVerdict, NameLookup, Origin,
    PinReason, RefuseReason, RejectReason, ReloadResult, RequestOutcome, RetryOutcome, ShedStep, StallReason, TlsSide,
    UpstreamCloseReason, UpstreamKind, UpstreamState, WaiterState,
};
use super::shard::Shard;

/// One metric.
pub struct Metric {
    /// The full name.
    pub name: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// What the metric is about: the labels that all its series share.
    pub scope: Scope,
    /// The labels that tell its series apart.
    pub axes: &'static [Axis],
    pub(super) source: MetricSource,
}

/// A label and all values it can have.
pub type Axis = (&'static str, &'static [&'static str]);

/// A place on the axes of a metric: one index for each axis, 0 where there is none.
pub(super) type SeriesPlace = [usize; 3];

/// The labels that all series of a metric share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// None.
    Process,
    /// `upstream`: its name, `default` as long as there is one.
    Upstream,
    /// `upstream` and `endpoint`: its configured address.
    Endpoint,
    /// `sha256`: of the configuration.
    Config,
}

/// The TYPE of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl MetricKind {
    /// The word in the TYPE line.
    pub fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Where a value comes from. Values of shards are added up over all workers.
pub(super) enum MetricSource {
    /// A counter of the shards.
    Count(fn(&Shard, SeriesPlace) -> u64),
    /// A gauge of the shards.
    Level(fn(&Shard, SeriesPlace) -> u64),
    /// A histogram of the shards.
    Buckets(fn(&Shard, SeriesPlace) -> &Histogram),
    /// The earliest time that any shard names; 0 is none.
    Earliest(fn(&Shard) -> f64),
    /// A counter of seconds, one series a worker, under the label `worker`.
    PerWorker(fn(&Shard) -> f64),
    /// Answered commands, one series for each command that was seen, under the label `cmd`.
    Commands,
    /// A counter of the process facts.
    FactCount(fn(&ProcessFacts, SeriesPlace) -> u64),
    /// A gauge of the process facts.
    Fact(fn(&ProcessFacts, SeriesPlace) -> f64),
    /// A counter that the operating system keeps; absent where it does not tell.
    SystemCount(fn(&Process) -> Option<f64>),
    /// A gauge that the operating system keeps; absent where it does not tell.
    System(fn(&Process) -> Option<f64>),
}

impl Metric {
    /// The TYPE of the metric.
    pub fn kind(&self) -> MetricKind {
        match self.source {
            MetricSource::Count(_)
            | MetricSource::PerWorker(_)
            | MetricSource::Commands
            | MetricSource::FactCount(_)
            | MetricSource::SystemCount(_) => MetricKind::Counter,
            MetricSource::Level(_) | MetricSource::Earliest(_) | MetricSource::Fact(_) | MetricSource::System(_) => {
                MetricKind::Gauge
            }
            MetricSource::Buckets(_) => MetricKind::Histogram,
        }
    }

    /// The names of its labels, without the `le` of histograms.
    #[cfg(test)]
    pub(super) fn labels(&self) -> Vec<&'static str> {
        let scope: &[&str] = match self.scope {
            Scope::Process => &[],
            Scope::Upstream => &["upstream"],
            Scope::Endpoint => &["upstream", "endpoint"],
            Scope::Config => &["sha256"],
        };
        let own = match self.source {
            MetricSource::PerWorker(_) => Some("worker"),
            MetricSource::Commands => Some("cmd"),
            _ => None,
        };
        scope.iter().copied().chain(self.axes.iter().map(|(name, _)| *name)).chain(own).collect()
    }

    /// All places on its axes.
    pub(super) fn places(&self) -> Vec<SeriesPlace> {
        let mut places = vec![SeriesPlace::default()];
        for (axis, (_, values)) in self.axes.iter().enumerate() {
            places = places
                .iter()
                .flat_map(|place| {
                    (0..values.len()).map(move |index| {
                        let mut place = *place;
                        place[axis] = index;
                        place
                    })
                })
                .collect();
        }
        places
    }
}

/// The revision that was built, or `unknown`: set RESPMUX_REVISION in the environment of the build.
pub const REVISION: &str = match option_env!("RESPMUX_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The compiler, or `unknown`: set RESPMUX_RUSTC in the environment of the build.
pub const RUSTC: &str = match option_env!("RESPMUX_RUSTC") {
    Some(rustc) => rustc,
    None => "unknown",
};

const BUILD: &[Axis] = &[("version", &[env!("CARGO_PKG_VERSION")]), ("revision", &[REVISION]), ("rustc", &[RUSTC])];

/// The states of [`ClientState`], and what is left.
const CLIENT_STATES: &[&str] = &["active", "blocked", "subscribed", "idle"];

/// The kinds of [`UpstreamKind`], and the budget they share. The only metric with a total among its values: the parts
/// are limits of their own and need not add up.
const BUDGETS: &[&str] = &["lane", "pool", "login", "control", "hub", "total"];

const PIN: &[Axis] = &[("reason", PinReason::LABELS)];
const CLASS: &[Axis] = &[("class", LatencyClass::LABELS)];

const fn row(
    name: &'static str,
    scope: Scope,
    axes: &'static [Axis],
    source: MetricSource,
    help: &'static str,
) -> Metric {
    Metric { name, help, scope, axes, source }
}

/// A metric under the name that it had in the minor version before. Its help names the one that replaces it.
const fn old(name: &'static str, scope: Scope, source: MetricSource, help: &'static str) -> Metric {
    row(name, scope, &[], source, help)
}

/// Every metric that [`Telemetry::render`](super::Telemetry::render) shows.
#[rustfmt::skip]
pub static METRICS: &[Metric] = {
    use Scope::{Config, Endpoint, Process, Upstream};
    use MetricSource::{Buckets, Commands, Count, Earliest, Fact, FactCount, Level, PerWorker, System, SystemCount};
    &[
    row("respmux_build_info", Process, BUILD, Fact(|_, _| 1.0),
        "Build metadata; always 1"),
    row("respmux_config_hash_info", Config, &[], Fact(|_, _| 1.0),
        "Hash of the running configuration; always 1"),
    row("respmux_config_last_reload_successful", Process, &[], Fact(|f, _| u8::from(f.last_load_good()).into()),
        "1 if the configuration that was read last is in force, 0 if it was wrong and an older one is"),
    row("respmux_config_last_reload_success_timestamp_seconds", Process, &[],
        Fact(|f, _| f.loaded_unix_millis() as f64 / 1000.0),
        "When the configuration in effect was read"),
    row("respmux_config_pending_restart_keys", Process, &[], Fact(|f, _| f.pending_restart().len() as f64),
        "Keys of the configuration file whose new values need a restart"),
    row("respmux_paused", Process, &[], Fact(|f, _| u8::from(f.paused()).into()),
        "1 while PROXY PAUSE holds requests"),
    row("respmux_draining", Process, &[], Fact(|f, _| u8::from(f.draining()).into()),
        "1 while the proxy is draining"),

    row("respmux_client_connections", Process, &[("state", CLIENT_STATES)], Level(client_connections),
        "Client connections by state"),
    row("respmux_client_connections_max", Process, &[], Fact(|f, _| f.client_max() as f64),
        "Configured client limit"),
    row("respmux_client_connections_opened_total", Process, &[], Count(|s, _| s.client_opened.value()),
        "Accepted client connections"),
    row("respmux_client_connections_closed_total", Process, &[("reason", CloseReason::LABELS)],
        Count(|s, [r, ..]| s.client_closed.at(r).value()),
        "Closed client connections"),
    row("respmux_client_handoffs_total", Process, &[("result", HandoffResult::LABELS)],
        Count(|s, [r, ..]| s.handoffs.at(r).value()),
        "Clients that were told to connect elsewhere, by outcome"),
    row("respmux_client_close_races_total", Process, &[], Count(|s, _| s.close_races.value()),
        "Clients whose last request crossed the close between two requests; it was not carried out"),
    row("respmux_client_connections_rejected_total", Process, &[("reason", RejectReason::LABELS)],
        Count(|s, [r, ..]| s.client_rejected.at(r).value()),
        "Refused client connections"),
    row("respmux_client_accept_errors_total", Process, &[("reason", AcceptError::LABELS)],
        Count(|s, [r, ..]| s.accept_errors.at(r).value()),
        "accept(2) failures"),
    row("respmux_client_accept_stalls_total", Process, &[], Count(|s, _| s.accept_stalls.value()),
        "Times clients were left in the backlog because of the accept rate"),
    row("respmux_tls_handshakes_total", Process, &[("result", HandshakeResult::LABELS)],
        Count(|s, [r, ..]| s.handshakes.at(r).value()),
        "TLS handshakes of clients that ended, by result"),
    row("respmux_tls_handshakes_in_progress", Process, &[], Level(|s, _| s.handshaking.value()),
        "TLS handshakes of clients in progress or waiting for their turn"),
    row("respmux_tls_certificate_expiry_timestamp_seconds", Process, &[("side", TlsSide::LABELS)],
        Fact(|f, [side, ..]| f.certificate_expiry(side)),
        "When the certificate shown to clients or to the upstream expires; 0 if none"),
    row("respmux_tls_reloads_total", Process, &[("side", TlsSide::LABELS), ("result", ReloadResult::LABELS)],
        FactCount(|f, [side, result, _]| f.reloads(side, result)),
        "Reloads of changed certificate files"),
    row("respmux_client_pinned_connections", Upstream, PIN, Level(|s, [r, ..]| s.pinned.at(r).value()),
        "Clients pinned to an upstream connection of their own"),
    row("respmux_client_pins_total", Upstream, PIN, Count(|s, [r, ..]| s.pins.at(r).value()),
        "Times a client was pinned"),
    row("respmux_client_pin_duration_seconds", Upstream, PIN, Buckets(|s, [r, ..]| s.pin_duration.at(r)),
        "How long clients were pinned"),
    row("respmux_client_received_bytes_total", Process, &[], Count(|s, _| s.client_received_bytes.value()),
        "Bytes read from clients"),
    row("respmux_client_sent_bytes_total", Process, &[], Count(|s, _| s.client_sent_bytes.value()),
        "Bytes written to clients"),
    row("respmux_client_output_buffer_bytes", Process, &[], Level(|s, _| s.client_output_buffer_bytes.value()),
        "Bytes waiting to be written to clients"),
    row("respmux_client_stalls_total", Process, &[("reason", StallReason::LABELS)],
        Count(|s, [r, ..]| s.client_stalls.at(r).value()),
        "Times the reading of a client was paused"),

    row("respmux_buffered_bytes", Process, &[("kind", BufferKind::LABELS)],
        Level(|s, [k, ..]| s.buffered.at(k).value()),
        "Bytes of buffers for clients and the upstream"),
    row("respmux_buffered_bytes_max", Process, &[], Fact(|f, _| f.memory().limit() as f64),
        "Limit of all buffers together"),
    row("respmux_shed_state", Process, &[], Fact(|f, _| f.memory().pressure().number().into()),
        "0 all is well, 1 large clients are not read, 2 new clients are refused, 3 the largest are closed"),
    row("respmux_shed_total", Process, &[("step", ShedStep::LABELS)],
        Count(|s, [st, ..]| s.shed.at(st).value()),
        "Clients paused, refused or closed to keep buffers below their limit"),
    row("respmux_client_logins_total", Process, &[("result", LoginResult::LABELS)],
        Count(|s, [r, ..]| s.logins.at(r).value()),
        "Logins of clients"),
    row("respmux_client_logins_delayed_total", Process, &[], Count(|s, _| s.logins_delayed.value()),
        "Logins delayed because of earlier failures"),

    row("respmux_commands_total", Upstream, &[], Commands,
        "Commands answered"),
    row("respmux_command_errors_total", Upstream, &[("origin", Origin::LABELS), ("code", ErrorCode::LABELS)],
        Count(|s, [o, c, _]| s.command_errors.at(o).at(c).value()),
        "Error replies to clients"),
    row("respmux_command_duration_seconds", Upstream, CLASS, Buckets(|s, [c, ..]| s.command_duration.at(c)),
        "Time from a command parsed to its reply queued for the client"),
    row("respmux_commands_rejected_total", Process, &[("reason", RefuseReason::LABELS)],
        Count(|s, [r, ..]| s.commands_rejected.at(r).value()),
        "Commands that respmux refused"),

    row("respmux_upstream_up", Endpoint, &[], Fact(|f, _| u8::from(f.upstream_up()).into()),
        "1 if the upstream answered its last health check"),
    row("respmux_upstream_connections", Endpoint,
        &[("kind", UpstreamKind::LABELS), ("state", UpstreamState::LABELS)],
        Level(|s, [k, st, _]| s.upstream_connections.at(k).at(st).value()),
        "Connections to the upstream"),
    row("respmux_upstream_connections_max", Upstream, &[("kind", BUDGETS)], Fact(|f, [k, ..]| budget(f, k)),
        "Configured upstream connection limit"),
    row("respmux_upstream_connections_opened_total", Endpoint, &[("kind", UpstreamKind::LABELS)],
        Count(|s, [k, ..]| s.upstream_opened.at(k).value()),
        "Upstream connections opened"),
    row("respmux_upstream_connections_closed_total", Endpoint, &[("reason", UpstreamCloseReason::LABELS)],
        Count(|s, [r, ..]| s.upstream_closed.at(r).value()),
        "Upstream connections closed"),
    row("respmux_upstream_connect_errors_total", Endpoint, &[("reason", ConnectError::LABELS)],
        Count(|s, [r, ..]| s.upstream_connect_errors.at(r).value()),
        "Failed upstream connects"),
    row("respmux_upstream_connect_duration_seconds", Upstream, &[], Buckets(|s, _| &s.upstream_connect_duration),
        "Time for the connect and the handshake of an upstream connection"),
    row("respmux_upstream_circuit_workers", Endpoint, &[("state", CircuitState::LABELS)],
        Level(|s, [st, ..]| s.circuit.at(st).value()),
        "Workers by the state of their circuit"),
    row("respmux_upstream_circuit_opened_total", Endpoint, &[], Count(|s, _| s.circuit_opened.value()),
        "Times the circuit of a worker opened: it stopped waiting for the upstream"),
    row("respmux_upstream_duration_seconds", Upstream, CLASS, Buckets(|s, [c, ..]| s.upstream_duration.at(c)),
        "Time from a command written to the upstream to its reply read"),
    row("respmux_upstream_inflight_commands", Endpoint, &[], Level(|s, _| s.inflight.value()),
        "Commands waiting for an upstream reply"),
    row("respmux_upstream_oldest_inflight_start_timestamp_seconds", Upstream, &[],
        Earliest(|s| s.oldest_inflight_start.value()),
        "Start time of the oldest command waiting; 0 if none"),
    row("respmux_upstream_received_bytes_total", Endpoint, &[], Count(|s, _| s.upstream_received_bytes.value()),
        "Bytes read from the upstream"),
    row("respmux_upstream_sent_bytes_total", Endpoint, &[], Count(|s, _| s.upstream_sent_bytes.value()),
        "Bytes written to the upstream"),
    row("respmux_upstream_batch_commands", Upstream, &[], Buckets(|s, _| &s.batch_commands),
        "Commands per write to the upstream"),

    row("respmux_pool_waiters", Upstream, &[], Level(|s, _| s.pool_waiters.value()),
        "Clients waiting to be pinned to a connection of their own"),
    row("respmux_pool_wait_duration_seconds", Upstream, &[], Buckets(|s, _| &s.pool_wait),
        "How long clients waited to be pinned"),
    row("respmux_pool_timeouts_total", Upstream, &[], Count(|s, _| s.pool_limits.timeouts.value()),
        "Clients that were not pinned within pool.wait_timeout"),
    row("respmux_pool_queue_full_total", Upstream, &[], Count(|s, _| s.pool_limits.line_full.value()),
        "Clients that were not pinned because too many were waiting"),
    row("respmux_pool_idle_transactions_total", Upstream, &[], Count(|s, _| s.pool_limits.idle_transactions.value()),
        "Transactions given up because their client was silent for too long"),
    row("respmux_pool_switches_total", Upstream, &[], Count(|s, _| s.pool_switches.value()),
        "Pool connections changed over to another user, protocol or database"),

    row("respmux_lane_tombstones_total", Upstream, &[], Count(|s, _| s.lane_tombstones.value()),
        "Replies still owed to a client that is gone"),
    row("respmux_lane_canaries_total", Upstream, &[], Count(|s, _| s.lane_canaries.value()),
        "Self-checks of shared connections (lanes) that were answered"),
    row("respmux_lane_canary_failures_total", Upstream, &[], Count(|s, _| s.lane_canary_failures.value()),
        "Self-checks of shared connections (lanes) that were answered wrongly"),
    row("respmux_integrity_violations_total", Upstream,
        &[("kind", UpstreamKind::LABELS), ("reason", AnomalyReason::LABELS)],
        Count(|s, [k, r, ..]| s.integrity_violations.at(k).at(r).value()),
        "Upstream connections killed because their replies could not be trusted"),
    row("respmux_lane_suspects", Upstream, &[], Level(|s, _| s.lanes_suspect.value()),
        "Shared connections (lanes) that owe replies and have been silent for too long"),
    row("respmux_lane_losses_total", Upstream, &[("verdict", LossVerdict::LABELS)],
        Count(|s, [v, ..]| s.lane_losses.at(v).value()),
        "Shared connections (lanes) lost without an anomaly"),
    row("respmux_lane_detection_duration_seconds", Upstream, &[], Buckets(|s, _| &s.lane_detection),
        "Silence of a shared connection (lane) before it was given up as hung"),
    row("respmux_retries_total", Upstream, &[("outcome", RetryOutcome::LABELS)],
        Count(|s, [o, ..]| s.retries.at(o).value()),
        "Reads sent again because their connection broke"),
    row("respmux_upstream_readonly_lookups_total", Upstream, &[("result", NameLookup::LABELS)],
        Count(|s, [r, ..]| s.readonly_lookups.at(r).value()),
        "Lookups of the upstream's name after it refused a write with -READONLY, or unblocked its clients as a replica"),
    row("respmux_request_timeouts_total", Upstream, &[("outcome", RequestOutcome::LABELS)],
        Count(|s, [o, ..]| s.request_timeouts.at(o).value()),
        "Requests given up because their answer took too long"),
    row("respmux_lane_overflow_total", Upstream, &[], Count(|s, _| s.lane_overflow.value()),
        "Commands sent on pinned connections because the cap left no shared connection (lane) for them"),

    row("respmux_lane_transactions_total", Upstream, &[], Count(|s, _| s.units.value()),
        "Transactions sent whole on a shared connection (lane)"),

    row("respmux_blocking_waiters", Upstream, &[("state", WaiterState::LABELS)],
        Level(|s, [st, ..]| s.group_waiters.at(st).value()),
        "Blocked clients that hold no connection of their own"),
    row("respmux_blocking_groups", Upstream, &[], Level(|s, _| s.wait_groups.all.value()),
        "Groups of blocked clients that wait for the same and share connections"),
    row("respmux_blocking_bundled_groups", Upstream, &[], Level(|s, _| s.wait_groups.bundled.value()),
        "Groups of blocked clients that wait on a connection together with groups of other keys"),
    row("respmux_blocking_elements_total", Upstream, &[("way", ElementVia::LABELS)],
        Count(|s, [w, ..]| s.group_elements.at(w).value()),
        "Elements delivered to clients that were blocked together with others"),
    row("respmux_blocking_given_back_total", Upstream, &[], Count(|s, _| s.group_given_back.value()),
        "Elements put back because their client had left"),
    row("respmux_blocking_polls_total", Upstream, &[], Count(|s, _| s.group_polls.value()),
        "Commands sent to ask for blocked clients that hold no connection"),
    row("respmux_blocking_unblock_races_total", Upstream, &[], Count(|s, _| s.group_unblock_races.value()),
        "Unblocks that came too late because an element had arrived"),
    row("respmux_pubsub_channels", Upstream, &[], Level(|s, _| s.pubsub_channels.value()),
        "Channels and patterns that subscription connections are subscribed to"),
    row("respmux_pubsub_subscribers", Upstream, &[], Level(|s, _| s.pubsub_subscribers.value()),
        "Clients whose subscriptions are on subscription connections"),
    row("respmux_pubsub_messages_total", Upstream, &[], Count(|s, _| s.pubsub_messages.value()),
        "Messages delivered to clients from subscription connections"),

    row("respmux_log_messages_total", Process, &[("level", LogLevel::LABELS)],
        FactCount(|f, [l, ..]| f.log_messages(l)),
        "Log events, suppressed ones included"),
    row("respmux_worker_busy_seconds_total", Process, &[], PerWorker(|s| s.worker_busy_seconds.value()),
        "Time a worker thread was busy"),
    row("respmux_client_reads_total", Process, &[], Count(|s, _| s.client_reads.all.value()),
        "Reads from clients"),
    row("respmux_client_rapid_reads_total", Process, &[], Count(|s, _| s.client_reads.rapid.value()),
        "Reads from clients less than a millisecond after their previous read"),
    row("respmux_worker_coalesce_waits_total", Process, &[], Count(|s, _| s.coalesce_waits.value()),
        "Short waits of busy workers, in which requests gather for one write (coalesce)"),

    // The old names of renamed metrics, for one minor version.
    old("respmux_pool_line_full_total", Upstream, Count(|s, _| s.pool_limits.line_full.value()),
        "Old name of respmux_pool_queue_full_total, gone in 0.2"),
    old("respmux_blocking_folds", Upstream, Level(|s, _| s.wait_groups.all.value()),
        "Old name of respmux_blocking_groups, gone in 0.2"),
    old("respmux_client_hasty_reads_total", Process, Count(|s, _| s.client_reads.rapid.value()),
        "Old name of respmux_client_rapid_reads_total, gone in 0.2"),
    old("respmux_worker_rests_total", Process, Count(|s, _| s.coalesce_waits.value()),
        "Old name of respmux_worker_coalesce_waits_total, gone in 0.2"),

    // Names without our prefix: what every exporter calls them.
    row("process_cpu_seconds_total", Process, &[], SystemCount(|p| p.cpu_seconds_total),
        "Total user and system CPU time spent in seconds"),
    row("process_open_fds", Process, &[], System(|p| p.open_fds.map(|n| n as f64)),
        "Number of open file descriptors"),
    row("process_max_fds", Process, &[], System(|p| p.max_fds.map(|n| n as f64)),
        "Maximum number of open file descriptors"),
    row("process_virtual_memory_bytes", Process, &[], System(|p| p.virtual_memory_bytes.map(|n| n as f64)),
        "Virtual memory size in bytes"),
    row("process_resident_memory_bytes", Process, &[], System(|p| p.resident_memory_bytes.map(|n| n as f64)),
        "Resident memory size in bytes"),
    row("process_start_time_seconds", Process, &[], System(|p| p.start_time_seconds.map(|n| n as f64)),
        "Start time of the process since unix epoch in seconds"),
    row("process_threads", Process, &[], System(|p| p.threads.map(|n| n as f64)),
        "Number of OS threads in the process"),
    ]
};

fn client_connections(shard: &Shard, [state, ..]: SeriesPlace) -> u64 {
    if state < ClientState::ALL.len() { shard.clients_by_state.at(state).value() } else { shard.idle_clients() }
}

fn budget(facts: &ProcessFacts, kind: usize) -> f64 {
    let connections = if kind < UpstreamKind::ALL.len() { facts.upstream_max_of(kind) } else { facts.upstream_max() };
    connections as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_follow_the_rules() {
        let mut seen = HashSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(seen.insert(name), "{name} has two rows");
            assert!(name.starts_with("respmux_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind() == MetricKind::Counter, "{name}");
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{name}");
            assert!(metric.axes.len() <= SeriesPlace::default().len(), "{name}");
            let labels = metric.labels();
            assert_eq!(labels.iter().collect::<HashSet<_>>().len(), labels.len(), "{name}");
        }
    }

    #[test]
    fn an_old_name_leads_to_the_same_metric() {
        let mut old = 0;
        for metric in METRICS {
            let Some(text) = metric.help.strip_prefix("Old name of ") else { continue };
            let name = text.split_once(',').unwrap().0;
            let now = METRICS.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!((metric.kind(), metric.labels()), (now.kind(), now.labels()), "{name}");
            old += 1;
        }
        assert_eq!(old, METRICS.iter().filter(|m| m.help.contains("gone in")).count());
    }

    #[test]
    fn the_values_that_add_one_to_a_set_begin_with_the_set() {
        assert_eq!(&CLIENT_STATES[..ClientState::ALL.len()], ClientState::LABELS);
        assert_eq!(CLIENT_STATES.len(), ClientState::ALL.len() + 1);
        assert_eq!(&BUDGETS[..UpstreamKind::ALL.len()], UpstreamKind::LABELS);
        assert_eq!(BUDGETS.len(), UpstreamKind::ALL.len() + 1);
    }

    #[test]
    fn places_are_all_combinations() {
        let errors = METRICS.iter().find(|m| m.name == "respmux_command_errors_total").unwrap();
        let places = errors.places();
        assert_eq!(places.len(), Origin::ALL.len() * ErrorCode::ALL.len());
        assert_eq!(places.iter().collect::<HashSet<_>>().len(), places.len());
        assert_eq!(places[1], [0, 1, 0]);
    }
}
