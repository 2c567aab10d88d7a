//! Replies: however the bytes are cut, the frame ends where `redis-protocol` sees its end.

use redis_protocol::{resp2, resp3};
use respmux::internals::resp::{Advance, ReplyError, ReplyScanner, decode, element_ranges};

use crate::engine::{Target, behaviour};
use crate::mutate;

/// Where the first frame ends; `None` when it is not over.
type Found = Result<Option<usize>, ReplyError>;

/// The reply scanner, the decoder of rare frames and the finder of elements.
pub(crate) struct Replies;

impl Target for Replies {
    fn name(&self) -> &'static str {
        "replies"
    }

    fn corpus(&self) -> Vec<Vec<u8>> {
        mutate::corpus(include_str!("corpus/replies.txt"))
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"+",
            b"-",
            b":",
            b"$",
            b"*",
            b"_",
            b"#t",
            b",",
            b"(",
            b"!",
            b"=",
            b"%",
            b"~",
            b">",
            b"|",
            b"\r\n",
            b"\r",
            b"\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"_\r\n",
            b"*0\r\n",
            b"*1\r\n",
            b"%1\r\n",
            b"|1\r\n",
            b">1\r\n",
            b"$0\r\n\r\n",
            b"$1\r\nx\r\n",
            b"=5\r\ntxt:a\r\n",
            b"-10001\r\n",
            b"inf",
            b"nan",
            b"e+5",
            b"1.5",
            b"9223372036854775807",
            b"-9223372036854775808",
            b"4294967295",
            b"4294967296",
            b"1099511627776",
            b"1099511627777",
            b"$?",
            b"*?",
            b";",
        ]
    }

    fn run(&mut self, input: &[u8]) -> Result<u64, String> {
        let ours = scan(input);
        for step in [1, 2, 3, 7] {
            let pieces = scan_in_pieces(input, step);
            if pieces != ours {
                return Err(format!("by {step} bytes {pieces:?}, whole {ours:?}"));
            }
        }
        compare(input, ours)?;
        let mut known = (0, false);
        if let Ok(Some(len)) = ours {
            known = check_parts(&input[..len])?;
        }
        let heads = input.iter().filter(|byte| b"*%~>|$".contains(byte)).count().min(12);
        Ok(behaviour((format!("{ours:?}").get(..12).map(str::to_owned), input.first(), heads, known)))
    }

    fn weigh(&mut self, input: &[u8]) {
        let mut scanner = ReplyScanner::new();
        let half = input.len() / 2;
        scanner.advance(&input[..half]);
        scanner.advance(&input[half..]);
        let _ = decode(input);
    }
}

/// Elements lie one behind the other; decoding does not fail on what is plain.
fn check_parts(frame: &[u8]) -> Result<(usize, bool), String> {
    let elements = element_ranges(frame);
    for range in elements.iter().flatten() {
        if scan(&frame[range.clone()]) != Ok(Some(range.len())) {
            return Err(format!("element {range:?} is no frame"));
        }
    }
    let value = decode(frame);
    let plain = frame.iter().all(|byte| !b"=|,(>".contains(byte));
    if value.is_none() && plain {
        return Err("a whole frame was not decoded".to_owned());
    }
    if let (Some(ranges), Some(list)) = (&elements, value.as_ref().and_then(|value| value.as_list()))
        && ranges.len() != list.len()
    {
        return Err(format!("{} elements by their ends, {} by their values", ranges.len(), list.len()));
    }
    Ok((elements.map_or(99, |ranges| ranges.len().min(9)), value.is_some()))
}

fn scan(bytes: &[u8]) -> Found {
    match ReplyScanner::new().advance(bytes) {
        Advance::Complete { len, .. } => Ok(Some(len)),
        Advance::Partial => Ok(None),
        Advance::Invalid(error) => Err(error),
    }
}

fn scan_in_pieces(bytes: &[u8], step: usize) -> Found {
    let (mut scanner, mut at) = (ReplyScanner::new(), 0);
    for chunk in bytes.chunks(step) {
        match scanner.advance(chunk) {
            Advance::Complete { len, .. } => return Ok(Some(at + len)),
            Advance::Partial => at += chunk.len(),
            Advance::Invalid(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Our verdict beside those of `redis-protocol`, for RESP2 and RESP3.
pub(crate) fn compare(bytes: &[u8], ours: Found) -> Result<(), String> {
    if announces_much(bytes) {
        return Ok(());
    }
    let two =
        resp2::decode::decode_range(bytes).map(|frame| frame.map(|(_, len)| len)).map_err(|error| error.to_string());
    let three = resp3::decode::complete::decode_range(bytes);
    let three = three.map(|frame| frame.map(|(_, len)| len)).map_err(|error| error.to_string());
    let accepted = [&two, &three].iter().any(|verdict| matches!(verdict, Ok(Some(_))));
    let agrees = match ours {
        Ok(ours) => two == Ok(ours) || three == Ok(ours),
        Err(_) => two.is_err() && three.is_err(),
    };
    let excused = match ours {
        Ok(Some(len)) => may_accept(&bytes[..len]),
        Ok(None) => may_accept(bytes),
        Err(error) => may_refuse(error, accepted) || (accepted && counts_a_push(bytes)),
    };
    if agrees || excused { Ok(()) } else { Err(format!("ours {ours:?}, resp2 {two:?}, resp3 {three:?}")) }
}

/// The oracle reserves memory for what a length announces.
fn announces_much(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|digits| digits.iter().all(u8::is_ascii_digit))
}

/// Where we may refuse what the oracle accepts or waits for: we insist on CRLF, on canonical lengths and on `inf` and
/// `nan` in small letters, as servers write them, know no streams and no `HELLO` frame, and see an error in a line
/// before its end.
fn may_refuse(error: ReplyError, accepted: bool) -> bool {
    match error {
        ReplyError::MissingCrlf | ReplyError::InvalidLength | ReplyError::Streamed => true,
        ReplyError::InvalidContent(kind) => !accepted || matches!(kind, b'_' | b','),
        ReplyError::UnknownType(kind) => matches!(kind, b'H' | b';' | b'.'),
        ReplyError::TooLong => !accepted,
        ReplyError::TooDeep => false,
    }
}

/// A push inside a frame is an element to it, so that it sees the end of the frame too early.
fn counts_a_push(bytes: &[u8]) -> bool {
    bytes.get(1..).is_some_and(|rest| rest.contains(&b'>'))
}

/// Where it refuses what a server may send: an aggregate as a key or in a set, a nil of RESP2 in a frame that is
/// otherwise RESP3, an attribute before a nil or another attribute, a verbatim string of a third format, and a push
/// inside a frame, which it counts as an element.
fn may_accept(frame: &[u8]) -> bool {
    let nil = frame.windows(3).any(|bytes| matches!(bytes, b"$-1" | b"*-1"));
    nil || frame.iter().any(|byte| b"~%|=>".contains(byte))
}
