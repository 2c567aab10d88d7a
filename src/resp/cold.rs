//! Rare whole frames, decoded into values: replies to `HELLO`, `COMMAND`, `CLIENT LIST` and others that we read
//! ourselves.

use std::ops::Range;

use bytes::Bytes;
use redis_protocol::resp3;
use redis_protocol::resp3::types::RangeFrame;

use super::number::plain_length;
use super::{Advance, ReplyScanner};

/// Aggregates within aggregates that [`decode`] follows: it recurses, and no reply we read is that deep.
const MAX_DECODE_DEPTH: usize = 128;

/// A decoded frame. The texts share one copy of the frame's bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `$-1`, `*-1` or `_`.
    Nil,
    /// `:`
    Int(i64),
    /// `,`
    Double(f64),
    /// `#`
    Bool(bool),
    /// A simple string, bulk, verbatim string (without `txt:`) or big number.
    Text(Bytes),
    /// An error, simple or bulk, without its `-`.
    Error(Bytes),
    /// An array, set or push.
    List(Vec<Self>),
    /// A map, in the order of the bytes.
    Map(Vec<(Self, Self)>),
}

impl Value {
    /// The bytes of a text.
    pub fn as_text(&self) -> Option<&Bytes> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The line of an error, without its `-`.
    pub fn as_error(&self) -> Option<&Bytes> {
        if let Self::Error(text) = self { Some(text) } else { None }
    }

    /// An integer.
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }

    /// The elements of an array, set or push.
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(elements) = self { Some(elements) } else { None }
    }

    /// The pairs of a map, or of a flat list, which is how RESP2 writes a map. Empty for anything else; a last element
    /// without a partner is left out.
    pub fn pairs(&self) -> Vec<(&Self, &Self)> {
        match self {
            Self::Map(pairs) => pairs.iter().map(|(key, value)| (key, value)).collect(),
            Self::List(flat) => flat.as_chunks::<2>().0.iter().map(|[key, value]| (key, value)).collect(),
            _ => Vec::new(),
        }
    }

    /// The value beside the text `name` in a map or flat list; the first one when there are several.
    pub fn field(&self, name: &str) -> Option<&Self> {
        let is_name = |key: &Self| key.as_text().is_some_and(|text| text == name.as_bytes());
        self.pairs().into_iter().find(|(key, _)| is_name(key)).map(|(_, value)| value)
    }
}

/// Decodes a whole frame of either protocol, without its attributes and without pushes inside it. `None` when `frame`
/// is not exactly one frame, is nested more than 128 deep, or holds a verbatim string other than `txt` and `mkd`.
pub fn decode(frame: &[u8]) -> Option<Value> {
    let mut scanner = ReplyScanner::with_max_depth(MAX_DECODE_DEPTH);
    let Advance::Complete { len, .. } = scanner.advance(frame) else {
        return None;
    };
    if len != frame.len() {
        return None;
    }
    let mut reader = FrameReader { bytes: Bytes::copy_from_slice(frame), at: 0 };
    reader.take_value()
}

/// Reads a frame that the scanner has found whole and not too deep: both bound the recursion here.
///
/// `redis-protocol` decodes what is no aggregate. The aggregates are ours, as it refuses those of real servers: sets of
/// maps (`COMMAND` in RESP3), nils of one protocol beside types of the other, pushes in the reply of `EXEC`.
struct FrameReader {
    bytes: Bytes,
    at: usize,
}

impl FrameReader {
    fn take_value(&mut self) -> Option<Value> {
        self.skip_attributes()?;
        match self.bytes.get(self.at)? {
            b'%' => {
                let pairs = self.take_count()?;
                let pair = |reader: &mut Self| Some((reader.take_element()?, reader.take_element()?));
                (0..pairs).map(|_| pair(self)).collect::<Option<_>>().map(Value::Map)
            }
            b'*' if self.bytes[self.at..].starts_with(b"*-1") => self.take_scalar(),
            b'*' | b'~' | b'>' => {
                let count = self.take_count()?;
                (0..count).map(|_| self.take_element()).collect::<Option<_>>().map(Value::List)
            }
            _ => self.take_scalar(),
        }
    }

    /// A value inside an aggregate.
    fn take_element(&mut self) -> Option<Value> {
        self.skip_attributes()?;
        while self.bytes.get(self.at) == Some(&b'>') {
            self.take_value()?;
            self.skip_attributes()?;
        }
        self.take_value()
    }

    fn skip_attributes(&mut self) -> Option<()> {
        while self.bytes.get(self.at) == Some(&b'|') {
            for _ in 0..self.take_count()? {
                self.take_element()?;
                self.take_element()?;
            }
        }
        Some(())
    }

    /// The count in the line of an aggregate.
    fn take_count(&mut self) -> Option<u64> {
        let (count, next) = plain_length(&self.bytes, self.at)?;
        self.at = next;
        Some(count)
    }

    fn take_scalar(&mut self) -> Option<Value> {
        let rest = &self.bytes[self.at..];
        let Advance::Complete { len, .. } = ReplyScanner::new().advance(rest) else {
            return None;
        };
        let scalar = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        // The nils of RESP2 are the only scalars that are none of RESP3.
        if matches!(&scalar[..], b"$-1\r\n" | b"*-1\r\n") {
            return Some(Value::Nil);
        }
        let (range_frame, _) = resp3::decode::complete::decode_range(&scalar).ok()??;
        from_scalar(&scalar, range_frame)
    }
}

/// The value of a range frame in `bytes` that is no aggregate.
fn from_scalar(bytes: &Bytes, frame: RangeFrame) -> Option<Value> {
    let slice = |(start, end): (usize, usize)| bytes.slice(start..end);
    match frame {
        RangeFrame::BlobString { data, .. }
        | RangeFrame::SimpleString { data, .. }
        | RangeFrame::BigNumber { data, .. }
        | RangeFrame::VerbatimString { data, .. } => Some(Value::Text(slice(data))),
        RangeFrame::BlobError { data, .. } | RangeFrame::SimpleError { data, .. } => Some(Value::Error(slice(data))),
        RangeFrame::Boolean { data, .. } => Some(Value::Bool(data)),
        RangeFrame::Null => Some(Value::Nil),
        RangeFrame::Number { data, .. } => Some(Value::Int(data)),
        RangeFrame::Double { data, .. } => Some(Value::Double(data)),
        RangeFrame::Array { .. }
        | RangeFrame::Push { .. }
        | RangeFrame::Set { .. }
        | RangeFrame::Map { .. }
        | RangeFrame::Hello { .. }
        | RangeFrame::ChunkedString(_) => None,
    }
}

/// Where the elements of an array are in its frame, each with its attributes: for replacing element `i` of the reply
/// of `EXEC` without decoding the others; of a map, the keys and values in turn. Pushes between the elements are not
/// elements. `None` when `frame` is not exactly one array or map (`*-1` is none).
pub fn element_ranges(frame: &[u8]) -> Option<Vec<Range<usize>>> {
    let each = match frame.first() {
        Some(b'*') => 1,
        Some(b'%') => 2,
        _ => return None,
    };
    let (count, mut at) = plain_length(frame, 0)?;
    let count = usize::try_from(count).ok()?.checked_mul(each)?;
    // Not `with_capacity(count)`: the count may be anything, the elements must be there.
    let mut ranges = Vec::new();
    let mut scanner = ReplyScanner::new();
    while ranges.len() < count {
        let Advance::Complete { len, kind } = scanner.advance(&frame[at..]) else {
            return None;
        };
        if !kind.is_push() {
            ranges.push(at..at + len);
        }
        at += len;
    }
    (at == frame.len()).then_some(ranges)
}
