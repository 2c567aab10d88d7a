//! What a key takes, and how it reads what was written. Pure.

use std::time::Duration;

use super::address::{Listen, UpstreamUrl, parse_password};
use super::raw::Raw;
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::users::User;
use super::value::Setting;

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A whole number within bounds.
    Count { min: usize, max: usize },
    /// Bytes, within bounds.
    Size { min: usize, max: usize },
    /// A duration, within bounds in milliseconds.
    Time { min: u64, max: u64 },
    /// This word, or what another kind takes.
    Or(&'static str, &'static Self),
    /// Yes or no.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Addresses to listen on; at least one, none twice.
    Listen,
    /// An IP address and port.
    Address,
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

const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Kind {
    /// Whether the value may hold a secret and must not be quoted.
    pub(super) fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Url | Self::Accounts)
    }

    /// Understands a value. `Err` says what was expected, and quotes what was given unless that may be a secret.
    pub(crate) fn parse(self, raw: &Raw) -> Result<Setting, String> {
        self.read(raw).unwrap_or_else(|| match self.is_secret() {
            true => Err(format!("expected {}", self.expected())),
            false => Err(format!("expected {}, got {}", self.expected(), raw.describe())),
        })
    }

    /// `None` where the value is nothing of this kind at all; an error where more can be said about it.
    fn read(self, raw: &Raw) -> Option<Result<Setting, String>> {
        let text = raw.text();
        Some(match self {
            Self::Or(word, _) if text == Some(word) => Ok(Setting::Word(word)),
            Self::Or(_, kind) => return kind.read(raw),
            Self::Count { min, max } => {
                let number = match raw {
                    Raw::Integer(number) => usize::try_from(*number).ok()?,
                    Raw::Untyped(text) => text.parse().ok()?,
                    _ => return None,
                };
                within(number, min, max, usize::to_string).map(Setting::Count)
            }
            Self::Size { min, max } => {
                let size = match raw {
                    Raw::Integer(number) => usize::try_from(*number).ok()?,
                    _ => parse_size(text?)?,
                };
                within(size, min, max, show_size).map(Setting::Size)
            }
            Self::Time { min, max } => {
                let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
                within(parse_duration(text?)?, min, max, show_duration).map(Setting::Time)
            }
            Self::Switch => match (raw, text) {
                (Raw::Boolean(on), _) => Ok(Setting::Switch(*on)),
                (Raw::Untyped(_), Some("true" | "1" | "yes" | "on")) => Ok(Setting::Switch(true)),
                (Raw::Untyped(_), Some("false" | "0" | "no" | "off")) => Ok(Setting::Switch(false)),
                _ => return None,
            },
            Self::Word(words) => Ok(Setting::Word(words.iter().find(|word| text == Some(**word))?)),
            Self::Listen => listen(&raw.texts()?).map(Setting::Listen),
            Self::Address => Ok(Setting::Address(text?.parse().ok()?)),
            // An empty text takes back what a lower layer set.
            Self::Text | Self::Secret | Self::Path | Self::Uids if text == Some("") => Ok(Setting::Unset),
            Self::Url => UpstreamUrl::parse(text?).map(Setting::Url),
            Self::Text | Self::Path => Ok(Setting::Text(text?.to_owned())),
            Self::Secret => parse_password(text?.into()).map(Setting::Secret),
            Self::LogFilter => log_filter(text?),
            Self::Texts if matches!(raw, Raw::Untyped(text) if text.trim().is_empty()) => Ok(Setting::Texts(vec![])),
            Self::Texts => Ok(Setting::Texts(raw.texts()?.into_iter().map(str::to_owned).collect())),
            Self::Accounts => match raw {
                Raw::Tables(rows) => {
                    rows.iter().map(|row| User::parse(row)).collect::<Result<_, _>>().map(Setting::Accounts)
                }
                _ => return None,
            },
            Self::Mode => {
                let digits = text.filter(|text| (3..=4).contains(&text.len()))?;
                Ok(Setting::Mode(u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777)?))
            }
            Self::Uids => {
                let uids = match (raw, text) {
                    (Raw::Integer(number), _) => vec![u32::try_from(*number).ok()?],
                    (_, Some(text)) => numbers(text.split(',').map(str::trim))?,
                    _ => numbers(raw.texts()?.into_iter())?,
                };
                Ok(Setting::Uids(uids))
            }
        })
    }

    fn expected(self) -> String {
        match self {
            Self::Or(word, Self::Size { .. }) => return format!("a size such as \"64MiB\", or \"{word}\""),
            Self::Or(word, kind) => return format!("{} or \"{word}\"", kind.expected()),
            Self::Word(words) => return format!("one of {}", quoted(words)),
            Self::Count { .. } => "a whole number",
            Self::Size { .. } => "a size such as \"64KiB\" or \"8MiB\"",
            Self::Time { .. } => "a duration such as \"250ms\", \"5s\" or \"1m\"",
            Self::Switch => "true or false",
            Self::Texts => "an array of texts",
            Self::Accounts => "an array of tables ([[auth.users]], in the file only)",
            Self::Listen => "an address or an array of addresses",
            Self::Mode => "permissions in octal digits such as \"0660\"",
            Self::Uids => "numbers of users such as \"0,1000\"",
            Self::Address => "IP:PORT such as \"127.0.0.1:9380\"",
            Self::Url => "a URL such as \"redis://127.0.0.1:6379\"",
            Self::Text | Self::Secret | Self::Path | Self::LogFilter => "a text",
        }
        .to_owned()
    }
}

fn within<T: PartialOrd>(value: T, min: T, max: T, show: fn(&T) -> String) -> Result<T, String> {
    if value < min || value > max {
        return Err(format!("must be {} to {}, got {}", show(&min), show(&max), show(&value)));
    }
    Ok(value)
}

fn numbers<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Vec<u32>> {
    texts.map(|text| text.parse().ok()).collect()
}

fn listen(texts: &[&str]) -> Result<Vec<Listen>, String> {
    let mut listen = Vec::with_capacity(texts.len());
    for text in texts {
        let address: Listen = text.parse()?;
        if listen.contains(&address) && !address.is_any_port() {
            return Err(format!("{text:?} is named twice"));
        }
        listen.push(address);
    }
    if listen.is_empty() {
        return Err("at least one address is needed".to_owned());
    }
    Ok(listen)
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
