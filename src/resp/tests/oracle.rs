//! The reply scanner beside `redis-protocol`, on random frames and on frames with random damage.

use proptest::prelude::*;
use redis_protocol::error::RedisProtocolError;
use redis_protocol::{resp2, resp3};

use crate::resp::{Advance, ReplyError, ReplyScanner};

/// The verdict of one decoder on the first frame of some bytes.
type Verdict = Result<Option<usize>, String>;

fn verdict<T>(decoded: Result<Option<(T, usize)>, RedisProtocolError>) -> Verdict {
    decoded.map(|frame| frame.map(|(_, len)| len)).map_err(|error| error.to_string())
}

fn oracles(bytes: &[u8]) -> [Verdict; 2] {
    [verdict(resp2::decode::decode_range(bytes)), verdict(resp3::decode::complete::decode_range(bytes))]
}

fn scanned(bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
    match ReplyScanner::new().advance(bytes) {
        Advance::Complete { len, .. } => Ok(Some(len)),
        Advance::Partial => Ok(None),
        Advance::Invalid(error) => Err(error),
    }
}

/// The same by reads that end at `cuts`.
fn scanned_in_pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> Result<Option<usize>, ReplyError> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    cuts.sort_unstable();
    let mut scanner = ReplyScanner::new();
    let mut start = 0;
    for end in cuts {
        match scanner.advance(&bytes[start..end]) {
            Advance::Complete { len, .. } => return Ok(Some(start + len)),
            Advance::Partial => start = end,
            Advance::Invalid(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Where we may refuse what an oracle accepts or waits for: we insist on CRLF and on canonical lengths, know no
/// streams and no `HELLO` frame, and see an error in a line before its end.
fn may_refuse(error: ReplyError, accepted: bool) -> bool {
    match error {
        ReplyError::MissingCrlf | ReplyError::InvalidLength | ReplyError::Streamed => true,
        ReplyError::InvalidContent(kind) => !accepted || kind == b'_',
        ReplyError::UnknownType(kind) => matches!(kind, b'H' | b';' | b'.'),
        ReplyError::TooLong => !accepted,
        ReplyError::TooDeep => false,
    }
}

/// Where both oracles refuse what a server may send: an aggregate as a key or in a set, a nil of RESP2 in a frame that
/// is otherwise RESP3, an attribute before a nil or before another attribute, a verbatim string of a third format. A
/// push inside a frame they count as an element. All need one of these bytes; a frame without them has no excuse.
fn may_accept(frame: &[u8]) -> bool {
    let nil = frame.windows(3).any(|bytes| matches!(bytes, b"$-1" | b"*-1"));
    nil || frame.iter().any(|byte| b"~%|=>".contains(byte))
}

fn line(kind: char, content: &str) -> Vec<u8> {
    format!("{kind}{content}\r\n").into_bytes()
}

fn blob(kind: char, content: &[u8]) -> Vec<u8> {
    [&line(kind, &content.len().to_string()), content, b"\r\n"].concat()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..20)
}

fn resp2_scalar() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[ -~]{0,20}".prop_map(|text| line('+', &text)),
        "[ -~]{0,20}".prop_map(|text| line('-', &text)),
        any::<i64>().prop_map(|value| line(':', &value.to_string())),
        (0..200_i64).prop_map(|value| line(':', &value.to_string())),
        bytes().prop_map(|content| blob('$', &content)),
    ]
}

fn aggregate(kind: char, elements: Vec<Vec<u8>>) -> Vec<u8> {
    [line(kind, &elements.len().to_string()), elements.concat()].concat()
}

fn resp2_frame() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![8 => resp2_scalar(), 1 => Just(line('$', "-1")), 1 => Just(line('*', "-1"))];
    scalar.prop_recursive(5, 40, 5, |frame| {
        proptest::collection::vec(frame, 0..5).prop_map(|frames| aggregate('*', frames))
    })
}

fn resp3_scalar() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => resp2_scalar(),
        1 => Just(line('_', "")),
        1 => any::<bool>().prop_map(|value| line('#', if value { "t" } else { "f" })),
        2 => any::<f64>().prop_filter("Rust writes NaN", |value| !value.is_nan()).prop_map(|value| line(',', &value.to_string())),
        1 => any::<f64>().prop_filter("no exponent", |value| value.is_finite()).prop_map(|value| line(',', &format!("{value:e}"))),
        1 => "[+-]?(inf|nan|[0-9]{1,3}[.][0-9]{0,3}(e[+-]?[0-9]{1,3})?)".prop_map(|value| line(',', &value)),
        1 => "-?[1-9][0-9]{0,40}".prop_map(|value| line('(', &value)),
        1 => bytes().prop_map(|content| blob('!', &content)),
        1 => bytes().prop_map(|content| blob('=', &[b"txt:", &content[..]].concat())),
    ]
}

/// Pairs for a map: scalar keys, as the oracle must hash them.
fn pairs(frame: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec((resp3_scalar(), frame).prop_map(|(key, value)| [key, value].concat()), 0..4)
}

fn resp3_frame() -> impl Strategy<Value = Vec<u8>> {
    let inner = resp3_scalar().prop_recursive(5, 40, 5, |frame| {
        prop_oneof![
            3 => proptest::collection::vec(frame.clone(), 0..5).prop_map(|frames| aggregate('*', frames)),
            1 => proptest::collection::vec(resp3_scalar(), 0..5).prop_map(|frames| aggregate('~', frames)),
            2 => pairs(frame.clone()).prop_map(|pairs| aggregate('%', pairs)),
            // The oracle refuses an attribute of a nil, so it is one of a list here.
            1 => (pairs(frame.clone()), proptest::collection::vec(frame, 0..3))
                .prop_map(|(pairs, list)| [aggregate('|', pairs), aggregate('*', list)].concat()),
        ]
    });
    prop_oneof![
        6 => inner.clone(),
        1 => proptest::collection::vec(inner, 0..4).prop_map(|frames| aggregate('>', frames)),
    ]
}

/// One change of one byte.
#[derive(Debug, Clone)]
enum Damage {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Truncate(prop::sample::Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Replace(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Self::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![
        4 => proptest::sample::select(&b"+-:$*_#,(!=%~>|?\r\n0123456789.einftH;"[..]),
        1 => any::<u8>(),
    ];
    prop_oneof![
        4 => (any::<prop::sample::Index>(), byte.clone()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        2 => (any::<prop::sample::Index>(), byte).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        2 => any::<prop::sample::Index>().prop_map(Damage::Remove),
        1 => any::<prop::sample::Index>().prop_map(Damage::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whole_frames_of_resp2(
        frame in resp2_frame(),
        after in bytes(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let stream = [&frame[..], &after].concat();
        prop_assert_eq!(oracles(&stream)[0].clone(), Ok(Some(frame.len())));
        prop_assert_eq!(scanned(&stream), Ok(Some(frame.len())));
        prop_assert_eq!(scanned_in_pieces(&stream, &cuts), Ok(Some(frame.len())));
    }

    #[test]
    fn whole_frames_of_resp3(
        frame in resp3_frame(),
        after in bytes(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let stream = [&frame[..], &after].concat();
        prop_assert_eq!(oracles(&stream)[1].clone(), Ok(Some(frame.len())));
        prop_assert_eq!(scanned(&stream), Ok(Some(frame.len())));
        prop_assert_eq!(scanned_in_pieces(&stream, &cuts), Ok(Some(frame.len())));
    }

    #[test]
    fn damaged_frames(
        frame in prop_oneof![resp2_frame(), resp3_frame()],
        damages in proptest::collection::vec(damage(), 1..4),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut bytes = frame;
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        let ours = scanned(&bytes);
        prop_assert_eq!(scanned_in_pieces(&bytes, &cuts), ours, "cuts change nothing");
        let theirs = oracles(&bytes);
        let agrees = match ours {
            Ok(ours) => theirs.contains(&Ok(ours)),
            Err(_) => theirs.iter().all(Result::is_err),
        };
        let excused = match ours {
            Ok(Some(len)) => may_accept(&bytes[..len]),
            Ok(None) => may_accept(&bytes),
            Err(error) => may_refuse(error, theirs.iter().any(|verdict| matches!(verdict, Ok(Some(_))))),
        };
        prop_assert!(agrees || excused, "ours {:?}, resp2 and resp3 {:?}", ours, theirs);
    }
}
