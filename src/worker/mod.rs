//! One thread with its runtime, its share of the clients and its own upstream connections. Shares nothing on the
//! data path; orders and questions come as messages.

mod handshake;
mod rest;
#[cfg(test)]
mod sim;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::{Accepted, Address, Ids, PeerQuery, Peers, Shared, Transport, answer};
use crate::link::Socket;
use crate::telemetry::{RejectReason, unix_millis};
use crate::upstream::{Change, Parts, Upstream};
use handshake::{Secured, Turnstile};

/// Orders that may wait for one worker; the acceptor waits when it is full.
pub(crate) const MAX_ORDERS: usize = 1024;
/// How often a worker looks after what time alone makes happen.
const TICK: Duration = Duration::from_millis(100);
/// How often a draining worker looks whether its last client has left.
const DRAIN_TICK: Duration = Duration::from_millis(10);

/// What the main thread tells a worker.
pub(crate) enum Order {
    Serve(Arrival),
    /// Send every client away between two requests, then end.
    Drain,
    /// Another configuration from here on; told when it is in force.
    Reload(Box<Change>, oneshot::Sender<()>),
    /// Begin nothing for clients; told when nothing is under way, and not at all when it is ended before.
    Pause(oneshot::Sender<()>),
    /// How much is under way.
    Busy(oneshot::Sender<usize>),
    /// Go on after a pause.
    Resume,
    /// Other upstream connections in place of all; told how many clients keep one of their own until they are done.
    Reconnect(oneshot::Sender<usize>),
    /// Close those who are still there, whatever they do.
    Cut,
}

/// A client that was accepted.
pub(crate) struct Arrival {
    pub socket: ArrivalSocket,
    pub address: Address,
    /// The clients of its source, this one included, where they are counted.
    pub place: Option<Arc<AtomicUsize>>,
}

/// Not tied to any runtime yet.
pub(crate) enum ArrivalSocket {
    Tcp(std::net::TcpStream),
    /// It will speak TLS, with the certificate that is in use at its arrival.
    Tls(std::net::TcpStream, Arc<rustls::ServerConfig>),
    Unix(std::os::unix::net::UnixStream),
}

/// What a worker is made of.
pub(crate) struct Blueprint {
    pub parts: Parts,
    pub ids: Arc<Ids>,
    pub peers: Peers,
    pub orders: mpsc::Receiver<Order>,
    pub questions: mpsc::Receiver<PeerQuery>,
    /// Clients of this worker, those on their way to it included.
    pub load: Arc<AtomicUsize>,
    /// What else runs on this thread.
    pub guest: Option<Guest>,
}

/// A task of somebody else's, made and run on a worker's thread: there, what it hands to that worker costs no thread
/// its sleep.
pub(crate) type Guest = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Runs a worker on this thread until it has drained.
///
/// # Errors
/// The runtime could not be built.
pub(crate) fn run(blueprint: Blueprint) -> std::io::Result<()> {
    let mut builder = Builder::new_current_thread();
    if blueprint.parts.config.coalesce {
        builder.on_thread_park(rest::hook(Arc::clone(&blueprint.parts.shard)));
    }
    let runtime = builder.enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(work(blueprint));
    Ok(())
}

async fn work(blueprint: Blueprint) {
    let Blueprint { parts, ids, peers, mut orders, questions, load, guest } = blueprint;
    let upstream = Upstream::new(parts);
    upstream.start();
    let shared = Shared::new(Rc::clone(&upstream), peers, ids);
    let turnstile = Turnstile::new(&upstream.rt.config().tls);
    spawn_local(answer_questions(Rc::clone(&shared), questions));
    spawn_local(tick(Rc::clone(&shared)));
    if let Some(guest) = guest {
        spawn_local(guest());
    }
    let mut last_client = interval(DRAIN_TICK);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Serve(arrival)) => serve(&shared, &turnstile, arrival, &load),
                Some(Order::Drain) | None => shared.drain(),
                Some(Order::Reload(change, done)) => {
                    shared.reload(&change);
                    let _ = done.send(());
                }
                Some(Order::Pause(quiet)) => shared.pause(quiet),
                Some(Order::Busy(answer)) => drop(answer.send(shared.busy())),
                Some(Order::Resume) => upstream.pause(false),
                Some(Order::Reconnect(answer)) => drop(answer.send(shared.reconnect())),
                Some(Order::Cut) => shared.cut(),
            },
            _ = last_client.tick(), if shared.draining() => {
                // What was popped for a client that has left must be put back first.
                let waited_for = upstream.nodes().iter().any(|node| !node.folds.is_empty());
                if upstream.rt.roster.is_empty() && orders.is_empty() && !waited_for {
                    break;
                }
            }
        }
        if shared.draining() && orders.is_closed() && upstream.rt.roster.is_empty() {
            break;
        }
    }
}

/// Starts the task of one client.
fn serve(shared: &Rc<Shared>, turnstile: &Rc<Turnstile>, arrival: Arrival, load: &Arc<AtomicUsize>) {
    let Arrival { socket, address, place } = arrival;
    let leave = Leave(Arc::clone(load), place);
    let (socket, transport) = match socket {
        ArrivalSocket::Tcp(stream) => (TcpStream::from_std(stream).map(Socket::Tcp), Transport::Tcp),
        ArrivalSocket::Unix(stream) => match unix(stream) {
            Ok((stream, transport)) => (Ok(Socket::Unix(stream)), transport),
            Err(error) => (Err(error), Transport::Tcp),
        },
        ArrivalSocket::Tls(stream, config) => match TcpStream::from_std(stream) {
            Ok(stream) => {
                let (shared, turnstile) = (Rc::clone(shared), Rc::clone(turnstile));
                // A task of its own kind: clients without TLS have nothing of it in theirs.
                spawn_local(async move {
                    let secured = Box::pin(turnstile.secure(&shared.rt, stream, config)).await;
                    if let Some(Secured { socket, memory }) = secured {
                        shared.serve(Box::new(Accepted { socket, transport: Transport::Tls, address })).await;
                        drop(memory);
                    }
                    drop(leave);
                });
                return;
            }
            Err(error) => (Err(error), Transport::Tls),
        },
    };
    match socket {
        Ok(socket) => {
            let shared = Rc::clone(shared);
            // Boxed: what a task is given stays part of its size for as long as the client is connected.
            let accepted = Box::new(Accepted { socket, transport, address });
            spawn_local(async move {
                shared.serve(accepted).await;
                drop(leave);
            });
        }
        Err(error) => {
            shared.rt.shard.client_rejected[RejectReason::Internal].inc();
            tracing::warn!(%error, "client could not be registered");
        }
    }
}

fn unix(stream: std::os::unix::net::UnixStream) -> std::io::Result<(UnixStream, Transport)> {
    let stream = UnixStream::from_std(stream)?;
    let peer = stream.peer_cred()?;
    Ok((stream, Transport::Unix { uid: peer.uid(), pid: peer.pid().unwrap_or(0) }))
}

/// Counts a client out when its task ends, however it ends.
pub(crate) struct Leave(Arc<AtomicUsize>, Option<Arc<AtomicUsize>>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        if let Some(source) = &self.1 {
            source.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn answer_questions(shared: Rc<Shared>, mut questions: mpsc::Receiver<PeerQuery>) {
    while let Some(question) = questions.recv().await {
        answer(&shared, question);
    }
}

/// Timeouts, canaries, idle connections, and the sign of life.
async fn tick(shared: Rc<Shared>) {
    let upstream = Rc::clone(&shared.upstream);
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let metrics = tokio::runtime::Handle::current().metrics();
    let started = Instant::now();
    loop {
        timer.tick().await;
        upstream.on_tick();
        shared.on_tick();
        upstream.rt.shard.beat(unix_millis());
        if started.elapsed() >= TICK {
            upstream.rt.shard.worker_busy_seconds.set(metrics.worker_total_busy_duration(0).as_secs_f64());
        }
    }
}
