//! Logs: lines on stderr, as text or JSON.

use std::env;
use std::io::{self, IsTerminal};
use std::sync::{LazyLock, OnceLock};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use super::log_count::{LogCount, LogCounts};
use crate::config::Log;

/// The process has one log, which is set up before there is anything else.
static COUNTS: LazyLock<LogCounts> = LazyLock::new(LogCounts::default);

/// How many lines the log of this process has got, suppressed ones included.
pub fn counts() -> LogCounts {
    COUNTS.clone()
}

/// To change the filter of the log that was set up.
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Sets up logging for the process; to be called once, before the first line. A second call has no effect. Standard
/// output stays free for what a command answers.
pub fn init(log: &Log) {
    let is_terminal = io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(targets(&log.level));
    // What this filter drops is made nowhere, and costs next to nothing.
    let registry = tracing_subscriber::registry().with(filter).with(LogCount::new(counts()));
    // A test, or a program around the library, may have set up its own.
    let done = match log.format.is_json(is_terminal) {
        true => {
            let lines = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry.with(lines).try_init()
        }
        false => {
            let colour = is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let lines = fmt::layer().with_ansi(colour).with_writer(io::stderr);
            registry.with(lines).try_init()
        }
    };
    if done.is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Another `log.level` from here on.
pub fn set_level(level: &str) {
    if let Some(handle) = LEVEL.get() {
        // The filter lives as long as the process.
        let _ = handle.reload(targets(level));
    }
}

/// The filter for `log.level`, which the configuration has checked. Should it be wrong all the same, a proxy that logs
/// at info is better than one that does not start.
fn targets(level: &str) -> Targets {
    level.parse().unwrap_or_else(|_| Targets::new().with_default(Level::INFO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn auto_is_text_on_a_terminal_only() {
        assert!(!LogFormat::Auto.is_json(true));
        assert!(LogFormat::Auto.is_json(false));
        assert!(LogFormat::Json.is_json(true));
        assert!(!LogFormat::Text.is_json(false));
    }

    #[test]
    fn the_filter_takes_levels_and_targets() {
        let filter = targets("warn,respmux::upstream=debug");
        assert!(filter.would_enable("other", &Level::WARN));
        assert!(!filter.would_enable("other", &Level::INFO));
        assert!(filter.would_enable("respmux::upstream::lane", &Level::DEBUG));
        assert!(!targets("off").would_enable("respmux", &Level::ERROR));
    }
}
