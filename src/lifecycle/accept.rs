//! Accepts clients on the main thread and seats them, so that few clients are spread as evenly as many.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

use super::bind::{bind_tcp, bind_unix, tcp_listener, unix_listener};
use super::certificates::ForClients;
use super::inherit::{Inherited, Keeper};
use super::sources::Sources;
use super::start::Workers;
use crate::client::Transport;
use crate::config::{Config, Listen};
use crate::link::Rate;
use crate::telemetry::{AcceptError, Pressure, RejectReason, ShedStep};
use crate::worker::{Arrival, ArrivalSocket};

/// How long to wait after accept(2) failed for want of descriptors or memory.
pub(super) const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// After so many other failures in a row there is a pause too: whatever it is, it must not take the thread.
const MANY_ERRORS: u32 = 64;
/// One line of log for all failures of this time.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// As a server says it (rule F10).
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";
const NOT_THIS_USER: &[u8] = b"-DENIED the user of this process may not connect to this socket\r\n";

enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, ForClients),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Takes the socket that is there for this address, or binds one.
    fn open(
        listen: &Listen,
        config: &Config,
        tls: Option<&ForClients>,
        inherited: &mut Inherited,
    ) -> anyhow::Result<(Self, Keeper)> {
        let backlog = config.client.backlog;
        let tcp = |address: SocketAddr, inherited: &mut Inherited| match inherited.at_address(address) {
            Some(given) => Ok((tcp_listener(given.fd)?, given.keeper)),
            None => bind_tcp(address, backlog).map(|listener| (listener, Keeper::Us)),
        };
        Ok(match (listen, tls) {
            (Listen::Tcp(address), _) => {
                let (listener, keeper) = tcp(*address, inherited)?;
                (Self::Tcp(listener), keeper)
            }
            (Listen::Tls(address), Some(tls)) => {
                let (listener, keeper) = tcp(*address, inherited)?;
                (Self::Tls(listener, tls.clone()), keeper)
            }
            (Listen::Tls(_), None) => anyhow::bail!("no certificate"),
            (Listen::Unix(path), _) => {
                let (listener, keeper) = match inherited.at_path(path) {
                    Some(given) => (unix_listener(given.fd)?, given.keeper),
                    None => (bind_unix(path, config.unix.mode, backlog)?, Keeper::Us),
                };
                (Self::Unix(listener, path.clone()), keeper)
            }
        })
    }

    fn address(&self) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => listener.local_addr()?.to_string(),
            Self::Tls(listener, _) => format!("tls:{}", listener.local_addr()?),
            Self::Unix(_, path) => Listen::Unix(path.clone()).to_string(),
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

/// The listeners of the process.
pub(super) struct Acceptor {
    config: RefCell<Arc<Config>>,
    listeners: Vec<(Listener, Keeper)>,
    addresses: Vec<String>,
    sources: Sources,
    /// Who is asked first next time, so that a crowd at one address does not keep others waiting.
    first: Cell<usize>,
    /// Was accepted and has no seat yet, when the accept loop was left in between.
    waiting: Cell<Option<Arrival>>,
    rate: RefCell<Rate>,
    errors_in_a_row: Cell<u32>,
    log: Cell<(Option<Instant>, u64)>,
}

impl Acceptor {
    /// Takes or binds every configured address.
    pub(super) fn bind(
        config: &Arc<Config>,
        tls: Option<ForClients>,
        inherited: &mut Inherited,
    ) -> anyhow::Result<Self> {
        let mut acceptor = Self {
            config: RefCell::new(Arc::clone(config)),
            listeners: Vec::new(),
            addresses: Vec::new(),
            sources: Sources::default(),
            first: Cell::new(0),
            waiting: Cell::new(None),
            rate: RefCell::new(accept_rate(config)),
            errors_in_a_row: Cell::new(0),
            log: Cell::new((None, 0)),
        };
        for listen in &config.listen {
            let opened = Listener::open(listen, config, tls.as_ref(), inherited);
            let (listener, keeper) = opened.with_context(|| format!("listen: cannot listen on {listen}"))?;
            acceptor.addresses.push(listener.address()?);
            acceptor.listeners.push((listener, keeper));
        }
        Ok(acceptor)
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Limits and rates as `config` has them, from the next client on.
    pub(super) fn reload(&self, config: &Arc<Config>) {
        let before = self.config.replace(Arc::clone(config));
        let rates = |config: &Config| (config.client.accept_rate, config.client.accept_burst);
        if rates(&before) != rates(config) {
            self.rate.replace(accept_rate(config));
        }
    }

    /// What is listened on, with the ports that were chosen.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The listening sockets, in the order of `listen`.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Keeper)> {
        self.listeners.iter().map(|(listener, keeper)| (listener.fd(), *keeper))
    }

    /// Whether systemd has every one of them, and keeps those who connect for the next process.
    pub(super) fn is_kept(&self) -> bool {
        self.listeners.iter().all(|(_, keeper)| *keeper == Keeper::Systemd)
    }

    /// Accepts and seats clients for as long as it is polled. Who was accepted last may lack a seat then: see
    /// [`Self::settle`].
    pub(super) async fn run(&self, workers: &Workers) {
        self.settle(workers).await;
        loop {
            let pause = self.rate.borrow().missing();
            if let Some(pause) = pause {
                workers.shard().accept_stalls.inc();
                sleep(pause).await;
                continue;
            }
            match self.accept().await {
                Ok(arrival) => {
                    self.rate.borrow().take();
                    self.errors_in_a_row.set(0);
                    self.admit(workers, arrival).await;
                }
                Err(error) => self.on_error(workers, &error).await,
            }
        }
    }

    /// Without descriptors or memory only time helps. Other failures are of one connection, which is gone.
    async fn on_error(&self, workers: &Workers, error: &io::Error) {
        let reason = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => AcceptError::Descriptors,
            Some(libc::ENOBUFS | libc::ENOMEM) => AcceptError::Memory,
            _ => AcceptError::Other,
        };
        workers.shard().accept_errors[reason].inc();
        let (logged, unsaid) = self.log.get();
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            tracing::warn!(%error, %reason, unsaid, "accept failed");
            self.log.set((Some(Instant::now()), 0));
        } else {
            self.log.set((logged, unsaid + 1));
        }
        self.errors_in_a_row.set(self.errors_in_a_row.get() + 1);
        if reason != AcceptError::Other || self.errors_in_a_row.get() >= MANY_ERRORS {
            self.errors_in_a_row.set(0);
            sleep(ACCEPT_BACKOFF).await;
        }
    }

    async fn admit(&self, workers: &Workers, mut arrival: Arrival) {
        let Some(reason) = self.objection(workers, &mut arrival) else {
            self.waiting.set(Some(arrival));
            return self.settle(workers).await;
        };
        workers.shard().client_rejected[reason].inc();
        turn_away(arrival, if reason == RejectReason::User { NOT_THIS_USER } else { TOO_MANY });
    }

    /// Seats who was accepted last, if [`Self::run`] was left before it could.
    pub(super) async fn settle(&self, workers: &Workers) {
        workers.seat(&self.waiting).await;
    }

    /// Why this client cannot be taken.
    fn objection(&self, workers: &Workers, arrival: &mut Arrival) -> Option<RejectReason> {
        if !self.may_connect(arrival) {
            return Some(RejectReason::User);
        }
        if workers.clients() >= self.config().client.max_connections {
            return Some(RejectReason::Limit);
        }
        if workers.telemetry.facts.memory().pressure() >= Pressure::Refuse {
            workers.shard().shed[ShedStep::Refuse].inc();
            return Some(RejectReason::Memory);
        }
        if let (Some(most), Some(source)) = (self.config().client.max_per_source, arrival.source) {
            arrival.place = self.sources.enter(source, most);
            return arrival.place.is_none().then_some(RejectReason::Source);
        }
        None
    }

    fn may_connect(&self, arrival: &Arrival) -> bool {
        let config = self.config();
        let (ArrivalSocket::Unix(_, Transport::Unix { uid, .. }), Some(allowed)) =
            (&arrival.socket, &config.unix.allow_uids)
        else {
            return true;
        };
        allowed.contains(uid)
    }

    /// The next client of any listener.
    async fn accept(&self) -> io::Result<Arrival> {
        std::future::poll_fn(|cx| {
            let first = self.first.get();
            for position in (first..first + self.listeners.len()).map(|n| n % self.listeners.len()) {
                let ready = match &self.listeners[position].0 {
                    Listener::Tcp(l) => {
                        l.poll_accept(cx).map(|r| r.and_then(|(s, addr)| self.tcp(s, addr, ArrivalSocket::Tcp)))
                    }
                    Listener::Tls(l, current) => l.poll_accept(cx).map(|r| {
                        let tls = |stream| ArrivalSocket::Tls(stream, Arc::clone(&current.borrow()));
                        r.and_then(|(s, addr)| self.tcp(s, addr, tls))
                    }),
                    Listener::Unix(l, path) => l.poll_accept(cx).map(|r| r.and_then(|(s, _)| unix(s, path))),
                };
                if ready.is_ready() {
                    self.first.set(position + 1);
                    return ready;
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    fn tcp(
        &self,
        stream: tokio::net::TcpStream,
        addr: SocketAddr,
        kind: impl FnOnce(std::net::TcpStream) -> ArrivalSocket,
    ) -> io::Result<Arrival> {
        let stream = stream.into_std()?;
        stream.set_nodelay(true)?;
        let time = self.config().client.tcp_keepalive;
        if !time.is_zero() {
            let probes = TcpKeepalive::new()
                .with_time(time)
                .with_interval((time / 3).max(Duration::from_secs(1)))
                .with_retries(3);
            SockRef::from(&stream).set_tcp_keepalive(&probes)?;
        }
        let laddr = stream.local_addr()?.to_string();
        let source = Some(addr.ip());
        Ok(Arrival { socket: kind(stream), addr: addr.to_string(), laddr, source, place: None })
    }

    /// Accepts no more; removes unix sockets, unless systemd made them.
    pub(super) fn close(self) {
        for (listener, keeper) in self.listeners {
            if let (Listener::Unix(_, path), Keeper::Us) = (listener, keeper) {
                let _ = std::fs::remove_file(path); // already gone is as good
            }
        }
    }
}

fn unix(stream: tokio::net::UnixStream, path: &std::path::Path) -> io::Result<Arrival> {
    let peer = stream.peer_cred()?;
    let transport = Transport::Unix { uid: peer.uid(), pid: peer.pid().unwrap_or(0) };
    // Servers show a unix client under the socket's path and port 0.
    let name = format!("{}:0", path.display());
    let socket = ArrivalSocket::Unix(stream.into_std()?, transport);
    Ok(Arrival { socket, addr: name.clone(), laddr: name, source: None, place: None })
}

/// Clients a second, after a burst.
#[allow(clippy::cast_precision_loss)] // both are below 2^53
fn accept_rate(config: &Config) -> Rate {
    Rate::new(config.client.accept_rate as f64, config.client.accept_burst as f64)
}

/// The last words to a client that is not let in. The socket is new, so its buffer is empty; a client that is gone
/// already misses nothing. With TLS there is nobody yet who could read them.
fn turn_away(arrival: Arrival, words: &[u8]) {
    let _ = match arrival.socket {
        ArrivalSocket::Tcp(mut stream) => stream.write(words),
        ArrivalSocket::Unix(mut stream, _) => stream.write(words),
        ArrivalSocket::Tls(..) => Ok(0),
    };
}
