//! Whole RESP frames, RESP2 and RESP3. Written apart from the product's own scanner on purpose: one must be able to
//! prove the other wrong.

use std::fmt;

/// One reply or push. `text` is the payload of a line or a bulk; `items` the children of an aggregate (a map of n
/// pairs has 2n).
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub text: Vec<u8>,
    pub items: Vec<Self>,
    pub null: bool,
}

impl Frame {
    /// The first frame of `bytes` with its length, `None` while it is incomplete, `Err` if this cannot be RESP.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(None);
        };
        let (kind, line, body) = (bytes[0], &bytes[1.min(end)..end], end + 2);
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Ok(Some((Self::line(kind, line), body))),
            b'$' | b'=' | b'!' => Self::parse_bulk(kind, line, bytes, body),
            b'*' | b'~' | b'>' => Self::parse_aggregate(kind, line, bytes, body, 1),
            b'%' | b'|' => Self::parse_aggregate(kind, line, bytes, body, 2),
            other => Err(format!("{:?} starts no RESP frame", char::from(other))),
        }
    }

    fn line(kind: u8, line: &[u8]) -> Self {
        Self { kind, text: line.to_vec(), items: Vec::new(), null: kind == b'_' }
    }

    fn parse_bulk(kind: u8, line: &[u8], bytes: &[u8], body: usize) -> Result<Option<(Self, usize)>, String> {
        let Some(size) = length(line)? else {
            return Ok(Some((Self { kind, text: Vec::new(), items: Vec::new(), null: true }, body)));
        };
        if bytes.len() < body + size + 2 {
            return Ok(None);
        }
        let text = bytes[body..body + size].to_vec();
        Ok(Some((Self { kind, text, items: Vec::new(), null: false }, body + size + 2)))
    }

    fn parse_aggregate(
        kind: u8,
        line: &[u8],
        bytes: &[u8],
        body: usize,
        each: usize,
    ) -> Result<Option<(Self, usize)>, String> {
        let Some(count) = length(line)? else {
            return Ok(Some((Self { kind, text: Vec::new(), items: Vec::new(), null: true }, body)));
        };
        let (mut items, mut at) = (Vec::new(), body);
        for _ in 0..count * each {
            let Some((item, used)) = Self::parse(&bytes[at..])? else {
                return Ok(None);
            };
            items.push(item);
            at += used;
        }
        Ok(Some((Self { kind, text: Vec::new(), items, null: false }, at)))
    }

    /// The frame as it was received.
    pub fn to_bytes(&self) -> Vec<u8> {
        let kind = char::from(self.kind);
        match self.kind {
            b'_' => b"_\r\n".to_vec(),
            _ if self.null => format!("{kind}-1\r\n").into_bytes(),
            b'$' | b'=' | b'!' => {
                let head = format!("{kind}{}\r\n", self.text.len());
                [head.as_bytes(), &self.text, b"\r\n"].concat()
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let each = if matches!(self.kind, b'%' | b'|') { 2 } else { 1 };
                let head = format!("{kind}{}\r\n", self.items.len() / each).into_bytes();
                self.items.iter().fold(head, |bytes, item| [bytes, item.to_bytes()].concat())
            }
            _ => [&[self.kind], &self.text[..], b"\r\n"].concat(),
        }
    }

    /// The payload as text, for messages and for replies that are known to be text.
    pub fn as_str(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// The value of an integer reply (or of a bulk that holds one).
    #[track_caller]
    pub fn as_int(&self) -> i64 {
        self.as_str().parse().unwrap_or_else(|_| panic!("{self:?} is no integer"))
    }

    pub fn is_error(&self) -> bool {
        matches!(self.kind, b'-' | b'!')
    }
}

/// A declared length; `None` for the nulls of RESP2 (`$-1`, `*-1`).
fn length(line: &[u8]) -> Result<Option<usize>, String> {
    let text = String::from_utf8_lossy(line);
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(size) if size >= 0 => Ok(Some(size as usize)),
        _ => Err(format!("{text:?} is no length")),
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = char::from(self.kind);
        match self.kind {
            _ if self.null => write!(out, "{kind}null"),
            b'*' | b'~' | b'>' | b'%' | b'|' => write!(out, "{kind}{:?}", self.items),
            _ => write!(out, "{kind}{}", self.text.escape_ascii()),
        }
    }
}

#[test]
fn frames_of_both_protocols_are_found_whole_or_not_at_all() {
    let bytes: &[u8] = b"%1\r\n+k\r\n*3\r\n$2\r\nab\r\n_\r\n$-1\r\n";
    for cut in 0..bytes.len() {
        assert_eq!(Frame::parse(&bytes[..cut]), Ok(None), "cut at {cut}");
    }
    let (frame, used) = Frame::parse(bytes).unwrap().unwrap();
    assert_eq!(used, bytes.len());
    assert_eq!(frame.to_bytes(), bytes);
    assert_eq!(format!("{frame:?}"), "%[+k, *[$ab, _null, $null]]");
    assert!(Frame::parse(b"hello\r\n").is_err());
    assert!(Frame::parse(b"$x\r\n").is_err());
}
