//! Builds the workers and tells how to reach them.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use super::gate::Gate;
use crate::auth::Throttle;
use crate::client::{AdminHandle, Ids, MAX_PEER_QUERIES, Peers};
use crate::config::{Config, Endpoint, SPARE_DESCRIPTORS};
use crate::link::{Budget, ClientTls, Owned};
use crate::telemetry::{ProcessFacts, Telemetry, UpstreamKind};
use crate::upstream::HiddenSubscribers;
use crate::upstream::Parts;
use crate::worker::{self, Blueprint, MAX_ORDERS, Order};

/// The running workers.
pub(super) struct Workers {
    pub telemetry: Arc<Telemetry>,
    /// The way to ask them.
    pub peers: Peers,
    seats: Seats,
    threads: Vec<Running>,
}

/// The way to all workers. One that has ended does nothing any more, and so needs no order.
#[derive(Clone)]
pub(super) struct Orders(Rc<[mpsc::Sender<Order>]>);

impl Orders {
    /// Gives every worker the order that `make` makes.
    pub(super) async fn give(&self, make: impl Fn() -> Order) {
        for worker in self.0.iter() {
            let _ = worker.send(make()).await;
        }
    }

    /// Gives every worker an order that is answered later; where the answers come.
    pub(super) async fn begin<T>(&self, make: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<oneshot::Receiver<T>> {
        let mut begun = Vec::with_capacity(self.0.len());
        for worker in self.0.iter() {
            let (answer, told) = oneshot::channel();
            if worker.send(make(answer)).await.is_ok() {
                begun.push(told);
            }
        }
        begun
    }

    /// Gives every worker an order and waits for the answer, one worker after the other.
    pub(super) async fn ask<T>(&self, make: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<T> {
        let mut answers = Vec::with_capacity(self.0.len());
        for worker in self.0.iter() {
            let (answer, told) = oneshot::channel();
            if worker.send(make(answer)).await.is_ok() {
                answers.extend(told.await.ok());
            }
        }
        answers
    }
}

/// One worker's thread.
struct Running {
    ended: Option<oneshot::Receiver<()>>,
    _thread: JoinHandle<()>,
}

/// Where clients are served.
#[derive(Clone)]
pub(super) struct Seats(Arc<[Seat]>);

/// One worker as clients that come see it.
struct Seat {
    orders: mpsc::Sender<Order>,
    load: Arc<AtomicUsize>,
}

impl Seat {
    /// And where its orders come.
    fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(MAX_ORDERS);
        (Self { orders, load: Arc::default() }, receiver)
    }
}

impl Seats {
    /// Clients of all workers, those on their way included.
    pub(super) fn clients(&self) -> usize {
        self.0.iter().map(|seat| seat.load.load(Ordering::Relaxed)).sum()
    }

    /// The worker with the fewest clients, so that few clients are spread evenly too; of several the first, on whose
    /// thread clients are accepted.
    fn emptiest(&self) -> Option<&Seat> {
        self.0.iter().min_by_key(|seat| seat.load.load(Ordering::Relaxed))
    }

    /// Hands the client that waits to the worker with the fewest. Waits when that worker is behind: the backlog holds
    /// the rest. The client stays where it is if nobody waits for the end of this.
    pub(super) async fn seat(&self, waiting: &Cell<Option<worker::Arrival>>) {
        let Some(arrival) = waiting.take() else { return };
        let Some(seat) = self.emptiest() else { return };
        waiting.set(Some(arrival));
        // An error: the worker has ended, and with it the process is about to.
        let Ok(permit) = seat.orders.reserve().await else { return waiting.set(None) };
        if let Some(arrival) = waiting.take() {
            seat.load.fetch_add(1, Ordering::Relaxed);
            permit.send(Order::Serve(arrival));
        }
    }
}

impl Workers {
    /// Starts one thread per worker, each with its share of the connection budget; the first with the gate.
    pub(super) fn start(
        config: &Arc<Config>,
        facts: &Arc<ProcessFacts>,
        tls: Option<&ClientTls>,
        wishes: &AdminHandle,
        gate: Gate,
    ) -> anyhow::Result<Self> {
        let table = Arc::new(crate::auth::table(config)?);
        let telemetry = Arc::new(Telemetry::new(config.workers, &table.labels(), Arc::clone(facts)));
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..config.workers).map(|_| mpsc::channel(MAX_PEER_QUERIES)).unzip();
        let peers = Peers::new(senders, wishes.clone());
        let (ids, owned, division) = (Ids::new(config.instance), Owned::default(), config.division());
        let interest = HiddenSubscribers::default();
        let throttle = Throttle::new(config.auth.failures);
        let (seats, orders): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| Seat::new()).unzip();
        let seats = Seats(seats.into());
        let mut guest = Some(gate.at(seats.clone(), Arc::clone(&telemetry)));
        let mut threads = Vec::with_capacity(config.workers);
        for (index, (questions, orders)) in receivers.into_iter().zip(orders).enumerate() {
            let share = division.worker(index);
            let blueprint = Blueprint {
                parts: Parts {
                    worker: index,
                    config: Arc::clone(config),
                    shard: Arc::clone(&telemetry.shards[index]),
                    process: Arc::clone(facts),
                    table: Arc::clone(&table),
                    budget: Budget::new(share),
                    owned: owned.clone(),
                    interest: interest.clone(),
                    tls: tls.cloned(),
                    throttle: throttle.clone(),
                },
                ids: Arc::clone(&ids),
                peers: peers.clone(),
                orders,
                questions,
                load: Arc::clone(&seats.0[index].load),
                guest: guest.take(),
            };
            let (over, ended) = oneshot::channel();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Err(error) = worker::run(blueprint) {
                        tracing::error!(%error, "worker could not start");
                    }
                    // The main thread may have stopped waiting.
                    let _ = over.send(());
                })
                .context("cannot start a worker thread")?;
            threads.push(Running { ended: Some(ended), _thread: thread });
        }
        Ok(Self { telemetry, peers, seats, threads })
    }

    /// The way to all of them.
    pub(super) fn orders(&self) -> Orders {
        Orders(self.seats.0.iter().map(|seat| seat.orders.clone()).collect())
    }

    /// Clients of all workers, those on their way included.
    pub(super) fn clients(&self) -> usize {
        self.seats.clients()
    }

    /// Ready when every worker has ended.
    pub(super) async fn ended(&mut self) {
        for thread in &mut self.threads {
            if let Some(ended) = thread.ended.as_mut() {
                let _ = ended.await;
                thread.ended = None;
            }
        }
    }
}

/// The upstream's address as it is shown.
pub(super) fn endpoint(config: &Config) -> String {
    match &config.upstream.endpoint {
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    }
}

pub(super) fn facts(config: &Config) -> ProcessFacts {
    let facts = ProcessFacts::new(&endpoint(config), config.fingerprint())
        .with_memory(config.memory_limit as u64, config.workers)
        .with_log_counts(crate::telemetry::log::counts());
    facts.set_client_max(config.client.max_connections as u64);
    let shares = config.division();
    let sum = |pick: fn(&crate::config::WorkerShare) -> usize| shares.shares().iter().map(pick).sum::<usize>() as u64;
    let by_kind = [
        (UpstreamKind::Lane, sum(|s| s.lanes)),
        (UpstreamKind::Pool, sum(|s| s.pool)),
        (UpstreamKind::Login, sum(|s| s.scratch)),
        (UpstreamKind::Control, sum(|s| s.control)),
        (UpstreamKind::Hub, sum(|s| s.hubs)),
    ];
    facts.set_upstream_max(config.upstream.max_connections as u64, &by_kind);
    facts
}

/// Every client and every upstream connection needs a descriptor: raises the limit as far as it goes, and takes fewer
/// clients where it does not go far enough, so that those who are in never lack one.
///
/// # Errors
/// Not one client would be left.
pub(super) fn fit_descriptors(config: &mut Config) -> anyhow::Result<()> {
    let beside = config.upstream.max_connections + SPARE_DESCRIPTORS;
    let wanted = config.client.max_connections + beside;
    let limit = match rlimit::increase_nofile_limit(wanted as u64) {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the file descriptor limit");
            return Ok(());
        }
    };
    if limit >= wanted {
        return Ok(());
    }
    enough_descriptors(config, limit as u64).map_err(anyhow::Error::msg)?;
    tracing::warn!(
        limit,
        wanted,
        asked = config.client.max_connections,
        clients = limit - beside,
        "client.max_connections lowered to what the hard limit on file descriptors (ulimit -Hn) allows"
    );
    config.client.max_connections = limit - beside;
    Ok(())
}

/// The configuration shows what has come of it in this process.
pub(super) fn settle(config: &mut Config) {
    config.settle(config.log.format.is_json(std::io::stderr().is_terminal()));
}

/// Whether a hard limit leaves a descriptor for clients.
///
/// # Errors
/// It does not.
pub(super) fn enough_descriptors(config: &Config, limit: u64) -> Result<(), String> {
    let beside = config.upstream.max_connections + SPARE_DESCRIPTORS;
    if limit > beside as u64 {
        return Ok(());
    }
    Err(format!(
        "too few file descriptors: the hard limit is {limit} (ulimit -Hn), {beside} are needed before the first client \
         (upstream.max_connections = {} and {SPARE_DESCRIPTORS} others)",
        config.upstream.max_connections
    ))
}

/// Says that clients may come, and to a person how: a daemon's standard output stays free of that.
pub(super) fn announce(config: &Config, addresses: &[String]) {
    tracing::info!(
        listen = addresses.join(","),
        upstream = endpoint(config),
        workers = config.workers,
        cap = config.upstream.max_connections,
        memory = config.memory_limit,
        "listening"
    );
    if !std::io::stdout().is_terminal() {
        return;
    }
    let mut text = format!("{}\n", config.division());
    for address in addresses {
        let hint = match address.strip_prefix("unix:") {
            Some(path) => format!("redis-cli -s {path}"),
            None => {
                let (plain, tls) = address.strip_prefix("tls:").map_or((&address[..], ""), |plain| (plain, " --tls"));
                plain.rsplit_once(':').map_or_else(String::new, |(host, port)| {
                    format!("redis-cli -h {} -p {port}{tls}", host.trim_matches(['[', ']']))
                })
            }
        };
        text.push_str(&format!("listening on {address}    try: {hint}\n"));
    }
    if let Some(admin) = config.admin {
        text.push_str(&format!(
            "status page on http://{admin}/    metrics and health on /metrics /readyz /livez /startupz\n"
        ));
    }
    // A reader that went away is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
