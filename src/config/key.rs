//! What a key is, and how one is found; the keys themselves are in `keys`.

use super::keys::KEYS;
use super::value::{Kind, Raw, Setting};

/// One row of [`KEYS`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// As in the file, with dots: `upstream.max_connections`.
    pub(crate) path: &'static str,
    /// As in a variable; `None` when the key has no value until somebody gives one.
    pub(super) default: Option<&'static str>,
    /// A value for the example where there is no default.
    example: &'static str,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// Long flag without dashes, and what its value is called in the help.
    pub(crate) flag: Option<(&'static str, &'static str)>,
    /// A second, shorter variable.
    pub(crate) short_env: Option<&'static str>,
    /// What it is for, with what happens at the bound.
    pub(crate) doc: &'static str,
    /// A reload puts it in force; otherwise it waits for the next start.
    pub(crate) live: bool,
}

impl Key {
    /// The variable every key has: `RESPMUX_` and the path in capitals, dots as underscores.
    pub(crate) fn env(&self) -> String {
        format!("RESPMUX_{}", self.path.to_ascii_uppercase().replace('.', "_"))
    }

    /// The value when nobody gives one.
    pub(crate) fn default_setting(&self) -> Setting {
        let Some(text) = self.default else {
            return Setting::Unset;
        };
        self.kind.parse(&Raw::Untyped(text.to_owned())).expect("every default is valid: tested")
    }

    /// The default as a flag or variable would give it; nothing when the key has no value then.
    pub(crate) fn default_text(&self) -> Option<&'static str> {
        self.default
    }

    /// The value that the example shows, as TOML, and whether it is the default.
    pub(crate) fn example_toml(&self) -> (String, bool) {
        match self.default_setting().to_toml() {
            Some(text) => (text, true),
            None => (self.example.to_owned(), false),
        }
    }

    /// Table and name: `("upstream", "url")`, `("", "listen")`.
    pub(crate) fn table_and_name(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    pub(super) const fn flag(mut self, name: &'static str, value: &'static str) -> Self {
        self.flag = Some((name, value));
        self
    }

    pub(super) const fn short_env(mut self, name: &'static str) -> Self {
        self.short_env = Some(name);
        self
    }

    /// What was made of it at the start cannot change while the process runs.
    pub(super) const fn restart(mut self) -> Self {
        self.live = false;
        self
    }

    /// When a changed value counts, in a few words.
    pub(crate) fn takes_effect(&self) -> &'static str {
        if self.live { "on reload" } else { "after a restart" }
    }
}

pub(super) const fn key(path: &'static str, default: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, default: Some(default), example: "", kind, flag: None, short_env: None, doc, live: true }
}

pub(super) const fn optional(path: &'static str, example: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, default: None, example, kind, flag: None, short_env: None, doc, live: true }
}

/// A time up to a day, from `min` milliseconds.
pub(super) const fn time(min: u64) -> Kind {
    Kind::Time { min, max: 86_400_000 }
}

pub(super) const fn size(min: usize, max: usize) -> Kind {
    Kind::Size { min, max }
}

pub(super) const fn count(min: usize, max: usize) -> Kind {
    Kind::Count { min, max }
}

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const GIB: usize = 1 << 30;

/// The row of a key.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The candidate that looks most like `word`, if one does.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::osa_distance(word, candidate);
    let best = candidates.min_by_key(distance)?;
    (distance(&best) <= (word.len() / 4).max(1)).then_some(best)
}

/// The keys that an unknown path may have meant: those of the same name in other tables, else one
/// that looks like it, else those whose name does.
pub(crate) fn suggestions(path: &str) -> Vec<&'static str> {
    let named = |name: &str| -> Vec<&'static str> {
        let same = KEYS.iter().filter(|key| key.table_and_name().1 == name);
        same.map(|key| key.path).collect()
    };
    let name = path.rsplit('.').next().unwrap_or(path);
    let same = named(name);
    if !same.is_empty() {
        return same;
    }
    if let Some(best) = nearest(path, KEYS.iter().map(|key| key.path)) {
        return vec![best];
    }
    nearest(name, KEYS.iter().map(|key| key.table_and_name().1)).map_or_else(Vec::new, named)
}
