//! The listening sockets for clients, as the main thread has them: it binds them, gives a copy of each to the
//! [`AcceptLoop`], and tells that when to accept clients.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::accept_loop::{AcceptCommand, AcceptLoop, ListeningSocket, SocketKind};
use super::bind::{CannotListen, bind_tcp, bind_unix};
use super::certificates::ForClients;
use super::inherit::{Inherited, Keeper};
use crate::config::{Config, Listen};

/// One listening socket, and the file that it leaves behind.
struct ClientListener {
    fd: OwnedFd,
    keeper: Keeper,
    file: Option<PathBuf>,
}

/// All listening sockets for clients.
pub(super) struct ClientListeners {
    listeners: Vec<ClientListener>,
    addresses: Vec<String>,
    /// To the accept loop, which carries out one command after the other.
    commands: mpsc::UnboundedSender<AcceptCommand>,
}

impl ClientListeners {
    /// Takes or binds every configured address. The accept loop accepts nobody yet.
    pub(super) fn bind(
        config: &Arc<Config>,
        tls: Option<&ForClients>,
        inherited: &mut Inherited,
    ) -> anyhow::Result<(Self, AcceptLoop)> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (mut listeners, mut addresses, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
        for listen in &config.listen {
            let opened = open(listen, config, tls, inherited);
            let (listener, socket, address) = opened.map_err(|error| match error.downcast::<io::Error>() {
                Ok(error) => CannotListen::new("listen", listen, error).into(),
                Err(error) => error,
            })?;
            listeners.push(listener);
            addresses.push(address);
            sockets.push(socket);
        }
        let accept_loop = AcceptLoop::new(sockets, Arc::clone(config), receiver);
        Ok((Self { listeners, addresses, commands }, accept_loop))
    }

    /// Puts the limits and rates of `config` in force, for every client that is accepted after this is ready.
    pub(super) async fn reload(&self, config: &Arc<Config>) {
        self.tell(|done| AcceptCommand::Reload(Arc::clone(config), done)).await;
    }

    /// What clients may connect to, with the ports that were chosen.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The listening sockets, in the order of `listen`.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Keeper)> {
        self.listeners.iter().map(|listener| (listener.fd.as_fd(), listener.keeper))
    }

    /// Whether systemd has every one of the sockets, and keeps clients that connect for the next process.
    pub(super) fn is_kept(&self) -> bool {
        self.listeners.iter().all(|listener| listener.keeper == Keeper::Systemd)
    }

    /// Lets the accept loop accept clients from now on.
    pub(super) fn begin(&self) {
        // An error: the worker has ended, and the accept loop with it.
        let _ = self.commands.send(AcceptCommand::Accept);
    }

    /// Stops accepting. When this is ready nobody is accepted any more, and every accepted client has a worker.
    pub(super) async fn hold(&self) {
        self.tell(AcceptCommand::Hold).await;
    }

    /// Closes the sockets here. They may live on in another process.
    pub(super) async fn leave(self) {
        self.tell(AcceptCommand::End).await;
    }

    /// Closes the sockets, and removes the files of unix sockets, unless systemd made them.
    pub(super) async fn close(mut self) {
        let listeners = std::mem::take(&mut self.listeners);
        self.leave().await;
        for listener in listeners {
            if let (Some(file), Keeper::Us) = (listener.file, listener.keeper) {
                let _ = std::fs::remove_file(file); // already gone is as good
            }
        }
    }

    /// Gives the accept loop a command and waits until it is carried out, or the worker has ended and the accept loop
    /// with it.
    async fn tell(&self, command: impl FnOnce(oneshot::Sender<()>) -> AcceptCommand) {
        let (done, told) = oneshot::channel();
        if self.commands.send(command(done)).is_ok() {
            let _ = told.await;
        }
    }
}

/// Takes the inherited socket for this address if there is one, else binds one.
fn open(
    listen: &Listen,
    config: &Config,
    tls: Option<&ForClients>,
    inherited: &mut Inherited,
) -> anyhow::Result<(ClientListener, ListeningSocket, String)> {
    let backlog = config.client.backlog;
    let tcp = |address: SocketAddr, inherited: &mut Inherited| match inherited.at_address(address) {
        Some(given) => Ok((given.fd, given.keeper)),
        None => bind_tcp(address, backlog).map(|socket| (OwnedFd::from(socket), Keeper::Us)),
    };
    let ((fd, keeper), kind, file) = match (listen, tls) {
        (Listen::Tcp(address), _) => (tcp(*address, inherited)?, SocketKind::Tcp, None),
        (Listen::Tls(address), Some(tls)) => (tcp(*address, inherited)?, SocketKind::Tls(tls.clone()), None),
        (Listen::Tls(_), None) => anyhow::bail!("no certificate"),
        (Listen::Unix(path), _) => {
            let socket = match inherited.at_path(path) {
                Some(given) => (given.fd, given.keeper),
                None => (OwnedFd::from(bind_unix(path, config.unix.mode, backlog)?), Keeper::Us),
            };
            (socket, SocketKind::Unix(path.display().to_string().into()), Some(path.clone()))
        }
    };
    let address = shown(listen, &fd)?;
    let socket = ListeningSocket::new(fd.try_clone()?, kind);
    Ok((ClientListener { fd, keeper, file }, socket, address))
}

/// The address, with the port that was chosen.
fn shown(listen: &Listen, fd: &OwnedFd) -> io::Result<String> {
    let bound = socket2::SockRef::from(fd).local_addr()?.as_socket();
    Ok(match (listen, bound) {
        (Listen::Tcp(_), Some(bound)) => bound.to_string(),
        (Listen::Tls(_), Some(bound)) => format!("tls:{bound}"),
        _ => listen.to_string(),
    })
}
