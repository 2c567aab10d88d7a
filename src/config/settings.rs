//! The layers put on top of each other: defaults, file, environment, flags. Pure.

use std::fmt;

use super::keys::{self, KEYS, Key};
use super::value::{Raw, Setting};

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

/// A value given for a key somewhere.
#[derive(Clone)]
pub(crate) struct Assignment {
    pub(crate) key: &'static Key,
    pub(crate) raw: Raw,
    pub(crate) origin: Origin,
}

/// Without the value, which may be a secret.
impl fmt::Debug for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.key.path, self.origin)
    }
}

/// What one layer says, and what in it could not be understood.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub(super) assignments: Vec<Assignment>,
    pub(super) problems: Vec<Problem>,
}

/// The value of a key and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(super) setting: Setting,
    pub(super) origin: Origin,
}

/// One entry for each of [`KEYS`], in that order.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    entries: Vec<Entry>,
}

impl Settings {
    /// Puts `layers` on the defaults, the last on top. A bad value is a problem also where a later
    /// layer would hide it: it would come to light on the day that layer goes.
    pub(super) fn merge(layers: Vec<Layer>) -> Result<Self, Problems> {
        let default = |key: &Key| Entry { setting: key.default_setting(), origin: Origin::Default };
        let mut entries: Vec<Entry> = KEYS.iter().map(default).collect();
        let mut problems = Vec::new();
        for layer in layers {
            problems.extend(layer.problems);
            for Assignment { key, raw, origin } in layer.assignments {
                let entry = &mut entries[index(key.path)];
                match key.kind.parse(&raw) {
                    Err(reason) => problems.push(Problem::at(origin, name_key(key, &reason))),
                    Ok(setting) if entry.origin.rank() == origin.rank() => {
                        if setting != entry.setting {
                            let reason = format!("{} is also given by {}", key.path, entry.origin);
                            problems.push(Problem::at(origin, reason));
                        }
                    }
                    Ok(setting) => *entry = Entry { setting, origin },
                }
            }
        }
        if problems.is_empty() { Ok(Self { entries }) } else { Err(Problems(problems)) }
    }

    pub(super) fn entry(&self, path: &str) -> &Entry {
        &self.entries[index(path)]
    }

    /// These, but for keys that cannot change while the process runs: those of `started`.
    pub(super) fn keeping(&self, started: &Self) -> Self {
        let pairs = self.entries.iter().zip(&started.entries).zip(KEYS);
        Self { entries: pairs.map(|((new, old), key)| if key.live { new } else { old }).cloned().collect() }
    }

    /// Whether the value at `position` of the table is the same in both.
    pub(super) fn is_same(&self, other: &Self, position: usize) -> bool {
        self.entries[position].setting == other.entries[position].setting
    }

    /// Keys with their entries, in the order of the table.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static Key, &Entry)> {
        KEYS.iter().zip(&self.entries)
    }
}

fn index(path: &str) -> usize {
    KEYS.iter().position(|key| key.path == path).expect("the key has a row in KEYS")
}

pub(crate) fn name_key(key: &Key, reason: &str) -> String {
    format!("{}: {reason}", key.path)
}

/// The layer of the environment. `RESPMUX_CONFIG` names the file and is no key; an empty variable
/// counts as none.
pub(super) fn environment(variables: &[(String, String)]) -> Layer {
    let mut layer = Layer::default();
    let mut variables: Vec<_> = variables.iter().filter(|(_, value)| !value.is_empty()).collect();
    variables.sort();
    for (name, value) in variables {
        if !name.starts_with("RESPMUX_") || name == CONFIG_VARIABLE {
            continue;
        }
        let known = KEYS.iter().find(|key| key.env() == *name || key.short_env == Some(name));
        let origin = Origin::Environment(name.clone());
        match known {
            Some(key) => {
                let raw = Raw::Untyped(value.clone());
                layer.assignments.push(Assignment { key, raw, origin });
            }
            None if is_service_link(name) => {}
            None => layer.problems.push(unknown_variable(name, origin)),
        }
    }
    layer
}

/// The variable that names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "RESPMUX_CONFIG";

fn unknown_variable(name: &str, origin: Origin) -> Problem {
    let names: Vec<String> = KEYS
        .iter()
        .flat_map(|key| [Some(key.env()), key.short_env.map(str::to_owned)])
        .flatten()
        .chain([CONFIG_VARIABLE.to_owned()])
        .collect();
    // The common start would make every variable look near to every other.
    let tails = names.iter().map(|name| &name["RESPMUX_".len()..]);
    match keys::nearest(&name["RESPMUX_".len()..], tails) {
        Some(tail) => Problem::at(origin, format!("unknown variable; did you mean RESPMUX_{tail}?")),
        None => Problem::at(origin, "unknown variable; `respmux config example` lists all"),
    }
}

/// Whether Kubernetes sets this variable for a Service whose name starts with `respmux`:
/// `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT`, `…_PORT_6379_TCP[_ADDR|_PORT|_PROTO]`.
/// They say nothing about this program and must not stop it.
fn is_service_link(name: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_PORT") {
        return true;
    }
    if name.contains("_SERVICE_PORT_") {
        return true;
    }
    let Some((_, rest)) = name.rsplit_once("_PORT_") else {
        return false;
    };
    let mut parts = rest.split('_');
    let number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
    number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        match Settings::merge(vec![environment(&variables(pairs))]) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.texts(),
        }
    }

    #[test]
    fn unknown_variables_are_named() {
        let reason = problems(&[("RESPMUX_UPSTREAM_MAX_CONECTIONS", "6")]);
        let expected = "RESPMUX_UPSTREAM_MAX_CONECTIONS: unknown variable; did you mean \
                        RESPMUX_UPSTREAM_MAX_CONNECTIONS?";
        assert_eq!(reason, [expected]);
        let far = problems(&[("RESPMUX_BANANAS", "6")]);
        assert!(far[0].contains("config example"), "{far:?}");
        assert!(problems(&[("OTHER", "6"), ("RESPMUX_CONFIG", "f"), ("RESPMUX_WORKERS", "")]).is_empty());
    }

    #[test]
    fn the_variables_of_a_kubernetes_service_are_passed_over() {
        let links = [
            "RESPMUX_SERVICE_HOST",
            "RESPMUX_SERVICE_PORT",
            "RESPMUX_SERVICE_PORT_REDIS",
            "RESPMUX_PORT",
            "RESPMUX_PORT_6379_TCP",
            "RESPMUX_PORT_6379_TCP_ADDR",
            "RESPMUX_PORT_6379_TCP_PORT",
            "RESPMUX_METRICS_PORT_9380_TCP_PROTO",
            "RESPMUX_METRICS_SERVICE_HOST",
        ];
        for link in links {
            assert!(is_service_link(link), "{link}");
            assert!(problems(&[(link, "tcp://10.0.0.1:6379")]).is_empty());
        }
        assert!(!is_service_link("RESPMUX_PORT_X_TCP"));
        for key in KEYS {
            assert!(!is_service_link(&key.env()), "{} would be passed over", key.path);
        }
    }

    #[test]
    fn one_layer_may_not_give_two_values() {
        let two = [("RESPMUX_UPSTREAM", "redis://a"), ("RESPMUX_UPSTREAM_URL", "redis://b")];
        let expected = "RESPMUX_UPSTREAM_URL: upstream.url is also given by RESPMUX_UPSTREAM";
        assert_eq!(problems(&two), [expected]);
        let same = [("RESPMUX_UPSTREAM", "redis://a"), ("RESPMUX_UPSTREAM_URL", "redis://a")];
        assert!(problems(&same).is_empty());
    }

    #[test]
    fn the_later_layer_wins_and_says_where_it_is() {
        let layer = |origin: Origin, number: &str| Layer {
            assignments: vec![Assignment {
                key: keys::find("workers").unwrap(),
                raw: Raw::Untyped(number.to_owned()),
                origin,
            }],
            problems: vec![],
        };
        let file = Origin::File { name: "f".to_owned(), line: 1, column: 2 };
        let flag = Origin::Flag("--workers".to_owned());
        let layers = vec![layer(file, "2"), layer(flag.clone(), "3")];
        let settings = Settings::merge(layers).unwrap();
        let entry = settings.entry("workers");
        assert_eq!((&entry.setting, &entry.origin), (&Setting::Count(3), &flag));
        assert_eq!(settings.entry("listen").origin, Origin::Default);
    }
}
