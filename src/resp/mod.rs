//! Bytes <-> boundaries: where a request or a reply begins and ends, and the few frames that respmux writes itself.
//!
//! Owns the grammar of RESP2 and RESP3, its limits and the error texts of Redis 7.0 for what breaks it. Every room
//! may call it; it calls none. It does no I/O, knows no clock, and allocates nothing on the path of a whole request
//! or reply.
//!
//! * [`request`]: what clients send. [`RequestScanner`] finds one request (multibulk or, in [`inline`], a plain
//!   line) and the ranges of its arguments.
//! * [`reply`]: what the upstream sends. [`ReplyScanner`] finds the end of one RESP2 or RESP3 frame, chunk by chunk,
//!   and keeps nothing but a few counters between chunks.
//! * [`encode`]: frames that respmux writes.
//! * [`cold`]: rare whole frames (`HELLO`, `COMMAND`, `CLIENT LIST`, `EXEC`) decoded into a [`Value`].
//!
//! `redis-protocol` serves the cold frames and is the oracle in this room's tests; `benches/scan.rs` says why it does
//! not serve the path.

pub mod cold;
mod cursor;
pub mod encode;
mod inline;
mod line;
mod number;
mod protocol_error;
pub mod reply;
mod reply_error;
pub mod request;
mod scan;

pub use cold::{Value, decode, element_ranges};
pub use protocol_error::ProtocolError;
pub use reply::{Advance, FrameKind, ReplyScanner};
pub use reply_error::ReplyError;
pub use request::{RequestScanner, Resume};
pub use scan::{RequestLimits, Scan};

#[cfg(test)]
mod tests;
