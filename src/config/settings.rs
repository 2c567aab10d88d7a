//! All values, each with its origin, and what can be wrong with them. Pure.

use std::collections::BTreeMap;
use std::fmt;

use super::value::{FromSetting, Setting};

/// Where a value was given. Later variants win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    /// Line and column count from 1.
    File {
        name: String,
        line: usize,
        column: usize,
    },
    /// Name of the variable.
    Environment(String),
    /// As typed, without the value: `--workers`, `--set workers`.
    Flag(String),
}

impl Origin {
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Everything that is wrong, one line each, with where it is. Never empty, never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub(super) Vec<String>);

impl Problems {
    /// One problem that lies in no single place.
    pub(crate) fn of(reason: impl Into<String>) -> Self {
        Self(vec![reason.into()])
    }

    /// Several such; at least one.
    pub(crate) fn all(reasons: Vec<String>) -> Self {
        Self(reasons)
    }

    /// One text for each problem.
    pub fn texts(&self) -> Vec<String> {
        self.0.clone()
    }
}

/// The value of a key and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(super) setting: Setting,
    pub(super) origin: Origin,
}

/// The outcome of all layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// One for each key, by its path.
    pub(super) entries: BTreeMap<&'static str, Entry>,
    /// What works, but will not for ever.
    pub(super) warnings: Vec<String>,
}

impl Settings {
    pub(super) fn entry(&self, path: &str) -> &Entry {
        self.entries.get(path).expect("the key has a row in a table")
    }

    pub(super) fn origin(&self, path: &str) -> &Origin {
        &self.entry(path).origin
    }

    /// The value as the program uses it. That its type belongs to the kind of the key is seen by the first test that
    /// loads anything.
    pub(super) fn get<T: FromSetting>(&self, path: &str) -> T {
        let setting = &self.entry(path).setting;
        T::from_setting(setting).unwrap_or_else(|| unreachable!("{path} is of another kind: {setting:?}"))
    }

    pub(super) fn is(&self, path: &str, word: &'static str) -> bool {
        self.entry(path).setting == Setting::Word(word)
    }
}
