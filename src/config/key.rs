//! What a key is, and how tables of them are written.

use super::kind::Kind;
use super::raw::Raw;
use super::value::Setting;

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// As in the file, with dots: `upstream.max_connections`.
    pub(crate) path: &'static str,
    /// As in a variable; `None` when the key has no value until somebody gives one.
    default: Option<&'static str>,
    /// A value for the example where there is no default.
    example: &'static str,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// Long flag without dashes, and what its value is called in the help.
    pub(crate) flag: Option<(&'static str, &'static str)>,
    /// Its path in the version before; still read, with a warning.
    pub(crate) old: Option<&'static str>,
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
        variable(self.path)
    }

    /// All variables that give it.
    pub(super) fn variables(&self) -> Vec<String> {
        let more = [self.short_env.map(str::to_owned), self.old.map(variable)];
        [self.env()].into_iter().chain(more.into_iter().flatten()).collect()
    }

    /// Whether this is the name that it had before.
    pub(crate) fn is_old(&self, path: &str) -> bool {
        self.old == Some(path)
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

    /// Whether both are in one table.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.table_and_name().0 == other.table_and_name().0
    }

    /// The line of TOML before the keys of its table.
    pub(crate) fn header(&self) -> String {
        match self.table_and_name().0 {
            "" => String::new(),
            table => format!("[{table}]\n"),
        }
    }

    /// When a changed value counts, in a few words.
    pub(crate) fn takes_effect(&self) -> &'static str {
        if self.live { "on reload" } else { "after a restart" }
    }

    pub(super) const fn flag(self, name: &'static str, value: &'static str) -> Self {
        Self { flag: Some((name, value)), ..self }
    }

    pub(super) const fn formerly(self, old: &'static str) -> Self {
        Self { old: Some(old), ..self }
    }

    pub(super) const fn short_env(self, name: &'static str) -> Self {
        Self { short_env: Some(name), ..self }
    }

    /// What was made of it at the start cannot change while the process runs.
    pub(super) const fn restart(self) -> Self {
        Self { live: false, ..self }
    }

    /// For [`table!`].
    pub(super) const fn named(self, path: &'static str, doc: &'static str) -> Self {
        Self { path, doc: doc.trim_ascii_start(), ..self }
    }
}

/// The variable of a path.
pub(super) fn variable(path: &str) -> String {
    format!("RESPMUX_{}", path.to_ascii_uppercase().replace('.', "_"))
}

pub(super) const fn key(default: &'static str, kind: Kind) -> Key {
    Key { default: Some(default), ..optional("", kind) }
}

pub(super) const fn optional(example: &'static str, kind: Kind) -> Key {
    Key { path: "", default: None, example, kind, flag: None, old: None, short_env: None, doc: "", live: true }
}

/// A time up to a day, from `min` milliseconds.
pub(super) const fn time(default: &'static str, min: u64) -> Key {
    key(default, Kind::Time { min, max: 86_400_000 })
}

pub(super) const fn size(default: &'static str, min: usize, max: usize) -> Key {
    key(default, Kind::Size { min, max })
}

pub(super) const fn count(default: &'static str, min: usize, max: usize) -> Key {
    key(default, Kind::Count { min, max })
}

pub(super) const fn switch(default: &'static str) -> Key {
    key(default, Kind::Switch)
}

pub(super) const fn word(default: &'static str, words: &'static [&'static str]) -> Key {
    key(default, Kind::Word(words))
}

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const GIB: usize = 1 << 30;

/// Keys whose paths begin alike: a row is the name of a key and what it takes, below its text for the reference.
///
/// `pub struct` makes a struct of them. A row with a type is a field, too, and has the same text; the fields `with` it
/// are what keys without a type come to, and are handed to `read`. `const` makes a list of keys only.
macro_rules! table {
    ($(#[$about:meta])* pub struct $name:ident = $prefix:literal { $($rows:tt)* } $(with { $($with:tt)* })?) => {
        table! { @ $prefix (struct $(#[$about])* $name { $($($with)*)? }) () () $($rows)* }
    };
    (const $name:ident = $prefix:literal { $($rows:tt)* }) => {
        table! { @ $prefix (const $name) () () $($rows)* }
    };
    // Row after row moves from the end to the lists of keys and of fields.
    (@ $prefix:literal $made:tt ($($keys:tt)*) ($($fields:tt)*)
     $(#[doc = $doc:literal])+ $name:ident: $type:ty = $key:expr; $($rows:tt)*) => {
        table! {
            @ $prefix $made
            ($($keys)* $key.named(concat!($prefix, stringify!($name)), concat!($($doc),+)),)
            ($($fields)* ($($doc)+) $name: $type, concat!($prefix, stringify!($name));)
            $($rows)*
        }
    };
    (@ $prefix:literal $made:tt ($($keys:tt)*) $fields:tt
     $(#[doc = $doc:literal])+ $name:ident = $key:expr; $($rows:tt)*) => {
        table! {
            @ $prefix $made
            ($($keys)* $key.named(concat!($prefix, stringify!($name)), concat!($($doc),+)),)
            $fields
            $($rows)*
        }
    };
    (@ $prefix:literal (struct $(#[$about:meta])* $name:ident { $($(#[$what:meta])* $with:ident: $given:ty,)* })
     ($($keys:tt)*) ($(($($doc:literal)+) $field:ident: $type:ty, $path:expr;)*)) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)*
            $($(#[$what])* pub $with: $given,)*
        }

        impl $name {
            pub(super) const KEYS: &'static [Key] = &[$($keys)*];

            pub(super) fn read(settings: &Settings $(, $with: $given)*) -> Self {
                Self { $($field: settings.get($path),)* $($with,)* }
            }
        }
    };
    (@ $prefix:literal (const $name:ident) ($($keys:tt)*) ()) => {
        pub(super) const $name: &[Key] = &[$($keys)*];
    };
}

/// An enum that is one word in the configuration.
macro_rules! words {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$what])* $variant,)+ }

        impl $name {
            pub(super) const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl FromSetting for $name {
            fn from_setting(setting: &Setting) -> Option<Self> {
                match setting {
                    $(Setting::Word($word) => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

pub(super) use {table, words};
