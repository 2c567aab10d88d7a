//! From the cells to the text format of Prometheus.
//!
//! Counters and gauges go through `metrics-exporter-prometheus`: at a scrape the sums over all shards are copied into
//! handles that were made once. Histograms, counters of fractions and what may be absent are written by ourselves and
//! put between them (rule O4).

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use metrics_process::collector::{Metrics as Process, collect};

use super::catalogue::{METRICS, Metric, MetricKind, MetricSource, Scope, SeriesPlace};
use super::facts::ProcessFacts;
use super::histogram::{Histogram, HistogramTotals};
use super::node_facts::NodeFacts;
use super::shard::Shard;

/// The exporter filters by target and level; we do not.
static METADATA: Metadata<'static> = Metadata::new(module_path!(), metrics::Level::INFO, Some(module_path!()));

/// All series and where each one is written.
pub(super) struct MetricsRegistry {
    recorder: PrometheusRecorder,
    series: Vec<Series>,
    commands: Vec<CommandSeries>,
}

/// One series that is there from the start.
struct Series {
    metric: &'static Metric,
    place: SeriesPlace,
    slot: SeriesSlot,
}

/// Where the value of a series goes, and how it is read. Texts are labels in our own text: `a="b",c="d"`.
enum SeriesSlot {
    Count(Counter, fn(&Shard, SeriesPlace) -> u64),
    FactCount(Counter, fn(&ProcessFacts, SeriesPlace) -> u64),
    Level(Gauge, fn(&Shard, SeriesPlace) -> u64),
    Fact(Gauge, fn(&ProcessFacts, SeriesPlace) -> f64),
    Earliest(Gauge, fn(&Shard) -> f64),
    Buckets(String, fn(&Shard, SeriesPlace) -> &Histogram),
    PerWorker(fn(&Shard) -> f64),
    System(fn(&Process) -> Option<f64>),
}

/// The answered commands of one `cmd`, exported from the first one on.
struct CommandSeries {
    labels: Vec<Label>,
    /// Ids in the command table with this name.
    ids: Vec<usize>,
    counter: OnceLock<Counter>,
}

/// What is read at one scrape.
struct Scrape<'a> {
    /// Those of the workers, and the one of the accept loop.
    shards: &'a [Arc<Shard>],
    /// How many of them are workers'.
    workers: usize,
    facts: &'a ProcessFacts,
    process: Process,
}

impl MetricsRegistry {
    /// Makes the series of a process with these facts and this command table.
    pub(super) fn new(facts: &ProcessFacts, commands: &[String]) -> Self {
        // Every name has its suffix already (the test of the catalogue), so that the recommended naming changes
        // nothing; were one forgotten, it would show in the test of the names.
        let recorder = PrometheusBuilder::new().with_recommended_naming(true).build_recorder();
        for metric in METRICS {
            describe(&recorder, metric);
        }
        let series = METRICS
            .iter()
            .flat_map(|metric| metric.places().into_iter().map(move |place| (metric, place)))
            .filter_map(|(metric, place)| Series::new(&recorder, facts, metric, place))
            .collect();
        Self { recorder, series, commands: command_series(commands, facts) }
    }

    /// The text of a scrape.
    pub(super) fn render(&self, workers: &[Arc<Shard>], acceptor: &Arc<Shard>, facts: &ProcessFacts) -> String {
        let shards: Vec<_> = workers.iter().chain([acceptor]).cloned().collect();
        let reading = Scrape { shards: &shards, workers: workers.len(), facts, process: collect() };
        let mut families = Families::default();
        for series in &self.series {
            series.take(&reading, &mut families);
        }
        for command in &self.commands {
            command.take(&self.recorder, workers);
        }
        families.merge(&self.recorder.handle().render())
    }
}

impl Series {
    /// A series in its place; none for the commands, which have their own.
    fn new(
        recorder: &PrometheusRecorder,
        facts: &ProcessFacts,
        metric: &'static Metric,
        place: SeriesPlace,
    ) -> Option<Self> {
        let key = Key::from_parts(metric.name, labels(metric, facts, place));
        let counter = || recorder.register_counter(&key, &METADATA);
        let gauge = || recorder.register_gauge(&key, &METADATA);
        let slot = match metric.source {
            MetricSource::Count(read) => SeriesSlot::Count(counter(), read),
            MetricSource::FactCount(read) => SeriesSlot::FactCount(counter(), read),
            MetricSource::Level(read) => SeriesSlot::Level(gauge(), read),
            MetricSource::Fact(read) => SeriesSlot::Fact(gauge(), read),
            MetricSource::Earliest(read) => SeriesSlot::Earliest(gauge(), read),
            MetricSource::Buckets(read) => SeriesSlot::Buckets(text(key.labels()), read),
            MetricSource::PerWorker(read) => SeriesSlot::PerWorker(read),
            MetricSource::System(read) | MetricSource::SystemCount(read) => SeriesSlot::System(read),
            MetricSource::Commands => return None,
        };
        Some(Self { metric, place, slot })
    }

    /// Reads the value and puts it where it is shown.
    fn take(&self, reading: &Scrape<'_>, families: &mut Families) {
        let (name, place) = (self.metric.name, self.place);
        match &self.slot {
            SeriesSlot::Count(counter, read) => counter.absolute(reading.sum(*read, place)),
            SeriesSlot::FactCount(counter, read) => counter.absolute(read(reading.facts, place)),
            SeriesSlot::Level(gauge, read) => gauge.set(reading.sum(*read, place) as f64),
            SeriesSlot::Fact(gauge, read) => gauge.set(read(reading.facts, place)),
            SeriesSlot::Earliest(gauge, read) => gauge.set(reading.earliest(*read)),
            SeriesSlot::Buckets(labels, read) => {
                if let Some(totals) = HistogramTotals::of(reading.shards.iter().map(|shard| read(shard, place))) {
                    totals.render(families.of(self.metric), name, labels);
                }
            }
            SeriesSlot::PerWorker(read) => {
                let out = families.of(self.metric);
                for (worker, shard) in reading.shards.iter().take(reading.workers).enumerate() {
                    // Writing to a string cannot fail.
                    let _ = writeln!(out, "{name}{{worker=\"{worker}\"}} {}", read(shard));
                }
            }
            SeriesSlot::System(read) => {
                // Absent rather than 0 where the system does not tell: 0 of 0 descriptors is no news.
                if let Some(value) = read(&reading.process) {
                    let _ = writeln!(families.of(self.metric), "{name} {value}");
                }
            }
        }
    }
}

impl Scrape<'_> {
    fn sum(&self, read: fn(&Shard, SeriesPlace) -> u64, place: SeriesPlace) -> u64 {
        self.shards.iter().map(|shard| read(shard, place)).sum()
    }

    /// The earliest time named by any shard; 0 if none names one.
    fn earliest(&self, read: fn(&Shard) -> f64) -> f64 {
        let times = self.shards.iter().map(|shard| read(shard)).filter(|time| *time > 0.0);
        times.min_by(f64::total_cmp).unwrap_or(0.0)
    }
}

impl CommandSeries {
    fn take(&self, recorder: &PrometheusRecorder, shards: &[Arc<Shard>]) {
        let ids = || self.ids.iter().flat_map(|id| shards.iter().map(|shard| shard.commands(*id)));
        let answered: u64 = ids().sum();
        if answered == 0 {
            return;
        }
        let counter = self.counter.get_or_init(|| {
            let key = Key::from_parts("respmux_commands_total", self.labels.clone());
            recorder.register_counter(&key, &METADATA)
        });
        counter.absolute(answered);
    }
}

/// The command series of a command table. Rows of one name share a series; ids that the table does not have come after
/// its last row and are called `other`.
///
/// A subcommand is written as Redis writes it in INFO commandstats, `client|list`, so that panels join with
/// redis_exporter's `cmd`.
fn command_series(commands: &[String], facts: &ProcessFacts) -> Vec<CommandSeries> {
    let mut series: std::collections::BTreeMap<String, Vec<usize>> = Default::default();
    let names = commands.iter().map(String::as_str).chain(["other"]);
    for (id, name) in names.enumerate() {
        let cmd = name.to_ascii_lowercase().replace(' ', "|");
        series.entry(cmd).or_default().push(id);
    }
    series
        .into_iter()
        .map(|(cmd, ids)| CommandSeries {
            labels: vec![upstream(facts), Label::new("cmd", cmd)],
            ids,
            counter: OnceLock::new(),
        })
        .collect()
}

fn describe(recorder: &PrometheusRecorder, metric: &'static Metric) {
    let (name, help) = (metric.name.into(), metric.help.into());
    match metric.kind() {
        MetricKind::Counter => recorder.describe_counter(name, None, help),
        MetricKind::Gauge => recorder.describe_gauge(name, None, help),
        // Not the exporter's; Families writes the help itself.
        MetricKind::Histogram => {}
    }
}

/// The labels of one series.
fn labels(metric: &Metric, facts: &ProcessFacts, place: SeriesPlace) -> Vec<Label> {
    let mut labels = match metric.scope {
        Scope::Process => Vec::new(),
        Scope::Upstream => vec![upstream(facts)],
        Scope::Endpoint => vec![upstream(facts), Label::new("endpoint", only(facts).endpoint())],
        Scope::Config => vec![Label::new("sha256", facts.config_sha256())],
    };
    for ((name, values), index) in metric.axes.iter().zip(place) {
        labels.push(Label::new(*name, values[index]));
    }
    labels
}

/// The label that names the server.
fn upstream(facts: &ProcessFacts) -> Label {
    Label::new("upstream", only(facts).name())
}

/// The server of all series. Shards count for a worker, not for a server, so there cannot be two.
fn only(facts: &ProcessFacts) -> &NodeFacts {
    facts.node(0)
}

/// Labels as text. The values of our own text are names from tables and need no escaping.
fn text<'a>(labels: impl Iterator<Item = &'a Label>) -> String {
    let pairs: Vec<_> = labels.map(|label| format!("{}=\"{}\"", label.key(), label.value())).collect();
    pairs.join(",")
}

/// Metric families as text, ours and the exporter's.
#[derive(Default)]
struct Families {
    ours: Vec<(&'static str, String)>,
}

impl Families {
    /// The text of one of our families, begun with its head if it is new. The series of a family come one after the
    /// other.
    fn of(&mut self, metric: &'static Metric) -> &mut String {
        if self.ours.last().is_none_or(|(name, _)| *name != metric.name) {
            let (name, help, kind) = (metric.name, metric.help, metric.kind().label());
            let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
            self.ours.push((name, head));
        }
        let (_, text) = self.ours.last_mut().expect("pushed above if there was none");
        text
    }

    /// All families by name. The exporter keeps hash maps; a person who reads two scrapes, or compares them, wants the
    /// same order twice.
    fn merge(self, exported: &str) -> String {
        let mut families: Vec<String> = exported
            .split("\n\n")
            .filter(|family| !family.is_empty())
            .map(|family| {
                // HELP and TYPE begin with '#', which sorts before every name.
                let mut lines: Vec<_> = family.lines().collect();
                lines.sort_unstable();
                lines.join("\n") + "\n"
            })
            .chain(self.ours.into_iter().map(|(_, text)| text))
            .collect();
        families.sort_unstable();
        families.concat()
    }
}
