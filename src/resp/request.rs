//! What clients send: multibulk and inline requests, by the rules of Redis 7.0 (`processMultibulkBuffer` and
//! `processInlineBuffer`), so that a client sees the same limits and the same errors as without us.
//!
//! ```text
//!             first byte          `*n` line              `$len` line           payload + 2 bytes
//!   Request ──── '*' ────> Count ───────────> Length <─────────────> Payload ────> Complete
//!           └── other ───> Inline ── line ──> Complete | Empty
//! ```
//!
//! Three habits of the server that one would not guess, each checked against it:
//!
//! * The `\r` of a `*` or `$` line ends it together with *whatever* byte follows, and so do *any* two bytes after a
//!   bulk. Such a request is valid but not `canonical`, and must be re-encoded before it goes upstream.
//! * Ends of lines are searched with `strchr`, so a NUL byte hides the rest of the buffer: a line with a NUL before
//!   its end never ends, it only grows too big.
//! * The 65,536 bytes that a line may have count only while its end is not in the buffer.

use std::mem;
use std::ops::Range;

use super::cursor::{Cursor, LineEnd, Stage, line_end, scan_count, scan_length};
use super::number::{plain_length, whole_bulk};
use super::scan::{Arg, RequestLimits, Scan};
use super::{ProtocolError, inline};

/// Capacity, in arguments, that the scanner keeps for the next request; a larger one is given back.
const RETAINED_ARGS: usize = 4096;
/// Capacity, in bytes, that the scanner keeps for the next inline request.
const RETAINED_TEXT: usize = 64 * 1024;

/// Progress of a request that has arrived in part. Lives in the client, and only while there is such a request.
#[derive(Debug)]
pub struct Resume {
    cursor: Cursor,
    args: Vec<Arg>,
}

impl Resume {
    /// Where the line or the argument in progress begins: what is before it has been understood.
    #[must_use]
    pub fn understood(&self) -> usize {
        self.cursor.at
    }
}

/// Finds requests in the bytes of clients. One per worker: it owns the argument ranges of the request it has just
/// found, and reuses their memory for the next.
#[derive(Debug, Default)]
pub struct RequestScanner {
    args: Vec<Arg>,
    /// Arguments of an inline request, unescaped.
    text: Vec<u8>,
    /// Whether `args` are ranges of `text`.
    inline: bool,
}

impl RequestScanner {
    /// A scanner that holds no request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for one request at the start of `buf`, which begins at the first byte of a request.
    ///
    /// After [`Scan::Incomplete`] the caller comes back with the same bytes, more after them, and the same `resume`:
    /// the scan goes on where it stopped, so that a request costs time in its length however it is cut. `resume` is
    /// `None` again after every other answer.
    #[inline]
    pub fn scan(&mut self, buf: &[u8], resume: &mut Option<Box<Resume>>, limits: &RequestLimits) -> Scan {
        if let Some(saved) = resume.take() {
            return self.scan_on(buf, saved, resume, limits);
        }
        self.forget();
        if let Some(len) = self.scan_plain(buf, limits) {
            return Scan::Complete { len, canonical: true };
        }
        self.scan_with_care(buf, resume, limits)
    }

    /// Arguments of the last complete request, the command name among them.
    pub fn argc(&self) -> usize {
        self.args.len()
    }

    /// Argument `i` of the last complete request; `buf` is the slice that was scanned.
    ///
    /// # Panics
    /// When `i` is not below [`argc`](Self::argc).
    #[inline]
    pub fn arg<'a>(&'a self, buf: &'a [u8], i: usize) -> &'a [u8] {
        let Arg { start, end } = self.args[i];
        if self.inline { &self.text[start..end] } else { &buf[start..end] }
    }

    /// Every argument of the last complete request, in order; `buf` is the slice that was scanned.
    pub fn args<'a>(&'a self, buf: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let source = if self.inline { &self.text[..] } else { buf };
        self.args.iter().map(move |arg| &source[arg.start..arg.end])
    }

    /// Arguments that the scanner has room for without allocating.
    #[cfg(test)]
    pub(super) fn kept_args(&self) -> usize {
        self.args.capacity()
    }

    /// Drops the last request, and memory that only a very large one needed.
    #[inline]
    fn forget(&mut self) {
        if self.args.capacity() > RETAINED_ARGS {
            self.args = Vec::new();
        }
        self.args.clear();
        self.inline = false;
    }

    /// One straight pass over a multibulk request that is wholly there, within the limits and canonical: nearly all
    /// are. For any other `None`, and what `args` then holds is of no use.
    #[inline]
    fn scan_plain(&mut self, buf: &[u8], limits: &RequestLimits) -> Option<usize> {
        if buf.first() != Some(&b'*') {
            return None;
        }
        let (count, mut at) = plain_length(buf, 0)?;
        if count == 0 || count > limits.most_args() {
            return None;
        }
        let longest = limits.longest_bulk();
        for _ in 0..count {
            let (len, start) = if buf.get(at) == Some(&b'$') {
                plain_length(buf, at)?
            } else {
                return None;
            };
            if len > longest {
                return None;
            }
            let Range { start, end } = whole_bulk(buf, start, len)?;
            self.args.push(Arg { start, end });
            at = end + 2;
        }
        Some(at)
    }

    /// A request that is not plain: it says why, or how far it has come.
    #[cold]
    fn scan_with_care(&mut self, buf: &[u8], resume: &mut Option<Box<Resume>>, limits: &RequestLimits) -> Scan {
        self.args.clear();
        let mut cursor = Cursor::START;
        let scan = self.scan_from(buf, &mut cursor, limits);
        if scan == Scan::Incomplete && !buf.is_empty() {
            *resume = Some(Box::new(Resume { cursor, args: mem::take(&mut self.args) }));
        }
        scan
    }

    /// Goes on with a request that was incomplete. Its ranges are moved, not copied: there may be a million.
    #[cold]
    fn scan_on(
        &mut self,
        buf: &[u8],
        mut saved: Box<Resume>,
        resume: &mut Option<Box<Resume>>,
        limits: &RequestLimits,
    ) -> Scan {
        self.args = mem::take(&mut saved.args);
        self.inline = false;
        let scan = self.scan_from(buf, &mut saved.cursor, limits);
        if scan == Scan::Incomplete {
            saved.args = mem::take(&mut self.args);
            *resume = Some(saved);
        }
        scan
    }

    fn scan_from(&mut self, buf: &[u8], cursor: &mut Cursor, limits: &RequestLimits) -> Scan {
        if matches!(cursor.stage, Stage::Request) {
            let Some(&first) = buf.first() else {
                return Scan::Incomplete;
            };
            cursor.stage = if first == b'*' { Stage::Count } else { Stage::Inline };
        }
        let scan = match cursor.stage {
            Stage::Inline => self.scan_inline(buf, cursor),
            Stage::Request | Stage::Count => match scan_count(buf, cursor, limits) {
                Ok(None) => self.scan_args(buf, cursor, limits),
                Ok(Some(scan)) => Ok(scan),
                Err(error) => Err(error),
            },
            Stage::Length | Stage::Payload(_) => self.scan_args(buf, cursor, limits),
        };
        scan.unwrap_or_else(Scan::Invalid)
    }

    /// The arguments of a multibulk request, from the one in progress on.
    fn scan_args(&mut self, buf: &[u8], cursor: &mut Cursor, limits: &RequestLimits) -> Result<Scan, ProtocolError> {
        while cursor.left > 0 {
            let len = if let Stage::Payload(len) = cursor.stage {
                len
            } else {
                let Some(len) = scan_length(buf, cursor, limits)? else {
                    return Ok(Scan::Incomplete);
                };
                len
            };
            let start = cursor.at;
            // Not `start + len + 2`: a length may be anything up to `max_bulk`.
            if buf.len() - start < len.saturating_add(2) {
                return Ok(Scan::Incomplete);
            }
            let end = start + len;
            cursor.canonical &= buf[end..end + 2] == *b"\r\n";
            self.args.push(Arg { start, end });
            cursor.left -= 1;
            cursor.enter(Stage::Length, end + 2);
        }
        Ok(Scan::Complete { len: cursor.at, canonical: cursor.canonical })
    }

    #[cold]
    fn scan_inline(&mut self, buf: &[u8], cursor: &mut Cursor) -> Result<Scan, ProtocolError> {
        let end = match line_end(buf, cursor, b'\n') {
            LineEnd::At(end) => end,
            LineEnd::Pending => return Ok(Scan::Incomplete),
            LineEnd::TooBig => return Err(ProtocolError::InlineTooBig),
        };
        let line = &buf[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.text.capacity() > RETAINED_TEXT {
            self.text = Vec::new();
        }
        self.text.clear();
        self.inline = true;
        if !inline::split(line, &mut self.text, &mut self.args) {
            return Err(ProtocolError::UnbalancedQuotes);
        }
        if self.args.is_empty() {
            return Ok(Scan::Empty { len: end + 1 });
        }
        Ok(Scan::Complete { len: end + 1, canonical: false })
    }
}
