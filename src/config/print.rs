//! The configuration as people and programs read it. Secrets print as `***`. Pure.

use serde_json::{Value, json};

use super::Config;
use super::budget::{Division, WorkerShare};
use super::key::Key;
use super::keys::KEYS;
use super::load::Loaded;
use super::settings::Problems;
use super::units::show_size;

/// The merged result as TOML, with the origin of each value.
pub(crate) fn merged(loaded: &Loaded) -> String {
    let mut shown = loaded.config.shown.iter();
    let table = |keys: &[Key]| {
        let lines = keys.iter().zip(shown.by_ref()).map(|(key, setting)| setting.line(key.table_and_name().1) + "\n");
        keys[0].header() + &lines.collect::<String>()
    };
    KEYS.chunk_by(Key::is_beside).map(table).collect::<Vec<_>>().join("\n")
}

/// What `respmux check` tells people about a good configuration.
pub(crate) fn report_text(loaded: &Loaded) -> String {
    let Loaded { config, warnings, .. } = loaded;
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let admin = config.admin.map_or_else(|| "off".to_owned(), |address| format!("http://{address}"));
    let clients = config.client.max_connections;
    let mut text = format!(
        "Listen    {}\nUpstream  {}\nAdmin     {admin}\nWorkers   {}\nClients   at most {clients}\nMemory    buffers take at most {}\n\n{}",
        listen.join(", "),
        upstream(config),
        config.workers,
        show_size(&config.memory_limit),
        config.division(),
    );
    for warning in warnings {
        text += &format!("\nwarning: {warning}\n");
    }
    text
}

/// The same, or the problems, for programs:
/// `{"ok", "errors", "warnings", "config": {KEY: {"value", "effective", "origin"}}, "budget"}`.
pub(crate) fn report_json(result: Result<&Loaded, &Problems>) -> String {
    let report = match result {
        Err(problems) => json!({ "ok": false, "errors": problems.texts(), "warnings": [] }),
        Ok(loaded) => json!({
            "ok": true,
            "errors": [],
            "warnings": loaded.warnings,
            "config": loaded.config.shown.json(),
            "workers": loaded.config.workers,
            "memory_limit": loaded.config.memory_limit,
            "budget": budget(&loaded.config.division()),
        }),
    };
    format!("{report:#}\n")
}

fn upstream(config: &Config) -> String {
    if config.embedded {
        return "a private server of its own (embedded)".to_owned();
    }
    let upstream = &config.upstream;
    let user = match (&upstream.username, &upstream.password) {
        (Some(user), _) => format!("user {user:?}"),
        (None, Some(_)) => "with a password".to_owned(),
        (None, None) => "no password".to_owned(),
    };
    format!("{}, database {}, {user}", upstream.endpoint, upstream.db)
}

fn budget(division: &Division) -> Value {
    let share = |share: &WorkerShare| -> Value {
        // With the old name of the login connection, for one minor version.
        let login = [("scratch".to_owned(), share.login.into())];
        let columns = WorkerShare::COLUMNS.map(|(title, part)| (title.to_owned(), part(share).into()));
        columns.into_iter().chain(login).collect::<serde_json::Map<_, _>>().into()
    };
    json!({
        "max_connections": division.total(),
        "workers": division.shares().iter().map(share).collect::<Vec<_>>(),
    })
}
