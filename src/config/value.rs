//! One value: as written, as understood, and as printed. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{Listen, UpstreamUrl, parse_password};
use super::secret::{REDACTED, Secret};
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::users::User;

/// A value as somebody wrote it, before anyone knows what it should be.
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

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A whole number within bounds.
    Count { min: usize, max: usize },
    /// The same, or this word.
    CountOr { word: &'static str, min: usize, max: usize },
    /// Bytes, within bounds.
    Size { min: usize, max: usize },
    /// The same, or this word.
    SizeOr { word: &'static str, min: usize, max: usize },
    /// A duration, within bounds in milliseconds.
    Time { min: u64, max: u64 },
    /// Yes or no.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Addresses to listen on; at least one, none twice.
    Listen,
    /// An IP address and port, or `off`.
    AddressOrOff,
    /// The upstream.
    Url,
    /// Any text.
    Text,
    /// Any text, never printed.
    Secret,
    /// A list of texts, perhaps empty.
    Texts,
    /// `[[auth.users]]`.
    Accounts,
    /// A path.
    Path,
    /// `level` or `target=level`, comma separated.
    LogFilter,
    /// Permissions of a file in octal digits.
    Mode,
    /// Numbers of users, comma separated or an array of texts.
    Uids,
}

/// A value that its kind has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Unset,
    Count(usize),
    Size(usize),
    Time(Duration),
    Switch(bool),
    Word(&'static str),
    Listen(Vec<Listen>),
    Address(SocketAddr),
    Url(UpstreamUrl),
    Text(String),
    Secret(Secret),
    Path(PathBuf),
    Mode(u32),
    Uids(Vec<u32>),
    Texts(Vec<String>),
    Accounts(Vec<User>),
}

pub(super) const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Kind {
    /// Whether the value may hold a secret and must not be quoted.
    pub(super) fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Url | Self::Accounts)
    }

    /// Understands a value. `Err` says what was expected, and quotes what was given unless that
    /// may be a secret.
    pub(crate) fn parse(self, raw: &Raw) -> Result<Setting, String> {
        match self {
            Self::Count { min, max } => self.count(raw, min, max),
            Self::CountOr { word, min, max } => match raw.text() {
                Some(text) if text == word => Ok(Setting::Word(word)),
                _ => self.count(raw, min, max),
            },
            Self::Size { min, max } => self.size(raw, min, max),
            Self::SizeOr { word, min, max } => match raw.text() {
                Some(text) if text == word => Ok(Setting::Word(word)),
                _ => self.size(raw, min, max),
            },
            Self::Time { min, max } => self.time(raw, min, max),
            Self::Switch => match (raw, raw.text()) {
                (Raw::Boolean(on), _) => Ok(Setting::Switch(*on)),
                (Raw::Untyped(_), Some("true" | "1" | "yes" | "on")) => Ok(Setting::Switch(true)),
                (Raw::Untyped(_), Some("false" | "0" | "no" | "off")) => Ok(Setting::Switch(false)),
                _ => Err(self.expected(raw)),
            },
            Self::Word(words) => {
                let word = words.iter().find(|word| raw.text() == Some(**word));
                word.map(|word| Setting::Word(word)).ok_or_else(|| self.expected(raw))
            }
            Self::Accounts => match raw {
                Raw::Tables(tables) => {
                    tables.iter().map(|table| User::parse(table)).collect::<Result<_, _>>().map(Setting::Accounts)
                }
                _ => Err(self.expected(raw)),
            },
            Self::Texts => texts(raw).map(Setting::Texts).ok_or_else(|| self.expected(raw)),
            Self::Listen => listen(raw).ok_or_else(|| self.expected(raw))?,
            Self::Mode => {
                let digits = raw.text().filter(|text| (3..=4).contains(&text.len()));
                let mode = digits.and_then(|text| u32::from_str_radix(text, 8).ok()).filter(|mode| *mode <= 0o777);
                mode.map(Setting::Mode).ok_or_else(|| self.expected(raw))
            }
            Self::Uids => uids(raw).ok_or_else(|| self.expected(raw)),
            Self::AddressOrOff => match raw.text() {
                Some("off") => Ok(Setting::Word("off")),
                text => {
                    let address = text.and_then(|text| text.parse().ok());
                    address.map(Setting::Address).ok_or_else(|| self.expected(raw))
                }
            },
            Self::Url | Self::Text | Self::Secret | Self::Path | Self::LogFilter => {
                let text = raw.text().ok_or_else(|| self.expected(raw))?;
                self.text(text)
            }
        }
    }

    fn count(self, raw: &Raw, min: usize, max: usize) -> Result<Setting, String> {
        let number = match raw {
            Raw::Integer(number) => usize::try_from(*number).ok(),
            Raw::Untyped(text) => text.parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| self.expected(raw))?;
        if number < min || number > max {
            return Err(format!("must be {min} to {max}, got {number}"));
        }
        Ok(Setting::Count(number))
    }

    fn size(self, raw: &Raw, min: usize, max: usize) -> Result<Setting, String> {
        let size = match raw {
            Raw::Integer(number) => usize::try_from(*number).ok(),
            _ => raw.text().and_then(parse_size),
        };
        let size = size.ok_or_else(|| self.expected(raw))?;
        if size < min || size > max {
            let (min, max) = (show_size(min), show_size(max));
            return Err(format!("must be {min} to {max}, got {}", show_size(size)));
        }
        Ok(Setting::Size(size))
    }

    fn time(self, raw: &Raw, min: u64, max: u64) -> Result<Setting, String> {
        let time = raw.text().and_then(parse_duration).ok_or_else(|| self.expected(raw))?;
        let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
        if time < min || time > max {
            let (min, max) = (show_duration(min), show_duration(max));
            return Err(format!("must be {min} to {max}, got {}", show_duration(time)));
        }
        Ok(Setting::Time(time))
    }

    fn text(self, text: &str) -> Result<Setting, String> {
        match self {
            // An empty text takes back what a lower layer set.
            Self::Text | Self::Secret | Self::Path if text.is_empty() => Ok(Setting::Unset),
            Self::Url => UpstreamUrl::parse(text).map(Setting::Url),
            Self::Secret => parse_password(text.into()).map(Setting::Secret),
            Self::Path => Ok(Setting::Path(text.into())),
            Self::LogFilter => log_filter(text),
            _ => Ok(Setting::Text(text.to_owned())),
        }
    }

    fn expected(self, raw: &Raw) -> String {
        let what = match self {
            Self::Count { .. } => "a whole number".to_owned(),
            Self::CountOr { word, .. } => format!("a whole number or \"{word}\""),
            Self::Size { .. } => "a size such as \"64KiB\" or \"8MiB\"".to_owned(),
            Self::SizeOr { word, .. } => format!("a size such as \"64MiB\", or \"{word}\""),
            Self::Time { .. } => "a duration such as \"250ms\", \"5s\" or \"1m\"".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Word(words) => format!("one of {}", quoted(words)),
            Self::Texts => "an array of texts".to_owned(),
            Self::Accounts => "an array of tables ([[auth.users]], in the file only)".to_owned(),
            Self::Listen => "an address or an array of addresses".to_owned(),
            Self::Mode => "permissions in octal digits such as \"0660\"".to_owned(),
            Self::Uids => "numbers of users such as \"0,1000\"".to_owned(),
            Self::AddressOrOff => "IP:PORT such as \"127.0.0.1:9380\" or \"off\"".to_owned(),
            Self::Url => "a URL such as \"redis://127.0.0.1:6379\"".to_owned(),
            Self::Text | Self::Secret | Self::Path | Self::LogFilter => "a text".to_owned(),
        };
        match self.is_secret() {
            true => format!("expected {what}"),
            false => format!("expected {what}, got {}", raw.describe()),
        }
    }
}

impl Raw {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Untyped(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Untyped(text) | Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(on) => on.to_string(),
            Self::List(_) | Self::Tables(_) => "an array".to_owned(),
            Self::Other(kind) => format!("a TOML {kind}"),
        }
    }
}

/// The empty text is no user: everybody may.
fn uids(raw: &Raw) -> Option<Setting> {
    let texts: Vec<&str> = match raw {
        Raw::Integer(number) => return Some(Setting::Uids(vec![u32::try_from(*number).ok()?])),
        Raw::Untyped(text) | Raw::Text(text) if text.is_empty() => return Some(Setting::Unset),
        Raw::Untyped(text) | Raw::Text(text) => text.split(',').map(str::trim).collect(),
        Raw::List(texts) => texts.iter().map(String::as_str).collect(),
        _ => return None,
    };
    texts.iter().map(|text| text.parse().ok()).collect::<Option<_>>().map(Setting::Uids)
}

/// Commas part texts where there is no array. An empty text is an empty list.
fn texts(raw: &Raw) -> Option<Vec<String>> {
    match raw {
        Raw::Untyped(text) if text.trim().is_empty() => Some(Vec::new()),
        Raw::Untyped(text) => Some(text.split(',').map(|part| part.trim().to_owned()).collect()),
        Raw::Text(text) => Some(vec![text.clone()]),
        Raw::List(texts) => Some(texts.clone()),
        _ => None,
    }
}

/// `None` when the value is no list of texts at all.
fn listen(raw: &Raw) -> Option<Result<Setting, String>> {
    let texts: Vec<&str> = match raw {
        // Commas part addresses only where there is no array: a path may hold one.
        Raw::Untyped(text) => text.split(',').map(str::trim).collect(),
        Raw::Text(text) => vec![text],
        Raw::List(texts) => texts.iter().map(String::as_str).collect(),
        _ => return None,
    };
    let mut listen = Vec::with_capacity(texts.len());
    for text in texts {
        match Listen::parse(text) {
            Ok(address) if listen.contains(&address) && !is_any_port(&address) => {
                return Some(Err(format!("{text:?} is named twice")));
            }
            Ok(address) => listen.push(address),
            Err(reason) => return Some(Err(reason)),
        }
    }
    if listen.is_empty() {
        return Some(Err("at least one address is needed".to_owned()));
    }
    Some(Ok(Setting::Listen(listen)))
}

fn is_any_port(address: &Listen) -> bool {
    matches!(address, Listen::Tcp(address) | Listen::Tls(address) if address.port() == 0)
}

/// Strict, since the filter of the tracing crates takes a misspelled level for a target.
fn log_filter(text: &str) -> Result<Setting, String> {
    for part in text.split(',') {
        let (target, level) = part.split_once('=').unwrap_or(("respmux", part));
        if target.trim() != target || target.is_empty() || !LOG_LEVELS.contains(&level) {
            let levels = quoted(&LOG_LEVELS);
            return Err(format!("expected a level ({levels}) or target=level, comma separated; got {part:?}"));
        }
    }
    Ok(Setting::Text(text.to_owned()))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

impl Setting {
    /// As a TOML literal, secrets as `***`; nothing when unset.
    pub(crate) fn to_toml(&self) -> Option<String> {
        self.to_toml_value().map(|value| value.to_string())
    }

    /// The same with its type.
    pub(super) fn to_toml_value(&self) -> Option<toml::Value> {
        let texts = |texts: Vec<String>| toml::Value::Array(texts.into_iter().map(toml::Value::String).collect());
        let text = match self {
            Self::Unset => return None,
            Self::Count(number) => return Some(toml::Value::Integer(i64::try_from(*number).unwrap_or(i64::MAX))),
            Self::Switch(on) => return Some(toml::Value::Boolean(*on)),
            Self::Listen(listen) => return Some(texts(listen.iter().map(ToString::to_string).collect())),
            Self::Texts(list) => return Some(texts(list.clone())),
            Self::Size(size) => show_size(*size),
            Self::Time(time) => show_duration(*time),
            Self::Word(word) => (*word).to_owned(),
            Self::Address(address) => address.to_string(),
            Self::Url(url) => url.to_string(),
            Self::Text(text) => text.clone(),
            Self::Secret(_) | Self::Accounts(_) => REDACTED.to_owned(),
            Self::Path(path) => path.to_string_lossy().into_owned(),
            Self::Mode(mode) => format!("{mode:04o}"),
            Self::Uids(users) => users.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        };
        Some(toml::Value::String(text))
    }

    /// Whether [`Setting::to_toml`] hides a part, so that its text does not load again.
    pub(crate) fn is_redacted(&self) -> bool {
        match self {
            Self::Secret(_) | Self::Accounts(_) => true,
            Self::Url(url) => url.password.is_some(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn untyped(text: &str) -> Raw {
        Raw::Untyped(text.to_owned())
    }

    #[test]
    fn toml_types_are_kept_apart() {
        let count = Kind::Count { min: 1, max: 9 };
        assert_eq!(count.parse(&Raw::Integer(3)), Ok(Setting::Count(3)));
        assert_eq!(count.parse(&untyped("3")), Ok(Setting::Count(3)));
        let reason = count.parse(&Raw::Text("3".to_owned())).unwrap_err();
        assert_eq!(reason, "expected a whole number, got \"3\"");
        assert_eq!(count.parse(&Raw::Integer(-1)).unwrap_err(), "expected a whole number, got -1");
        assert_eq!(count.parse(&Raw::Integer(10)).unwrap_err(), "must be 1 to 9, got 10");
        assert_eq!(Kind::Switch.parse(&untyped("on")), Ok(Setting::Switch(true)));
        assert!(Kind::Switch.parse(&Raw::Text("true".to_owned())).is_err());
        let time = Kind::Time { min: 1, max: 60_000 };
        assert!(time.parse(&Raw::Integer(5)).unwrap_err().ends_with("or \"1m\", got 5"));
        assert_eq!(time.parse(&untyped("2m")).unwrap_err(), "must be 1ms to 1m, got 2m");
        let size = Kind::Size { min: 0, max: 1 << 20 };
        assert_eq!(size.parse(&Raw::Integer(1024)), Ok(Setting::Size(1024)));
        assert_eq!(size.parse(&untyped("2MiB")).unwrap_err(), "must be 0B to 1MiB, got 2MiB");
    }

    #[test]
    fn listen_takes_commas_only_where_there_is_no_array() {
        let show = |raw: Raw| Kind::Listen.parse(&raw).map(|s| s.to_toml().unwrap());
        let two = show(untyped("127.0.0.1:1, unix:/s")).unwrap();
        assert_eq!(two, "[\"127.0.0.1:1\", \"unix:/s\"]");
        assert_eq!(show(Raw::Text("unix:/a,b".to_owned())).unwrap(), "[\"unix:/a,b\"]");
        assert_eq!(show(Raw::List(vec![])).unwrap_err(), "at least one address is needed");
        let twice = show(untyped("127.0.0.1:1,127.0.0.1:1")).unwrap_err();
        assert_eq!(twice, "\"127.0.0.1:1\" is named twice");
        assert!(show(untyped("127.0.0.1:0,127.0.0.1:0")).is_ok());
        assert!(show(Raw::Integer(6380)).is_err());
    }

    #[test]
    fn permissions_are_octal_and_users_are_numbers() {
        assert_eq!(Kind::Mode.parse(&untyped("0660")), Ok(Setting::Mode(0o660)));
        assert_eq!(Setting::Mode(0o600).to_toml().unwrap(), "\"0600\"");
        for bad in ["9", "0680", "7777", "rw-", ""] {
            assert!(Kind::Mode.parse(&untyped(bad)).is_err(), "{bad}");
        }
        assert_eq!(Kind::Uids.parse(&untyped("0, 1000")), Ok(Setting::Uids(vec![0, 1000])));
        assert_eq!(Kind::Uids.parse(&Raw::Integer(5)), Ok(Setting::Uids(vec![5])));
        assert_eq!(Kind::Uids.parse(&untyped("")), Ok(Setting::Unset));
        assert!(Kind::Uids.parse(&untyped("root")).unwrap_err().ends_with("such as \"0,1000\", got \"root\""));
    }

    #[test]
    fn a_misspelled_log_level_is_refused() {
        for good in ["info", "off", "info,respmux::upstream=debug"] {
            assert!(Kind::LogFilter.parse(&untyped(good)).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "INFO", "respmux=", "=info", "info, warn"] {
            assert!(Kind::LogFilter.parse(&untyped(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wrong_secret_is_not_quoted() {
        for kind in [Kind::Secret, Kind::Url] {
            let reason = kind.parse(&Raw::List(vec!["hunter2".to_owned()])).unwrap_err();
            assert!(!reason.contains("hunter2") && !reason.contains("got"), "{reason}");
        }
        assert_eq!(Kind::Secret.parse(&untyped("")), Ok(Setting::Unset));
    }
}
