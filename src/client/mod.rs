//! The side that faces applications: one task for each client.
//!
//! ```text
//!   accept ─▶ Client task:  read ─▶ scan ─▶ route ─┬─ Lane ──▶ ride: submit to the lane
//!                 ▲                                └─ else ──▶ wait for all answers, then `dispatch` carries it out:
//!                 │                                             switch · login · local · refuse · pin · subscribe
//!                 └──────────── outbox ◀── replies from the lane, or from the pinned connection (`pinned`)
//! ```
//!
//! Owns a client's socket, its unfinished input and its session, and decides nothing about a command that `router`
//! has not decided. `worker` starts it with an accepted socket; `admin` and `lifecycle` ask the main thread and the
//! workers through [`AdminCommand`] and [`PeerQuery`]. A client has unanswered requests on one route only; every
//! other route waits until they are answered (rule I2).
//!
//! Where to look: `run` is the loop, `ride` the way of most commands, `dispatch` all other ways; [`identity`] logins,
//! [`pinned`] a connection of one's own, [`blocking`] clients that wait without one, [`subscribe`] subscriptions,
//! [`local`] answers of respmux' own, [`directory`] CLIENT LIST and KILL, [`drain`] how clients are sent away,
//! [`proxy`] PROXY.

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

mod activity;
mod admin_command;

pub(crate) use admin_command::{AdminCommand, AdminHandle, AdminReply, AdminRequest};
pub(crate) use directory::address::Address;
pub(crate) use directory::answer::answer;
pub(crate) use directory::line::{ClientLine, Transport};
pub(crate) use directory::peers::{MAX_PEER_QUERIES, PeerQuery, Peers};
pub(crate) use serve::Accepted;
pub(crate) use shared::{Ids, Shared};
