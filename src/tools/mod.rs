//! What the program does when it is not the proxy: it asks a running one (`ping`, `healthcheck`, `stat`, `top`), or
//! writes documents about itself (`config example`, `config reference`, `man`).
//!
//! Owns the views in a terminal. `cli` calls it. All of it is blocking and works from outside: over RESP as a client
//! would, over HTTP as Prometheus would.

mod document;
mod http;
mod ping;
mod resp;
mod samples;
mod stat;
mod top;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

pub(crate) use document::{completions, example, manual, reference, schema};
pub(crate) use ping::{PingTarget, ping};
pub(crate) use stat::stat;
pub(crate) use top::{Show, top};

/// Asks the admin endpoint of a running proxy for `page`; `Err` says what is wrong with it.
///
/// # Errors
/// When nobody answers within `patience`, or the answer is not 200.
pub(crate) fn health(admin: SocketAddr, page: &str, patience: Duration) -> Result<String, String> {
    http::get(reachable(admin), page, patience).map(|body| body.trim().to_owned())
}

/// An address to connect to for one that is listened on: loopback for "all addresses".
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
