//! Accepts clients and gives each to the worker with the fewest, so that few clients are spread as evenly as many.
//!
//! The accept loop runs on the first worker's thread. A client that this worker serves, which are all of them where
//! there is one worker, is not handed from thread to thread: the hand-over would cost a connection for a single request
//! a quarter of its price. The main thread gives commands, and is told when they are carried out.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with, acceptfrom_with};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::certificates::ForClients;
use super::source_limit::SourceLimit;
use super::workers::WorkerHandles;
use crate::base::TokenBucket;
use crate::client::Address;
use crate::config::Config;
use crate::telemetry::{AcceptError, Pressure, RejectReason, ShedStep, Telemetry};
use crate::worker::{Arrival, ArrivalSocket, Guest};

/// How long to wait after accept(2) failed for want of descriptors or memory.
pub(super) const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// After this many other failures in a row the loop backs off, too: whatever the reason is, it must not take the thread.
const MANY_ERRORS: u32 = 64;
/// Clients that are accepted before everybody else on the thread gets a turn.
const IN_A_ROW: u32 = 16;
/// All failures of this time share one line of log.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// What a server says to a client over `maxclients` (rule F10).
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";
const NOT_THIS_USER: &[u8] = b"-DENIED the user of this process may not connect to this socket\r\n";

/// What the main thread tells the accept loop.
pub(super) enum AcceptCommand {
    /// Accept clients.
    Accept,
    /// Accept no more: clients that connect wait in the backlog. The sender fires once every accepted client has a worker.
    Hold(oneshot::Sender<()>),
    /// Use the limits and rates of this configuration. The sender fires once they hold for every client that follows.
    Reload(Arc<Config>, oneshot::Sender<()>),
    /// Close the listening sockets and end. The sender fires once they are closed and every accepted client has a worker.
    End(oneshot::Sender<()>),
}

/// What speaks behind a listening socket.
pub(super) enum SocketKind {
    Tcp,
    Tls(ForClients),
    /// A unix socket at this path.
    Unix(Arc<str>),
}

/// One listening socket, not registered with a runtime yet.
pub(super) struct ListeningSocket {
    fd: OwnedFd,
    kind: SocketKind,
}

impl ListeningSocket {
    /// `fd` must be non-blocking.
    pub(super) fn new(fd: OwnedFd, kind: SocketKind) -> Self {
        Self { fd, kind }
    }
}

/// The accept loop on its way to the worker's thread.
pub(super) struct AcceptLoop {
    sockets: Vec<ListeningSocket>,
    config: Arc<Config>,
    commands: mpsc::UnboundedReceiver<AcceptCommand>,
}

impl AcceptLoop {
    /// Accepts nobody before [`AcceptCommand::Accept`] comes.
    pub(super) fn new(
        sockets: Vec<ListeningSocket>,
        config: Arc<Config>,
        commands: mpsc::UnboundedReceiver<AcceptCommand>,
    ) -> Self {
        Self { sockets, config, commands }
    }

    /// The task for a worker's thread. It ends with [`AcceptCommand::End`], or when the process does.
    pub(super) fn on_worker(self, workers: WorkerHandles, telemetry: Arc<Telemetry>) -> Guest {
        Box::new(move || Box::pin(self.run(workers, telemetry)))
    }

    async fn run(self, workers: WorkerHandles, telemetry: Arc<Telemetry>) {
        let Self { sockets, config, mut commands } = self;
        let accepting = match Accepting::new(sockets, &config, workers, telemetry) {
            Ok(accepting) => accepting,
            Err(error) => return tracing::error!(%error, "listening sockets cannot be watched"),
        };
        let mut open = false;
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                never = accepting.accept(), if open => match never {},
            };
            match command {
                Some(AcceptCommand::Accept) => open = true,
                Some(AcceptCommand::Hold(done)) => {
                    open = false;
                    accepting.settle().await;
                    let _ = done.send(());
                }
                Some(AcceptCommand::Reload(config, done)) => {
                    accepting.reload(&config);
                    let _ = done.send(());
                }
                Some(AcceptCommand::End(done)) => {
                    accepting.settle().await;
                    drop(accepting);
                    let _ = done.send(());
                    return;
                }
                None => return, // the process ends
            }
        }
    }
}

/// A listening socket, registered with the runtime of the worker.
struct WatchedSocket {
    fd: AsyncFd<OwnedFd>,
    kind: SocketKind,
    /// Whether accepted clients have the options of the listener. Set once the backlog was seen empty, so that nobody is
    /// left in it who came before the options were set; cleared when the options change.
    inherits: Cell<bool>,
}

/// The running loop.
struct Accepting {
    config: RefCell<Arc<Config>>,
    sockets: Vec<WatchedSocket>,
    workers: WorkerHandles,
    telemetry: Arc<Telemetry>,
    sources: SourceLimit,
    /// The socket that is looked at first next time: the one behind that of the last client, so that a crowd at one
    /// address does not keep others waiting.
    first: Cell<usize>,
    /// The client that was accepted last, until a worker has it. It stays here when [`Self::accept`] is left between the
    /// two.
    waiting: Cell<Option<Arrival>>,
    rate: RefCell<TokenBucket>,
    /// Failures of accept(2) since the last client.
    errors_in_a_row: Cell<u32>,
    /// When a failure was logged last, and how many were not logged since.
    log: Cell<(Option<Instant>, u64)>,
}

impl Accepting {
    fn new(
        sockets: Vec<ListeningSocket>,
        config: &Arc<Config>,
        workers: WorkerHandles,
        telemetry: Arc<Telemetry>,
    ) -> io::Result<Self> {
        let accepting = Self {
            config: RefCell::new(Arc::clone(config)),
            sockets: sockets.into_iter().map(WatchedSocket::new).collect::<io::Result<_>>()?,
            workers,
            telemetry,
            sources: SourceLimit::default(),
            first: Cell::new(0),
            waiting: Cell::new(None),
            rate: RefCell::new(accept_rate(config)),
            errors_in_a_row: Cell::new(0),
            log: Cell::new((None, 0)),
        };
        accepting.set_options(config);
        Ok(accepting)
    }

    /// Puts the limits and rates of `config` in force, from the next client on.
    fn reload(&self, config: &Arc<Config>) {
        let before = self.config.replace(Arc::clone(config));
        let rates = |config: &Config| (config.client.accept_rate, config.client.accept_burst);
        if rates(&before) != rates(config) {
            self.rate.replace(accept_rate(config));
        }
        if before.client.tcp_keepalive != config.client.tcp_keepalive {
            self.set_options(config);
        }
    }

    /// Sets the options of clients' sockets on the listeners: Linux gives them to every socket it accepts.
    fn set_options(&self, config: &Config) {
        for socket in self.sockets.iter().filter(|socket| !matches!(socket.kind, SocketKind::Unix(_))) {
            socket.inherits.set(false);
            // A failure here comes again with each client, and is counted there.
            let _ = set_tcp_options(SockRef::from(socket.fd.get_ref()), config);
        }
    }

    /// Accepts clients for as long as it is polled. When it is left, the client that was accepted last may have no worker
    /// yet: see [`Self::settle`].
    async fn accept(&self) -> Infallible {
        self.settle().await;
        let mut in_a_row = 0;
        loop {
            let pause = self.rate.borrow().missing();
            if let Some(pause) = pause {
                self.telemetry.acceptor.accept_stalls.inc();
                sleep(pause).await;
                continue;
            }
            match std::future::poll_fn(|cx| self.poll_accept(cx, &mut in_a_row)).await {
                Ok(arrival) => {
                    self.rate.borrow().take();
                    self.errors_in_a_row.set(0);
                    self.admit(arrival).await;
                }
                Err(error) => self.on_error(&error).await,
            }
            in_a_row += 1;
            if in_a_row >= IN_A_ROW {
                in_a_row = 0;
                yield_now().await;
            }
        }
    }

    /// Counts a failure of accept(2), and backs off where only time helps: without descriptors or memory. Any other
    /// failure is of one connection, which is gone.
    async fn on_error(&self, error: &io::Error) {
        let reason = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => AcceptError::Descriptors,
            Some(libc::ENOBUFS | libc::ENOMEM) => AcceptError::Memory,
            _ => AcceptError::Other,
        };
        self.telemetry.acceptor.accept_errors[reason].inc();
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

    async fn admit(&self, mut arrival: Arrival) {
        let Some(reason) = self.objection(&mut arrival) else {
            self.waiting.set(Some(arrival));
            return self.settle().await;
        };
        self.telemetry.acceptor.client_rejected[reason].inc();
        turn_away(arrival, if reason == RejectReason::User { NOT_THIS_USER } else { TOO_MANY });
    }

    /// Gives the client that was accepted last to a worker, if [`Self::accept`] was left before it could.
    async fn settle(&self) {
        self.workers.serve(&self.waiting).await;
    }

    /// Why this client is turned away, if it is.
    fn objection(&self, arrival: &mut Arrival) -> Option<RejectReason> {
        let config = self.config.borrow();
        if !may_connect(&config, arrival) {
            return Some(RejectReason::User);
        }
        if self.workers.clients() >= config.client.max_connections {
            return Some(RejectReason::Limit);
        }
        if self.telemetry.facts.memory().pressure() >= Pressure::Refuse {
            self.telemetry.acceptor.shed[ShedStep::Refuse].inc();
            return Some(RejectReason::Memory);
        }
        if let (Some(most), Address::Ip(source)) = (config.client.max_per_source, &arrival.address) {
            arrival.source_count = self.sources.enter(source.ip(), most);
            return arrival.source_count.is_none().then_some(RejectReason::Source);
        }
        None
    }

    /// The next client at any socket. When nobody waits, the row of [`IN_A_ROW`] begins anew.
    fn poll_accept(&self, cx: &mut Context<'_>, in_a_row: &mut u32) -> Poll<io::Result<Arrival>> {
        let first = self.first.get();
        for position in (first..first + self.sockets.len()).map(|n| n % self.sockets.len()) {
            let accepted = self.sockets[position].poll_accept(cx, &self.config.borrow());
            if accepted.is_ready() {
                self.first.set(position + 1);
                return accepted;
            }
        }
        *in_a_row = 0;
        Poll::Pending
    }
}

impl WatchedSocket {
    #[expect(deprecated, reason = "unsound for types that may change their descriptor, which this one does not")]
    fn new(ListeningSocket { fd, kind }: ListeningSocket) -> io::Result<Self> {
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, kind, inherits: Cell::new(false) })
    }

    fn poll_accept(&self, cx: &mut Context<'_>, config: &Config) -> Poll<io::Result<Arrival>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            match ready.try_io(|fd| self.accept(fd.get_ref())) {
                Ok(accepted) => return Poll::Ready(accepted.and_then(|(fd, from)| self.arrival(fd, from, config))),
                Err(_) => self.inherits.set(true),
            }
        }
    }

    fn accept(&self, listener: &OwnedFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        if matches!(self.kind, SocketKind::Unix(_)) {
            return Ok((accept_with(listener, flags)?, None));
        }
        let (fd, from) = acceptfrom_with(listener, flags)?;
        Ok((fd, from.and_then(|from| from.try_into().ok())))
    }

    fn arrival(&self, fd: OwnedFd, from: Option<SocketAddr>, config: &Config) -> io::Result<Arrival> {
        let address = match (&self.kind, from) {
            (SocketKind::Unix(path), _) => Address::Unix(Arc::clone(path)),
            (_, Some(from)) => Address::Ip(from),
            (_, None) => return Err(io::ErrorKind::NotConnected.into()),
        };
        if from.is_some() && !self.inherits.get() {
            set_tcp_options(SockRef::from(&fd), config)?;
        }
        let socket = match &self.kind {
            SocketKind::Tcp => ArrivalSocket::Tcp(fd.into()),
            SocketKind::Tls(certificate) => ArrivalSocket::Tls(fd.into(), certificate.current()),
            SocketKind::Unix(_) => ArrivalSocket::Unix(fd.into()),
        };
        Ok(Arrival { socket, address, source_count: None })
    }
}

fn set_tcp_options(socket: SockRef<'_>, config: &Config) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let time = config.client.tcp_keepalive;
    if time.is_zero() {
        return socket.set_keepalive(false);
    }
    let interval = (time / 3).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(3))
}

fn may_connect(config: &Config, arrival: &Arrival) -> bool {
    let (ArrivalSocket::Unix(stream), Some(allowed)) = (&arrival.socket, &config.unix.allow_uids) else {
        return true;
    };
    user_of(stream).is_ok_and(|uid| allowed.contains(&uid))
}

/// The user of the process at the other end.
fn user_of(stream: &UnixStream) -> io::Result<u32> {
    Ok(tokio::net::UnixStream::from_std(stream.try_clone()?)?.peer_cred()?.uid())
}

/// How fast clients are accepted: so many a second, after a burst.
#[allow(clippy::cast_precision_loss)] // both are below 2^53
fn accept_rate(config: &Config) -> TokenBucket {
    TokenBucket::new(config.client.accept_rate as f64, config.client.accept_burst as f64)
}

/// The last words to a client that is not let in. The socket is new, so its buffer is empty; a client that is gone
/// already misses nothing. With TLS there is nobody yet who could read them.
fn turn_away(arrival: Arrival, words: &[u8]) {
    let _ = match arrival.socket {
        ArrivalSocket::Tcp(mut stream) => stream.write(words),
        ArrivalSocket::Unix(mut stream) => stream.write(words),
        ArrivalSocket::Tls(..) => Ok(0),
    };
}
