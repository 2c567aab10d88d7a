//! The socket of a connection to the upstream, before anything is said on it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::Socket;
use crate::config::Endpoint;

/// A peer whose machine does not acknowledge bytes for this long is gone.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Where the upstream's name leads now; nothing where there is no name.
pub(super) async fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    #[cfg(test)]
    if let Some(address) = super::memory::address() {
        return Ok(vec![address]);
    }
    match endpoint {
        Endpoint::Unix(_) => Ok(Vec::new()),
        Endpoint::Tcp { host, port } => Ok(tokio::net::lookup_host((host.as_str(), *port)).await?.collect()),
    }
}

/// Connects, with what makes a dead peer noticed. Gives the address, too, if it is one of IP.
pub(super) async fn connect(endpoint: &Endpoint) -> io::Result<(Socket, Option<SocketAddr>)> {
    #[cfg(test)]
    if let Some(socket) = super::memory::connect() {
        return socket.map(|socket| (Socket::Memory(socket), super::memory::address()));
    }
    match endpoint {
        Endpoint::Unix(path) => Ok((Socket::Unix(UnixStream::connect(path).await?), None)),
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(Duration::from_secs(30))
                .with_interval(Duration::from_secs(10))
                .with_retries(3);
            let socket = socket2::SockRef::from(&stream);
            socket.set_tcp_keepalive(&keepalive)?;
            // Keepalive says nothing while written bytes wait for their acknowledgement: a cut network would.
            #[cfg(target_os = "linux")]
            socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
            let peer = stream.peer_addr().ok();
            Ok((Socket::Tcp(stream), peer))
        }
    }
}
