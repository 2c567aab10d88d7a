//! respmux: a Redis-aware connection-multiplexing proxy. Thousands of clients, a small fixed set of upstream
//! connections, and replies that never reach the wrong client.
//!
//! # Words
//!
//! *client*: an application's connection to us. *upstream*: Redis or Valkey. *worker*: one thread with its runtime,
//! its share of the clients and its own upstream connections. *link*: one authenticated upstream connection, before
//! anyone decides what it is for. *lane*: a link shared by many clients, pipelined, first-in first-out, fixed to
//! one [`RouteKey`](session::RouteKey) (identity, protocol, database). *slot*: a lane's record for one request: who
//! gets the reply. *tombstone*: the slot of a client that left; it swallows its reply. *in flight*: on a lane,
//! reply not read. *route*: the decision for one command. *pool*, *lease*: links lent to one client at a time.
//! *held*: the lent link as its client sees it. *scratch*: the link on which the upstream proves logins. *control*:
//! the link for respmux's own questions. *hub*: the link that carries the subscriptions of all clients of one
//! identity. *fold*: clients that wait for the same, and the few links on which somebody waits for them. *waiter*: a
//! client in a fold. *unit*: a transaction that rides a lane whole. *twin*: a command that runs where it changes nothing, so that the answer is the server's. *canary*: a
//! PING whose echo proves that a lane is in step. *outbox*: where a client's answers go. *budget*, *permit*: the
//! cap on upstream connections, and the right to have one. *orphan*: the slot of a request that was given up; it keeps
//! its place like a tombstone. *suspect*: a lane that owes replies and says nothing. *circuit*: whether commands wait
//! for an upstream that is away. *parting*: that a client is sent away between two requests, and how far that is.
//!
//! # The rooms, in the order a command meets them
//!
//! ```text
//!             ┌──────────────────────────── worker (one thread, nothing shared) ───────────────────────────┐
//!  accept ──▶ │ client ── resp ── command ── router ──┬─ Lane ──▶ upstream::lane ──▶ link ──▶ upstream      │
//!  (gate)     │   ▲      scan     look up    decide   ├─ Pin ───▶ upstream::pool ─▶ client::held ─▶ link    │
//!             │   │                                   ├─ Hub ───▶ upstream::pubsub ───────────────▶ link    │
//!             │   │                                   ├─ Fold ──▶ upstream::blocking ─▶ pool, or lane       │
//!             │   │                                   ├─ Login ─▶ upstream::scratch ──────────────▶ link    │
//!             │   └──── upstream::outbox ◀────────────┴─ Local, Refuse: answered here                       │
//!             └────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`resp`] finds boundaries in bytes. [`command`] says what a name means. [`session`] is what we remember about a
//! client. [`router`] decides, in one pure function. [`link`] makes connections and holds the cap. [`upstream`] is
//! one folder or file per way of using a link. [`client`] is the loop of one client and the one `match` on a route.
//! [`worker`] is the thread. [`lifecycle`] starts, hands over, drains and stops the process; [`admin`] and [`telemetry`] show it;
//! [`config`] and [`cli`] say what the operator wants, and `tools` asks a running proxy from outside.
//!
//! [`auth`] says which logins are looked at.
//!
//! A room uses only rooms before it: `resp` < `command` < `session` < { `router`, `link`, `auth` } < `upstream` < `client` <
//! `worker` < { `admin`, `lifecycle` } < `main`; `config`, `telemetry` and `base` (clock, maps, rates) are open to all but
//! the pure rooms. `tests/it/architecture.rs`
//! checks that.
//!
//! # The life of `GET k`
//!
//! 1. `client::connection` reads into the worker's one buffer; `resp::request` finds the request's end and arguments.
//! 2. `command` looks the name up; `router` answers `Lane`.
//! 3. `upstream::lane` gets the bytes and, in the same step, a slot. Its task is woken and runs after every client
//!    that was ready, so one write carries them all.
//! 4. The lane's task reads replies; `resp::reply` finds their ends; the oldest slot names the owner of each.
//! 5. The reply is appended to the owner's outbox; each touched client gets one write at the end of the turn.
//!
//! Clients are accepted by the *gate* (`lifecycle::gate`), on the first worker's thread: where there is one worker, no
//! client is handed from thread to thread, and a connection for one request costs no more than it must.
//!
//! With many clients the worker rests for a moment before it looks at its sockets again (`worker::rest`): the next turn
//! carries more.
//!
//! No channel, no allocation and no task switch per request lies on that way.
//!
//! # What must never be
//!
//! 1. A reply matched by anything but its position; a slot removed because its client left.
//! 2. An upstream connection without a permit: [`link::Link`] owns one from connect to the upstream's own close.
//! 3. A client with unanswered requests on two routes: every change of route waits for the answers (the barrier is
//!    `Client::drained`).
//! 4. A byte on a lane that could change its state: only what `commands.tsv` calls shared rides, after the checks of
//!    names with NUL bytes, sizes and arity.
//! 5. An answer "not executed" for a request of which a byte was written.
//! 6. A connection that is used after a surprise: it is killed, and every client with a slot on it is closed.
//! 7. `tokio`, a clock, metrics or logs in `resp`, `command`, `session` or `router`.
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
mod upstream;
mod worker;

pub use cli::main;

/// What benchmarks and fuzzers drive without a network. No interface for anybody else: it changes with the rooms.
pub mod internals {
    pub mod command {
        pub use crate::command::{CommandId, CommandTable, Kind, Lookup, Policy};
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
            Args, Facts, Held, Hub, Local, Login, PinReason, Relay, Route, Switch, UnitPart, route, unit_part,
        };
    }
    pub mod session {
        pub use crate::session::{Guard, Reply, ReplyMode, Resp, Session, Tracked, Transaction};
    }
    pub mod telemetry {
        pub use crate::telemetry::Shard;
        pub use crate::telemetry::reasons::LatencyClass;
    }
}
