//! What the last seconds and minutes were like: rates, latencies, a graph, and the events that follow from counters.
//!
//! Both samplers keep [`Counters`] in a [`Window`]. [`RateSampler`] is of the main thread, over all workers, once a
//! second: the status page, the graph and the events are made of it, and workers do nothing for it. [`RateHistory`] is of one
//! worker, for PROXY STATS, which asks the workers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::counter_events::{self, CounterEvent};
use super::counters::{Counters, Durations};
use super::events::Events;
use super::histogram::{Histogram, HistogramTotals};
use super::reasons::{LatencyClass, LogLevel};
use super::{Shard, Telemetry, unix_millis};

/// Time between two samples.
pub const STEP: Duration = Duration::from_secs(1);
/// Points of the graph.
const POINTS: usize = 180;
/// Samples over which a rate is taken.
const RATE_OVER: usize = 5;
/// Samples over which a quantile is taken.
const LATENCY_OVER: usize = 10;

/// Rates and latencies of the last seconds. Nothing where nothing happened.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Over how many seconds the rates are.
    pub rate_over: f64,
    /// Commands answered a second.
    pub commands: f64,
    /// Error replies of the proxy's own a second.
    pub own_errors: f64,
    /// Error replies of the upstream a second.
    pub upstream_errors: f64,
    /// Bytes read from clients a second.
    pub received: f64,
    /// Bytes written to clients a second.
    pub sent: f64,
    /// Commands in one write to the upstream.
    pub commands_per_write: Option<f64>,
    /// Busy time of each worker, 0 to 1.
    pub loads: Vec<f64>,
    /// Over how many seconds the latencies are.
    pub latency_over: f64,
    /// Seconds from command parsed to reply queued; blocking commands and subscriptions left out.
    pub p50: Option<f64>,
    /// See `p50`.
    pub p99: Option<f64>,
    /// See `p50`.
    pub p999: Option<f64>,
    /// See `p50`.
    pub mean: Option<f64>,
    /// Seconds from written upstream to reply read, of the same commands.
    pub upstream_mean: Option<f64>,
    /// One point a second, oldest first.
    pub points: Vec<Point>,
}

/// One point of the graph.
#[derive(Clone, Copy, Debug, Default)]
pub struct Point {
    /// Commands answered a second.
    pub commands: f64,
    /// Clients connected.
    pub clients: u64,
    /// Upstream connections.
    pub upstream: u64,
    /// Seconds, of this second alone; 0 where nothing was answered.
    pub p99: f64,
}

/// The last values of something, oldest first.
#[derive(Debug)]
struct Window<T> {
    kept: VecDeque<T>,
    most: usize,
}

impl<T> Window<T> {
    /// An empty window that keeps `most` values.
    fn of(most: usize) -> Self {
        Self { kept: VecDeque::new(), most }
    }

    fn push(&mut self, value: T) {
        if self.kept.len() == self.most {
            self.kept.pop_front();
        }
        self.kept.push_back(value);
    }

    fn newest(&self) -> Option<&T> {
        self.kept.back()
    }

    /// The value `steps` before the newest, or the oldest where there are fewer.
    fn ago(&self, steps: usize) -> Option<&T> {
        self.kept.get((self.kept.len()).saturating_sub(steps + 1))
    }
}

/// Seconds over which PROXY STATS tells rates.
const HISTORY: usize = 10;

/// The counters of one worker over the last ten seconds. The worker's tick moves it.
#[derive(Debug)]
pub struct RateHistory(RefCell<Window<Counters>>);

impl Default for RateHistory {
    fn default() -> Self {
        Self(RefCell::new(Window::of(HISTORY)))
    }
}

impl RateHistory {
    /// Keeps the counters of `shard` if the last ones are a [`STEP`] old; `now` is in nanoseconds of the worker's clock.
    pub fn on_tick(&self, shard: &Shard, now: u64) {
        let mut window = self.0.borrow_mut();
        if window.newest().is_none_or(|last| u128::from(now.saturating_sub(last.at)) >= STEP.as_nanos()) {
            window.push(Counters::of(shard, now));
        }
    }

    /// The oldest counters; those of the worker's start, all zero, before there are any.
    pub fn oldest(&self) -> Counters {
        self.0.borrow().ago(HISTORY).cloned().unwrap_or_default()
    }
}

/// Everything that is added up, at one moment.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    commands: u64,
    counters: Counters,
    upstream: HistogramTotals,
    batches: HistogramTotals,
    busy: Vec<f64>,
    /// The totals of what is watched, in its order.
    watched: Vec<u64>,
    upstream_up: bool,
    draining: bool,
    paused: bool,
    load_good: bool,
    /// The beginning of the hash of the configuration in effect.
    config: String,
}

/// The samples, and what is noted of their differences.
pub(super) struct RateSampler {
    watched: Vec<CounterEvent>,
    inner: Mutex<RateSamples>,
}

struct RateSamples {
    samples: Window<Sample>,
    points: Window<Point>,
    /// What was said in the log of each event of `watch`, in the order of that list; moved at each sample.
    logged: Vec<Logged>,
}

/// What the log was told of a limit.
#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    /// Unix time in milliseconds of the last line.
    at: Option<u64>,
    /// How often the event has happened since the last line.
    unsaid: u64,
}

impl Logged {
    /// The event happened `more` times as of `now`. Returns the number that a line of the log is to tell, if there is
    /// to be one.
    fn on_more(&mut self, now: u64, more: u64, every: u64) -> Option<u64> {
        self.unsaid += more;
        let due = self.unsaid > 0 && self.at.is_none_or(|at| now.saturating_sub(at) >= every);
        due.then(|| {
            self.at = Some(now);
            std::mem::take(&mut self.unsaid)
        })
    }
}

impl RateSampler {
    pub(super) fn new() -> Self {
        let inner =
            RateSamples { samples: Window::of(LATENCY_OVER + 1), points: Window::of(POINTS), logged: Vec::new() };
        Self { watched: counter_events::all(), inner: Mutex::new(inner) }
    }

    /// Takes a sample, and notes what is new since the last one.
    pub(super) fn beat(&self, telemetry: &Telemetry, at: Instant) {
        let sample = self.sample(telemetry, at);
        let mut inner = self.lock();
        self.note(inner.samples.newest(), &sample, &telemetry.events);
        self.log(&mut inner, &sample);
        if let Some(before) = inner.samples.newest() {
            let point = point(telemetry, before, &sample);
            inner.points.push(point);
        }
        inner.samples.push(sample);
    }

    pub(super) fn rates(&self) -> Rates {
        let inner = self.lock();
        let mut rates = Rates { points: inner.points.kept.iter().copied().collect(), ..Rates::default() };
        if let (Some(now), Some(before)) = (inner.samples.newest(), inner.samples.ago(RATE_OVER)) {
            fill_rates(&mut rates, before, now);
        }
        if let (Some(now), Some(before)) = (inner.samples.newest(), inner.samples.ago(LATENCY_OVER)) {
            fill_latencies(&mut rates, before, now);
        }
        rates
    }

    /// Limits and failures, and how often they came up to now; those that never did are left out.
    pub(super) fn trouble(&self, telemetry: &Telemetry) -> Vec<(LogLevel, &str, u64)> {
        let total = |watched: &CounterEvent| watched.total(shards(telemetry), &telemetry.facts);
        let bad = self.watched.iter().filter(|watched| watched.is_bad());
        bad.map(|watched| (watched.level, watched.text.as_str(), total(watched))).filter(|(.., n)| *n > 0).collect()
    }

    fn sample(&self, telemetry: &Telemetry, at: Instant) -> Sample {
        let sum = |read: fn(&Shard) -> u64| shards(telemetry).map(read).sum();
        Sample {
            at,
            commands: sum(Shard::commands_total),
            counters: shards(telemetry).fold(Counters::default(), |mut all, shard| {
                all.add(&Counters::of(shard, 0));
                all
            }),
            upstream: totals(telemetry, |s| prompt().map(|class| &s.upstream_duration[class]).collect()),
            batches: totals(telemetry, |s| vec![&s.batch_commands]),
            busy: telemetry.shards.iter().map(|s| s.worker_busy_seconds.value()).collect(),
            watched: self.watched.iter().map(|w| w.total(shards(telemetry), &telemetry.facts)).collect(),
            upstream_up: telemetry.facts.upstream_up(),
            draining: telemetry.facts.draining(),
            paused: telemetry.facts.paused(),
            load_good: telemetry.facts.last_load_good(),
            config: telemetry.facts.config_sha256().chars().take(12).collect(),
        }
    }

    fn note(&self, before: Option<&Sample>, sample: &Sample, events: &Events) {
        let now = unix_millis();
        if before.is_none() {
            events.note(now, LogLevel::Info, concat!("respmux ", env!("CARGO_PKG_VERSION"), " started"), 1);
        }
        for (index, watched) in self.watched.iter().enumerate() {
            let more = sample.watched[index].saturating_sub(before.map_or(0, |before| before.watched[index]));
            if more > 0 {
                events.note(now, watched.level, &watched.text, more);
            }
        }
        if sample.upstream_up != before.is_some_and(|before| before.upstream_up) {
            match sample.upstream_up {
                true => events.note(now, LogLevel::Info, "the upstream answers", 1),
                false => events.note(now, LogLevel::Error, "the upstream does not answer", 1),
            }
        }
        if before.is_some_and(|before| before.config != sample.config) {
            let text = format!("another configuration is in effect: {}", sample.config);
            events.note(now, LogLevel::Info, &text, 1);
        }
        if !sample.load_good && before.is_some_and(|before| before.load_good) {
            events.note(now, LogLevel::Error, "the configuration changed and is wrong: the old one stays in effect", 1);
        }
        if sample.paused != before.is_some_and(|before| before.paused) {
            let text = if sample.paused { "paused: nothing is begun for clients" } else { "the pause has ended" };
            events.note(now, LogLevel::Warn, text, 1);
        }
        if sample.draining != before.is_some_and(|before| before.draining) {
            let text =
                if sample.draining { "draining: clients are asked to leave" } else { "the drain was called off" };
            events.note(now, LogLevel::Info, text, 1);
        }
    }

    /// A line of log for each limit that was reached, at most one in its time. Here rather than where it is reached:
    /// one place has the words, no worker writes, and many clients at once are one line.
    fn log(&self, inner: &mut RateSamples, sample: &Sample) {
        let RateSamples { samples, logged, .. } = inner;
        logged.resize(self.watched.len(), Logged::default());
        let (now, before) = (unix_millis(), samples.newest());
        for (index, watched) in self.watched.iter().enumerate().filter(|(_, watched)| watched.is_to_be_logged) {
            let more = sample.watched[index].saturating_sub(before.map_or(0, |before| before.watched[index]));
            let Some(times) = logged[index].on_more(now, more, watched.log_every()) else { continue };
            match watched.level {
                LogLevel::Error => tracing::error!(times, "limit reached: {}", watched.text),
                LogLevel::Warn => tracing::warn!(times, "limit reached: {}", watched.text),
                _ => tracing::info!(times, "limit reached: {}", watched.text),
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, RateSamples> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shards(telemetry: &Telemetry) -> impl Iterator<Item = &Shard> {
    telemetry.shards.iter().chain([&telemetry.acceptor]).map(|shard| &**shard)
}

/// The classes whose answers do not wait for somebody else.
fn prompt() -> impl Iterator<Item = LatencyClass> {
    LatencyClass::ALL.iter().copied().filter(|class| class.is_prompt())
}

fn totals<'a>(telemetry: &'a Telemetry, pick: impl Fn(&'a Shard) -> Vec<&'a Histogram>) -> HistogramTotals {
    HistogramTotals::of(shards(telemetry).flat_map(pick)).expect("the accept loop has a shard")
}

fn point(telemetry: &Telemetry, before: &Sample, now: &Sample) -> Point {
    let connections = |s: &Shard| -> u64 {
        let kinds = s.upstream_connections.as_slice().iter();
        kinds.flat_map(|states| states.as_slice()).map(super::cells::Level::value).sum()
    };
    Point {
        commands: per_second(before, now, |sample| sample.commands),
        clients: shards(telemetry).map(|s| s.clients.value()).sum(),
        upstream: shards(telemetry).map(connections).sum(),
        p99: in_seconds(prompt_since(before, now).quantile(0.99)).unwrap_or_default(),
    }
}

/// How long the commands took, from parsed to answered, that came between the two and do not wait for somebody else.
fn prompt_since(before: &Sample, now: &Sample) -> Durations {
    now.counters.since(&before.counters).all_prompt()
}

fn in_seconds(nanos: Option<f64>) -> Option<f64> {
    nanos.map(|nanos| nanos / 1e9)
}

fn seconds(before: &Sample, now: &Sample) -> f64 {
    now.at.duration_since(before.at).as_secs_f64()
}

#[allow(clippy::cast_precision_loss)] // what happens in seconds is far below 2^53
fn per_second(before: &Sample, now: &Sample, read: fn(&Sample) -> u64) -> f64 {
    let seconds = seconds(before, now);
    if seconds > 0.0 { read(now).saturating_sub(read(before)) as f64 / seconds } else { 0.0 }
}

fn fill_rates(rates: &mut Rates, before: &Sample, now: &Sample) {
    let seconds = seconds(before, now);
    rates.rate_over = seconds;
    rates.commands = per_second(before, now, |s| s.commands);
    rates.own_errors = per_second(before, now, |s| s.counters.own_errors);
    rates.upstream_errors = per_second(before, now, |s| s.counters.upstream_errors);
    rates.received = per_second(before, now, |s| s.counters.client_in);
    rates.sent = per_second(before, now, |s| s.counters.client_out);
    rates.commands_per_write = now.batches.since(&before.batches).mean();
    let load =
        |(now, before): (&f64, &f64)| if seconds > 0.0 { ((now - before) / seconds).clamp(0.0, 1.0) } else { 0.0 };
    rates.loads = now.busy.iter().zip(&before.busy).map(load).collect();
}

fn fill_latencies(rates: &mut Rates, before: &Sample, now: &Sample) {
    rates.latency_over = seconds(before, now);
    let (command, upstream) = (prompt_since(before, now), now.upstream.since(&before.upstream));
    [rates.p50, rates.p99, rates.p999] = [0.5, 0.99, 0.999].map(|share| in_seconds(command.quantile(share)));
    rates.mean = in_seconds((command.count() > 0).then(|| command.mean()));
    rates.upstream_mean = upstream.mean();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::{ProcessFacts, RejectReason};

    fn telemetry() -> Telemetry {
        Telemetry::new(2, &["GET".to_owned()], Arc::new(ProcessFacts::new("db:6379", "c0ffee")))
    }

    #[test]
    fn rates_are_over_the_last_seconds_and_latencies_over_some_more() {
        let telemetry = telemetry();
        let start = Instant::now();
        assert!(telemetry.rates().commands.abs() < 1e-9 && telemetry.rates().p50.is_none());
        for second in 0..20_u64 {
            telemetry.sampler.beat(&telemetry, start + STEP * u32::try_from(second).unwrap());
            for _ in 0..10 * second {
                telemetry.shards[0].command(0);
                telemetry.shards[0].latency(LatencyClass::Read, 80_000);
                telemetry.shards[0].upstream_latency(LatencyClass::Read, 60_000);
            }
            telemetry.shards[1].latency(LatencyClass::Blocking, 5_000_000_000);
            telemetry.shards[1].worker_busy_seconds.set(0.25 * second as f64);
        }
        let rates = telemetry.rates();
        // Of the seconds 14 to 18.
        assert!((rates.commands - 160.0).abs() < 1e-9, "{}", rates.commands);
        assert!((rates.loads[1] - 0.25).abs() < 1e-9 && rates.loads[0].abs() < 1e-9, "{:?}", rates.loads);
        assert!((rates.rate_over - 5.0).abs() < 1e-9 && (rates.latency_over - 10.0).abs() < 1e-9);
        let p99 = rates.p99.unwrap();
        assert!((50e-6..=100e-6).contains(&p99), "blocking commands are left out: {p99}");
        assert!((rates.mean.unwrap() - 80e-6).abs() < 1e-9 && (rates.upstream_mean.unwrap() - 60e-6).abs() < 1e-9);
        assert_eq!(rates.points.len(), 19);
        assert!((rates.points[18].commands - 180.0).abs() < 1e-9);
    }

    #[test]
    fn the_graph_has_an_end() {
        let telemetry = telemetry();
        let start = Instant::now();
        for second in 0..400 {
            telemetry.sampler.beat(&telemetry, start + STEP * second);
        }
        assert_eq!(telemetry.rates().points.len(), POINTS);
        assert_eq!(telemetry.sampler.lock().samples.kept.len(), LATENCY_OVER + 1);
    }

    #[test]
    fn what_grows_is_an_event_and_what_is_bad_stays_counted() {
        let telemetry = telemetry();
        let start = Instant::now();
        telemetry.sampler.beat(&telemetry, start);
        telemetry.facts.node(0).set_up(true);
        telemetry.acceptor.client_rejected[RejectReason::Limit].add(3);
        telemetry.sampler.beat(&telemetry, start + STEP);
        telemetry.facts.node(0).set_up(false);
        telemetry.facts.set_draining(true);
        telemetry.acceptor.client_rejected[RejectReason::Limit].add(4);
        telemetry.sampler.beat(&telemetry, start + 2 * STEP);
        telemetry.sampler.beat(&telemetry, start + 3 * STEP);
        let mut events: Vec<_> = telemetry.events.latest().into_iter().map(|e| (e.text, e.count)).collect();
        events.sort();
        let expected = [
            ("clients refused: client.max_connections", 7),
            ("draining: clients are asked to leave", 1),
            (concat!("respmux ", env!("CARGO_PKG_VERSION"), " started"), 1),
            ("the upstream answers", 1),
            ("the upstream does not answer", 1),
        ];
        assert_eq!(events, expected.map(|(text, count)| (text.to_owned(), count)));
        assert_eq!(telemetry.trouble(), [(LogLevel::Warn, "clients refused: client.max_connections", 7)]);
    }

    #[test]
    fn counters_reach_ten_seconds_back() {
        let (history, shard) = (RateHistory::default(), Shard::new(0));
        assert_eq!(history.oldest(), Counters::default());
        for tick in 0..300 {
            shard.client_received_bytes.inc();
            history.on_tick(&shard, tick * 100_000_000);
        }
        let oldest = history.oldest();
        assert_eq!((oldest.at, oldest.client_in), (20_000_000_000, 201));
    }
}
