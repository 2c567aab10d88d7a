//! A worker: one thread with its runtime, its share of the clients and its own upstream connections.
//!
//! Owns that thread and everything on it; nothing on the data path is shared with another worker. `lifecycle` starts
//! it with a [`Blueprint`]; from then on commands and questions come as messages ([`WorkerCommand`],
//! `client::PeerQuery`).

mod coalesce;
mod handshake;
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
use crate::upstream::{ConfigChange, Parts, Upstream};
use handshake::{HandshakeLimiter, Secured};

/// Commands that may wait for one worker. The accept loop waits while this many do.
pub(crate) const MAX_WORKER_COMMANDS: usize = 1024;
/// How often a worker looks for what time alone makes due.
const TICK: Duration = Duration::from_millis(100);
/// How often a draining worker looks whether its last client has left.
const DRAIN_TICK: Duration = Duration::from_millis(10);

/// What the main thread and the accept loop tell a worker.
pub(crate) enum WorkerCommand {
    /// Serve this client.
    Serve(Arrival),
    /// Send every client away between two requests, then end.
    Drain,
    /// Put another configuration in force. The sender fires once it is.
    Reload(Box<ConfigChange>, oneshot::Sender<()>),
    /// Stop starting client requests. The sender fires once nothing is in flight; it is dropped if the pause ends
    /// first.
    Pause(oneshot::Sender<()>),
    /// Answer how many clients have something in flight.
    Busy(oneshot::Sender<usize>),
    /// End the pause: start client requests again.
    Resume,
    /// Replace every upstream connection. Answered with the number of clients that keep a connection of their own until
    /// they are done with it.
    Reconnect(oneshot::Sender<usize>),
    /// Close every client that is still connected, whatever it is doing.
    Cut,
}

/// A client that was accepted and is on its way to its worker.
pub(crate) struct Arrival {
    pub socket: ArrivalSocket,
    pub address: Address,
    /// The number of clients of its source, where `client.max_per_source` makes the accept loop count them: it counts
    /// the client in, [`Leave`] counts it out.
    pub source_count: Option<Arc<AtomicUsize>>,
}

/// The client's socket. It is registered with the worker's runtime only when the worker serves it.
pub(crate) enum ArrivalSocket {
    Tcp(std::net::TcpStream),
    /// The client will speak TLS, with the certificate that is in use at its arrival.
    Tls(std::net::TcpStream, Arc<rustls::ServerConfig>),
    Unix(std::os::unix::net::UnixStream),
}

/// What a worker is made of. The main thread fills it in; the worker's thread takes it apart.
pub(crate) struct Blueprint {
    pub parts: Parts,
    pub ids: Arc<Ids>,
    pub peers: Peers,
    /// Sent by the main thread and the accept loop.
    pub commands: mpsc::Receiver<WorkerCommand>,
    /// Sent by the other workers, and by the admin port.
    pub peer_queries: mpsc::Receiver<PeerQuery>,
    /// Clients of this worker, those on their way to it included. The accept loop counts a client in, [`Leave`]
    /// counts it out.
    pub load: Arc<AtomicUsize>,
    /// The accept loop, on one worker's thread; nothing on the others.
    pub guest: Option<Guest>,
}

/// Makes a task of another room that runs on a worker's thread, so that what the task hands to this worker wakes no
/// other thread.
pub(crate) type Guest = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Runs a worker on this thread until it has drained.
///
/// # Errors
/// The runtime could not be built.
pub(crate) fn run(blueprint: Blueprint) -> std::io::Result<()> {
    let mut builder = Builder::new_current_thread();
    if blueprint.parts.config.coalesce {
        builder.on_thread_park(coalesce::hook(Arc::clone(&blueprint.parts.shard)));
    }
    let runtime = builder.enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(work(blueprint));
    Ok(())
}

async fn work(blueprint: Blueprint) {
    let Blueprint { parts, ids, peers, mut commands, peer_queries, load, guest } = blueprint;
    let upstream = Upstream::new(parts);
    upstream.start();
    let shared = Shared::new(Rc::clone(&upstream), peers, ids);
    let handshakes = HandshakeLimiter::new(&upstream.rt.config().tls);
    spawn_local(answer_peer_queries(Rc::clone(&shared), peer_queries));
    spawn_local(tick(Rc::clone(&shared)));
    if let Some(guest) = guest {
        spawn_local(guest());
    }
    let mut last_client = interval(DRAIN_TICK);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(WorkerCommand::Serve(arrival)) => serve(&shared, &handshakes, arrival, &load),
                Some(WorkerCommand::Drain) | None => shared.drain(),
                Some(WorkerCommand::Reload(change, done)) => {
                    shared.reload(&change);
                    let _ = done.send(());
                }
                Some(WorkerCommand::Pause(quiet)) => shared.pause(quiet),
                Some(WorkerCommand::Busy(answer)) => drop(answer.send(shared.busy())),
                Some(WorkerCommand::Resume) => upstream.set_paused(false),
                Some(WorkerCommand::Reconnect(answer)) => drop(answer.send(shared.reconnect())),
                Some(WorkerCommand::Cut) => shared.cut(),
            },
            _ = last_client.tick(), if shared.draining() => {
                // What was popped for a client that has left must be put back first.
                let waited_for = upstream.nodes().iter().any(|node| !node.wait_groups.is_empty());
                if upstream.rt.outboxes.is_empty() && commands.is_empty() && !waited_for {
                    break;
                }
            }
        }
        if shared.draining() && commands.is_closed() && upstream.rt.outboxes.is_empty() {
            break;
        }
    }
}

/// Starts the task of one client.
fn serve(shared: &Rc<Shared>, handshakes: &Rc<HandshakeLimiter>, arrival: Arrival, load: &Arc<AtomicUsize>) {
    let Arrival { socket, address, source_count } = arrival;
    let leave = Leave { load: Arc::clone(load), source_count };
    let (socket, transport) = match socket {
        ArrivalSocket::Tcp(stream) => (TcpStream::from_std(stream).map(Socket::Tcp), Transport::Tcp),
        ArrivalSocket::Unix(stream) => match unix(stream) {
            Ok((stream, transport)) => (Ok(Socket::Unix(stream)), transport),
            Err(error) => (Err(error), Transport::Tcp),
        },
        ArrivalSocket::Tls(stream, config) => match TcpStream::from_std(stream) {
            Ok(stream) => {
                let (shared, handshakes) = (Rc::clone(shared), Rc::clone(handshakes));
                // A task of its own kind: clients without TLS have nothing of it in theirs.
                spawn_local(async move {
                    let secured = Box::pin(handshakes.secure(&shared.rt, stream, config)).await;
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
pub(crate) struct Leave {
    load: Arc<AtomicUsize>,
    source_count: Option<Arc<AtomicUsize>>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = &self.source_count {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn answer_peer_queries(shared: Rc<Shared>, mut peer_queries: mpsc::Receiver<PeerQuery>) {
    while let Some(question) = peer_queries.recv().await {
        answer(&shared, question);
    }
}

/// Runs what is due every [`TICK`]: timeouts, canaries, idle connections, and the sign of life.
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
