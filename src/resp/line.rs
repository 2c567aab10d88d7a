//! Lines of a reply that are more than text: what they may hold, byte by byte, and what they announce.

use memchr::memchr;

use super::number::{Double, Integer, plain_length, whole_bulk};
use super::reply_error::{MAX_BULK, MAX_ELEMENTS, ReplyError};

/// What a line has announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: the element is over.
    Over,
    /// A bulk of this many bytes.
    Payload(u64),
    /// An aggregate of this type and count.
    Elements(u8, u64),
}

/// A line in progress, after its type byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// The length in a line of this type.
    Length(u8, Integer),
    /// A line of type `:`.
    Integer(Integer),
    /// A line of type `,`.
    Double(Double),
    /// A line of type `#`, and whether its letter is there.
    Bool(bool),
    /// A line of type `_`.
    Null,
}

impl Line {
    /// The line with one more byte of content.
    pub(super) fn with_content(self, byte: u8) -> Result<Self, ReplyError> {
        match self {
            Self::Length(_, number) if byte == b'?' && number == Integer::default() => Err(ReplyError::Streamed),
            // A length knows no plus sign.
            Self::Length(_, _) if byte == b'+' => Err(ReplyError::InvalidLength),
            Self::Length(kind, number) => {
                number.with_digit(byte).map(|number| Self::Length(kind, number)).ok_or(ReplyError::InvalidLength)
            }
            Self::Integer(number) => number.with_digit(byte).map(Self::Integer).ok_or(ReplyError::InvalidContent(b':')),
            Self::Double(double) => double.with_byte(byte).map(Self::Double).ok_or(ReplyError::InvalidContent(b',')),
            Self::Bool(false) if matches!(byte, b't' | b'f') => Ok(Self::Bool(true)),
            Self::Bool(_) => Err(ReplyError::InvalidContent(b'#')),
            Self::Null => Err(ReplyError::InvalidContent(b'_')),
        }
    }

    /// What the line announces when it ends here.
    pub(super) fn announces(self) -> Result<Next, ReplyError> {
        match self {
            Self::Length(kind, number) => announced_by(kind, number),
            Self::Integer(number) if number.digits == 0 => Err(ReplyError::InvalidContent(b':')),
            Self::Double(double) if !double.is_whole() => Err(ReplyError::InvalidContent(b',')),
            Self::Bool(false) => Err(ReplyError::InvalidContent(b'#')),
            Self::Integer(_) | Self::Double(_) | Self::Bool(true) | Self::Null => Ok(Next::Over),
        }
    }
}

/// What a line of type `kind` with this length announces.
#[inline]
pub(super) fn announced(kind: u8, length: u64) -> Result<Next, ReplyError> {
    match kind {
        b'$' | b'!' | b'=' => match length {
            // A verbatim string starts with three letters and a colon.
            0..4 if kind == b'=' => Err(ReplyError::InvalidLength),
            0..=MAX_BULK => Ok(Next::Payload(length)),
            _ => Err(ReplyError::TooLong),
        },
        _ if length > MAX_ELEMENTS => Err(ReplyError::TooLong),
        _ => Ok(Next::Elements(kind, length)),
    }
}

/// What a finished length announces in a line of type `kind`: never padded, and negative only as the nils of RESP2,
/// `$-1` and `*-1`.
fn announced_by(kind: u8, length: Integer) -> Result<Next, ReplyError> {
    match (length.is_canonical(), length.negative) {
        (false, _) => Err(ReplyError::InvalidLength),
        (true, false) => announced(kind, length.magnitude),
        (true, true) if length.magnitude == 1 && matches!(kind, b'$' | b'*') => Ok(Next::Over),
        (true, true) => Err(ReplyError::InvalidLength),
    }
}

/// The end of the string, error, integer, nil or bulk that starts at `at`, when it is wholly there and plain: what
/// nearly all frames and elements are. A bulk is skipped, not looked at.
#[inline]
pub(super) fn whole_scalar(chunk: &[u8], at: usize) -> Option<usize> {
    let line = &chunk[at..];
    match *line.first()? {
        b'$' if line.starts_with(b"$-1\r\n") => Some(at + 5),
        b'$' => {
            let (length, start) = plain_length(chunk, at)?;
            whole_bulk(chunk, start, length).map(|bulk| bulk.end + 2)
        }
        b':' => plain_length(chunk, at).map(|(_, end)| end),
        b'+' | b'-' => {
            let end = at + memchr(b'\r', line)?;
            (chunk.get(end + 1) == Some(&b'\n')).then_some(end + 2)
        }
        b'_' if line.starts_with(b"_\r\n") => Some(at + 3),
        _ => None,
    }
}
