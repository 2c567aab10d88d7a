//! The one rendering of the settings: `respmux config print`, PROXY CONFIG, `/config` and `respmux check --json` all show
//! what stands here. Text has the TOML form of a value, JSON its type. Secrets are `***`. Pure.

use std::fmt;
use std::sync::Arc;

use serde_json::json;
use toml::Value;

use super::Config;
use super::address::UpstreamUrl;
use super::keys::KEYS;
use super::secret::{REDACTED, SecretSource};
use super::settings::{Entry, Origin, Settings};
use super::units::show_size;
use super::value::{Setting, number, texts};

/// Keys whose value another key can take the place of. It is then no part of the configuration, and together with the
/// other it would not load.
const REPLACEABLE: &[&str] = &[
    "admin_token",
    "admin_token_file",
    "embedded",
    "upstream.url",
    "upstream.db",
    "upstream.username",
    "upstream.password",
    "upstream.password_file",
];

/// One setting as it may be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownSetting {
    /// `pool.wait_timeout`.
    pub key: &'static str,
    /// As it was given, or the default. `None` when it is not set.
    value: Option<Value>,
    /// What holds. `None` when nothing does, or when only a start decides it.
    effective: Option<Value>,
    /// Where the value was given.
    origin: String,
    /// A part of the value is hidden: it would load as another one.
    redacted: bool,
}

impl ShownSetting {
    fn of(key: &'static str, entry: &Entry, config: &Config) -> Self {
        let value = entry.setting.to_toml_value();
        let effective = effective(key, &entry.setting, config).unwrap_or_else(|| value.clone());
        let origin = match &entry.origin {
            Origin::Flag(name) => format!("flag {name}"),
            Origin::Environment(name) => format!("variable {name}"),
            origin => origin.to_string(),
        };
        Self { key, value, effective, origin, redacted: entry.setting.is_redacted() }
    }

    /// A line of TOML under this name. What does not load as it stands there is a comment.
    pub(crate) fn line(&self, name: &str) -> String {
        let (value, differs) = (self.value.as_ref(), self.value != self.effective);
        let redacted = value.is_some() && self.redacted;
        let replaced = value.is_some() && differs && REPLACEABLE.contains(&self.key);
        let off = if value.is_none() || redacted || replaced { "# " } else { "" };
        let value = value.map_or_else(|| "is not set".to_owned(), |value| format!("= {value}"));
        let effective = self.effective.as_ref().filter(|_| differs);
        [
            format!("{off}{name} {value}  # {}", self.origin),
            if redacted { "; redacted".to_owned() } else { String::new() },
            if replaced { "; not used".to_owned() } else { String::new() },
            effective.map_or_else(String::new, |effective| format!("; in effect: {effective}")),
        ]
        .concat()
    }

    /// The parts by name, in their TOML form; nothing for what is not set.
    pub(crate) fn parts(&self) -> [(&'static str, Option<String>); 3] {
        let literal = |value: &Option<Value>| value.as_ref().map(Value::to_string);
        [
            ("value", literal(&self.value)),
            ("effective", literal(&self.effective)),
            ("origin", Some(self.origin.clone())),
        ]
    }

    /// The same for JSON, with types; `null` for what is not set.
    pub(crate) fn json(&self) -> serde_json::Value {
        json!({ "value": self.value, "effective": self.effective, "origin": self.origin })
    }
}

/// All settings as they may be shown. Only words about the configuration: two configurations that differ in
/// nothing else are the same one.
#[derive(Clone, Default)]
pub struct ShownSettings(Arc<[ShownSetting]>);

impl ShownSettings {
    pub(super) fn of(settings: &Settings, config: &Config) -> Self {
        Self(KEYS.iter().map(|key| ShownSetting::of(key.path, settings.entry(key.path), config)).collect())
    }

    /// In the order of the documentation.
    pub fn iter(&self) -> impl Iterator<Item = &ShownSetting> {
        self.0.iter()
    }

    /// By key.
    pub(crate) fn json(&self) -> serde_json::Value {
        self.iter().map(|setting| (setting.key.to_owned(), setting.json())).collect::<serde_json::Map<_, _>>().into()
    }

    fn put(&mut self, key: &str, effective: Value) {
        if let Some(setting) = Arc::make_mut(&mut self.0).iter_mut().find(|setting| setting.key == key) {
            setting.effective = Some(effective);
        }
    }

    /// What cannot change while the process runs is as in `running`.
    pub(super) fn keep(&mut self, running: &Self) {
        let both = Arc::make_mut(&mut self.0).iter_mut().zip(running.iter());
        for ((setting, old), _) in both.zip(KEYS.iter()).filter(|(_, key)| !key.live) {
            setting.effective.clone_from(&old.effective);
        }
    }
}

/// Nothing, so that the fingerprint of a configuration does not depend on where its values were given.
impl fmt::Debug for ShownSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl PartialEq for ShownSettings {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ShownSettings {}

impl Config {
    /// What a start decides is in effect from here on: the instance, how many clients the machine has room for, the form
    /// of the log, the address of a private server.
    pub(crate) fn settle(&mut self, log_is_json: bool) {
        let log = if log_is_json { "json" } else { "text" };
        let endpoint = self.upstream.endpoint.clone();
        let url = UpstreamUrl { endpoint, tls: false, db: None, username: None, password: None };
        let shown = &mut self.shown;
        shown.put("instance", number(usize::try_from(self.instance).unwrap_or(usize::MAX)));
        shown.put("client.max_connections", number(self.client.max_connections));
        shown.put("log.format", text(log));
        if self.embedded {
            shown.put("upstream.url", text(url));
        }
    }

    /// What is listened on, with the ports that were chosen.
    pub(crate) fn settle_listeners(&mut self, listen: &[String], admin: Option<std::net::SocketAddr>) {
        self.shown.put("listen", texts(listen));
        if let Some(admin) = admin {
            self.shown.put("admin", text(admin));
        }
    }
}

/// What a key comes to where that is not its value; `Some(None)` for nothing, or for what a start decides.
fn effective(key: &str, setting: &Setting, config: &Config) -> Option<Option<Value>> {
    let upstream = &config.upstream;
    Some(match key {
        "workers" => Some(number(config.workers)),
        "memory.limit" => Some(text(show_size(&config.memory_limit))),
        "blocking.max_connections" => Some(number((0..config.workers).map(|index| config.blocking_share(index)).sum())),
        "embedded" => Some(Value::Boolean(config.embedded)),
        "upstream.url" if config.embedded => None,
        "upstream.db" => Some(number(upstream.db as usize)),
        "upstream.username" => upstream.username.as_ref().map(text),
        "upstream.password" => inline(upstream.password.as_ref()),
        "upstream.password_file" => file(upstream.password.as_ref()),
        "admin_token" => inline(config.admin_token.as_ref()),
        "admin_token_file" => file(config.admin_token.as_ref()),
        "instance" | "log.format" if matches!(setting, Setting::Word("random" | "auto")) => None,
        _ => return None,
    })
}

fn inline(source: Option<&SecretSource>) -> Option<Value> {
    matches!(source, Some(SecretSource::Inline(_))).then(|| text(REDACTED))
}

fn file(source: Option<&SecretSource>) -> Option<Value> {
    match source {
        Some(SecretSource::File(path)) => Some(text(path.display())),
        _ => None,
    }
}

fn text(text: impl ToString) -> Value {
    Value::String(text.to_string())
}
