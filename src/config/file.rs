//! The TOML file as a layer, each value with its line and column. Pure.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS};
use super::layers::{Assignment, Layer};
use super::raw::Raw;
use super::settings::Origin;

/// Reads `text`, calling it `name` in errors. What is not understood becomes a problem of the layer; no problem quotes
/// a line of the file, which may hold a password.
pub(super) fn read(name: &str, text: &str) -> Layer {
    let mut reader = Reader { name, text, layer: Layer::default() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let origin = reader.origin(error.span().unwrap_or(0..0));
        reader.layer.problems.push(format!("{origin}: {}", error.message()));
    }
    if errors.is_empty() {
        reader.table("", table.get_ref());
    }
    reader.layer
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    layer: Layer,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        let mut rows: Vec<_> = table.iter().collect();
        // The map sorts by name; people read from the top.
        rows.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in rows {
            self.entry(&format!("{prefix}{}", name.get_ref()), name.span(), value);
        }
    }

    fn entry(&mut self, path: &str, name: Range<usize>, value: &Spanned<DeValue<'_>>) {
        if let Some(key) = keys::find(path) {
            let (raw, origin) = (raw(value.get_ref()), self.origin(value.span()));
            self.layer.assignments.push(Assignment { key, raw, origin, is_old: key.is_old(path) });
            return;
        }
        let is_table = KEYS.iter().any(|key| key.table_and_name().0 == path);
        let reason = match value.get_ref() {
            DeValue::Table(table) if is_table => return self.table(&format!("{path}."), table),
            DeValue::Table(_) => keys::unknown_table(path),
            _ if is_table => format!("{path} is a table: write [{path}] and its keys below"),
            _ => keys::unknown(path),
        };
        let origin = self.origin(name);
        self.layer.problems.push(format!("{origin}: {reason}"));
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            name: self.name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(on) => Raw::Boolean(*on),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Other("integer beyond 64 bits"),
        },
        DeValue::Array(items) if !items.is_empty() && items.iter().all(|item| item.get_ref().is_table()) => {
            let rows = items.iter().filter_map(|item| item.get_ref().as_table());
            let row = |table: &DeTable<'_>| {
                table.iter().map(|(name, value)| (name.get_ref().to_string(), raw(value.get_ref()))).collect()
            };
            Raw::Tables(rows.map(row).collect())
        }
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map_or(Raw::Other("array of other than strings"), Raw::List)
        }
        other => Raw::Other(other.type_str()),
    }
}
