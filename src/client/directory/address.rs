//! Where a client connects from and to, as CLIENT LIST shows it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Kept as it comes, and made into text when somebody wants to see it: most clients are never listed.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Ip(SocketAddr),
    /// Servers show a client of a unix socket under the socket's path and port 0, on both ends.
    Unix(Arc<str>),
}

impl Address {
    /// The address without its port; none for unix sockets.
    pub(in crate::client) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Whether the client is on this machine, by the rule of servers: a unix socket or loopback.
    pub(in crate::client) fn is_of_this_machine(&self) -> bool {
        self.ip().is_none_or(|ip| ip.to_canonical().is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{path}:0"),
        }
    }
}
