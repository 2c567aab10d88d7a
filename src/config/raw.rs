//! A value as somebody wrote it, before anyone knows what it should be. Pure.

/// By where it was written, which decides whether a text may stand for a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Raw {
    /// From a place that has only text: a flag, a variable, a default.
    Untyped(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array of strings, or a repeated flag.
    List(Vec<String>),
    /// A TOML array of tables.
    Tables(Vec<Vec<(String, Self)>>),
    /// Any other TOML value, by the name of its type.
    Other(&'static str),
}

impl Raw {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Untyped(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// One text or several. Commas part them only where there is no array: a path may hold one.
    pub(super) fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::Untyped(text) => Some(text.split(',').map(str::trim).collect()),
            Self::Text(text) => Some(vec![text]),
            Self::List(texts) => Some(texts.iter().map(String::as_str).collect()),
            _ => None,
        }
    }

    /// For an error.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Untyped(text) | Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(on) => on.to_string(),
            Self::List(_) | Self::Tables(_) => "an array".to_owned(),
            Self::Other(kind) => format!("a TOML {kind}"),
        }
    }
}
