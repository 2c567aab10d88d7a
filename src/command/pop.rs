//! Blocking pops: what is asked in their place, and how replies to the one become replies to the other (rule
//! B1).

use std::time::Duration;

use bytes::BytesMut;

use super::tokens::token_is;
use crate::resp::{element_ranges, encode};

/// Digits before the point of a timeout that is certainly in the range of every server.
const SECONDS_DIGITS: usize = 9;
/// How long a connection that cannot be unblocked waits at a time, seconds (rule B5).
const SLICE: &[u8] = b"0.4";

/// What kind of thing is popped, and from which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PopKind {
    /// BLPOP (`true`) and BRPOP.
    List(bool),
    /// BZPOPMIN (`true`) and BZPOPMAX.
    Scores(bool),
    /// BLMPOP, from the left or not.
    ManyOfList(bool),
    /// BZMPOP.
    ManyOfScores,
    /// BLMOVE and BRPOPLPUSH.
    Move,
}

/// One blocking pop whose every argument is understood.
#[derive(Clone, Debug)]
pub struct Pop {
    kind: PopKind,
    non_blocking: Vec<Vec<u8>>,
    own: Vec<Vec<u8>>,
    /// Where in `own` the timeout stands.
    at: usize,
    keys: Vec<Vec<u8>>,
    timeout: Option<Duration>,
}

impl Pop {
    /// Understands the request `args`, name included. `None` when anything in it is not surely right: the server then
    /// says what is wrong, in its own order.
    #[must_use]
    pub fn parse(args: &[&[u8]]) -> Option<Self> {
        let name = args.first()?.to_ascii_uppercase();
        let last = args.len().checked_sub(1)?;
        let own = |at: usize| {
            let mut own: Vec<Vec<u8>> = args.iter().map(|arg| arg.to_vec()).collect();
            own[0].clone_from(&name);
            own[at] = b"0".to_vec();
            own
        };
        let (kind, at, keys, non_blocking) = match name.as_slice() {
            b"BLPOP" => plain(PopKind::List(true), b"LMPOP", args.get(1..last)?, b"LEFT", last),
            b"BRPOP" => plain(PopKind::List(false), b"LMPOP", args.get(1..last)?, b"RIGHT", last),
            b"BZPOPMIN" => plain(PopKind::Scores(true), b"ZMPOP", args.get(1..last)?, b"MIN", last),
            b"BZPOPMAX" => plain(PopKind::Scores(false), b"ZMPOP", args.get(1..last)?, b"MAX", last),
            b"BLMPOP" => many(args, b"LMPOP", ["LEFT", "RIGHT"])?,
            b"BZMPOP" => many(args, b"ZMPOP", ["MIN", "MAX"])?,
            b"BLMOVE" if args.len() == 6 => {
                let sides = args[3..5].iter().all(|side| token_is(side, "LEFT") || token_is(side, "RIGHT"));
                let non_blocking = [&[b"LMOVE".as_slice()], &args[1..5]].concat();
                sides.then(|| (PopKind::Move, 5, args[1..2].to_vec(), non_blocking))?
            }
            b"BRPOPLPUSH" if args.len() == 4 => {
                (PopKind::Move, 3, args[1..2].to_vec(), [&[b"RPOPLPUSH".as_slice()], &args[1..3]].concat())
            }
            _ => return None,
        };
        if keys.is_empty() {
            return None;
        }
        let owned = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
        let mut non_blocking = owned(&non_blocking);
        if matches!(kind, PopKind::List(_) | PopKind::Scores(_)) {
            non_blocking.insert(1, keys.len().to_string().into_bytes());
        }
        let timeout = decimal_timeout(args[at])?;
        Some(Self { kind, non_blocking, own: own(at), at, keys: owned(&keys), timeout })
    }

    /// What is popped.
    #[must_use]
    pub fn kind(&self) -> PopKind {
        self.kind
    }

    /// How long the client waits; `None` is for ever.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Its first key: where a move takes from.
    #[must_use]
    pub fn source(&self) -> &[u8] {
        &self.keys[0]
    }

    /// The form of this pop that does not wait (rule B1).
    #[must_use]
    pub fn non_blocking(&self) -> BytesMut {
        encoded(&self.non_blocking)
    }

    /// The command itself, waiting for ever. Also names the wait group: equal for all clients that wait for the same.
    #[must_use]
    pub fn armed(&self) -> BytesMut {
        encoded(&self.own)
    }

    /// The command itself, waiting for a moment.
    #[must_use]
    pub fn sliced(&self) -> BytesMut {
        let mut own = self.own.clone();
        own[self.at] = SLICE.to_vec();
        encoded(&own)
    }

    /// Asks for up to `wanted` elements at once, and how many replies of how many elements that brings; nothing for
    /// commands that already ask for many (rule B11).
    #[must_use]
    pub fn burst(&self, wanted: usize) -> Option<(BytesMut, Vec<usize>)> {
        const COPIES: usize = 8;
        const MOST: usize = 512;
        match self.kind {
            PopKind::List(_) | PopKind::Scores(_) => {
                let wanted = wanted.min(MOST);
                let mut words = self.non_blocking.clone();
                words.extend([b"COUNT".to_vec(), wanted.to_string().into_bytes()]);
                Some((encoded(&words), vec![wanted]))
            }
            PopKind::Move => {
                let copies = wanted.min(COPIES);
                Some((BytesMut::from(&self.non_blocking().repeat(copies)[..]), vec![1; copies]))
            }
            PopKind::ManyOfList(_) | PopKind::ManyOfScores => None,
        }
    }

    /// The key, if questions for several such pops can be put as one.
    #[must_use]
    pub fn mergeable(&self) -> Option<&[u8]> {
        let plain = matches!(self.kind, PopKind::List(_) | PopKind::Scores(_));
        (plain && self.keys.len() == 1).then(|| self.keys[0].as_slice())
    }

    /// One question for the keys of several mergeable pops of this kind.
    #[must_use]
    pub fn merged(&self, keys: &[&[u8]]) -> BytesMut {
        let count = keys.len().to_string();
        let mut words: Vec<&[u8]> = vec![&self.non_blocking[0], count.as_bytes()];
        words.extend(keys);
        words.push(self.non_blocking.last().expect("a twin ends with its side"));
        let mut out = BytesMut::new();
        encode::command(&mut out, &words);
        out
    }

    /// The command itself for the keys of several mergeable pops of this kind, waiting for ever.
    #[must_use]
    pub fn armed_for(&self, keys: &[&[u8]]) -> BytesMut {
        let mut words: Vec<&[u8]> = Vec::with_capacity(keys.len() + 2);
        words.push(&self.own[0]);
        words.extend(keys);
        words.push(b"0");
        let mut out = BytesMut::new();
        encode::command(&mut out, &words);
        out
    }

    /// The elements in a reply of the pop that does not wait, each as the client's own command would have answered. `None` for a reply
    /// that such a pop cannot give.
    #[must_use]
    pub fn elements(&self, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
        let scored = match self.kind {
            PopKind::List(_) => false,
            PopKind::Scores(_) => true,
            PopKind::ManyOfList(_) | PopKind::ManyOfScores => {
                element_ranges(frame)?;
                return Some(vec![frame.to_vec()]);
            }
            PopKind::Move => return Some(vec![frame.to_vec()]),
        };
        let parts = element_ranges(frame)?;
        let [key, list] = parts.as_slice() else { return None };
        let (key, list) = (&frame[key.clone()], &frame[list.clone()]);
        let one = |element: &[u8]| -> Option<Vec<u8>> {
            if !scored {
                return Some([b"*2\r\n", key, element].concat());
            }
            let pair = element_ranges(element)?;
            let [member, score] = pair.as_slice() else { return None };
            Some([b"*3\r\n", key, &element[member.clone()], &element[score.clone()]].concat())
        };
        element_ranges(list)?.into_iter().map(|range| one(&list[range])).collect()
    }

    /// Whether `frame` can be the answer to the command itself.
    #[must_use]
    pub fn fits(&self, frame: &[u8]) -> bool {
        let parts = match self.kind {
            PopKind::Move => return true,
            PopKind::Scores(_) => 3,
            PopKind::List(_) | PopKind::ManyOfList(_) | PopKind::ManyOfScores => 2,
        };
        element_ranges(frame).is_some_and(|ranges| ranges.len() == parts)
    }

    /// What puts the element of such an answer back where it was; nothing for a move, which has lost nothing.
    #[must_use]
    pub fn give_back(&self, answer: &[u8]) -> Option<BytesMut> {
        let parts = element_ranges(answer)?;
        let key = text(&answer[parts.first()?.clone()])?;
        let part = |at: usize| parts.get(at).map(|range| &answer[range.clone()]);
        let mut words: Vec<&[u8]> = Vec::new();
        match self.kind {
            PopKind::Move => return None,
            PopKind::List(left) => words.extend([push(left), key, text(part(1)?)?]),
            PopKind::Scores(_) => words.extend([b"ZADD", key, b"NX", text(part(2)?)?, text(part(1)?)?]),
            PopKind::ManyOfList(left) => {
                words.extend([push(left), key]);
                let list = part(1)?;
                for range in element_ranges(list)?.into_iter().rev() {
                    words.push(text(&list[range])?);
                }
            }
            PopKind::ManyOfScores => {
                words.extend([b"ZADD".as_slice(), key, b"NX"]);
                let list = part(1)?;
                for range in element_ranges(list)? {
                    let pair = &list[range];
                    let ranges = element_ranges(pair)?;
                    let [member, score] = ranges.as_slice() else { return None };
                    words.extend([text(&pair[score.clone()])?, text(&pair[member.clone()])?]);
                }
            }
        }
        let mut out = BytesMut::new();
        encode::command(&mut out, &words);
        Some(out)
    }
}

/// The key that an answer to a pop names.
#[must_use]
pub fn popped_key(answer: &[u8]) -> Option<&[u8]> {
    text(&answer[element_ranges(answer)?.first()?.clone()])
}

/// A nil of either protocol.
#[must_use]
pub fn is_nil(frame: &[u8]) -> bool {
    matches!(frame, b"*-1\r\n" | b"$-1\r\n" | b"_\r\n")
}

type Parsed<'a> = (PopKind, usize, Vec<&'a [u8]>, Vec<&'a [u8]>);

/// A pop that names its keys and then its timeout.
fn plain<'a>(kind: PopKind, non_blocking: &'a [u8], keys: &[&'a [u8]], side: &'a [u8], at: usize) -> Parsed<'a> {
    let words = [&[non_blocking], keys, &[side]].concat();
    (kind, at, keys.to_vec(), words)
}

/// `name timeout numkeys key… side [COUNT n]`.
fn many<'a>(args: &[&'a [u8]], non_blocking: &'a [u8], sides: [&str; 2]) -> Option<Parsed<'a>> {
    let count = usize::try_from(positive(args.get(2)?)?).ok()?;
    let keys = args.get(3..3usize.checked_add(count)?)?;
    let rest = args.get(3 + count..)?;
    let first = token_is(rest.first()?, sides[0]);
    let right = match rest {
        [side] => token_is(side, sides[0]) || token_is(side, sides[1]),
        [side, word, number] => {
            (token_is(side, sides[0]) || token_is(side, sides[1]))
                && token_is(word, "COUNT")
                && positive(number).is_some()
        }
        _ => false,
    };
    let kind = if non_blocking == b"LMPOP" { PopKind::ManyOfList(first) } else { PopKind::ManyOfScores };
    let words = [&[non_blocking], &args[2..]].concat();
    right.then(|| (kind, 1, keys.to_vec(), words))
}

/// A positive integer in its plainest form, far below every limit.
fn positive(text: &[u8]) -> Option<u64> {
    let plain = (1..=9).contains(&text.len()) && text.iter().all(u8::is_ascii_digit) && text[0] != b'0';
    if plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// `digits` or `digits.digits`, in seconds, rounded up to milliseconds. `Some(None)` is for ever; `None` is anything
/// that only the server should read.
fn decimal_timeout(text: &[u8]) -> Option<Option<Duration>> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > SECONDS_DIGITS || fraction.len() > 17 {
        return None;
    }
    let thousandths: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let more = fraction.bytes().skip(3).any(|digit| digit != b'0');
    let millis = whole.parse::<u64>().ok()? * 1000 + thousandths + u64::from(more);
    Some((millis > 0).then(|| Duration::from_millis(millis)))
}

/// `ms` of BLOCK: a plain integer. As [`decimal_timeout`].
pub(super) fn integer_timeout(text: &[u8]) -> Option<Option<Duration>> {
    if text == b"0" { Some(None) } else { positive(text).map(|ms| Some(Duration::from_millis(ms))) }
}

fn push(left: bool) -> &'static [u8] {
    if left { b"LPUSH" } else { b"RPUSH" }
}

/// The content of a bulk, or of a line (a RESP3 double).
fn text(frame: &[u8]) -> Option<&[u8]> {
    let frame = frame.strip_suffix(b"\r\n")?;
    match frame.first()? {
        b'$' => frame.get(memchr::memchr(b'\n', frame)? + 1..),
        b',' | b'+' | b':' => frame.get(1..),
        _ => None,
    }
}

pub(super) fn encoded(words: &[Vec<u8>]) -> BytesMut {
    let mut out = BytesMut::new();
    encode::command(&mut out, words);
    out
}

#[cfg(test)]
mod tests;
