//! Counts log events by level.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::cells::Each;
use super::reasons::LogLevel;

/// How many log events there were. Any thread may log, hence locked increments.
#[derive(Clone, Default)]
pub struct LogCounts(Arc<Each<LogLevel, AtomicU64>>);

impl LogCounts {
    /// A log event was made.
    pub fn logged(&self, level: LogLevel) {
        self.0[level].fetch_add(1, Relaxed);
    }

    pub(super) fn of(&self, level: usize) -> u64 {
        self.0.at(level).load(Relaxed)
    }
}

/// A tracing layer that counts the events it sees.
///
/// An event that the global filter drops was never made and is not counted.
pub struct LogCount(LogCounts);

impl LogCount {
    /// A layer that counts into `counts`.
    pub fn new(counts: LogCounts) -> Self {
        Self(counts)
    }
}

impl<S: Subscriber> Layer<S> for LogCount {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        self.0.logged(level_of(*event.metadata().level()));
    }
}

fn level_of(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn events_are_counted_by_their_level() {
        let logged = LogCounts::default();
        let subscriber = tracing_subscriber::registry().with(LogCount::new(logged.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("one");
            tracing::info!("two");
            tracing::info!("three");
        });
        let counts: Vec<_> = (0..LogLevel::ALL.len()).map(|i| logged.of(i)).collect();
        assert_eq!(counts, [1, 0, 2, 0, 0]);
    }
}
