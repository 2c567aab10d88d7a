//! Counts log events by level.

use std::sync::Arc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::facts::ProcessFacts;
use super::reasons::LogLevel;

/// A tracing layer that counts the events it sees into the process facts.
///
/// An event that the global filter drops was never made and is not counted.
pub struct LogCount(Arc<ProcessFacts>);

impl LogCount {
    /// A layer that counts into `facts`.
    pub fn new(facts: Arc<ProcessFacts>) -> Self {
        Self(facts)
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
        let facts = Arc::new(ProcessFacts::new("a:1", ""));
        let subscriber = tracing_subscriber::registry().with(LogCount::new(Arc::clone(&facts)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("one");
            tracing::info!("two");
            tracing::info!("three");
        });
        let counts: Vec<_> = (0..LogLevel::ALL.len()).map(|i| facts.log_messages(i)).collect();
        assert_eq!(counts, [1, 0, 2, 0, 0]);
    }
}
