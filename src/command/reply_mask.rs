//! Which types of reply a command can have. Pure, and one AND per reply to check.

use std::collections::HashMap;

/// One row a command; see its head for the source.
const TABLE: &str = include_str!("replies.tsv");

/// A set of first bytes of replies. Errors are in every set; pushes are in none: they are no replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyMask(u16);

impl ReplyMask {
    /// Any reply: scripts, modules, and whatever the table does not know.
    pub const ANY: Self = Self::of(b"+-:$*_,#!=(%~");
    /// `+OK`, `+QUEUED`, or an error.
    pub const STATUS: Self = Self::of(b"+");
    /// respmux' own questions on behalf of blocked clients: elements, nil, lengths, streams.
    pub const OURS: Self = Self::of(b"$*_:%~=");
    /// A text: what CLIENT INFO gives.
    pub const TEXT: Self = Self::of(b"$=");

    /// The set of these bytes, and errors.
    #[must_use]
    pub const fn of(bytes: &[u8]) -> Self {
        let mut set = bit(b'-') | bit(b'!');
        let mut at = 0;
        while at < bytes.len() {
            set |= bit(bytes[at]);
            at += 1;
        }
        Self(set)
    }

    /// Whether a reply may begin with `byte`.
    #[inline]
    #[must_use]
    pub const fn allows(self, byte: u8) -> bool {
        self.0 & bit(byte) != 0
    }

    /// The types that are in either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

const fn bit(byte: u8) -> u16 {
    match byte {
        b'+' => 1,
        b'-' => 1 << 1,
        b':' => 1 << 2,
        b'$' => 1 << 3,
        b'*' => 1 << 4,
        b'_' => 1 << 5,
        b',' => 1 << 6,
        b'#' => 1 << 7,
        b'!' => 1 << 8,
        b'=' => 1 << 9,
        b'(' => 1 << 10,
        b'%' => 1 << 11,
        b'~' => 1 << 12,
        _ => 0,
    }
}

/// The legal replies of one command, in RESP2 and in RESP3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replies {
    pub two: ReplyMask,
    pub three: ReplyMask,
}

impl Replies {
    /// Nothing is known about the reply: every type may be right.
    pub const ANY: Self = Self { two: ReplyMask::ANY, three: ReplyMask::ANY };

    /// Legal in one of the protocols: for a connection that changes its own.
    #[must_use]
    pub const fn either(self) -> ReplyMask {
        self.two.or(self.three)
    }
}

/// The rows of the table by command.
pub(super) fn replies() -> HashMap<&'static str, Replies> {
    let row = |line: &'static str| {
        let mut columns = line.split('\t');
        let (name, two, three) = (columns.next()?, columns.next()?, columns.next()?);
        Some((name, Replies { two: ReplyMask::of(two.as_bytes()), three: ReplyMask::of(three.as_bytes()) }))
    };
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CommandTable, Lookup};

    #[test]
    fn errors_are_always_legal_and_pushes_never() {
        for mask in [ReplyMask::ANY, ReplyMask::STATUS, ReplyMask::OURS, ReplyMask::of(b"")] {
            assert!(mask.allows(b'-') && mask.allows(b'!'));
            assert!(!mask.allows(b'>') && !mask.allows(b'|') && !mask.allows(b'x'));
        }
        assert!(b"+:$*_,#=(%~".iter().all(|byte| ReplyMask::ANY.allows(*byte)));
    }

    #[test]
    fn every_row_names_a_command_and_types_that_exist() {
        let table = CommandTable::new();
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let columns: Vec<_> = line.split('\t').collect();
            assert_eq!(columns.len(), 3, "{line}");
            let words: Vec<_> = columns[0].split(' ').collect();
            let found = table.lookup(words[0].as_bytes(), words.get(1).map(|word| word.as_bytes()));
            assert!(matches!(found, Lookup::Known(id) if table.spec(id).name == columns[0]), "{line}");
            for types in &columns[1..] {
                assert!(!types.is_empty() && types.bytes().all(|byte| bit(byte) != 0), "{line}");
            }
            assert!(!columns[1].contains(['_', ',', '%', '~', '=']), "types of RESP3 in RESP2: {line}");
        }
    }

    #[test]
    fn scripts_and_strangers_may_answer_anything() {
        let table = CommandTable::new();
        for name in ["EVAL", "EVALSHA_RO", "FCALL", "DEBUG", "FT.SEARCH"] {
            match table.lookup(name.as_bytes(), None) {
                Lookup::Known(id) => assert_eq!(table.spec(id).replies, Replies::ANY, "{name}"),
                other => assert_eq!(other, Lookup::Unknown, "{name}"),
            }
        }
        let Lookup::Known(get) = table.lookup(b"GET", None) else { panic!("GET is known") };
        let replies = table.spec(get).replies;
        assert!(replies.two.allows(b'$') && !replies.two.allows(b'+') && !replies.two.allows(b'_'));
        assert!(replies.three.allows(b'_') && !replies.three.allows(b':'));
    }
}
