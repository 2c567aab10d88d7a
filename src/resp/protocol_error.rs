//! How clients break the protocol, in the words of Redis 7.0.

use std::borrow::Cow;
use std::fmt;

/// How a client broke the protocol: one variant for each text of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// More than 65,536 bytes of an inline request without a line feed.
    InlineTooBig,
    /// More than 65,536 bytes of a `*` line without its end.
    MultibulkCountTooBig,
    /// More than 65,536 bytes of a `$` line without its end.
    BulkCountTooBig,
    /// A `*` line that is no number or above `max_args`.
    InvalidMultibulkLength,
    /// An argument that starts with this byte instead of `$`.
    ExpectedDollar(u8),
    /// A `$` line that is no number, negative or above `max_bulk`.
    InvalidBulkLength,
    /// An inline request whose quotes do not match.
    UnbalancedQuotes,
    /// More than 10 arguments before authentication.
    UnauthenticatedMultibulkLength,
    /// A bulk above 16,384 bytes before authentication.
    UnauthenticatedBulkLength,
}

impl ProtocolError {
    /// The error line as the server words it, without the leading `-` and the CRLF. Bytes, not text: the byte of
    /// [`ExpectedDollar`](Self::ExpectedDollar) need not be UTF-8.
    pub fn text(&self) -> Cow<'static, [u8]> {
        let text: &'static str = match self {
            Self::InlineTooBig => "ERR Protocol error: too big inline request",
            Self::MultibulkCountTooBig => "ERR Protocol error: too big mbulk count string",
            Self::BulkCountTooBig => "ERR Protocol error: too big bulk count string",
            Self::InvalidMultibulkLength => "ERR Protocol error: invalid multibulk length",
            Self::InvalidBulkLength => "ERR Protocol error: invalid bulk length",
            Self::UnbalancedQuotes => "ERR Protocol error: unbalanced quotes in request",
            Self::UnauthenticatedMultibulkLength => "ERR Protocol error: unauthenticated multibulk length",
            Self::UnauthenticatedBulkLength => "ERR Protocol error: unauthenticated bulk length",
            Self::ExpectedDollar(got) => {
                // A line end inside an error line would end it early: the server shows a space.
                let shown = if matches!(got, b'\r' | b'\n') { b' ' } else { *got };
                let mut text = b"ERR Protocol error: expected '$', got '".to_vec();
                text.extend_from_slice(&[shown, b'\'']);
                return Cow::Owned(text);
            }
        };
        Cow::Borrowed(text.as_bytes())
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text()))
    }
}

impl std::error::Error for ProtocolError {}
