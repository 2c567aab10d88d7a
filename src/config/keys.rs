//! Every key there is.
//!
//! Loading, printing, the example and the command line are all driven by this list, so that they cannot disagree. A key
//! without a row in a table does not exist.

use std::sync::LazyLock;

use super::key::Key;
use super::process::{MEMORY, PAUSE, PROCESS, RELOAD};
use super::{
    Auth, Blocking, Client, Commands, Drain, Hotkeys, Lane, Log, Pool, Pubsub, Slowlog, Tls, Unix, Upstream,
    UpstreamTls,
};

/// In the order of the example: keys without a table first, as TOML wants them.
const TABLES: [&[Key]; 19] = [
    PROCESS,
    Upstream::KEYS,
    UpstreamTls::KEYS,
    Lane::KEYS,
    Pool::KEYS,
    Blocking::KEYS,
    Pubsub::KEYS,
    Client::KEYS,
    MEMORY,
    Tls::KEYS,
    Unix::KEYS,
    RELOAD,
    PAUSE,
    Drain::KEYS,
    Log::KEYS,
    Slowlog::KEYS,
    Hotkeys::KEYS,
    Auth::KEYS,
    Commands::KEYS,
];

/// All rows, table after table.
pub(crate) static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| TABLES.concat());

/// The row of a key, also by its old name.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path || key.is_old(path))
}

/// The candidate that looks most like `word`, if one does.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::osa_distance(word, candidate);
    let best = candidates.min_by_key(distance)?;
    (distance(&best) <= (word.len() / 4).max(1)).then_some(best)
}

/// The keys that an unknown path may have meant: those of the same name in other tables, else one that looks like it,
/// else those whose name does.
fn suggestions(path: &str) -> Vec<&'static str> {
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

/// The text about a key without a row.
pub(crate) fn unknown(path: &str) -> String {
    let suggestions: Vec<String> = suggestions(path).iter().map(|key| format!("{key:?}")).collect();
    match suggestions.is_empty() {
        true => format!("unknown key {path:?}; `respmux config example` lists all"),
        false => format!("unknown key {path:?}; did you mean {}?", suggestions.join(" or ")),
    }
}

/// The text about a table that no key is in.
pub(super) fn unknown_table(path: &str) -> String {
    match nearest(path, KEYS.iter().map(|key| key.table_and_name().0)) {
        Some(table) => format!("unknown table [{path}]; did you mean [{table}]?"),
        None => format!("unknown table [{path}]; `respmux config example` lists all"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::raw::Raw;
    use super::*;

    #[test]
    fn every_default_and_example_is_valid_and_prints_itself() {
        for key in KEYS.iter() {
            let (text, _) = key.example_toml();
            let file = format!("v = {text}");
            let value: toml::Table = file.parse().unwrap();
            let raw = match &value["v"] {
                toml::Value::String(text) => Raw::Text(text.clone()),
                toml::Value::Integer(number) => Raw::Integer(*number),
                toml::Value::Boolean(on) => Raw::Boolean(*on),
                // The tables of auth.users: see there.
                toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => continue,
                toml::Value::Array(list) => Raw::List(list.iter().map(|v| v.as_str().unwrap().to_owned()).collect()),
                other => panic!("{}: {other}", key.path),
            };
            let setting = key.kind.parse(&raw).unwrap();
            if key.default_text().is_some() {
                assert_eq!(setting, key.default_setting(), "{}", key.path);
            }
        }
    }

    #[test]
    fn no_name_is_used_twice_and_tables_stay_together() {
        let mut names = HashSet::new();
        for key in KEYS.iter() {
            assert!(names.insert(key.path.to_owned()), "{}", key.path);
            assert!(names.insert(key.env()), "{}", key.path);
            for name in [key.short_env, key.flag.map(|(flag, _)| flag)].into_iter().flatten() {
                assert!(name == key.path || names.insert(name.to_owned()), "{name}");
            }
            assert!(key.doc.ends_with('.'), "{}", key.path);
        }
        let mut tables: Vec<&str> = KEYS.iter().map(|key| key.table_and_name().0).collect();
        tables.dedup();
        assert_eq!(
            tables,
            [
                "", "upstream", "lane", "pool", "blocking", "pubsub", "client", "memory", "tls", "unix", "reload",
                "pause", "drain", "log", "slowlog", "hotkeys", "auth", "commands"
            ]
        );
    }

    #[test]
    fn suggestions_find_slips_and_wrong_tables() {
        assert_eq!(suggestions("wait_timeout"), ["pool.wait_timeout"]);
        assert_eq!(suggestions("pool.wait_timout"), ["pool.wait_timeout"]);
        assert_eq!(suggestions("wait_timout"), ["pool.wait_timeout"]);
        assert_eq!(suggestions("upstream.max_conections"), ["upstream.max_connections"]);
        assert_eq!(suggestions("worker"), ["workers"]);
        assert_eq!(
            suggestions("max_connections"),
            ["upstream.max_connections", "blocking.max_connections", "client.max_connections"]
        );
        assert_eq!(suggestions("bananas"), Vec::<&str>::new());
    }
}
