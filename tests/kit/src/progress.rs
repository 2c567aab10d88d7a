//! What a long run tells while it runs.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two lines. A run that is over sooner says nothing.
const EVERY: Duration = Duration::from_secs(5);

/// A line on standard error every few seconds: how many of how many, how many a second, and the time left. Whoever does
/// the work counts it here, from any thread; nothing else has to be started or ended.
pub struct Progress {
    what: String,
    total: Option<u64>,
    time: Option<Duration>,
    begun: Instant,
    done: AtomicU64,
    /// When the last line was printed, in milliseconds since the beginning.
    told: AtomicU64,
}

impl Progress {
    /// `what` is counted, in the plural: `seeds`, `storm: replies`.
    pub fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            total: None,
            time: None,
            begun: Instant::now(),
            done: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// The run ends after so many.
    pub fn of(mut self, total: u64) -> Self {
        self.total = Some(total);
        self
    }

    /// The run ends after so long.
    pub fn within(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// The `items`, each counted when the next one is asked for: for a loop that does the work itself.
    pub fn over<I: Iterator>(what: &str, items: I) -> impl Iterator<Item = I::Item> {
        let progress = Self { total: items.size_hint().1.map(|most| most as u64), ..Self::new(what) };
        items.enumerate().map(move |(done, item)| {
            progress.reach(done as u64);
            item
        })
    }

    /// So many more are done.
    pub fn add(&self, more: u64) {
        self.tell(self.done.fetch_add(more, Ordering::Relaxed) + more);
    }

    /// So many are done in all, for whoever counts by himself.
    pub fn reach(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.tell(done);
    }

    fn tell(&self, done: u64) {
        let passed = self.begun.elapsed();
        let (now, last) = (passed.as_millis() as u64, self.told.load(Ordering::Relaxed));
        if now < last + EVERY.as_millis() as u64 {
            return;
        }
        // Of several threads that come here at once, one tells.
        if self.told.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            eprintln!("{}", self.line(done, passed));
        }
    }

    fn line(&self, done: u64, passed: Duration) -> String {
        let rate = done as f64 / passed.as_secs_f64().max(1e-3);
        let mut line = match self.total {
            Some(total) => format!("{}: {} of {}", self.what, grouped(done), grouped(total)),
            None => format!("{}: {}", self.what, grouped(done)),
        };
        let _ = if rate < 10.0 { write!(line, ", {rate:.1}/s") } else { write!(line, ", {}/s", grouped(rate as u64)) };
        let by_count = self.total.filter(|_| done > 0).map(|total| total.saturating_sub(done) as f64 / rate);
        let by_time = self.time.map(|time| time.saturating_sub(passed).as_secs_f64());
        if let Some(left) = [by_count, by_time].into_iter().flatten().min_by(f64::total_cmp) {
            let _ = write!(line, ", {} left", spoken(left));
        }
        line
    }
}

/// With a comma after each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as a person says them.
fn spoken(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        0..=99 => format!("{seconds:.0} s"),
        100..=5999 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[test]
fn a_line_says_count_rate_and_time_left() {
    let line = |progress: Progress, done, seconds| progress.line(done, Duration::from_secs(seconds));
    let counted = || Progress::new("replies").of(10_000_000);
    assert_eq!(line(counted(), 1_000_000, 50), "replies: 1,000,000 of 10,000,000, 20,000/s, 8 min left");
    assert_eq!(line(counted(), 0, 50), "replies: 0 of 10,000,000, 0.0/s");
    let timed = |seconds| Progress::new("replies").within(Duration::from_secs(seconds));
    assert_eq!(line(timed(60), 77, 10), "replies: 77, 7.7/s, 50 s left");
    assert_eq!(line(timed(60).of(100), 77, 10), "replies: 77 of 100, 7.7/s, 3 s left");
    assert_eq!(line(timed(8000), 77, 10), "replies: 77, 7.7/s, 2.2 h left");
}
