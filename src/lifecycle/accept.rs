//! Accepts clients on the main thread and seats them, so that few clients are spread as evenly as many.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

use super::sources::Sources;
use super::start::Workers;
use crate::config::{Config, Listen};
use crate::telemetry::{Pressure, RejectReason, ShedStep};
use crate::worker::{Arrival, ArrivalSocket};

/// Connections that may wait for accept(2); the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// How long to wait after accept(2) failed for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// As a server says it (rule F10).
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// The listeners of the process.
pub(super) struct Acceptor {
    config: Arc<Config>,
    listeners: Vec<Listener>,
    addresses: Vec<String>,
    sources: Sources,
}

impl Acceptor {
    /// Binds every configured address.
    pub(super) async fn bind(config: &Arc<Config>) -> anyhow::Result<Self> {
        let mut acceptor = Self {
            config: Arc::clone(config),
            listeners: Vec::new(),
            addresses: Vec::new(),
            sources: Sources::default(),
        };
        for listen in &config.listen {
            let (listener, address) = match listen {
                Listen::Tcp(addr) => {
                    let listener = bind_tcp(*addr).with_context(|| format!("listen: cannot listen on {addr}"))?;
                    let bound = listener.local_addr()?.to_string();
                    (Listener::Tcp(listener), bound)
                }
                Listen::Unix(path) => {
                    let listener =
                        bind_unix(path).with_context(|| format!("listen: cannot listen on unix:{}", path.display()))?;
                    (Listener::Unix(listener, path.clone()), format!("unix:{}", path.display()))
                }
            };
            acceptor.listeners.push(listener);
            acceptor.addresses.push(address);
        }
        Ok(acceptor)
    }

    /// What is listened on, with the ports that were chosen.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Accepts and seats clients for as long as it is polled.
    pub(super) async fn run(&self, workers: &Workers) {
        loop {
            match self.accept().await {
                Ok(arrival) => self.admit(workers, arrival).await,
                Err(error) => {
                    workers.shard().accept_errors.inc();
                    tracing::warn!(%error, "accept failed");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    async fn admit(&self, workers: &Workers, mut arrival: Arrival) {
        let Some(reason) = self.objection(workers, &mut arrival) else {
            return workers.seat(arrival).await;
        };
        workers.shard().client_rejected[reason].inc();
        // The socket is new, so its buffer is empty; a client that is gone already misses nothing.
        let _ = match arrival.socket {
            ArrivalSocket::Tcp(mut stream) => stream.write(TOO_MANY),
            ArrivalSocket::Unix(mut stream) => stream.write(TOO_MANY),
        };
    }

    /// Why this client cannot be taken.
    fn objection(&self, workers: &Workers, arrival: &mut Arrival) -> Option<RejectReason> {
        if workers.clients() >= self.config.client.max_connections {
            return Some(RejectReason::Limit);
        }
        if workers.telemetry.facts.memory().pressure() >= Pressure::Refuse {
            workers.shard().shed[ShedStep::Refuse].inc();
            return Some(RejectReason::Memory);
        }
        if let (Some(most), Some(source)) = (self.config.client.max_per_source, arrival.source) {
            arrival.place = self.sources.enter(source, most);
            return arrival.place.is_none().then_some(RejectReason::Source);
        }
        None
    }

    /// The next client of any listener.
    async fn accept(&self) -> io::Result<Arrival> {
        std::future::poll_fn(|cx| {
            for listener in &self.listeners {
                let ready = match listener {
                    Listener::Tcp(l) => l.poll_accept(cx).map(|r| r.and_then(|(s, addr)| self.tcp(s, addr))),
                    Listener::Unix(l, path) => l.poll_accept(cx).map(|r| r.and_then(|(s, _)| unix(s, path))),
                };
                if ready.is_ready() {
                    return ready;
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    fn tcp(&self, stream: tokio::net::TcpStream, addr: SocketAddr) -> io::Result<Arrival> {
        let stream = stream.into_std()?;
        stream.set_nodelay(true)?;
        let time = self.config.client.tcp_keepalive;
        if !time.is_zero() {
            let probes = TcpKeepalive::new()
                .with_time(time)
                .with_interval((time / 3).max(Duration::from_secs(1)))
                .with_retries(3);
            SockRef::from(&stream).set_tcp_keepalive(&probes)?;
        }
        let laddr = stream.local_addr()?.to_string();
        let source = Some(addr.ip());
        Ok(Arrival { socket: ArrivalSocket::Tcp(stream), addr: addr.to_string(), laddr, source, place: None })
    }

    /// Accepts no more; removes unix sockets.
    pub(super) fn close(self) {
        for listener in self.listeners {
            if let Listener::Unix(_, path) = listener {
                let _ = std::fs::remove_file(path); // already gone is as good
            }
        }
    }
}

fn unix(stream: tokio::net::UnixStream, path: &Path) -> io::Result<Arrival> {
    // Servers show a unix client under the socket's path and port 0.
    let name = format!("{}:0", path.display());
    let socket = ArrivalSocket::Unix(stream.into_std()?);
    Ok(Arrival { socket, addr: name.clone(), laddr: name, source: None, place: None })
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A socket file that nobody listens on any more is replaced; one that is in use is an error.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if path.exists() {
        if StdUnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}
