//! What must be received: bytes, with holes for what varies. Also the escapes that sends share.

use std::collections::HashMap;
use std::fmt;

use kit::{Frame, glob};

/// Values that a transcript has captured, by name.
pub(super) type Captured = HashMap<String, Vec<u8>>;

/// A whole pattern, with the text it was written as.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) source: String,
    pub(super) pieces: Vec<Piece>,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "«{}»", self.source)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(Vec<u8>),
    /// `<int>`, `<int=name>`: decimal digits, perhaps a minus.
    Int(Option<String>),
    /// `<line:glob>`: up to the CRLF, which is not part of it.
    Line(Vec<u8>, Option<String>),
    /// `<bulk:glob>`, `<verb:glob>`: one whole bulk or verbatim string.
    Bulk(u8, Vec<u8>, Option<String>),
    /// `<frame>`, `<frame*3>`: so many whole frames of any kind.
    Frames(usize),
    /// `<skip:glob>`: lines of any kind up to one like this, which is taken too.
    Skip(Vec<u8>),
    /// `<$name>`: what was captured before.
    Captured(String),
}

/// The outcome of laying a pattern over what has been received so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It covers this many bytes and captured these values.
    Match(usize, Vec<(String, Vec<u8>)>),
    NeedMore,
    /// It cannot match any more, from this byte on.
    Mismatch(usize),
}

/// Parses the text after `C1<`: `/` is CRLF (white space after it is layout), `\` escapes, `{x*9}` repeats, `<…>` are
/// holes.
pub(super) fn parse(text: &str) -> Result<Pattern, String> {
    let mut pieces = Vec::new();
    let mut literal = Vec::new();
    let mut rest = text.trim();
    while let Some(next) = rest.chars().next() {
        if next == '<' {
            let (inner, after) = rest[1..].split_once('>').ok_or("a `<` without its `>`; a literal one is `\\<`")?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            let piece = hole(inner)?;
            let whole = matches!(piece, Piece::Bulk(..) | Piece::Frames(_) | Piece::Skip(_));
            rest = if whole { after.trim_start() } else { after };
            pieces.push(piece);
        } else {
            rest = unescape(rest, &mut literal)?;
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(Pattern { source: text.trim().to_owned(), pieces })
}

fn hole(inner: &str) -> Result<Piece, String> {
    if let Some(name) = inner.strip_prefix('$') {
        return Ok(Piece::Captured(name.to_owned()));
    }
    let (head, pattern) = inner.split_once(':').unwrap_or((inner, "*"));
    let (kind, name) = match head.split_once('=') {
        Some((kind, name)) => (kind, Some(name.to_owned())),
        None => (head, None),
    };
    let mut bytes = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        // A glob keeps its own backslashes; only bytes that cannot be typed are escaped.
        if rest.starts_with("\\x") {
            rest = unescape(rest, &mut bytes)?;
        } else {
            let next = rest.chars().next().expect("not empty");
            bytes.extend_from_slice(next.to_string().as_bytes());
            rest = &rest[next.len_utf8()..];
        }
    }
    match kind.split_once('*').unwrap_or((kind, "1")) {
        ("int", _) => Ok(Piece::Int(name)),
        ("skip", _) => Ok(Piece::Skip(bytes)),
        ("line", _) => Ok(Piece::Line(bytes, name)),
        ("bulk", _) => Ok(Piece::Bulk(b'$', bytes, name)),
        ("verb", _) => Ok(Piece::Bulk(b'=', bytes, name)),
        ("frame", count) => Ok(Piece::Frames(count.parse().map_err(|_| format!("<{inner}> has no count"))?)),
        _ => Err(format!("<{inner}> is no kind of hole")),
    }
}

/// Takes one element of a raw text off the front of `rest`: a CRLF, an escape, a repetition or a plain character.
pub(super) fn unescape<'a>(rest: &'a str, into: &mut Vec<u8>) -> Result<&'a str, String> {
    let next = rest.chars().next().ok_or("nothing to take")?;
    let after = &rest[next.len_utf8()..];
    match next {
        '/' => {
            into.extend_from_slice(b"\r\n");
            Ok(after.trim_start())
        }
        '\\' => escape(after, into),
        '{' => repeat(after, into),
        _ => {
            into.extend_from_slice(next.to_string().as_bytes());
            Ok(after)
        }
    }
}

/// The rest after a backslash: `\r \n \t \0 \s` (space), `\xHH`, or any character as itself.
pub(super) fn escape<'a>(after: &'a str, into: &mut Vec<u8>) -> Result<&'a str, String> {
    let next = after.chars().next().ok_or("a backslash at the end")?;
    let byte = match next {
        'r' => b'\r',
        'n' => b'\n',
        't' => b'\t',
        's' => b' ',
        '0' => 0,
        'x' => {
            let digits = after.get(1..3).ok_or("\\x wants two digits")?;
            into.push(u8::from_str_radix(digits, 16).map_err(|_| format!("\\x{digits} is no byte"))?);
            return Ok(&after[3..]);
        }
        _ => {
            into.extend_from_slice(next.to_string().as_bytes());
            return Ok(&after[next.len_utf8()..]);
        }
    };
    into.push(byte);
    Ok(&after[1..])
}

/// The rest after `{`: `text*count}`.
pub(super) fn repeat<'a>(after: &'a str, into: &mut Vec<u8>) -> Result<&'a str, String> {
    let (inner, rest) = after.split_once('}').ok_or("a `{` without its `}`; a literal one is `\\{`")?;
    let (text, count) = inner.rsplit_once('*').ok_or_else(|| format!("{{{inner}}} is not {{text*count}}"))?;
    let count: usize = count.parse().map_err(|_| format!("{count:?} is no count"))?;
    let mut unit = Vec::new();
    let mut left = text;
    while !left.is_empty() {
        left = unescape(left, &mut unit)?;
    }
    into.extend_from_slice(&unit.repeat(count));
    Ok(if unit.ends_with(b"\r\n") { rest.trim_start() } else { rest })
}

/// Lays `pattern` over the front of `received`.
pub(super) fn lay(pattern: &Pattern, received: &[u8], captured: &Captured) -> Outcome {
    let mut at = 0;
    let mut captures: Vec<(String, Vec<u8>)> = Vec::new();
    for piece in &pattern.pieces {
        let rest = &received[at..];
        let step = match piece {
            Piece::Literal(bytes) => lay_literal(bytes, rest),
            Piece::Captured(name) => {
                let own = captures.iter().find(|(found, _)| found == name).map(|(_, value)| value);
                let value = own.or_else(|| captured.get(name)).unwrap_or_else(|| panic!("<${name}> was not captured"));
                lay_literal(value, rest)
            }
            Piece::Int(_) => lay_int(rest),
            Piece::Line(pattern, _) => lay_line(pattern, rest),
            Piece::Bulk(kind, pattern, _) => lay_bulk(*kind, pattern, rest),
            Piece::Frames(count) => lay_frames(*count, rest),
            Piece::Skip(pattern) => lay_skip(pattern, rest),
        };
        let (used, value) = match step {
            Step::Took(used, value) => (used, value),
            Step::NeedMore => return Outcome::NeedMore,
            Step::Mismatch(inside) => return Outcome::Mismatch(at + inside),
        };
        if let Piece::Int(Some(name)) | Piece::Line(_, Some(name)) | Piece::Bulk(_, _, Some(name)) = piece {
            captures.push((name.clone(), value));
        }
        at += used;
    }
    Outcome::Match(at, captures)
}

enum Step {
    Took(usize, Vec<u8>),
    NeedMore,
    Mismatch(usize),
}

fn lay_literal(bytes: &[u8], rest: &[u8]) -> Step {
    let common = bytes.len().min(rest.len());
    match (0..common).find(|&at| bytes[at] != rest[at]) {
        Some(at) => Step::Mismatch(at),
        None if common < bytes.len() => Step::NeedMore,
        None => Step::Took(common, Vec::new()),
    }
}

fn lay_int(rest: &[u8]) -> Step {
    let sign = usize::from(rest.first() == Some(&b'-'));
    let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if sign + digits == rest.len() {
        return Step::NeedMore;
    }
    if digits == 0 { Step::Mismatch(sign) } else { Step::Took(sign + digits, rest[..sign + digits].to_vec()) }
}

fn lay_line(pattern: &[u8], rest: &[u8]) -> Step {
    let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
        return Step::NeedMore;
    };
    if glob::matches(pattern, &rest[..end]) { Step::Took(end, rest[..end].to_vec()) } else { Step::Mismatch(0) }
}

fn lay_skip(pattern: &[u8], rest: &[u8]) -> Step {
    let mut at = 0;
    while let Some(end) = rest[at..].windows(2).position(|pair| pair == b"\r\n") {
        let line = &rest[at..at + end];
        at += end + 2;
        if glob::matches(pattern, line) {
            return Step::Took(at, Vec::new());
        }
    }
    Step::NeedMore
}

fn lay_bulk(kind: u8, pattern: &[u8], rest: &[u8]) -> Step {
    if rest.first().is_some_and(|&first| first != kind) {
        return Step::Mismatch(0);
    }
    match Frame::parse(rest) {
        Ok(Some((frame, used))) if !frame.null && glob::matches(pattern, &frame.text) => Step::Took(used, frame.text),
        Ok(None) => Step::NeedMore,
        Ok(Some(_)) | Err(_) => Step::Mismatch(0),
    }
}

fn lay_frames(count: usize, rest: &[u8]) -> Step {
    let mut at = 0;
    for _ in 0..count {
        match Frame::parse(&rest[at..]) {
            Ok(Some((_, used))) => at += used,
            Ok(None) => return Step::NeedMore,
            Err(_) => return Step::Mismatch(at),
        }
    }
    Step::Took(at, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay_text(text: &str, received: &[u8]) -> Outcome {
        lay(&parse(text).unwrap(), received, &Captured::new())
    }

    #[test]
    fn slashes_are_line_ends_and_holes_take_what_varies() {
        let outcome = lay_text(
            "+OK/ :<int=id>/ <bulk:a*> -ERR x '<line>/ <frame*2>",
            b"+OK\r\n:17\r\n$2\r\nab\r\n-ERR x 'y'\r\n_\r\n*0\r\nrest",
        );
        assert_eq!(outcome, Outcome::Match(37, vec![("id".to_owned(), b"17".to_vec())]));
    }

    #[test]
    fn a_mismatch_is_told_from_a_beginning() {
        assert_eq!(lay_text("+OK/ +PONG/", b"+OK\r\n+PO"), Outcome::NeedMore);
        assert_eq!(lay_text("+OK/ +PONG/", b"+OK\r\n+PA"), Outcome::Mismatch(7));
        assert_eq!(lay_text(":<int>/", b":x\r\n"), Outcome::Mismatch(1));
        assert_eq!(lay_text("<bulk:a*>", b"+abc\r\n"), Outcome::Mismatch(0));
        assert_eq!(lay_text("<skip:+c*> :1/", b"+a\r\n+b\r\n+cd\r\n:1\r\n"), Outcome::Match(17, Vec::new()));
        assert_eq!(lay_text("<skip:+c*>", b"+a\r\n+b\r\n"), Outcome::NeedMore);
    }

    #[test]
    fn escapes_repeat_and_name_bytes() {
        assert_eq!(parse("{a/*2}\\0\\x7f\\/\\s\\<").unwrap().pieces, [Piece::Literal(b"a\r\na\r\n\0\x7f/ <".to_vec())]);
        assert!(parse("<what>").is_err());
    }
}
