//! What is noted while settings become a configuration. The checks themselves stand beside the tables. Pure.

use std::fmt;

use super::settings::{Origin, Problems, Settings};

/// The settings, and what was found to be wrong with them or worth a word.
pub(super) struct Check<'a> {
    pub(super) settings: &'a Settings,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> Check<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        Self { settings, problems: Vec::new(), warnings: settings.warnings.clone() }
    }

    /// Something is wrong where this key was given.
    pub(super) fn problem(&mut self, path: &str, reason: impl fmt::Display) {
        self.problems.push(format!("{}: {reason}", self.settings.origin(path)));
    }

    /// Something is wrong in no single place.
    pub(super) fn general(&mut self, reason: impl Into<String>) {
        self.problems.push(reason.into());
    }

    /// It works, but perhaps not as meant.
    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// The first of two settings must not be above the second.
    pub(super) fn ordered(&mut self, low: &str, high: &str) {
        let setting = |path| &self.settings.entry(path).setting;
        if setting(low).amount() > setting(high).amount() {
            let show = |path| setting(path).to_toml().unwrap_or_default();
            let reason = format!("{low} = {} must not be above {high} = {}", show(low), show(high));
            let given = if self.settings.origin(low) == &Origin::Default { high } else { low };
            self.problem(given, reason);
        }
    }

    /// What several keys can give: the one of the latest layer, and a problem if two are in it.
    pub(super) fn latest<T, const N: usize>(&mut self, what: &str, given: [(&str, Option<T>); N]) -> Option<T> {
        let mut kept: Option<(&str, T)> = None;
        for (path, value) in given {
            let Some(value) = value else { continue };
            let Some((other, _)) = &kept else {
                kept = Some((path, value));
                continue;
            };
            let (here, there) = (self.settings.origin(path), self.settings.origin(other));
            if here.rank() == there.rank() {
                self.problem(path, format!("{path}: the {what} is also in {other} ({there}); keep one"));
            } else if here.rank() > there.rank() {
                kept = Some((path, value));
            }
        }
        kept.map(|(_, value)| value)
    }

    /// The warnings, when nothing is wrong.
    pub(super) fn finish(self) -> Result<Vec<String>, Problems> {
        if self.problems.is_empty() { Ok(self.warnings) } else { Err(Problems(self.problems)) }
    }
}
