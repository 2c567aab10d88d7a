//! respmux: a Redis-aware connection-multiplexing proxy.

pub mod admin;
pub mod cli;
pub mod client;
pub mod command;
pub mod config;
pub mod lifecycle;
pub mod link;
pub mod resp;
pub mod router;
pub mod session;
pub mod telemetry;
pub mod upstream;
pub mod worker;
