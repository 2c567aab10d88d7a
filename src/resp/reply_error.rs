//! Why the bytes of an upstream are no frame, and the limits that say so.

use thiserror::Error;

/// Elements, or pairs, that one aggregate may announce.
pub const MAX_ELEMENTS: u64 = u32::MAX as u64;
/// Bytes that one bulk may announce. Nothing is reserved for it: this is only to notice a stream out of step.
pub const MAX_BULK: u64 = 1 << 40;

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// No frame starts with this byte.
    #[error("no frame starts with byte 0x{0:02x}")]
    UnknownType(u8),
    /// A length of unknown size (`$?`, `*?`), which no server sends.
    #[error("streamed frames are not supported")]
    Streamed,
    /// A length that is no number, is padded, or is negative where there is no nil of that type.
    #[error("invalid length")]
    InvalidLength,
    /// The content of a `:`, `,`, `#` or `_` line is not of its type.
    #[error("invalid content of a line of type {}", char::from(*.0))]
    InvalidContent(u8),
    /// Something else where a CRLF must be.
    #[error("a line or a bulk does not end with CRLF")]
    MissingCrlf,
    /// More than [`MAX_DEPTH`](super::reply::MAX_DEPTH) open aggregates.
    #[error("nested too deep")]
    TooDeep,
    /// A bulk above [`MAX_BULK`] or an aggregate above [`MAX_ELEMENTS`].
    #[error("length out of range")]
    TooLong,
}
