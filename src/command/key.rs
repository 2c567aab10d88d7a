//! Where the first key of a request stands: for people who look for hot keys and slow requests. Nothing is routed by it.

use super::spec::{LatencyKind, Spec};
use super::tokens::token_is;

/// Reads and writes that have no key where others have theirs.
const KEYLESS: &[&str] = &[
    "DBSIZE",
    "FLUSHALL",
    "FLUSHDB",
    "KEYS",
    "LOLWUT",
    "RANDOMKEY",
    "SCAN",
    "SWAPDB",
    "TS.MGET",
    "TS.MRANGE",
    "TS.MREVRANGE",
];

/// Commands whose keys stand behind their number, or behind another word.
const SECOND: &[&str] = &[
    "BITOP",
    "LMPOP",
    "MEMORY USAGE",
    "MSETEX",
    "SDIFFCARD",
    "SINTERCARD",
    "SUNIONCARD",
    "ZDIFF",
    "ZINTER",
    "ZINTERCARD",
    "ZMPOP",
    "ZUNION",
];

/// The first key of a request with `count` arguments, the name included; `nth` gives them. `None` when there is none,
/// or when the table does not say.
pub fn first_key<'a>(spec: &Spec, count: usize, nth: impl Fn(usize) -> &'a [u8]) -> Option<&'a [u8]> {
    let name = spec.name.as_str();
    let at = match spec.kind {
        LatencyKind::Admin | LatencyKind::Pubsub | LatencyKind::Transaction => return None,
        LatencyKind::Script => 3,
        _ if KEYLESS.contains(&name) || name.starts_with("FT.") => return None,
        _ if name == "XREAD" || name == "XREADGROUP" => {
            (1..count).find(|at| token_is(nth(*at), "STREAMS")).map_or(count, |at| at + 1)
        }
        _ if SECOND.contains(&name) => 2,
        _ if name == "BLMPOP" || name == "BZMPOP" || name == "MIGRATE" => 3,
        _ if ["OBJECT ", "XGROUP ", "XINFO "].iter().any(|head| name.starts_with(head)) => 2,
        LatencyKind::Read | LatencyKind::Write | LatencyKind::Blocking => 1,
        LatencyKind::Other => return None,
    };
    (at < count).then(|| nth(at)).filter(|_| spec.kind != LatencyKind::Script || nth(2) != b"0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CommandTable, Lookup};

    #[test]
    fn the_first_key_is_found_where_there_is_one() {
        let table = CommandTable::new();
        for (line, wanted) in [
            ("GET k", Some("k")),
            ("set k v", Some("k")),
            ("MSET a 1 b 2", Some("a")),
            ("PING", None),
            ("PING k", None),
            ("DBSIZE", None),
            ("SCAN 0", None),
            ("FLUSHALL", None),
            ("OBJECT ENCODING k", Some("k")),
            ("XINFO STREAM s", Some("s")),
            ("MEMORY USAGE k", Some("k")),
            ("EVAL script 1 k a", Some("k")),
            ("EVAL script 0 a", None),
            ("FCALL f 1 k", Some("k")),
            ("XREAD COUNT 1 STREAMS s 0", Some("s")),
            ("XREAD COUNT 1", None),
            ("ZUNION 2 a b", Some("a")),
            ("LMPOP 1 l LEFT", Some("l")),
            ("BITOP AND d a b", Some("d")),
            ("PUBLISH c m", None),
            ("INFO server", None),
            ("CLIENT LIST", None),
            ("GET", None),
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let Lookup::Known(id) = table.lookup(words[0], words.get(1).copied()) else { panic!("{line}") };
            let key = first_key(table.spec(id), words.len(), |at| words[at]);
            assert_eq!(key, wanted.map(str::as_bytes), "{line}");
        }
    }
}
