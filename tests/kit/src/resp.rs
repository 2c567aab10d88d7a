//! A strict RESP reader: whole frames or nothing, no leniency. Independent of the product on purpose.

use std::fmt;

/// One reply, with everything that distinguishes replies on the wire.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Int(i64),
    Bulk(Vec<u8>),
    /// `$-1`
    NullBulk,
    /// `*-1`
    NullArray,
    /// `_`
    Null,
    Array(Vec<Self>),
    Map(Vec<Self>),
    Set(Vec<Self>),
    Push(Vec<Self>),
    Double(Vec<u8>),
    Bool(bool),
    BigNumber(Vec<u8>),
    /// With its three-letter format: `txt:…`
    Verbatim(Vec<u8>),
}

/// The bytes cannot be RESP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

/// A line or an aggregate header longer than this is not something a server sends.
const LONGEST_LINE: usize = 64 * 1024;

/// The first frame of `bytes` and its length; `None` while it is incomplete.
pub fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, Broken> {
    // Lengths first: a frame of many megabytes arrives in many reads and must not be copied at each.
    let Some(end) = frame_end(bytes, 0, 0)? else { return Ok(None) };
    let mut at = 0;
    let value = build(bytes, &mut at)?;
    debug_assert_eq!(at, end);
    Ok(Some((value, end)))
}

/// Where the frame that starts at `at` ends.
pub fn frame_end(bytes: &[u8], at: usize, depth: usize) -> Result<Option<usize>, Broken> {
    if depth > 16 {
        return Err(Broken("nested too deeply".into()));
    }
    let Some((kind, line, mut next)) = line_at(bytes, at)? else { return Ok(None) };
    match kind {
        b'$' | b'=' => {
            let Some(size) = length(kind, line)? else { return Ok(Some(next)) };
            if bytes.len() < next + size + 2 {
                return Ok(None);
            }
            if &bytes[next + size..next + size + 2] != b"\r\n" {
                return Err(Broken(format!("a bulk of {size} bytes does not end in CRLF")));
            }
            Ok(Some(next + size + 2))
        }
        b'*' | b'~' | b'>' | b'%' => {
            let Some(count) = length(kind, line)? else { return Ok(Some(next)) };
            for _ in 0..if kind == b'%' { count * 2 } else { count } {
                let Some(end) = frame_end(bytes, next, depth + 1)? else { return Ok(None) };
                next = end;
            }
            Ok(Some(next))
        }
        _ => Ok(Some(next)),
    }
}

/// The type byte, the rest of the line, and where the next one starts.
type Line<'a> = (u8, &'a [u8], usize);

/// The line at `at`; `None` while its end is not there.
fn line_at(bytes: &[u8], at: usize) -> Result<Option<Line<'_>>, Broken> {
    let Some(&kind) = bytes.get(at) else { return Ok(None) };
    if !b"+-:$*_,#(=%~>".contains(&kind) {
        return Err(Broken(format!("{:?} starts no frame", char::from(kind))));
    }
    let rest = &bytes[at + 1..];
    let Some(cr) = memchr::memchr2(b'\r', b'\n', rest) else {
        let long = rest.len() > LONGEST_LINE;
        return if long { Err(Broken("a line without end".into())) } else { Ok(None) };
    };
    match (rest[cr], rest.get(cr + 1)) {
        (b'\r', None) => Ok(None),
        (b'\r', Some(b'\n')) => Ok(Some((kind, &rest[..cr], at + 1 + cr + 2))),
        _ => Err(Broken("CR and LF do not come as a pair".into())),
    }
}

/// Decimal as servers write it: no sign but `-`, no leading zero.
fn integer(line: &[u8]) -> Result<i64, Broken> {
    let text = String::from_utf8_lossy(line);
    let value = text.parse::<i64>().map_err(|_| Broken(format!("{text:?} is no integer")))?;
    if value.to_string() != text { Err(Broken(format!("{text:?} is no canonical integer"))) } else { Ok(value) }
}

fn length(kind: u8, line: &[u8]) -> Result<Option<usize>, Broken> {
    match integer(line)? {
        -1 if kind == b'$' || kind == b'*' => Ok(None),
        size => usize::try_from(size).map(Some).map_err(|_| Broken(format!("{size} is no length"))),
    }
}

/// Builds the value of a frame known to be complete.
fn build(bytes: &[u8], at: &mut usize) -> Result<Value, Broken> {
    let Some((kind, line, next)) = line_at(bytes, *at)? else { return Err(Broken("incomplete".into())) };
    *at = next;
    Ok(match kind {
        b'+' => Value::Simple(line.to_vec()),
        b'-' => Value::Error(line.to_vec()),
        b':' => Value::Int(integer(line)?),
        b',' => Value::Double(line.to_vec()),
        b'(' => Value::BigNumber(line.to_vec()),
        b'_' if line.is_empty() => Value::Null,
        b'#' if line == b"t" || line == b"f" => Value::Bool(line == b"t"),
        b'$' | b'=' => {
            let Some(size) = length(kind, line)? else { return Ok(Value::NullBulk) };
            let body = bytes[*at..*at + size].to_vec();
            *at += size + 2;
            if kind == b'$' { Value::Bulk(body) } else { Value::Verbatim(body) }
        }
        b'*' | b'~' | b'>' | b'%' => {
            let Some(count) = length(kind, line)? else { return Ok(Value::NullArray) };
            let count = if kind == b'%' { count * 2 } else { count };
            let items = (0..count).map(|_| build(bytes, at)).collect::<Result<Vec<_>, _>>()?;
            match kind {
                b'*' => Value::Array(items),
                b'~' => Value::Set(items),
                b'>' => Value::Push(items),
                _ => Value::Map(items),
            }
        }
        _ => return Err(Broken(format!("{:?} with {:?}", char::from(kind), line.escape_ascii().to_string()))),
    })
}

impl Value {
    pub fn ok() -> Self {
        Self::Simple(b"OK".to_vec())
    }

    pub fn text(text: &str) -> Self {
        Self::Bulk(text.as_bytes().to_vec())
    }

    /// The frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(line) => put_line(out, b'+', line),
            Self::Error(line) => put_line(out, b'-', line),
            Self::Int(value) => put_line(out, b':', value.to_string().as_bytes()),
            Self::Double(line) => put_line(out, b',', line),
            Self::BigNumber(line) => put_line(out, b'(', line),
            Self::Bool(value) => put_line(out, b'#', if *value { b"t" } else { b"f" }),
            Self::Null => put_line(out, b'_', b""),
            Self::NullBulk => put_line(out, b'$', b"-1"),
            Self::NullArray => put_line(out, b'*', b"-1"),
            Self::Bulk(body) | Self::Verbatim(body) => {
                let kind = if matches!(self, Self::Bulk(_)) { b'$' } else { b'=' };
                put_line(out, kind, body.len().to_string().as_bytes());
                out.extend_from_slice(body);
                out.extend_from_slice(b"\r\n");
            }
            Self::Array(items) => put_items(out, b'*', items.len(), items),
            Self::Set(items) => put_items(out, b'~', items.len(), items),
            Self::Push(items) => put_items(out, b'>', items.len(), items),
            Self::Map(items) => put_items(out, b'%', items.len() / 2, items),
        }
    }

    /// Calls `visit` with every run of payload bytes in the reply.
    pub fn each_text(&self, visit: &mut dyn FnMut(&[u8])) {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Bulk(text) | Self::Verbatim(text) => visit(text),
            Self::Array(items) | Self::Map(items) | Self::Set(items) | Self::Push(items) => {
                items.iter().for_each(|item| item.each_text(visit));
            }
            _ => {}
        }
    }
}

fn put_line(out: &mut Vec<u8>, kind: u8, line: &[u8]) {
    out.push(kind);
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

fn put_items(out: &mut Vec<u8>, kind: u8, count: usize, items: &[Value]) {
    put_line(out, kind, count.to_string().as_bytes());
    items.iter().for_each(|item| item.encode(out));
}

impl fmt::Debug for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        let shown = bytes[..bytes.len().min(300)].escape_ascii().to_string().replace("\\r\\n", "/");
        write!(out, "«{shown}»{}", if bytes.len() > 300 { "…" } else { "" })
    }
}

#[test]
fn a_frame_is_found_whole_or_not_at_all() {
    let bytes: &[u8] = b"%1\r\n+k\r\n*5\r\n$2\r\nab\r\n_\r\n$-1\r\n#t\r\n~1\r\n,1.5\r\n";
    for cut in 0..bytes.len() {
        assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
    }
    let (value, end) = parse(bytes).expect("legal").expect("whole");
    assert_eq!(end, bytes.len());
    let mut again = Vec::new();
    value.encode(&mut again);
    assert_eq!(again, bytes);
}

#[test]
fn what_no_server_sends_is_broken() {
    for bad in
        ["x\r\n", "$x\r\n", "$01\r\na\r\n", "$1\r\nabc\r\n", ":+1\r\n", "%-1\r\n", "#x\r\n", "+a\nb\r\n", "_x\r\n"]
    {
        assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
}
