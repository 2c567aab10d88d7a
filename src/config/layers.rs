//! The layers put on top of each other: defaults, file, environment, flags. Pure.

use std::fmt;

use super::key::{Key, variable};
use super::keys::{KEYS, nearest};
use super::raw::Raw;
use super::settings::{Entry, Origin, Problems, Settings};

/// The variable that names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "RESPMUX_CONFIG";

/// How the variables of all keys begin.
const PREFIX: &str = "RESPMUX_";

/// A value given for a key somewhere.
#[derive(Clone)]
pub(crate) struct Assignment {
    pub(crate) key: &'static Key,
    pub(crate) raw: Raw,
    pub(crate) origin: Origin,
    /// The key was given by its old name.
    pub(crate) is_old: bool,
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
    pub(super) problems: Vec<String>,
}

/// Puts `layers` on the defaults, the last on top. A bad value is a problem also where a later layer would hide it: it
/// would come to light on the day that layer goes.
pub(super) fn merge(layers: Vec<Layer>) -> Result<Settings, Problems> {
    let default = |key: &Key| Entry { setting: key.default_setting(), origin: Origin::Default };
    let mut settings = Settings::default();
    settings.entries.extend(KEYS.iter().map(|key| (key.path, default(key))));
    let mut problems = Vec::new();
    for layer in layers {
        problems.extend(layer.problems);
        for Assignment { key, raw, origin, is_old } in layer.assignments {
            if let Some(old) = key.old.filter(|_| is_old) {
                let path = key.path;
                let text =
                    format!("{origin}: {old} is called {path} now; the old name will be unknown in the next version");
                settings.warnings.push(text);
            }
            let entry = settings.entries.entry(key.path).or_insert_with(|| default(key));
            match key.kind.parse(&raw) {
                Err(reason) => problems.push(format!("{origin}: {}", name_key(key, &reason))),
                Ok(setting) if entry.origin.rank() != origin.rank() => *entry = Entry { setting, origin },
                Ok(setting) if setting == entry.setting => {}
                Ok(_) => problems.push(format!("{origin}: {} is also given by {}", key.path, entry.origin)),
            }
        }
    }
    if problems.is_empty() { Ok(settings) } else { Err(Problems(problems)) }
}

pub(crate) fn name_key(key: &Key, reason: &str) -> String {
    format!("{}: {reason}", key.path)
}

/// The layer of the environment. `RESPMUX_CONFIG` names the file and is no key; an empty variable counts as none.
pub(super) fn environment(variables: &[(String, String)]) -> Layer {
    let mut layer = Layer::default();
    let mut variables: Vec<_> = variables.iter().filter(|(_, value)| !value.is_empty()).collect();
    variables.sort();
    for (name, value) in variables {
        if !name.starts_with(PREFIX) || name == CONFIG_VARIABLE {
            continue;
        }
        let known = KEYS.iter().find(|key| key.variables().contains(name));
        let origin = Origin::Environment(name.clone());
        match known {
            Some(key) => {
                let is_old = key.old.is_some_and(|old| variable(old) == *name);
                layer.assignments.push(Assignment { key, raw: Raw::Untyped(value.clone()), origin, is_old });
            }
            None if is_service_link(name) => {}
            None => layer.problems.push(format!("{origin}: {}", unknown_variable(name))),
        }
    }
    layer
}

fn unknown_variable(name: &str) -> String {
    let names: Vec<String> = KEYS.iter().flat_map(Key::variables).chain([CONFIG_VARIABLE.to_owned()]).collect();
    // The common start would make every variable look near to every other.
    let tails = names.iter().map(|name| &name[PREFIX.len()..]);
    match nearest(&name[PREFIX.len()..], tails) {
        Some(tail) => format!("unknown variable; did you mean {PREFIX}{tail}?"),
        None => "unknown variable; `respmux config example` lists all".to_owned(),
    }
}

/// Whether Kubernetes sets this variable for a Service whose name starts with `respmux`:
/// `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT`, `…_PORT_6379_TCP[_ADDR|_PORT|_PROTO]`.
/// They say nothing about this program and must not stop it.
fn is_service_link(name: &str) -> bool {
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.rsplit_once("_PORT_").is_some_and(|(_, rest)| is_port(rest))
}

#[cfg(test)]
mod tests {
    use super::super::value::Setting;
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        match merge(vec![environment(&variables(pairs))]) {
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
        for key in KEYS.iter() {
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
                key: super::super::keys::find("workers").unwrap(),
                raw: Raw::Untyped(number.to_owned()),
                origin,
                is_old: false,
            }],
            problems: vec![],
        };
        let file = Origin::File { name: "f".to_owned(), line: 1, column: 2 };
        let flag = Origin::Flag("--workers".to_owned());
        let layers = vec![layer(file, "2"), layer(flag.clone(), "3")];
        let settings = merge(layers).unwrap();
        let entry = settings.entry("workers");
        assert_eq!((&entry.setting, &entry.origin), (&Setting::Count(3), &flag));
        assert_eq!(settings.entry("listen").origin, Origin::Default);
    }
}
