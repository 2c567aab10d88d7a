//! Where clients come in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::{Endpoint, socket_path};

/// One address to accept clients on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The same, and clients speak TLS.
    Tls(SocketAddr),
    /// A unix socket, relative to the working directory.
    Unix(PathBuf),
}

impl Listen {
    /// Whether its clients speak TLS.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether other machines can reach it.
    pub(crate) fn is_remote(&self) -> bool {
        self.address().is_some_and(|address| !address.ip().is_loopback())
    }

    /// Whether the system chooses the port.
    pub(in crate::config) fn is_any_port(&self) -> bool {
        self.address().is_some_and(|address| address.port() == 0)
    }

    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Tls(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The address, where it is one of TCP; port 0 is any, and so the same as no other.
    fn fixed(&self) -> Option<SocketAddr> {
        self.address().filter(|address| address.port() != 0)
    }

    /// Whether both cannot be listened on at once.
    pub(in crate::config) fn is_in_the_way_of(&self, other: &Self) -> bool {
        match (self, other, self.fixed(), other.fixed()) {
            (Self::Unix(one), Self::Unix(two), ..) => one == two,
            (_, _, Some(one), Some(two)) => one.port() == two.port() && (covers(one, two) || covers(two, one)),
            _ => false,
        }
    }

    /// Whether what connects to `upstream` would meet this very listener, as far as that can be known without a
    /// look-up.
    pub(in crate::config) fn answers(&self, upstream: &Endpoint) -> bool {
        match (self, upstream) {
            (Self::Unix(path), Endpoint::Unix(upstream)) => path == upstream,
            (_, Endpoint::Tcp { host, port }) => {
                self.fixed().filter(|address| address.port() == *port).is_some_and(|address| {
                    let (ip, named) = (address.ip().to_canonical(), host.parse::<IpAddr>());
                    let any = address.ip().is_unspecified() && upstream.is_local();
                    let local = host.eq_ignore_ascii_case("localhost") && ip.is_loopback();
                    any || local || named.is_ok_and(|named| named.to_canonical() == ip)
                })
            }
            _ => false,
        }
    }
}

/// What listens on `all` gets what is meant for `one`.
fn covers(all: SocketAddr, one: SocketAddr) -> bool {
    match all.ip() {
        ip if ip.to_canonical() == one.ip().to_canonical() => true,
        IpAddr::V4(ip) => ip.is_unspecified() && one.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(), // a socket for both families, unless the system is set otherwise
    }
}

impl FromStr for Listen {
    type Err = String;

    /// Reads `ADDRESS:PORT`, `[ADDRESS]:PORT`, either after `tls:`, or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path.strip_prefix("//").unwrap_or(path)).map(Self::Unix);
        }
        let address = match text.strip_prefix("tls:") {
            Some(address) => address.parse().map(Self::Tls),
            None => text.parse().map(Self::Tcp),
        };
        address.map_err(|_| {
            format!("expected IP:PORT (\"127.0.0.1:6380\", \"[::1]:6380\"), tls:IP:PORT or unix:PATH, got {text:?}")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
            // Two slashes at the start are not part of a path when it is read.
            Self::Unix(path) => {
                let slashes = if path.as_os_str().as_encoded_bytes().starts_with(b"//") { "//" } else { "" };
                write!(f, "unix:{slashes}{}", path.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        for text in ["127.0.0.1:6380", "[::1]:0", "unix:/run/r.sock", "unix:////r"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///r".parse::<Listen>().unwrap(), Listen::Unix(PathBuf::from("/r")));
        for text in ["", "6380", ":6380", "localhost:6380", "127.0.0.1", "unix:"] {
            assert!(text.parse::<Listen>().is_err(), "{text:?}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(long.parse::<Listen>().unwrap_err().contains("at most 107 bytes"));
    }

    #[test]
    fn what_other_machines_reach() {
        for (text, remote) in [
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("unix:/s", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("10.0.0.1:1", true),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().is_remote(), remote, "{text}");
        }
    }
}
