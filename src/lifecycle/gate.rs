//! Accepts clients and seats them, so that few clients are spread as evenly as many.
//!
//! The gate runs on the first worker's thread. A client that this worker serves, which are all of them where there is
//! one worker, is not handed from thread to thread: the hand-over would cost a connection for a single request a
//! quarter of its price. The main thread gives orders and is told when they are carried out.

use std::cell::{Cell, RefCell};
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
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::accept::ACCEPT_BACKOFF;
use super::certificates::ForClients;
use super::sources::Sources;
use super::start::Seats;
use crate::base::TokenBucket;
use crate::client::Address;
use crate::config::Config;
use crate::telemetry::{AcceptError, Pressure, RejectReason, ShedStep, Telemetry};
use crate::worker::{Arrival, ArrivalSocket, Guest};

/// After so many other failures in a row there is a pause too: whatever it is, it must not take the thread.
const MANY_ERRORS: u32 = 64;
/// Clients that are accepted between two looks at everybody else on the thread.
const IN_A_ROW: u32 = 16;
/// One line of log for all failures of this time.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// As a server says it (rule F10).
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";
const NOT_THIS_USER: &[u8] = b"-DENIED the user of this process may not connect to this socket\r\n";

/// What the gate is to do.
#[derive(Clone)]
pub(super) struct Orders {
    pub stage: Stage,
    /// Grows with each order.
    pub number: u64,
    pub config: Arc<Config>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Accept,
    /// Those who connect wait in the backlog.
    Hold,
    End,
}

/// What speaks behind a listening socket.
pub(super) enum Kind {
    Tcp,
    Tls(ForClients),
    /// Its path.
    Unix(Arc<str>),
}

/// One listening socket.
pub(super) struct Door {
    fd: OwnedFd,
    kind: Kind,
}

impl Door {
    /// `fd` does not block.
    pub(super) fn new(fd: OwnedFd, kind: Kind) -> Self {
        Self { fd, kind }
    }
}

/// The doors and what is to become of them, on its way to the worker.
pub(super) struct Gate {
    doors: Vec<Door>,
    orders: watch::Receiver<Orders>,
    done: watch::Sender<u64>,
}

impl Gate {
    pub(super) fn new(doors: Vec<Door>, orders: watch::Receiver<Orders>, done: watch::Sender<u64>) -> Self {
        Self { doors, orders, done }
    }

    /// For a worker's thread, where it carries out orders to the end.
    pub(super) fn at(self, seats: Seats, telemetry: Arc<Telemetry>) -> Guest {
        Box::new(move || Box::pin(self.keep(seats, telemetry)))
    }

    async fn keep(self, seats: Seats, telemetry: Arc<Telemetry>) {
        let Self { doors, mut orders, done } = self;
        let porter = match Porter::new(doors, &orders.borrow().config, seats, telemetry) {
            Ok(porter) => porter,
            Err(error) => return tracing::error!(%error, "listening sockets cannot be watched"),
        };
        loop {
            let Orders { stage, number, config } = orders.borrow_and_update().clone();
            porter.reload(&config);
            if stage != Stage::Accept {
                porter.settle().await;
            }
            if stage == Stage::End {
                drop(porter);
                done.send_replace(number);
                return;
            }
            done.send_replace(number);
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return }, // the process ends
                () = porter.let_in(), if stage == Stage::Accept => {}
            }
        }
    }
}

/// A door that is watched.
struct Watched {
    fd: AsyncFd<OwnedFd>,
    kind: Kind,
    /// Clients have the listener's options: nobody is left in the backlog who came before they were set.
    inherits: Cell<bool>,
}

/// Lets clients in.
struct Porter {
    config: RefCell<Arc<Config>>,
    doors: Vec<Watched>,
    seats: Seats,
    telemetry: Arc<Telemetry>,
    sources: Sources,
    /// Who is asked first next time, so that a crowd at one address does not keep others waiting.
    first: Cell<usize>,
    /// Was accepted and has no seat yet, when the accept loop was left in between.
    waiting: Cell<Option<Arrival>>,
    rate: RefCell<TokenBucket>,
    errors_in_a_row: Cell<u32>,
    log: Cell<(Option<Instant>, u64)>,
}

impl Porter {
    fn new(doors: Vec<Door>, config: &Arc<Config>, seats: Seats, telemetry: Arc<Telemetry>) -> io::Result<Self> {
        let porter = Self {
            config: RefCell::new(Arc::clone(config)),
            doors: doors.into_iter().map(Watched::new).collect::<io::Result<_>>()?,
            seats,
            telemetry,
            sources: Sources::default(),
            first: Cell::new(0),
            waiting: Cell::new(None),
            rate: RefCell::new(accept_rate(config)),
            errors_in_a_row: Cell::new(0),
            log: Cell::new((None, 0)),
        };
        porter.set_options(config);
        Ok(porter)
    }

    /// Limits and rates as `config` has them, from the next client on.
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

    /// What clients' sockets are to have is set once, on the listeners: Linux gives it to those it accepts.
    fn set_options(&self, config: &Config) {
        for door in self.doors.iter().filter(|door| !matches!(door.kind, Kind::Unix(_))) {
            door.inherits.set(false);
            // Were it to fail, it would fail, and be counted, with each client.
            let _ = set_tcp_options(SockRef::from(door.fd.get_ref()), config);
        }
    }

    /// Accepts and seats clients for as long as it is polled. Who was accepted last may lack a seat then: see
    /// [`Self::settle`].
    async fn let_in(&self) {
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

    /// Without descriptors or memory only time helps. Other failures are of one connection, which is gone.
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

    /// Seats who was accepted last, if [`Self::let_in`] was left before it could.
    async fn settle(&self) {
        self.seats.seat(&self.waiting).await;
    }

    /// Why this client cannot be taken.
    fn objection(&self, arrival: &mut Arrival) -> Option<RejectReason> {
        let config = self.config.borrow();
        if !may_connect(&config, arrival) {
            return Some(RejectReason::User);
        }
        if self.seats.clients() >= config.client.max_connections {
            return Some(RejectReason::Limit);
        }
        if self.telemetry.facts.memory().pressure() >= Pressure::Refuse {
            self.telemetry.acceptor.shed[ShedStep::Refuse].inc();
            return Some(RejectReason::Memory);
        }
        if let (Some(most), Address::Ip(source)) = (config.client.max_per_source, &arrival.address) {
            arrival.place = self.sources.enter(source.ip(), most);
            return arrival.place.is_none().then_some(RejectReason::Source);
        }
        None
    }

    /// The next client at any door. When there is none, a row is over.
    fn poll_accept(&self, cx: &mut Context<'_>, in_a_row: &mut u32) -> Poll<io::Result<Arrival>> {
        let first = self.first.get();
        for position in (first..first + self.doors.len()).map(|n| n % self.doors.len()) {
            let accepted = self.doors[position].poll_accept(cx, &self.config.borrow());
            if accepted.is_ready() {
                self.first.set(position + 1);
                return accepted;
            }
        }
        *in_a_row = 0;
        Poll::Pending
    }
}

impl Watched {
    #[expect(deprecated, reason = "unsound for types that may change their descriptor, which this one does not")]
    fn new(Door { fd, kind }: Door) -> io::Result<Self> {
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
        if matches!(self.kind, Kind::Unix(_)) {
            return Ok((accept_with(listener, flags)?, None));
        }
        let (fd, from) = acceptfrom_with(listener, flags)?;
        Ok((fd, from.and_then(|from| from.try_into().ok())))
    }

    fn arrival(&self, fd: OwnedFd, from: Option<SocketAddr>, config: &Config) -> io::Result<Arrival> {
        let address = match (&self.kind, from) {
            (Kind::Unix(path), _) => Address::Unix(Arc::clone(path)),
            (_, Some(from)) => Address::Ip(from),
            (_, None) => return Err(io::ErrorKind::NotConnected.into()),
        };
        if from.is_some() && !self.inherits.get() {
            set_tcp_options(SockRef::from(&fd), config)?;
        }
        let socket = match &self.kind {
            Kind::Tcp => ArrivalSocket::Tcp(fd.into()),
            Kind::Tls(certificate) => ArrivalSocket::Tls(fd.into(), certificate.current()),
            Kind::Unix(_) => ArrivalSocket::Unix(fd.into()),
        };
        Ok(Arrival { socket, address, place: None })
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

/// Clients a second, after a burst.
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
