//! Rare whole frames, decoded into values: replies to `HELLO`, `COMMAND`, `CLIENT LIST` and others that we read
//! ourselves. `redis-protocol` does the work; what it does not know of real servers is said at [`decode`].

use std::ops::Range;

use bytes::Bytes;
use redis_protocol::{resp2, resp3};

use super::number::plain_length;
use super::{Advance, ReplyScanner};

/// Aggregates within aggregates that [`decode`] follows: the decoder recurses, and no reply we read is that deep.
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
        if let Self::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// The line of an error, without its `-`.
    pub fn as_error(&self) -> Option<&Bytes> {
        if let Self::Error(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// An integer.
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// The elements of an array, set or push.
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(elements) = self {
            Some(elements)
        } else {
            None
        }
    }

    /// The pairs of a map, or of a flat list, which is how RESP2 writes a map. Empty for anything else; a last element
    /// without a partner is left out.
    pub fn pairs(&self) -> Vec<(&Self, &Self)> {
        match self {
            Self::Map(pairs) => pairs.iter().map(|(key, value)| (key, value)).collect(),
            Self::List(flat) => flat
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[key, value]| (key, value))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The value beside the text `name` in a map or flat list; the first one when there are several.
    pub fn field(&self, name: &str) -> Option<&Self> {
        let is_name = |key: &Self| key.as_text().is_some_and(|text| text == name.as_bytes());
        self.pairs()
            .into_iter()
            .find(|(key, _)| is_name(key))
            .map(|(_, value)| value)
    }
}

/// Decodes a whole frame of either protocol, without its attributes. `None` when `frame` is not exactly one frame, is
/// nested more than 128 deep, or is beyond the decoder: an aggregate as the key of a map or in a set, a verbatim string
/// other than `txt` and `mkd`, a push inside another frame.
///
/// The two protocols are told apart by trying: a nil of RESP2 is an error in RESP3, and the other way round.
pub fn decode(frame: &[u8]) -> Option<Value> {
    let mut scanner = ReplyScanner::with_max_depth(MAX_DECODE_DEPTH);
    let Advance::Complete { len, .. } = scanner.advance(frame) else {
        return None;
    };
    if len != frame.len() {
        return None;
    }
    let bytes = Bytes::copy_from_slice(frame);
    if let Ok(Some((range_frame, used))) = resp3::decode::complete::decode_range(frame) {
        return if used == len {
            from_resp3(&bytes, range_frame)
        } else {
            None
        };
    }
    match resp2::decode::decode_range(frame) {
        Ok(Some((range_frame, used))) if used == len => Some(from_resp2(&bytes, range_frame)),
        _ => None,
    }
}

fn from_resp3(bytes: &Bytes, frame: resp3::types::RangeFrame) -> Option<Value> {
    use resp3::types::RangeFrame as Frame;
    let slice = |(start, end): (usize, usize)| bytes.slice(start..end);
    Some(match frame {
        Frame::BlobString { data, .. }
        | Frame::SimpleString { data, .. }
        | Frame::BigNumber { data, .. }
        | Frame::VerbatimString { data, .. } => Value::Text(slice(data)),
        Frame::BlobError { data, .. } | Frame::SimpleError { data, .. } => {
            Value::Error(slice(data))
        }
        Frame::Boolean { data, .. } => Value::Bool(data),
        Frame::Null => Value::Nil,
        Frame::Number { data, .. } => Value::Int(data),
        Frame::Double { data, .. } => Value::Double(data),
        Frame::Array { data, .. } | Frame::Push { data, .. } => from_resp3_list(bytes, data)?,
        Frame::Set { data, .. } => from_resp3_list(bytes, data)?,
        Frame::Map { data, .. } => Value::Map(
            data.into_iter()
                // The decoder fills its map from the last pair to the first.
                .rev()
                .map(|(key, value)| Some((from_resp3(bytes, key)?, from_resp3(bytes, value)?)))
                .collect::<Option<_>>()?,
        ),
        Frame::Hello { .. } | Frame::ChunkedString(_) => return None,
    })
}

fn from_resp3_list(
    bytes: &Bytes,
    frames: impl IntoIterator<Item = resp3::types::RangeFrame>,
) -> Option<Value> {
    frames
        .into_iter()
        .map(|frame| from_resp3(bytes, frame))
        .collect::<Option<_>>()
        .map(Value::List)
}

fn from_resp2(bytes: &Bytes, frame: resp2::types::RangeFrame) -> Value {
    use resp2::types::RangeFrame as Frame;
    let slice = |(start, end): (usize, usize)| bytes.slice(start..end);
    match frame {
        Frame::SimpleString(data) | Frame::BulkString(data) => Value::Text(slice(data)),
        Frame::Error(data) => Value::Error(slice(data)),
        Frame::Integer(value) => Value::Int(value),
        Frame::Array(frames) => Value::List(
            frames
                .into_iter()
                .map(|frame| from_resp2(bytes, frame))
                .collect(),
        ),
        Frame::Null => Value::Nil,
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
