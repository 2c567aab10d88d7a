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

/// One thing that is wrong with the configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    origin: Option<Origin>,
    reason: String,
}

impl Problem {
    pub(super) fn at(origin: Origin, reason: impl Into<String>) -> Self {
        Self { origin: Some(origin), reason: reason.into() }
    }

    /// For what lies in no single place.
    pub(super) fn general(reason: impl Into<String>) -> Self {
        Self { origin: None, reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// Everything that is wrong, one line each. Never empty, never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// One problem that lies in no single place.
    pub(crate) fn of(reason: impl Into<String>) -> Self {
        Self(vec![Problem::general(reason)])
    }

    /// Several such; at least one.
    pub(crate) fn all(reasons: Vec<String>) -> Self {
        Self(reasons.into_iter().map(Problem::general).collect())
    }

    /// One text for each problem.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(Problem::to_string).collect()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join("\n"))
    }
}

/// The value of a key and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(super) setting: Setting,
    pub(super) origin: Origin,
}

/// One entry for each key, by its path.
#[derive(Clone, Debug)]
pub(crate) struct Settings(pub(super) BTreeMap<&'static str, Entry>);

impl Settings {
    pub(super) fn entry(&self, path: &str) -> &Entry {
        self.0.get(path).expect("the key has a row in a table")
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
