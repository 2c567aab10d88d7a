//! The careful way through a request: lines that are unfinished, unusual or wrong, and where to look next when more
//! bytes have come.

use memchr::memchr2;

use super::ProtocolError;
use super::number::{plain_length, strict_integer};
use super::scan::{RequestLimits, Scan, UNAUTHENTICATED_ARGS, UNAUTHENTICATED_BULK};

/// Bytes that may be pending of a line whose end has not arrived (`PROTO_INLINE_MAX_SIZE`).
const MAX_PENDING_LINE: usize = 64 * 1024;

/// What of a request has been seen, and where to look next. Offsets count from the start of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// Start of the line or payload in progress.
    pub(super) at: usize,
    /// Bytes after `at` that hold no end of line.
    searched: usize,
    /// Arguments still to come, with the one in progress.
    pub(super) left: u64,
    pub(super) stage: Stage,
    pub(super) canonical: bool,
}

/// What is at [`Cursor::at`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    /// The first byte of a request.
    Request,
    /// A request that is a plain line.
    Inline,
    /// The `*n` line.
    Count,
    /// A `$len` line.
    Length,
    /// This many bytes of argument, and two more.
    Payload(usize),
}

impl Cursor {
    pub(super) const START: Self = Self { at: 0, searched: 0, left: 0, stage: Stage::Request, canonical: true };

    /// Goes on to the line or payload at `at`.
    pub(super) fn enter(&mut self, stage: Stage, at: usize) {
        self.at = at;
        self.searched = 0;
        self.stage = stage;
    }
}

/// How the bytes of a line in progress end.
pub(super) enum LineEnd {
    /// At this offset from the start of the request.
    At(usize),
    /// Not yet.
    Pending,
    /// Not yet, and more than [`MAX_PENDING_LINE`] bytes are there.
    TooBig,
}

/// The `*n` line: `None` when arguments follow.
pub(super) fn scan_count(
    buf: &[u8],
    cursor: &mut Cursor,
    limits: &RequestLimits,
) -> Result<Option<Scan>, ProtocolError> {
    let Some((count, next)) = careful_count(buf, cursor)? else {
        return Ok(Some(Scan::Incomplete));
    };
    if count > limits.max_args {
        return Err(ProtocolError::InvalidMultibulkLength);
    }
    if count > UNAUTHENTICATED_ARGS && !limits.authenticated {
        return Err(ProtocolError::UnauthenticatedMultibulkLength);
    }
    if count == 0 {
        return Ok(Some(Scan::Empty { len: next }));
    }
    cursor.left = count;
    cursor.enter(Stage::Length, next);
    Ok(None)
}

/// A `*` line that is not plain; a negative count is as good as 0.
#[cold]
fn careful_count(buf: &[u8], cursor: &mut Cursor) -> Result<Option<(u64, usize)>, ProtocolError> {
    let end = match line_end(buf, cursor, b'\r') {
        LineEnd::At(end) => end,
        LineEnd::Pending => return Ok(None),
        LineEnd::TooBig => return Err(ProtocolError::MultibulkCountTooBig),
    };
    let count = strict_integer(&buf[1..end]).ok_or(ProtocolError::InvalidMultibulkLength)?;
    cursor.canonical &= buf[end + 1] == b'\n';
    Ok(Some((u64::try_from(count).unwrap_or(0), end + 2)))
}

/// The `$len` line at the cursor: the length, with the cursor on the payload, or `None` when the line is unfinished.
pub(super) fn scan_length(
    buf: &[u8],
    cursor: &mut Cursor,
    limits: &RequestLimits,
) -> Result<Option<usize>, ProtocolError> {
    let plain = if buf.get(cursor.at) == Some(&b'$') { plain_length(buf, cursor.at) } else { None };
    let (len, next) = match plain {
        Some((len, next)) => (len, next),
        None => match careful_length(buf, cursor)? {
            Some((len, next)) => (len, next),
            None => return Ok(None),
        },
    };
    if len > limits.max_bulk {
        return Err(ProtocolError::InvalidBulkLength);
    }
    if len > UNAUTHENTICATED_BULK && !limits.authenticated {
        return Err(ProtocolError::UnauthenticatedBulkLength);
    }
    // Only where usize has 32 bits can this fail, and there no such bulk fits in memory.
    let len = usize::try_from(len).map_err(|_| ProtocolError::InvalidBulkLength)?;
    cursor.enter(Stage::Payload(len), next);
    Ok(Some(len))
}

/// A `$` line that is not plain. The server looks for the end of the line first and at its first byte only then, so
/// a wrong first byte is no error before the line has ended.
#[cold]
fn careful_length(buf: &[u8], cursor: &mut Cursor) -> Result<Option<(u64, usize)>, ProtocolError> {
    let end = match line_end(buf, cursor, b'\r') {
        LineEnd::At(end) => end,
        LineEnd::Pending => return Ok(None),
        LineEnd::TooBig => return Err(ProtocolError::BulkCountTooBig),
    };
    let first = buf[cursor.at];
    if first != b'$' {
        return Err(ProtocolError::ExpectedDollar(first));
    }
    let len = strict_integer(&buf[cursor.at + 1..end]).ok_or(ProtocolError::InvalidBulkLength)?;
    let len = u64::try_from(len).map_err(|_| ProtocolError::InvalidBulkLength)?;
    cursor.canonical &= buf[end + 1] == b'\n';
    Ok(Some((len, end + 2)))
}

/// Where the line at the cursor ends: at `mark`, which for a `\r` must have one more byte after it. Remembers in the
/// cursor what has been searched.
pub(super) fn line_end(buf: &[u8], cursor: &mut Cursor, mark: u8) -> LineEnd {
    let from = cursor.at + cursor.searched;
    match memchr2(mark, 0, &buf[from..]) {
        Some(found) => {
            // Also when a NUL was found: the search stops there for good.
            cursor.searched += found;
            let end = from + found;
            if buf[end] == mark {
                let whole = mark == b'\n' || end + 1 < buf.len();
                return if whole { LineEnd::At(end) } else { LineEnd::Pending };
            }
        }
        None => cursor.searched = buf.len() - cursor.at,
    }
    if buf.len() - cursor.at > MAX_PENDING_LINE { LineEnd::TooBig } else { LineEnd::Pending }
}
