//! Processes the storm and the client runs need: a real server and the proxy, each with a deadline and an end.

mod ports;
mod proxy;
mod server;
mod setup;
mod wait;

pub(crate) use proxy::{Proxy, ProxyOptions};
pub(crate) use server::{Flavour, Server};
pub(crate) use setup::path_of;
pub(crate) use wait::eventually;
