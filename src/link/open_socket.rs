//! The socket of a connection to the upstream, before anything is said on it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::{DialError, Socket};
use crate::config::Endpoint;
use crate::telemetry::ConnectError;

/// A peer whose machine does not acknowledge bytes for this long is gone.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Where the upstream's name leads now; nothing where there is no name.
pub(super) async fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    #[cfg(test)]
    if let Some(address) = super::memory_socket::address() {
        return Ok(vec![address]);
    }
    match endpoint {
        Endpoint::Unix(_) => Ok(Vec::new()),
        Endpoint::Tcp { host, port } => Ok(tokio::net::lookup_host((host.as_str(), *port)).await?.collect()),
    }
}

/// Connects, with what makes a dead peer noticed. Gives the address, too, if it is one of IP.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<(Socket, Option<SocketAddr>), DialError> {
    let failed = |error: io::Error| DialError::io(&error);
    #[cfg(test)]
    if let Some(socket) = super::memory_socket::connect() {
        return socket.map(|socket| (Socket::Memory(socket), super::memory_socket::address())).map_err(failed);
    }
    match endpoint {
        Endpoint::Unix(path) => Ok((Socket::Unix(UnixStream::connect(path).await.map_err(failed)?), None)),
        Endpoint::Tcp { host, port } => {
            let unknown = |error: io::Error| DialError::unavailable(ConnectError::Dns, format!("{host}: {error}"));
            let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(unknown)?.collect();
            let stream = TcpStream::connect(addresses.as_slice()).await.map_err(failed)?;
            let peer = stream.peer_addr().ok();
            tuned(&stream).map_err(failed)?;
            Ok((Socket::Tcp(stream), peer))
        }
    }
}

fn tuned(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    // Keepalive says nothing while written bytes wait for their acknowledgement: a cut network would.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}
