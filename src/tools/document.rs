//! Documents about the program that are made from the program: completions, man page, schema, reference.

use std::fmt::Write as _;

use clap::Command;
use serde_json::{Map, Value, json};

use crate::config::{KEYS, Key, Kind};

/// The completion script of a shell, by its name; `None` for one that nobody knows.
pub(crate) fn completions(mut command: Command, shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "respmux", &mut script);
    script
}

/// `respmux.1` as roff.
pub(crate) fn manual(command: Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}

/// JSON Schema (draft 2020-12) of the configuration file, for editors.
pub(crate) fn schema() -> String {
    let mut top = Map::new();
    let mut tables: Map<String, Value> = Map::new();
    for key in KEYS.iter() {
        let (table, name) = key.table_and_name();
        let place = if table.is_empty() {
            &mut top
        } else {
            let table = tables
                .entry(table)
                .or_insert_with(|| json!({"type": "object", "additionalProperties": false, "properties": {}}));
            table["properties"].as_object_mut().expect("made above")
        };
        place.insert(name.to_owned(), property(key));
    }
    top.extend(tables);
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "respmux",
        "description": "The configuration file of respmux",
        "type": "object",
        "additionalProperties": false,
        "properties": top,
    });
    format!("{schema:#}\n")
}

fn property(key: &Key) -> Value {
    let mut value = kind(key.kind);
    value["description"] = json!(key.doc);
    if let (text, true) = key.example_toml()
        && let Ok(Value::Object(table)) = toml::from_str::<Value>(&format!("x = {text}"))
    {
        value["default"] = table["x"].clone();
    }
    value
}

fn kind(of: Kind) -> Value {
    match of {
        Kind::Count { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Or(_, Kind::Address) => json!({"type": "string"}),
        Kind::Or(word, other) => json!({"oneOf": [{"const": word}, kind(*other)]}),
        Kind::Size { .. } => json!({"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$"}),
        Kind::Texts => json!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        Kind::Uids => json!({"oneOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}),
        Kind::Accounts => json!({"type": "array", "items": {"type": "object", "required": ["name"]}}),
        Kind::Time { .. } => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}),
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Word(words) => json!({"enum": words}),
        Kind::Listen => json!({"type": "array", "minItems": 1, "items": {"type": "string"}}),
        Kind::Address | Kind::Url | Kind::Text | Kind::Secret | Kind::Path | Kind::LogFilter | Kind::Mode => {
            json!({"type": "string"})
        }
    }
}

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
    for table in KEYS.chunk_by(Key::is_beside) {
        let mut header = table[0].header();
        for key in table {
            text += &format!("\n{}", std::mem::take(&mut header));
            for line in [wrap(key.doc), wrap(&names(key))].concat() {
                text += &format!("# {line}\n");
            }
            let (value, is_default) = key.example_toml();
            text += &format!("{}{} = {value}\n", if is_default { "" } else { "# " }, key.table_and_name().1);
        }
    }
    text
}

/// How else the key is given.
fn names(key: &Key) -> String {
    let short = key.short_env.map_or_else(String::new, |short| format!("{short} or "));
    let flag = key.flag.map_or_else(|| format!("--set {}=…", key.path), |(flag, _)| format!("--{flag}"));
    let restart = if key.live { "" } else { ". Takes effect after a restart" };
    format!("Variable {short}{}, flag {flag}{restart}", key.env())
}

/// Lines of a comment, broken at spaces.
fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH - 2 => {
                *line += " ";
                *line += word;
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Every key as a table in Markdown.
pub(crate) fn reference() -> String {
    let mut text = String::from(
        "# Configuration reference\n\nWritten by `respmux config reference`. Flags override `RESPMUX_*` variables, which \
         override the file.\n",
    );
    let mut last = None;
    for key in KEYS.iter() {
        let (table, name) = key.table_and_name();
        if last != Some(table) {
            let title = if table.is_empty() { "Without a table".to_owned() } else { format!("`[{table}]`") };
            let _ = write!(
                text,
                "\n## {title}\n\n| key | default | variable | takes effect | meaning |\n|---|---|---|---|---|\n"
            );
            last = Some(table);
        }
        let flag = key.flag.map_or_else(String::new, |(flag, _)| format!(", flag `--{flag}`"));
        let doc = key.doc.replace('|', "\\|");
        let default = match key.default_text() {
            None => "not set".to_owned(),
            Some("") => "empty".to_owned(),
            Some(text) => format!("`{text}`"),
        };
        let effect = key.takes_effect();
        let _ = writeln!(text, "| `{name}` | {default} | `{}`{flag} | {effect} | {doc} |", key.env());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Raw;

    #[test]
    fn the_schema_has_every_key_and_takes_every_default() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        for key in KEYS.iter() {
            let (table, name) = key.table_and_name();
            let of = if table.is_empty() { &schema } else { &schema["properties"][table] };
            let property = &of["properties"][name];
            assert!(property.is_object(), "{}", key.path);
            assert_eq!(property["default"].is_null(), !key.example_toml().1, "{}", key.path);
        }
    }

    #[test]
    fn the_reference_has_a_row_for_every_key() {
        let reference = reference();
        for key in KEYS.iter() {
            assert!(reference.contains(&format!("`{}`", key.env())), "{}", key.path);
        }
    }

    /// What stands there as a value is one that the key takes, and the one that it has.
    #[test]
    fn every_default_of_the_reference_is_accepted() {
        let reference = reference();
        for key in KEYS.iter() {
            let variable = format!(" | `{}`", key.env());
            let row = reference.lines().find(|line| line.contains(&variable)).unwrap();
            let default = row.split(" | ").nth(1).unwrap();
            match default.strip_prefix('`').and_then(|text| text.strip_suffix('`')) {
                Some(text) => {
                    assert_eq!(key.kind.parse(&Raw::Untyped(text.into())), Ok(key.default_setting()), "{row}")
                }
                None => assert_eq!(default == "not set", key.default_setting().to_toml().is_none(), "{row}"),
            }
        }
    }
}
