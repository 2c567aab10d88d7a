//! What PROXY says at one moment.

use std::time::Instant;

use serde_json::{Map, Value as Json, json};

use super::super::resp::RespConnection;
use super::{CLIENTS, SLOW};
use crate::resp::Value;

/// `name=value` pairs of one line.
pub(super) type Fields = Vec<(String, String)>;

/// One part of it: lines, or why there are none.
pub(super) type SnapshotPart = Result<Vec<Fields>, String>;

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub at: Instant,
    /// `key:value` of PROXY INFO.
    pub info: Fields,
    pub stats: SnapshotPart,
    pub pools: SnapshotPart,
    pub servers: SnapshotPart,
    pub lanes: SnapshotPart,
    pub clients: SnapshotPart,
    pub slow: SnapshotPart,
    pub hot: SnapshotPart,
}

impl Snapshot {
    /// Asks for all parts. A part that is refused says so; the others are shown.
    ///
    /// # Errors
    /// When not even PROXY INFO is answered.
    pub(super) fn take(connection: &mut RespConnection, order: &str) -> Result<Self, String> {
        let info = connection.ask(&["PROXY", "INFO"])?;
        let text = info.as_text().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        let info: Fields = text.lines().filter_map(|line| line.split_once(':')).map(owned).collect();
        // Asked for in vain it would be an error in the proxy's counts.
        let sampled = field(&info, "hotkeys_sample") != "0";
        // The one that asks all this is not what is looked at.
        let own = connection.ask(&["PROXY", "WHOAMI"]).ok().and_then(|whoami| {
            let lines = whoami.as_list().unwrap_or_default().iter().filter_map(Value::as_text);
            lines.filter_map(|line| line.strip_prefix(b"id:")).map(|id| String::from_utf8_lossy(id).into_owned()).next()
        });
        let others = |mut clients: Vec<Fields>| {
            clients.retain(|client| own.as_deref() != Some(field(client, "id")));
            clients.truncate(CLIENTS);
            clients
        };
        let mut lines = |words: &[&str]| connection.ask(words).map(|value| value_lines(&value));
        let (clients, slow) = ((CLIENTS + 1).to_string(), SLOW.to_string());
        Ok(Self {
            at: Instant::now(),
            info,
            stats: lines(&["PROXY", "STATS"]),
            pools: lines(&["PROXY", "POOLS"]),
            servers: lines(&["PROXY", "SERVERS"]),
            lanes: lines(&["PROXY", "LANES"]),
            clients: lines(&["PROXY", "CLIENTS", "SORT", order, "LIMIT", &clients]).map(others),
            hot: if sampled { lines(&["PROXY", "HOTKEYS"]) } else { Err("hotkeys.sample is 0".to_owned()) },
            slow: connection.ask(&["PROXY", "SLOWLOG", "GET", &slow]).map(|value| maps(&value)),
        })
    }

    /// A value of PROXY INFO; empty when there is none.
    pub(super) fn info(&self, name: &str) -> &str {
        field(&self.info, name)
    }

    /// A value of the line of PROXY STATS for all classes.
    pub(super) fn stat(&self, name: &str) -> f64 {
        let all = self.stats.as_ref().ok().and_then(|lines| lines.first());
        all.and_then(|line| field(line, name).parse().ok()).unwrap_or(0.0)
    }

    /// The whole of it for programs. Numbers are numbers.
    pub(super) fn json(&self) -> Json {
        let part = |part: &SnapshotPart| match part {
            Ok(lines) => lines.iter().map(object).collect(),
            Err(error) => json!({ "error": error }),
        };
        json!({
            "info": object(&self.info),
            "stats": part(&self.stats),
            "pools": part(&self.pools),
            "servers": part(&self.servers),
            "lanes": part(&self.lanes),
            "clients": part(&self.clients),
            "slowlog": part(&self.slow),
            "hotkeys": part(&self.hot),
        })
    }
}

/// The value of a name; empty when there is none.
pub(super) fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn object(fields: &Fields) -> Json {
    let value = |text: &str| match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(whole), _) => json!(whole),
        (_, Ok(real)) if real.is_finite() => json!(real),
        _ => json!(text),
    };
    Json::Object(fields.iter().map(|(key, text)| (key.clone(), value(text))).collect::<Map<_, _>>())
}

fn value_lines(value: &Value) -> Vec<Fields> {
    let texts = value.as_list().unwrap_or_default().iter().filter_map(Value::as_text);
    texts.map(|text| pairs(&String::from_utf8_lossy(text))).collect()
}

/// The maps of a list, flat or not.
fn maps(value: &Value) -> Vec<Fields> {
    let text = |value: &Value| match value {
        Value::Int(number) => number.to_string(),
        other => other.as_text().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default(),
    };
    let fields = |map: &Value| map.pairs().into_iter().map(|(key, value)| (text(key), text(value))).collect();
    value.as_list().unwrap_or_default().iter().map(fields).collect()
}

/// The pairs of a line. A value in quotes may hold blanks; it is left as it was escaped.
fn pairs(line: &str) -> Fields {
    let mut fields = Vec::new();
    let mut rest = line.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let end = match after.strip_prefix('"') {
            Some(quoted) => closing_quote(quoted).map_or(after.len(), |end| end + 2),
            None => after.find(' ').unwrap_or(after.len()),
        };
        let value = &after[..end];
        let value = value.strip_prefix('"').map_or(value, |quoted| quoted.strip_suffix('"').unwrap_or(quoted));
        fields.push(owned((key, value)));
        rest = after[end..].trim_start();
    }
    fields
}

/// Where a quoted text ends: the first quote that is not escaped.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, next)| match next {
        _ if escaped => {
            escaped = false;
            None
        }
        '\\' => {
            escaped = true;
            None
        }
        '"' => Some(at),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_pairs() {
        let fields = pairs("a=1 name= key=\"x \\\" y=z\" b=2");
        let expected = [("a", "1"), ("name", ""), ("key", "x \\\" y=z"), ("b", "2")].map(owned);
        assert_eq!(fields, expected);
        assert_eq!(pairs(""), Fields::new());
        assert_eq!(pairs("e=\"no end"), [owned(("e", "no end"))]);
        assert_eq!(object(&pairs("a=1 b=0.5 c=inf d=x")), json!({"a": 1, "b": 0.5, "c": "inf", "d": "x"}));
    }

    #[test]
    fn maps_are_read_in_either_protocol() {
        let text = |text: &'static str| Value::Text(text.into());
        let flat = Value::List(vec![Value::List(vec![text("id"), Value::Int(7), text("command"), text("get")])]);
        let map = Value::List(vec![Value::Map(vec![(text("id"), Value::Int(7)), (text("command"), text("get"))])]);
        assert_eq!(maps(&flat), maps(&map));
        assert_eq!(maps(&flat), [vec![owned(("id", "7")), owned(("command", "get"))]]);
    }
}
