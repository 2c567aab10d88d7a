//! What a scan of a client's bytes is told, and what it answers.

use super::ProtocolError;

/// Arguments a client that is not authenticated may send in one multibulk request.
pub(super) const UNAUTHENTICATED_ARGS: u64 = 10;
/// Bytes a client that is not authenticated may send in one bulk.
pub(super) const UNAUTHENTICATED_BULK: u64 = 16 * 1024;
/// What a request may be. The upstream's own limits, so that no request we forward is a protocol error there.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Bytes in one bulk (`proto-max-bulk-len`).
    pub max_bulk: u64,
    /// Arguments in one multibulk request.
    pub max_args: u64,
    /// Whether the client has authenticated or need not: otherwise 10 arguments and bulks of 16,384 bytes are the
    /// most it may send as multibulk. Inline requests have no such limit.
    pub authenticated: bool,
}

impl Default for RequestLimits {
    /// The defaults of Redis, for a client that may do anything.
    fn default() -> Self {
        Self { max_bulk: 512 * 1024 * 1024, max_args: 2_147_483_647, authenticated: true }
    }
}

impl RequestLimits {
    pub(super) fn most_args(&self) -> u64 {
        if self.authenticated { self.max_args } else { self.max_args.min(UNAUTHENTICATED_ARGS) }
    }

    pub(super) fn longest_bulk(&self) -> u64 {
        if self.authenticated { self.max_bulk } else { self.max_bulk.min(UNAUTHENTICATED_BULK) }
    }
}

/// What [`RequestScanner::scan`](super::RequestScanner::scan) found at the start of the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scan {
    /// A request of `len` bytes; its arguments are in the scanner until the next scan.
    Complete {
        /// Bytes of the buffer that the request takes.
        len: usize,
        /// The bytes are exactly what [`encode::request`](super::encode::request) would write, so they may be
        /// forwarded as they are.
        canonical: bool,
    },
    /// `len` bytes that are no command and get no reply: `*0`, `*-1`, an empty line, a line of spaces.
    Empty {
        /// Bytes of the buffer to skip.
        len: usize,
    },
    /// The request has not arrived wholly; scan again when there are more bytes.
    Incomplete,
    /// The client broke the protocol. [`ProtocolError::text`] is its last reply, and its input is closed.
    Invalid(ProtocolError),
}

/// Where one argument is: in the buffer, or in the scanner's own text for an inline request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arg {
    pub(super) start: usize,
    pub(super) end: usize,
}
