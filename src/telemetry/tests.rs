//! What a scrape shows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::catalogue::{METRICS, MetricKind};
use super::log_count::LogCounts;
use super::reasons::{
    AcceptError, ClientState, CloseReason, LatencyClass, LogLevel, Origin, PinReason, ReloadResult, TlsSide,
    UpstreamKind,
};
use super::*;

fn telemetry(workers: usize, commands: &[&str]) -> Telemetry {
    let facts = Arc::new(ProcessFacts::new("redis://u:secret@db:6379", "c0ffee"));
    let names: Vec<_> = commands.iter().map(|name| (*name).to_owned()).collect();
    Telemetry::new(workers, &names, facts)
}

/// A scrape after something was counted everywhere.
fn busy() -> Telemetry {
    let telemetry = telemetry(2, &["GET", "CLIENT LIST", "get"]);
    for (index, shard) in telemetry.shards.iter().enumerate() {
        shard.client_began();
        shard.command(0);
        shard.command(1);
        shard.pin_began(PinReason::Pubsub);
        shard.pin_ended(PinReason::Pubsub, 3_000_000_000);
        shard.latency(LatencyClass::Read, 120_000);
        shard.latency(LatencyClass::Blocking, 20_000_000_000);
        shard.upstream_latency(LatencyClass::Read, 80_000);
        shard.batch_commands.record(16);
        shard.pool_wait.record(1);
        shard.upstream_connect_duration.record(400_000);
        shard.error(Origin::Proxy, b"-NOAUTH Authentication required.");
        shard.worker_busy_seconds.set(0.25 + index as f64);
        shard.oldest_inflight_start.set(1_700_000_000.5 + index as f64);
    }
    telemetry
}

/// The samples of a scrape: name with labels, and value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse().unwrap();
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
    }
    samples
}

#[track_caller]
fn assert_sample(text: &str, series: &str, expected: f64) {
    let value = samples(text).get(series).copied();
    assert_eq!(value, Some(expected), "{series} in\n{text}");
}

/// The name of a family, given the name in a sample.
fn family<'a>(text: &str, sample: &'a str) -> &'a str {
    let name = sample.split('{').next().unwrap();
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    match base {
        Some(base) if text.contains(&format!("# TYPE {base} histogram\n")) => base,
        _ => name,
    }
}

#[test]
fn every_rendered_metric_is_in_the_table_with_its_labels() {
    let text = busy().render();
    let mut rendered = BTreeSet::new();
    for sample in samples(&text).keys() {
        let name = family(&text, sample);
        let metric = METRICS.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{sample} is not in the table"));
        let inner = sample.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
        let labels: BTreeSet<_> = inner
            .split("\",")
            .filter_map(|pair| pair.split_once('=').map(|(label, _)| label))
            .filter(|label| *label != "le")
            .collect();
        assert_eq!(labels, metric.labels().into_iter().collect(), "{sample}");
        rendered.insert(name.to_owned());
    }
    let table: BTreeSet<_> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(rendered, table);
}

#[test]
fn every_family_has_help_and_type_and_is_there_once() {
    let text = busy().render();
    for metric in METRICS {
        let (name, kind) = (metric.name, metric.kind().label());
        let head = format!("# HELP {name} {}\n# TYPE {name} {kind}\n{name}", metric.help);
        assert_eq!(text.matches(&head).count(), 1, "{head}\n{text}");
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
    }
    assert!(text.ends_with('\n') && !text.contains("\n\n"));
}

#[test]
fn fixed_label_sets_are_zero_in_advance_and_commands_are_not() {
    let text = telemetry(1, &["GET"]).render();
    for reason in CloseReason::ALL {
        let series = format!("respmux_client_connections_closed_total{{reason=\"{reason}\"}}");
        assert_sample(&text, &series, 0.0);
    }
    assert_sample(
        &text,
        "respmux_upstream_connections{upstream=\"default\",endpoint=\"redis://db:6379\",kind=\"pool\",state=\"idle\"}",
        0.0,
    );
    assert!(!text.contains("cmd="), "{text}");
}

#[test]
fn values_are_summed_over_workers() {
    let telemetry = telemetry(3, &[]);
    for shard in &telemetry.shards {
        shard.client_began();
        shard.client_received_bytes.add(1 << 40);
    }
    telemetry.shards[2].clients_by_state[ClientState::Active].add(1);
    telemetry.shards[1].client_ended(CloseReason::Quit);
    let text = telemetry.render();
    assert_sample(&text, "respmux_client_connections_opened_total", 3.0);
    assert_sample(&text, "respmux_client_connections_closed_total{reason=\"quit\"}", 1.0);
    assert_sample(&text, "respmux_client_connections{state=\"active\"}", 1.0);
    assert_sample(&text, "respmux_client_connections{state=\"idle\"}", 1.0);
    assert_sample(&text, "respmux_client_received_bytes_total", 3.0 * (1_u64 << 40) as f64);
}

#[test]
fn the_accept_loop_is_counted_and_is_no_worker() {
    let telemetry = telemetry(2, &[]);
    telemetry.acceptor.accept_errors[AcceptError::Descriptors].inc();
    telemetry.shards[0].accept_errors[AcceptError::Descriptors].inc();
    let text = telemetry.render();
    assert_sample(&text, "respmux_client_accept_errors_total{reason=\"descriptors\"}", 2.0);
    assert_eq!(text.matches("\nrespmux_worker_busy_seconds_total{").count(), 2);
}

#[test]
fn a_later_scrape_shows_later_values() {
    let telemetry = telemetry(1, &["GET"]);
    let get = "respmux_commands_total{upstream=\"default\",cmd=\"get\"}";
    telemetry.render();
    telemetry.shards[0].command(0);
    telemetry.shards[0].inflight.add(2);
    let text = telemetry.render();
    assert_sample(&text, get, 1.0);
    let inflight = "respmux_upstream_inflight_commands{upstream=\"default\",endpoint=\"redis://db:6379\"}";
    assert_sample(&text, inflight, 2.0);
    telemetry.shards[0].command(0);
    telemetry.shards[0].inflight.sub(2);
    let text = telemetry.render();
    assert_sample(&text, get, 2.0);
    assert_sample(&text, inflight, 0.0);
}

#[test]
fn commands_of_one_name_share_a_series_and_unknown_ids_are_other() {
    let telemetry = telemetry(2, &["GET", "CLIENT LIST", "get"]);
    for shard in &telemetry.shards {
        for cmd in [0, 1, 2, 3, 500] {
            shard.command(cmd);
        }
    }
    let text = telemetry.render();
    for (cmd, answered) in [("get", 4.0), ("client|list", 2.0), ("other", 4.0)] {
        let series = format!("respmux_commands_total{{upstream=\"default\",cmd=\"{cmd}\"}}");
        assert_sample(&text, &series, answered);
    }
    assert_eq!(text.matches("\nrespmux_commands_total{").count(), 3);
}

#[test]
fn facts_are_shown() {
    let telemetry = telemetry(1, &[]);
    let facts = &telemetry.facts;
    facts.set_upstream_max(32, &[(UpstreamKind::Pool, 24)]);
    facts.set_client_max(10_000);
    facts.node(0).set_up(true);
    facts.set_draining(true);
    facts.set_certificate_expiry(TlsSide::Client, 1_940_889_600);
    facts.reloaded(TlsSide::Upstream, ReloadResult::Failure);
    let text = telemetry.render();
    assert_sample(&text, "respmux_config_hash_info{sha256=\"c0ffee\"}", 1.0);
    assert_sample(&text, "respmux_draining", 1.0);
    assert_sample(&text, "respmux_client_connections_max", 10_000.0);
    let up = "respmux_upstream_up{upstream=\"default\",endpoint=\"redis://db:6379\"}";
    assert_sample(&text, up, 1.0);
    for (kind, max) in [("pool", 24.0), ("lane", 0.0), ("total", 32.0)] {
        let series = format!("respmux_upstream_connections_max{{upstream=\"default\",kind=\"{kind}\"}}");
        assert_sample(&text, &series, max);
    }
    assert_sample(&text, "respmux_tls_certificate_expiry_timestamp_seconds{side=\"client\"}", 1_940_889_600.0);
    assert_sample(&text, "respmux_tls_reloads_total{side=\"upstream\",result=\"failure\"}", 1.0);
    assert!(text.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")), "{text}");
    assert!(!text.contains("secret"), "{text}");
    facts.set_draining(false);
    assert_sample(&telemetry.render(), "respmux_draining", 0.0);
}

#[test]
fn log_messages_are_counted_where_the_log_counts_them() {
    let counts = LogCounts::default();
    counts.logged(LogLevel::Warn);
    let facts = ProcessFacts::new("redis://db:6379", "").with_log_counts(counts);
    let text = Telemetry::new(1, &[], Arc::new(facts)).render();
    assert_sample(&text, "respmux_log_messages_total{level=\"warn\"}", 1.0);
}

#[test]
fn seconds_keep_their_fraction_and_the_earliest_time_wins() {
    let telemetry = busy();
    let text = telemetry.render();
    assert_sample(&text, "respmux_worker_busy_seconds_total{worker=\"0\"}", 0.25);
    assert_sample(&text, "respmux_worker_busy_seconds_total{worker=\"1\"}", 1.25);
    let oldest = "respmux_upstream_oldest_inflight_start_timestamp_seconds{upstream=\"default\"}";
    assert_sample(&text, oldest, 1_700_000_000.5);
    telemetry.shards[0].oldest_inflight_start.set(0.0);
    assert_sample(&telemetry.render(), oldest, 1_700_000_001.5);
    telemetry.shards[1].oldest_inflight_start.set(0.0);
    assert_sample(&telemetry.render(), oldest, 0.0);
}

#[test]
fn the_process_is_shown() {
    let text = telemetry(1, &[]).render();
    let samples = samples(&text);
    for name in ["process_open_fds", "process_max_fds", "process_resident_memory_bytes"] {
        assert!(samples[name] > 0.0, "{name} in\n{text}");
    }
    let now = unix_millis() as f64 / 1000.0;
    let age = now - samples["process_start_time_seconds"];
    assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
    assert!(samples.contains_key("process_cpu_seconds_total"));
}

#[test]
fn histograms_are_cumulative_and_consistent() {
    let text = busy().render();
    let samples = samples(&text);
    let mut series = 0;
    for metric in METRICS.iter().filter(|metric| metric.kind() == MetricKind::Histogram) {
        let bucket = format!("{}_bucket{{", metric.name);
        let mut cumulative = BTreeMap::<String, Vec<(f64, f64)>>::new();
        for line in text.lines().filter(|line| line.starts_with(&bucket)) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let (labels, le) = name[bucket.len()..].trim_end_matches("\"}").split_once("le=\"").unwrap();
            let le = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
            let buckets = cumulative.entry(labels.trim_end_matches(',').to_owned()).or_default();
            buckets.push((le, value.parse().unwrap()));
        }
        for (labels, buckets) in cumulative {
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{} {labels}", metric.name);
            let (last, all) = buckets.last().copied().unwrap();
            assert!(last.is_infinite(), "{} {labels}", metric.name);
            let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let count = samples[&format!("{}_count{braced}", metric.name)];
            let sum = samples[&format!("{}_sum{braced}", metric.name)];
            assert_eq!(all.to_bits(), count.to_bits(), "{} {labels}", metric.name);
            assert_eq!(count == 0.0, sum == 0.0, "{} {labels}", metric.name);
            series += 1;
        }
    }
    assert_eq!(series, 2 * LatencyClass::ALL.len() + PinReason::ALL.len() + 4);
    let read = "upstream=\"default\",class=\"read\"";
    assert_sample(&text, &format!("respmux_command_duration_seconds_bucket{{{read},le=\"0.0001\"}}"), 0.0);
    assert_sample(&text, &format!("respmux_command_duration_seconds_bucket{{{read},le=\"0.00025\"}}"), 2.0);
    assert_sample(&text, &format!("respmux_command_duration_seconds_sum{{{read}}}"), 0.00024);
}

#[test]
fn two_scrapes_have_the_same_order() {
    let telemetry = busy();
    let names = |text: String| -> Vec<_> {
        text.lines()
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .filter(|l| !l.starts_with("# HELP"))
            .collect()
    };
    assert_eq!(names(telemetry.render()), names(telemetry.render()));
}

/// `deploy/prometheus/check-metrics.sh` runs this with promtool in `PROMTOOL`.
#[test]
#[ignore = "needs promtool, named by the variable PROMTOOL"]
fn promtool_finds_nothing_to_say() {
    let promtool = std::env::var("PROMTOOL").expect("PROMTOOL names the program");
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(busy().render().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "");
    assert!(output.status.success());
}
