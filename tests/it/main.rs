//! One binary for every promise that a client or an operator can see, checked against real servers.
//!
//! `tests/setup.sh` brings the servers (Redis 7.0, Redis 8.2, Valkey 9); the first test that needs one runs it.
//! A transcript (`tests/transcripts/`, notation in [`transcripts`]) says what clients send and what they must receive;
//! wherever the real server gives the same answer the transcript runs against it too, so that an expectation is
//! never only the author's belief.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    reason = "a test stops at the first thing that is not as it must be, and its threads share by lock"
)]

mod accept;
mod admin;
mod adversary;
mod architecture;
mod blocking;
mod cap;
mod citations;
mod client_commands;
mod client_states;
mod coalesce;
mod debug;
mod drain;
mod failure;
mod handoff;
mod handover;
mod hostile;
mod identities;
mod integrity;
mod labels;
mod limits;
mod limits_told;
mod login;
mod ordering;
mod outage;
mod pipelines;
mod policy;
mod preflight;
mod protocol_errors;
mod proxy_admin;
mod pubsub;
mod relay;
mod reload;
mod reply_types;
mod rights;
mod secrets;
mod server_limits;
mod server_pause;
mod strays;
mod telemetry;
mod terminate;
mod tls;
mod tools;
mod transactions;
mod transcripts;
mod unix;
mod upstream_loss;
mod views;
mod wait;
