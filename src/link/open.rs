//! The socket of a connection to the upstream, before anything is said on it.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::Socket;
use crate::config::Endpoint;

/// A peer whose machine does not acknowledge bytes for this long is gone.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Connects, with what makes a dead peer noticed.
pub(super) async fn connect(endpoint: &Endpoint) -> io::Result<Socket> {
    #[cfg(test)]
    if let Some(socket) = super::memory::connect() {
        return socket.map(Socket::Memory);
    }
    match endpoint {
        Endpoint::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
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
            Ok(Socket::Tcp(stream))
        }
    }
}
