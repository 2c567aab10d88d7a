//! The configuration as people and programs read it. Secrets print as `***`. Pure.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Config;
use super::budget::{Division, WorkerShare};
use super::key::Key;
use super::keys::KEYS;
use super::load::Loaded;
use super::settings::Problems;
use super::units::show_size;

/// Columns of a comment.
const WIDTH: usize = 100;

/// Every key with its meaning, names and default, as TOML that loads as the defaults.
pub(crate) fn example() -> String {
    let mut text = String::from(
        "# Configuration of respmux: every key, each with its default.\n\
         # Flags override RESPMUX_* variables, which override this file. Durations are whole numbers with\n\
         # ms, s, m or h; sizes with B, KiB, MiB or GiB. An unknown key is an error.\n\
         # Read it with --config FILE or RESPMUX_CONFIG; test it with `respmux check --config FILE`.\n",
    );
    let mut tables = Tables::default();
    for key in KEYS {
        text.push('\n');
        tables.open(&mut text, key);
        let comment = [wrap(key.doc, WIDTH - 2), wrap(&names(key), WIDTH - 2)].concat();
        for line in comment {
            line_to(&mut text, format_args!("# {line}"));
        }
        let (value, is_default) = key.example_toml();
        let off = if is_default { "" } else { "# " };
        line_to(&mut text, format_args!("{off}{} = {value}", key.table_and_name().1));
    }
    text
}

/// The merged result as TOML, with the origin of each value.
pub(crate) fn merged(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut tables = Tables::default();
    for (key, setting) in KEYS.iter().zip(loaded.config.shown.iter()) {
        if tables.is_new(key) {
            text.push('\n');
        }
        tables.open(&mut text, key);
        line_to(&mut text, format_args!("{}", setting.line(key.table_and_name().1)));
    }
    text.trim_start().to_owned()
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
        line_to(&mut text, format_args!("\nwarning: {warning}"));
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
    let share = |share: &WorkerShare| {
        json!({
            "control": share.control,
            "login": share.scratch,
            // Its old name, for one minor version.
            "scratch": share.scratch,
            "hubs": share.hubs,
            "lanes": share.lanes,
            "pool": share.pool,
            "total": share.total(),
        })
    };
    json!({
        "max_connections": division.total(),
        "workers": division.shares().iter().map(share).collect::<Vec<_>>(),
    })
}

/// How else the key is given.
fn names(key: &Key) -> String {
    let mut names = match key.short_env {
        Some(short) => format!("Variable {short} or {}", key.env()),
        None => format!("Variable {}", key.env()),
    };
    match key.flag {
        Some((flag, _)) => write!(names, ", flag --{flag}"),
        None => write!(names, ", flag --set {}=…", key.path),
    }
    .expect("a String takes everything");
    if !key.live {
        names.push_str(". Takes effect after a restart");
    }
    names
}

/// Which table header was written last.
#[derive(Default)]
struct Tables(&'static str);

impl Tables {
    fn is_new(&self, key: &Key) -> bool {
        key.table_and_name().0 != self.0
    }

    fn open(&mut self, text: &mut String, key: &Key) {
        if self.is_new(key) {
            self.0 = key.table_and_name().0;
            line_to(text, format_args!("[{}]", self.0));
        }
    }
}

fn line_to(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes everything");
}

/// Lines of at most `width` characters, broken at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one from the start");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
