//! Listening sockets that somebody else has bound: systemd, or the respmux that ran before. Each is found by its
//! address, so that `listen` and `admin` say what is listened on, wherever the sockets come from.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use listenfd::ListenFd;
use socket2::{SockRef, Type};

/// Who keeps a socket when this process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// Nobody else: respmux removes the file of a unix socket.
    Us,
    /// systemd, which also made the file.
    Systemd,
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ListenAddress {
    Ip(SocketAddr),
    Path(PathBuf),
}

/// A socket and who keeps it.
pub(super) struct InheritedSocket {
    pub fd: OwnedFd,
    pub keeper: Keeper,
    place: ListenAddress,
}

/// Sockets from outside that have not found their use yet.
#[derive(Default)]
pub(super) struct Inherited(Vec<InheritedSocket>);

impl Inherited {
    /// What systemd passes (`LISTEN_FDS`). To be called once, before there is a second thread: it changes the
    /// environment, so that no child takes the sockets for its own.
    ///
    /// # Errors
    /// One is no stream socket.
    pub(super) fn from_systemd() -> anyhow::Result<Self> {
        let (mut passed, mut inherited) = (ListenFd::from_env(), Self::default());
        for index in 0..passed.len() {
            let what = || format!("socket activation: descriptor {}", index + 3);
            let fd: Option<OwnedFd> = match passed.take_tcp_listener(index) {
                Ok(listener) => listener.map(OwnedFd::from),
                Err(_) => passed.take_unix_listener(index).with_context(what)?.map(OwnedFd::from),
            };
            if let Some(fd) = fd {
                inherited.add(fd, Keeper::Systemd).with_context(what)?;
            }
        }
        Ok(inherited)
    }

    /// Takes a socket in.
    ///
    /// # Errors
    /// The socket does not listen, or at no address that `listen` could name.
    pub(super) fn add(&mut self, fd: OwnedFd, keeper: Keeper) -> io::Result<()> {
        let socket = SockRef::from(&fd);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket that listens"));
        }
        let address = socket.local_addr()?;
        let place = match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => ListenAddress::Ip(address),
            (None, Some(path)) => ListenAddress::Path(path.to_owned()),
            (None, None) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither an IP address nor a path"));
            }
        };
        socket.set_nonblocking(true)?;
        self.0.push(InheritedSocket { fd, keeper, place });
        Ok(())
    }

    /// The socket that listens on this address.
    pub(super) fn at_address(&mut self, address: SocketAddr) -> Option<InheritedSocket> {
        self.take(&ListenAddress::Ip(address))
    }

    /// The socket that listens on this path.
    pub(super) fn at_path(&mut self, path: &Path) -> Option<InheritedSocket> {
        self.take(&ListenAddress::Path(path.to_owned()))
    }

    fn take(&mut self, place: &ListenAddress) -> Option<InheritedSocket> {
        let position = self.0.iter().position(|given| given.place == *place)?;
        Some(self.0.swap_remove(position))
    }

    /// What nobody wanted. A socket of systemd's that is not served would let clients wait for ever; one of the
    /// process before us is closed, since the configuration names it no more.
    ///
    /// # Errors
    /// systemd passes a socket that no setting names.
    pub(super) fn finish(self) -> anyhow::Result<Unwanted> {
        let mut files = Vec::new();
        for given in self.0 {
            let place = match &given.place {
                ListenAddress::Ip(address) => address.to_string(),
                ListenAddress::Path(path) => format!("unix:{}", path.display()),
            };
            if given.keeper == Keeper::Systemd {
                bail!("systemd passes a socket that listens on {place}, which neither `listen` nor `admin` names");
            }
            tracing::warn!(%place, "no longer listened on: the configuration does not name it");
            if let ListenAddress::Path(path) = given.place {
                files.push(path);
            }
        }
        Ok(Unwanted(files))
    }
}

/// Files of unix sockets that are listened on no more once the process before us is gone.
pub(super) struct Unwanted(Vec<PathBuf>);

impl Unwanted {
    /// Removes them.
    pub(super) fn remove(self) {
        for path in self.0 {
            let _ = std::fs::remove_file(path); // already gone is as good
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_are_found_by_their_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let mut inherited = Inherited::default();
        inherited.add(tcp.into(), Keeper::Us).unwrap();
        inherited.add(UnixListener::bind(&path).unwrap().into(), Keeper::Systemd).unwrap();
        assert!(inherited.at_address("127.0.0.1:1".parse().unwrap()).is_none());
        assert_eq!(inherited.at_address(address).map(|given| given.keeper), Some(Keeper::Us));
        assert!(inherited.at_address(address).is_none(), "only once");
        assert_eq!(inherited.at_path(&path).map(|given| given.keeper), Some(Keeper::Systemd));
        assert!(inherited.finish().is_ok());
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let mut inherited = Inherited::default();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(inherited.add(udp.into(), Keeper::Us).is_err());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        assert!(inherited.add(client.into(), Keeper::Us).is_err());
    }

    #[test]
    fn what_nobody_wants_is_said_or_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut inherited = Inherited::default();
        inherited.add(UnixListener::bind(&path).unwrap().into(), Keeper::Us).unwrap();
        let unwanted = inherited.finish().unwrap();
        assert!(path.exists(), "as long as the other process listens");
        unwanted.remove();
        assert!(!path.exists());
        let mut inherited = Inherited::default();
        inherited.add(TcpListener::bind("127.0.0.1:0").unwrap().into(), Keeper::Systemd).unwrap();
        assert!(inherited.finish().err().unwrap().to_string().contains("which neither"));
    }
}
