//! The side that faces applications.
//!
//! ```text
//!   accept ─▶ Client task:  read ─▶ scan ─▶ route ─┬─ Lane ──▶ submit (stays in `connection`)
//!                 ▲                                └─ else ──▶ drain, then `dispatch` carries it out:
//!                 │                                             switch · login · local · refuse · pin
//!                 └──────────── outbox ◀── replies from the lane, or from the held connection (`held`)
//! ```
//!
//! A client has unanswered requests on one route only; every other route waits until they are answered (rule I2).

mod blocking;
mod connection;
mod directory;
mod dispatch;
mod drain;
mod error_reply;
mod exchange;
mod first_bytes;
mod foreign_protocol;
mod identity;
mod input;
mod last_write;
mod local;
mod multi;
mod pinned;
mod proxy;
mod proxy_pause;
mod read;
mod reload;
mod request;
mod ride;
mod run;
mod serve;
mod server_pause;
mod shared;

mod subscribe;
mod sweep;
mod switch;

mod admin_command;

pub(crate) use admin_command::{AdminCommand, AdminHandle, AdminReply, AdminRequest};
pub(crate) use directory::address::Address;
pub(crate) use directory::answer::answer;
pub(crate) use directory::line::{ClientLine, Transport};
pub(crate) use directory::peers::{MAX_PEER_QUERIES, PeerQuery, Peers};
pub(crate) use serve::Accepted;
pub(crate) use shared::{Ids, Shared};
