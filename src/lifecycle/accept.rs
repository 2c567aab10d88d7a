//! What is listened on for clients, as the main thread has it: it binds the sockets, passes them on, and tells the
//! [`Gate`] when to let clients in. They are accepted there.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::bind::{CannotListen, bind_tcp, bind_unix};
use super::certificates::ForClients;
use super::gate::{Door, Gate, Kind, Orders, Stage};
use super::inherit::{Inherited, Keeper};
use crate::config::{Config, Listen};

/// How long to wait after accept(2) failed for want of descriptors or memory.
pub(super) const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// One socket that listens, and the file that it leaves behind.
struct Listener {
    fd: OwnedFd,
    keeper: Keeper,
    file: Option<PathBuf>,
}

/// The listeners of the process.
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    addresses: Vec<String>,
    orders: watch::Sender<Orders>,
    /// The number of the last order that is carried out.
    done: watch::Receiver<u64>,
    number: Cell<u64>,
}

impl Acceptor {
    /// Takes or binds every configured address. The gate lets nobody in yet.
    pub(super) fn bind(
        config: &Arc<Config>,
        tls: Option<&ForClients>,
        inherited: &mut Inherited,
    ) -> anyhow::Result<(Self, Gate)> {
        let (orders, heard) = watch::channel(Orders { stage: Stage::Hold, number: 0, config: Arc::clone(config) });
        let (told, done) = watch::channel(0);
        let (mut listeners, mut addresses, mut doors) = (Vec::new(), Vec::new(), Vec::new());
        for listen in &config.listen {
            let opened = open(listen, config, tls, inherited);
            let (listener, door, address) = opened.map_err(|error| match error.downcast::<io::Error>() {
                Ok(error) => CannotListen::new("listen", listen, error).into(),
                Err(error) => error,
            })?;
            listeners.push(listener);
            addresses.push(address);
            doors.push(door);
        }
        let acceptor = Self { listeners, addresses, orders, done, number: Cell::new(0) };
        Ok((acceptor, Gate::new(doors, heard, told)))
    }

    /// Limits and rates as `config` has them, for whoever is accepted after this is ready.
    pub(super) async fn reload(&self, config: &Arc<Config>) {
        self.order(|orders| orders.config = Arc::clone(config));
        self.is_done().await;
    }

    /// What is listened on, with the ports that were chosen.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The listening sockets, in the order of `listen`.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Keeper)> {
        self.listeners.iter().map(|listener| (listener.fd.as_fd(), listener.keeper))
    }

    /// Whether systemd has every one of them, and keeps those who connect for the next process.
    pub(super) fn is_kept(&self) -> bool {
        self.listeners.iter().all(|listener| listener.keeper == Keeper::Systemd)
    }

    /// Clients are accepted from now on.
    pub(super) fn begin(&self) {
        self.order(|orders| orders.stage = Stage::Accept);
    }

    /// Nobody is accepted any more when this is ready, and who was accepted has a seat.
    pub(super) async fn hold(&self) {
        self.order(|orders| orders.stage = Stage::Hold);
        self.is_done().await;
    }

    /// Listens no more. The sockets may live on in another process.
    pub(super) async fn leave(self) {
        self.order(|orders| orders.stage = Stage::End);
        self.is_done().await;
    }

    /// Listens no more, and removes the files of unix sockets, unless systemd made them.
    pub(super) async fn close(mut self) {
        let listeners = std::mem::take(&mut self.listeners);
        self.leave().await;
        for listener in listeners {
            if let (Some(file), Keeper::Us) = (listener.file, listener.keeper) {
                let _ = std::fs::remove_file(file); // already gone is as good
            }
        }
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.number.set(self.number.get() + 1);
        self.orders.send_modify(|orders| {
            change(orders);
            orders.number = self.number.get();
        });
    }

    /// Waits until the last order is carried out. An error: the worker has ended, and with it the gate.
    async fn is_done(&self) {
        let _ = self.done.clone().wait_for(|done| *done >= self.number.get()).await;
    }
}

/// Takes the socket that is there for this address, or binds one.
fn open(
    listen: &Listen,
    config: &Config,
    tls: Option<&ForClients>,
    inherited: &mut Inherited,
) -> anyhow::Result<(Listener, Door, String)> {
    let backlog = config.client.backlog;
    let tcp = |address: SocketAddr, inherited: &mut Inherited| match inherited.at_address(address) {
        Some(given) => Ok((given.fd, given.keeper)),
        None => bind_tcp(address, backlog).map(|socket| (OwnedFd::from(socket), Keeper::Us)),
    };
    let ((fd, keeper), kind, file) = match (listen, tls) {
        (Listen::Tcp(address), _) => (tcp(*address, inherited)?, Kind::Tcp, None),
        (Listen::Tls(address), Some(tls)) => (tcp(*address, inherited)?, Kind::Tls(tls.clone()), None),
        (Listen::Tls(_), None) => anyhow::bail!("no certificate"),
        (Listen::Unix(path), _) => {
            let socket = match inherited.at_path(path) {
                Some(given) => (given.fd, given.keeper),
                None => (OwnedFd::from(bind_unix(path, config.unix.mode, backlog)?), Keeper::Us),
            };
            (socket, Kind::Unix(path.display().to_string().into()), Some(path.clone()))
        }
    };
    let address = shown(listen, &fd)?;
    let door = Door::new(fd.try_clone()?, kind);
    Ok((Listener { fd, keeper, file }, door, address))
}

/// With the port that was chosen.
fn shown(listen: &Listen, fd: &OwnedFd) -> io::Result<String> {
    let bound = socket2::SockRef::from(fd).local_addr()?.as_socket();
    Ok(match (listen, bound) {
        (Listen::Tcp(_), Some(bound)) => bound.to_string(),
        (Listen::Tls(_), Some(bound)) => format!("tls:{bound}"),
        _ => listen.to_string(),
    })
}
