//! Sockets that listen.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// An address of the configuration that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: cannot listen on {address}: {error}")]
pub(super) struct CannotListen {
    what: &'static str,
    address: String,
    error: io::Error,
}

impl CannotListen {
    pub(super) fn new(what: &'static str, address: &impl ToString, error: io::Error) -> Self {
        Self { what, address: address.to_string(), error }
    }

    /// Whether nothing but another configuration helps. An address in use, or a want of descriptors, may pass.
    pub(super) fn is_lasting(&self) -> bool {
        use io::ErrorKind::{AddrNotAvailable, AlreadyExists, InvalidInput, NotADirectory, NotFound, PermissionDenied};
        let lasting = [AddrNotAvailable, AlreadyExists, InvalidInput, NotADirectory, NotFound, PermissionDenied];
        lasting.contains(&self.error.kind())
    }
}

/// Something else is where a unix socket should be.
pub(super) fn no_socket() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket")
}

/// A TCP socket that listens and does not block.
pub(super) fn bind_tcp(addr: SocketAddr, backlog: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(length(backlog))?;
    Ok(socket)
}

/// A TCP listener that somebody else has bound; it does not block.
pub(super) fn tcp_listener(fd: OwnedFd) -> io::Result<TcpListener> {
    TcpListener::from_std(fd.into())
}

/// A listening unix socket of a descriptor that was passed.
pub(super) fn unix_listener(fd: OwnedFd) -> io::Result<UnixListener> {
    UnixListener::from_std(fd.into())
}

/// A unix socket that listens and does not block, whose file has `mode` before the first client can connect. A socket
/// file that nobody listens on any more is replaced; one that is in use, or that is no socket, is an error.
pub(super) fn bind_unix(path: &Path, mode: u32, backlog: usize) -> io::Result<Socket> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(no_socket()),
        Ok(_) => match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            // A full backlog (EAGAIN) or a lack of permission also shows somebody.
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(length(backlog))?;
    Ok(socket)
}

fn length(backlog: usize) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind_unix(&path, 0o600, 8).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind_unix(&path, 0o600, 8).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        // A child that another test is just starting may hold a copy of the listener until its exec.
        let mut tries = 0;
        let second = loop {
            match bind_unix(&path, 0o666, 8) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < 500 => tries += 1,
                other => break other.unwrap(),
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        drop(second);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(bind_unix(&path, 0o600, 8).unwrap_err().to_string().contains("not a socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
