//! `[log]`: what is written to stderr. Pure.

use super::key::{Key, key, table, word, words};
use super::kind::Kind;
use super::settings::Settings;
use super::value::{FromSetting, Setting};

table! {
    /// Logs.
    pub struct Log = "log." {
        /// off, error, warn, info, debug or trace. Parts of the program can have levels of their own: target=level,
        /// separated by commas.
        level: String = key("info", Kind::LogFilter).flag("log-level", "LEVEL");
        /// "auto" is text on a terminal and JSON elsewhere.
        format: LogFormat = word("auto", LogFormat::WORDS).restart().flag("log-format", "FORMAT");
    }
}

words! {
    /// Form of a log line.
    pub enum LogFormat {
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}

impl LogFormat {
    /// Whether lines are JSON where they go to a terminal, or do not.
    pub(crate) fn is_json(self, is_terminal: bool) -> bool {
        match self {
            Self::Json => true,
            Self::Text => false,
            Self::Auto => !is_terminal,
        }
    }
}
