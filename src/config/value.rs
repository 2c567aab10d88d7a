//! One value that its kind has accepted: how the program reads it, and how it is printed. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::address::{Listen, UpstreamUrl};
use super::secret::{REDACTED, Secret};
use super::units::{show_duration, show_size};
use super::users::User;

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
    Mode(u32),
    Uids(Vec<u32>),
    Texts(Vec<String>),
    Accounts(Vec<User>),
}

impl Setting {
    /// As a TOML literal, secrets as `***`; nothing when unset.
    pub(crate) fn to_toml(&self) -> Option<String> {
        self.to_toml_value().map(|value| value.to_string())
    }

    /// The same with its type.
    pub(super) fn to_toml_value(&self) -> Option<Value> {
        let text = match self {
            Self::Unset => return None,
            Self::Count(count) => return Some(number(*count)),
            Self::Switch(on) => return Some(Value::Boolean(*on)),
            Self::Listen(listen) => return Some(texts(listen)),
            Self::Texts(list) => return Some(texts(list)),
            Self::Size(size) => show_size(size),
            Self::Time(time) => show_duration(time),
            Self::Word(word) => (*word).to_owned(),
            Self::Address(address) => address.to_string(),
            Self::Url(url) => url.to_string(),
            Self::Text(text) => text.clone(),
            Self::Secret(_) | Self::Accounts(_) => REDACTED.to_owned(),
            Self::Mode(mode) => format!("{mode:04o}"),
            Self::Uids(users) => users.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        };
        Some(Value::String(text))
    }

    /// Whether [`Setting::to_toml`] hides a part, so that its text does not load again.
    pub(crate) fn is_redacted(&self) -> bool {
        match self {
            Self::Secret(_) | Self::Accounts(_) => true,
            Self::Url(url) => url.password.is_some(),
            _ => false,
        }
    }

    /// What one setting may bound another by.
    pub(super) fn amount(&self) -> Option<u128> {
        match self {
            Self::Count(number) | Self::Size(number) => Some(*number as u128),
            Self::Time(time) => Some(time.as_millis()),
            _ => None,
        }
    }
}

/// A number as TOML has it.
pub(super) fn number(number: usize) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Texts as a TOML array.
pub(super) fn texts(texts: &[impl ToString]) -> Value {
    Value::Array(texts.iter().map(|text| Value::String(text.to_string())).collect())
}

/// What the program makes of a setting. `None` is a setting of another kind.
pub(super) trait FromSetting: Sized {
    fn from_setting(setting: &Setting) -> Option<Self>;
}

macro_rules! from_setting {
    ($($type:ty: $pattern:pat => $value:expr;)+) => {$(
        impl FromSetting for $type {
            fn from_setting(setting: &Setting) -> Option<Self> {
                match setting {
                    $pattern => Some($value),
                    _ => None,
                }
            }
        }
    )+};
}

from_setting! {
    usize: Setting::Count(number) | Setting::Size(number) => *number;
    u32: Setting::Mode(mode) => *mode;
    bool: Setting::Switch(on) => *on;
    Duration: Setting::Time(time) => *time;
    String: Setting::Text(text) => text.clone();
    PathBuf: Setting::Text(path) => path.into();
    Secret: Setting::Secret(secret) => secret.clone();
    SocketAddr: Setting::Address(address) => *address;
    UpstreamUrl: Setting::Url(url) => url.clone();
    Vec<Listen>: Setting::Listen(listen) => listen.clone();
    Vec<String>: Setting::Texts(texts) => texts.clone();
    Vec<u32>: Setting::Uids(uids) => uids.clone();
    Vec<User>: Setting::Accounts(users) => users.clone();
}

/// Nothing when a word stands for the value ("auto", "off"), or nothing does.
impl<T: FromSetting> FromSetting for Option<T> {
    fn from_setting(setting: &Setting) -> Option<Self> {
        match setting {
            Setting::Unset | Setting::Word(_) => Some(None),
            setting => T::from_setting(setting).map(Some),
        }
    }
}
