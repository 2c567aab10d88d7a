//! The filters of CLIENT LIST and KILL, over lines as a server writes them: of its own clients and of ours alike.

use crate::command::token_is;
use crate::resp::Value;

/// What a client must be to be shown, or killed. Its syntax is the server's to judge; what it does not know here
/// matches everything.
#[derive(Debug, Default)]
pub(in crate::client) struct Filter {
    /// All of them must hold.
    conditions: Vec<Condition>,
    /// The caller is not meant, whatever else fits.
    skip_me: bool,
}

/// `NAME x`, or `NOT-NAME x`.
#[derive(Debug)]
struct Condition {
    wanted: bool,
    field: Field,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// A field of the line, with one of the values.
    Is(&'static str),
    /// A field with at least this number.
    AtLeast(&'static str),
    /// A field that holds every character of the value.
    Holds(&'static str),
    /// What CLIENT LIST TYPE calls it.
    Kind,
    /// The address without the port.
    Host,
}

/// The options of all servers, with or without `NOT-`.
const OPTIONS: &[(&str, Field)] = &[
    ("ID", Field::Is("id")),
    ("ADDR", Field::Is("addr")),
    ("LADDR", Field::Is("laddr")),
    ("USER", Field::Is("user")),
    ("NAME", Field::Is("name")),
    ("LIB-NAME", Field::Is("lib-name")),
    ("LIB-VER", Field::Is("lib-ver")),
    ("DB", Field::Is("db")),
    ("MAXAGE", Field::AtLeast("age")),
    ("IDLE", Field::AtLeast("idle")),
    ("FLAGS", Field::Holds("flags")),
    ("CAPA", Field::Holds("capa")),
    ("TYPE", Field::Kind),
    ("IP", Field::Host),
];

impl Filter {
    /// The one condition of the old form of CLIENT KILL.
    pub(in crate::client) fn of_address(address: &[u8]) -> Self {
        let values = vec![String::from_utf8_lossy(address).into_owned()];
        Self { conditions: vec![Condition { wanted: true, field: Field::Is("addr"), values }], skip_me: false }
    }

    /// What stands behind CLIENT LIST or KILL, which spares the caller unless told otherwise. Of an option that is
    /// given twice the last one counts; the ids of some servers (`adds_ids`) add up.
    pub(in crate::client) fn parse<'a>(words: impl Iterator<Item = &'a [u8]>, skip_me: bool, adds_ids: bool) -> Self {
        let mut filter = Self { conditions: Vec::new(), skip_me };
        let mut words = words.peekable();
        while let Some(option) = words.next() {
            if token_is(option, "SKIPME") {
                filter.skip_me = words.next().is_some_and(|word| token_is(word, "YES"));
                continue;
            }
            let (wanted, name) = match option.get(..4) {
                Some(head) if head.eq_ignore_ascii_case(b"NOT-") => (false, &option[4..]),
                _ => (true, option),
            };
            let Some((_, field)) = OPTIONS.iter().find(|(option, _)| token_is(name, option)) else { continue };
            let mut values: Vec<String> =
                words.next().map(|value| String::from_utf8_lossy(value).into_owned()).into_iter().collect();
            if *field == Field::Is("id") {
                // Several ids may follow. No option is a number, so the first word that is none ends them.
                while let Some(id) = words.next_if(|word| word.iter().all(u8::is_ascii_digit)) {
                    values.push(String::from_utf8_lossy(id).into_owned());
                }
            }
            let before = filter.conditions.iter_mut().find(|is| is.field == *field && is.wanted == wanted);
            match before {
                Some(before) if adds_ids && *field == Field::Is("id") => before.values.append(&mut values),
                Some(before) => before.values = values,
                None => filter.conditions.push(Condition { wanted, field: *field, values }),
            }
        }
        filter
    }

    /// Whether the client of `line` is meant by the client `me`.
    pub(in crate::client) fn matches(&self, line: &str, me: Option<u64>) -> bool {
        let is_me = me.is_some_and(|me| field(line, "id") == Some(me.to_string().as_str()));
        !(self.skip_me && is_me) && self.conditions.iter().all(|condition| condition.holds(line) == condition.wanted)
    }
}

impl Condition {
    fn holds(&self, line: &str) -> bool {
        let is = |found: &str| self.values.iter().any(|value| value == found);
        let number = |text: &str| text.parse::<i64>().ok();
        match self.field {
            Field::Is(name) => field(line, name).is_some_and(is),
            Field::AtLeast(name) => self.values.iter().all(|least| {
                number(least)
                    .is_some_and(|least| field(line, name).and_then(number).is_some_and(|found| found >= least))
            }),
            // In any order, as flags are a set.
            Field::Holds(name) => {
                let found = field(line, name).unwrap_or_default();
                self.values.iter().all(|value| value.chars().all(|one| found.contains(one)))
            }
            Field::Kind => self.values.iter().any(|value| same_kind(value, kind(line))),
            Field::Host => {
                let host = field(line, "addr").and_then(|addr| addr.rsplit_once(':')).map(|(host, _)| host);
                host.is_some_and(|host| is(host.trim_matches(['[', ']'])))
            }
        }
    }
}

/// `slave` and `replica` are one, and so are `master` and `primary`.
fn same_kind(asked: &str, kind: &str) -> bool {
    let asked = asked.to_ascii_lowercase();
    let asked = match asked.as_str() {
        "slave" => "replica",
        "primary" => "master",
        other => other,
    };
    asked == kind
}

/// The type of a client, from its flags.
fn kind(line: &str) -> &'static str {
    let flags = field(line, "flags").unwrap_or_default();
    if flags.contains('M') {
        "master"
    } else if flags.contains('S') {
        "replica"
    } else if flags.contains('P') {
        "pubsub"
    } else {
        "normal"
    }
}

/// A field of a line.
pub(in crate::client) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The lines of a reply to CLIENT LIST or INFO.
pub(in crate::client) fn text_of(value: Option<Value>) -> Option<String> {
    value.and_then(|value| value.as_text().map(|text| String::from_utf8_lossy(text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "id=7 addr=127.0.0.1:5 laddr=127.0.0.1:6 fd=8 name=n age=10 idle=3 flags=xt capa=r db=2 user=u lib-name=l";

    fn matches(words: &str) -> bool {
        Filter::parse(words.split_ascii_whitespace().map(str::as_bytes), true, true).matches(LINE, Some(1))
    }

    #[test]
    fn every_option_is_looked_at() {
        let yes = [
            "",
            "ID 7",
            "ID 1 7",
            "ID 1 ID 7",
            "id 7 type NORMAL",
            "ADDR 127.0.0.1:5",
            "LADDR 127.0.0.1:6",
            "USER u",
            "NAME n",
            "LIB-NAME l",
            "DB 2",
            "MAXAGE 10",
            "IDLE 3",
            "FLAGS tx",
            "CAPA r",
            "IP 127.0.0.1",
            "TYPE pubsub TYPE normal",
        ];
        let no = [
            "ID 1",
            "ID 7 NAME m",
            "ADDR 127.0.0.1:6",
            "LADDR 127.0.0.1:5",
            "USER v",
            "NAME m",
            "LIB-NAME m",
            "DB 0",
            "MAXAGE 11",
            "IDLE 4",
            "FLAGS xd",
            "CAPA q",
            "IP 127.0.0.2",
            "TYPE pubsub",
            "TYPE replica",
            "NOT-ID 1 7",
        ];
        for words in yes {
            assert!(matches(words), "{words}");
        }
        for words in no {
            assert!(!matches(words), "{words}");
            if words.split(' ').count() == 2 {
                assert!(matches(&format!("NOT-{words}")), "NOT-{words}");
            }
        }
    }

    #[test]
    fn the_caller_is_spared_unless_it_says_otherwise() {
        let of = |words: &str, skip| {
            Filter::parse(words.split_ascii_whitespace().map(str::as_bytes), skip, false).matches(LINE, Some(7))
        };
        assert!(!of("", true) && of("", false) && of("SKIPME no", true) && !of("SKIPME yes", false));
        assert!(Filter::of_address(b"127.0.0.1:5").matches(LINE, Some(7)));
    }
}
