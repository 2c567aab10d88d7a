//! What a server makes of a stream of requests, written down a second time: from the server's rules, over the whole
//! stream at once, and with none of the code that is tested.

use respmux::internals::resp::{ProtocolError, RequestLimits};

/// What is found in a stream, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Args(Vec<Vec<u8>>),
    Error(ProtocolError),
    /// The bytes end within a request.
    Pending,
}

/// Reads `stream`, which must be shorter than the 65,536 bytes a line may have.
pub(crate) fn requests(stream: &[u8], limits: &RequestLimits) -> Vec<Seen> {
    let (mut at, mut seen) = (0, Vec::new());
    while at < stream.len() {
        let read = if stream[at] == b'*' { multibulk(stream, at, limits) } else { inline(stream, at) };
        match read {
            Ok(Some((next, args))) => {
                at = next;
                if !args.is_empty() {
                    seen.push(Seen::Args(args));
                }
            }
            Ok(None) => {
                seen.push(Seen::Pending);
                break;
            }
            Err(error) => {
                seen.push(Seen::Error(error));
                break;
            }
        }
    }
    seen
}

type Read = Result<Option<(usize, Vec<Vec<u8>>)>, ProtocolError>;

/// `strchr`: not beyond a NUL.
fn strchr(stream: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let found = stream[from..].iter().position(|byte| *byte == wanted || *byte == 0)? + from;
    (stream[found] == wanted).then_some(found)
}

/// A number as `string2ll` takes it.
fn number(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let value: i128 = text.parse().ok()?;
    let fits = i64::try_from(value).is_ok();
    (fits && value.to_string() == text).then_some(value)
}

fn multibulk(stream: &[u8], start: usize, limits: &RequestLimits) -> Read {
    let Some(end) = strchr(stream, start, b'\r').filter(|end| end + 1 < stream.len()) else { return Ok(None) };
    let count = number(&stream[start + 1..end]).filter(|count| *count <= i128::from(limits.max_args));
    let count = count.ok_or(ProtocolError::InvalidMultibulkLength)?;
    if count > 10 && !limits.authenticated {
        return Err(ProtocolError::UnauthenticatedMultibulkLength);
    }
    let (mut at, mut args) = (end + 2, Vec::new());
    for _ in 0..count.max(0) {
        let line = if at < stream.len() { strchr(stream, at, b'\r') } else { None };
        let Some(end) = line.filter(|end| end + 1 < stream.len()) else { return Ok(None) };
        if stream[at] != b'$' {
            return Err(ProtocolError::ExpectedDollar(stream[at]));
        }
        let len = number(&stream[at + 1..end]).filter(|len| (0..=i128::from(limits.max_bulk)).contains(len));
        let len = len.ok_or(ProtocolError::InvalidBulkLength)? as usize;
        if len > 16_384 && !limits.authenticated {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        at = end + 2;
        if stream.len() < at + len + 2 {
            return Ok(None);
        }
        args.push(stream[at..at + len].to_vec());
        at += len + 2;
    }
    Ok(Some((at, args)))
}

fn inline(stream: &[u8], start: usize) -> Read {
    let Some(end) = strchr(stream, start, b'\n') else { return Ok(None) };
    let line = &stream[start..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let args = split(line).ok_or(ProtocolError::UnbalancedQuotes)?;
    Ok(Some((end + 1, args)))
}

/// `sdssplitargs`, as one machine over the bytes.
fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    #[derive(Clone, Copy, PartialEq)]
    enum In {
        Gap,
        Word,
        Double,
        Single,
        /// A quote was closed.
        Closed,
    }
    let space = |byte: u8| byte == b' ' || (9..=13).contains(&byte);
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (mut args, mut state, mut i) = (Vec::<Vec<u8>>::new(), In::Gap, 0);
    while i < line.len() {
        let byte = line[i];
        let next = line.get(i + 1).copied();
        if state == In::Closed {
            if !space(byte) {
                return None;
            }
            state = In::Gap;
        }
        if state == In::Gap {
            if space(byte) {
                i += 1;
                continue;
            }
            args.push(Vec::new());
            state = In::Word;
        }
        let arg = args.last_mut().expect("begun above");
        match (state, byte, next) {
            (In::Word, b' ' | b'\n' | b'\r' | b'\t', _) => state = In::Gap,
            (In::Word, b'"', _) => state = In::Double,
            (In::Word, b'\'', _) => state = In::Single,
            (In::Double, b'"', _) | (In::Single, b'\'', _) => state = In::Closed,
            (In::Single, b'\\', Some(b'\'')) => {
                arg.push(b'\'');
                i += 1;
            }
            (In::Double, b'\\', Some(escaped)) => {
                let digits = (line.get(i + 2).copied().and_then(hex), line.get(i + 3).copied().and_then(hex));
                if let (b'x', (Some(high), Some(low))) = (escaped, digits) {
                    arg.push(high * 16 + low);
                    i += 3;
                } else {
                    let plain = b"nrtba".iter().position(|known| *known == escaped);
                    arg.push(plain.map_or(escaped, |known| b"\n\r\t\x08\x07"[known]));
                    i += 1;
                }
            }
            _ => arg.push(byte),
        }
        i += 1;
    }
    (!matches!(state, In::Double | In::Single)).then_some(args)
}
