//! The address of a Redis or Valkey.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 6379;

/// `sockaddr_un.sun_path` on Linux has 108 bytes with the closing zero.
const SOCKET_PATH_LIMIT: usize = 107;

/// The address of a Redis or Valkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A name or an IP address (IPv6 without brackets), looked up at each connect.
    Tcp {
        /// Name or address.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A unix socket, relative to the working directory.
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or("expected :port after ']'")?)),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err("no host is named");
        }
        let is_host = match text.starts_with('[') {
            true => host.parse::<Ipv6Addr>().is_ok(),
            false => host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
        };
        if !is_host {
            return Err("the host is neither a name nor an IP address (IPv6 stands in [ ])");
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|p| *p != 0).ok_or("the port must be 1 to 65535")?,
        };
        Ok(Self::Tcp { host: host.to_owned(), port })
    }

    /// Whether the upstream sees its clients as local: then what it allows to local clients only is allowed to every
    /// client of ours (rule A9).
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The path of a unix socket, if the system takes it.
pub(in crate::config) fn socket_path(path: impl AsRef<Path>) -> Result<PathBuf, String> {
    match path.as_ref().as_os_str().len() {
        0 => Err("no path is named after unix:".to_owned()),
        1..=SOCKET_PATH_LIMIT => Ok(path.as_ref().to_owned()),
        length => Err(format!("a socket path has at most {SOCKET_PATH_LIMIT} bytes, this one {length}")),
    }
}
