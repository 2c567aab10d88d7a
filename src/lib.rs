//! respmux: a Redis-aware connection-multiplexing proxy. Thousands of clients, a small fixed set of upstream
//! connections, and replies that never reach the wrong client.
//!
//! # Words
//!
//! `docs/glossary.md` has every word, what users read beside what the code says. Nothing below can be read without
//! these: a *link* is one authenticated upstream connection, before anyone decides what it is for. A *lane* is a link
//! shared by many clients (users read: shared connection), pipelined, first in first out, fixed to one
//! [`RouteKey`](session::RouteKey). A *slot* is a lane's record of one request: who gets the reply. A *route* is the
//! decision for one command. A client is *pinned* while a link from the pool is lent to it alone (a *lease*). A *hub*
//! is the link that carries the subscriptions of all clients of one user. The *outbox* is where a client's answers
//! go.
//!
//! What respmux promises, and why, is in `docs/design`; rules (rule I2, rule M3) are defined there.
//!
//! # The rooms, in the order a command meets them
//!
//! ```text
//!             ┌────────────────────────────────── worker (one thread, nothing shared) ──────────────────────────────────┐
//!  accept ──▶ │ client ── resp ── command ── router ──┬─ Lane ──▶ upstream::lane ───────────────────▶ link ──▶ upstream │
//!  (loop)     │   ▲      scan     look up    decide   ├─ Pin ───▶ upstream::pool ─▶ client::pinned ─▶ link              │
//!             │   │                                   ├─ Hub ───▶ upstream::pubsub ─────────────────▶ link              │
//!             │   │                                   ├─ Wait ──▶ upstream::blocking ─▶ pool, or lane                   │
//!             │   │                                   ├─ Login ─▶ upstream::login_connection ───────▶ link              │
//!             │   └──── upstream::outbox ◀────────────┴─ Local, Refuse: answered here                                   │
//!             └─────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`resp`] finds boundaries in bytes. [`command`] says what a name means. [`session`] is what respmux remembers
//! about a client. [`router`] decides, in two pure functions: one for free clients, one for pinned ones. [`auth`]
//! says which logins are looked at and which commands are denied. [`topology`] says which servers there are.
//! [`link`] makes connections and holds the cap. [`upstream`] has a runtime for the worker and a node for each
//! server, with one folder or file for each way of using a link. [`client`] is the loop of one client and carries
//! its routes out. [`worker`] is the thread. [`lifecycle`] starts, hands over, drains and stops the process;
//! [`admin`] and [`telemetry`] show it. [`config`] and [`cli`] say what the operator wants, and [`tools`] asks a
//! running proxy from outside.
//!
//! A room uses only rooms before it: `resp` < `command` < `session` < { `router`, `topology`, `auth` } < `link` <
//! `upstream` < `client` < `worker` < { `admin`, `lifecycle` } < `main`; `config`, `telemetry` and `base` (clock,
//! maps, rates) are open to all but the pure rooms. `tests/it/architecture.rs` checks that.
//!
//! # The life of `GET k`
//!
//! 1. `client::run` reads into the worker's one buffer; `resp::request` finds the request's end and arguments.
//! 2. `command` looks the name up; `router` answers `Lane`.
//! 3. `upstream::lane` gets the bytes and, in the same step, a slot. Its task is woken and runs after every client
//!    that was ready, so one write carries them all.
//! 4. The lane's task reads replies; `resp::reply` finds their ends; the oldest slot names the owner of each.
//! 5. The reply is appended to the owner's outbox; each touched client gets one write at the end of the turn.
//!
//! Clients are accepted by the accept loop (`lifecycle::accept_loop`) on the first worker's thread: with one worker, no
//! client is handed from thread to thread, and a connection for one request costs no more than it must.
//!
//! With many clients the worker waits for a moment before it looks at its sockets again (the option `coalesce`), so
//! that the next turn carries more.
//!
//! No channel, no allocation and no task switch per request lies on that way.
//!
//! # What must never be
//!
//! 1. A reply matched by anything but its position (rule I1); a slot removed because its client left (rule I6).
//! 2. An upstream connection without a permit: [`link::Link`] owns one from connect to the upstream's own close.
//! 3. A client with unanswered requests on two routes (rule I2): every change of route waits for the answers (the barrier is
//!    `Client::drained`).
//! 4. A byte on a lane that could change its state (rule I4): only what `commands.tsv` calls shared rides, after the checks of
//!    names with NUL bytes, sizes and arity.
//! 5. An answer "not executed" for a request of which a byte was written (rule R15).
//! 6. A connection that is used after a surprise: it is killed, and every client with a slot on it is closed (rule I5).
//! 7. `tokio`, a clock, metrics or logs in a pure room.
//! 8. A lock, or anything else shared between threads, on the data path. CLIENT LIST and KILL ask other workers by
//!    message. The one exception is [`upstream::HiddenSubscribers`], which PUBLISH asks while clients share a subscription: its
//!    count must not lag behind a confirmation of another worker.

// Every room is private, so that the compiler finds what nobody uses; `pub` in a room means "for other rooms".
// `tests/it/architecture.rs` holds the list of what is public.
mod admin;
mod auth;
mod base;
mod cli;
mod client;
mod command;
mod config;
mod lifecycle;
mod link;
mod resp;
mod router;
mod session;
mod telemetry;
mod tools;
mod topology;
mod upstream;
mod worker;

pub use cli::main;

/// What benchmarks and fuzzers drive without a network. No interface for anybody else: it changes with the rooms.
pub mod internals {
    pub mod command {
        pub use crate::command::{CommandId, CommandTable, LatencyKind, Lookup, Policy};
    }
    pub mod config {
        pub use crate::config::{Listen, read_upstream};
    }
    pub mod resp {
        pub use crate::resp::{
            Advance, ProtocolError, ReplyError, ReplyScanner, RequestLimits, RequestScanner, Scan, decode,
            element_ranges, encode,
        };
    }
    pub mod router {
        pub use crate::router::{
            Args, Aside, Facts, FreeRoute, Local, PinReason, PinnedRoute, PinnedView, Relay, SubscriptionView, Switch,
            UnitPart, route_free, route_pinned, unit_part,
        };
    }
    pub mod session {
        pub use crate::session::{ReplyMode, ReplyShape, Resp, Session, Tracked, Transaction, TransactionGuard};
    }
    pub mod telemetry {
        pub use crate::telemetry::Shard;
        pub use crate::telemetry::reasons::LatencyClass;
    }
}
