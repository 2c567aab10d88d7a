//! The worker threads: how they are started, reached and waited for.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::auth::{self, Throttle};
use crate::client::{AdminHandle, Ids, MAX_PEER_QUERIES, Peers};
use crate::command::CommandTable;
use crate::config::Config;
use crate::link::{Budget, ClientTls, OwnIds};
use crate::telemetry::{ProcessFacts, Telemetry};
use crate::upstream::HiddenSubscribers;
use crate::upstream::Parts;
use crate::worker::{self, Arrival, Blueprint, Guest, MAX_WORKER_COMMANDS, WorkerCommand};

/// The running workers.
pub(super) struct Workers {
    pub telemetry: Arc<Telemetry>,
    /// The command table of the start. A reload gives the workers another one, with the same names.
    pub table: Arc<CommandTable>,
    /// Questions to all of them.
    pub peers: Peers,
    handles: WorkerHandles,
    /// Holds one token of each thread, which the thread drops at its end.
    threads: TaskTracker,
}

/// How one worker is reached from another thread.
struct WorkerHandle {
    commands: mpsc::Sender<WorkerCommand>,
    /// Clients of this worker, those on their way to it included: [`WorkerHandles::serve`] counts a client in, the
    /// worker counts it out when its task ends.
    load: Arc<AtomicUsize>,
}

impl WorkerHandle {
    /// A handle, and the end of its channel that the worker reads.
    fn new() -> (Self, mpsc::Receiver<WorkerCommand>) {
        let (commands, receiver) = mpsc::channel(MAX_WORKER_COMMANDS);
        (Self { commands, load: Arc::default() }, receiver)
    }
}

/// All workers, as the accept loop has them.
#[derive(Clone)]
pub(super) struct WorkerHandles(Arc<[WorkerHandle]>);

impl WorkerHandles {
    /// Clients of all workers, those on their way included.
    pub(super) fn clients(&self) -> usize {
        self.0.iter().map(|worker| worker.load.load(Ordering::Relaxed)).sum()
    }

    /// The worker with the fewest clients, so that few clients are spread evenly too; of several the first, on whose
    /// thread clients are accepted.
    fn emptiest(&self) -> Option<&WorkerHandle> {
        self.0.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed))
    }

    /// Hands the client in `waiting` to the worker with the fewest. Waits while that worker's channel is full: the
    /// backlog of the listener holds the rest. If this future is dropped before its end, the client is still in
    /// `waiting`.
    pub(super) async fn serve(&self, waiting: &Cell<Option<Arrival>>) {
        let Some(arrival) = waiting.take() else { return };
        let Some(worker) = self.emptiest() else { return };
        waiting.set(Some(arrival));
        // An error: the worker has ended, and with it the process is about to.
        let Ok(permit) = worker.commands.reserve().await else { return waiting.set(None) };
        if let Some(arrival) = waiting.take() {
            worker.load.fetch_add(1, Ordering::Relaxed);
            permit.send(WorkerCommand::Serve(arrival));
        }
    }
}

/// Commands to all workers. A worker that has ended is left out: it does nothing any more.
#[derive(Clone)]
pub(super) struct WorkerCommands(Rc<[mpsc::Sender<WorkerCommand>]>);

impl WorkerCommands {
    /// Gives every worker the command that `make` makes.
    pub(super) async fn give(&self, make: impl Fn() -> WorkerCommand) {
        for worker in self.0.iter() {
            let _ = worker.send(make()).await;
        }
    }

    /// Gives every worker a command that it answers later, and returns the receivers of these answers.
    pub(super) async fn begin<T>(
        &self,
        make: impl Fn(oneshot::Sender<T>) -> WorkerCommand,
    ) -> Vec<oneshot::Receiver<T>> {
        let mut begun = Vec::with_capacity(self.0.len());
        for worker in self.0.iter() {
            let (answer, told) = oneshot::channel();
            if worker.send(make(answer)).await.is_ok() {
                begun.push(told);
            }
        }
        begun
    }

    /// Gives every worker a command and waits for its answer, one worker after the other.
    pub(super) async fn ask<T>(&self, make: impl Fn(oneshot::Sender<T>) -> WorkerCommand) -> Vec<T> {
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

impl Workers {
    /// Starts one thread per worker, each with its share of the connection budget. The first also runs the guest that
    /// `guest` makes: the accept loop, which needs the handles of all workers.
    pub(super) fn start(
        config: &Arc<Config>,
        facts: &Arc<ProcessFacts>,
        tls: Option<&ClientTls>,
        admin_handle: &AdminHandle,
        guest: impl FnOnce(WorkerHandles, Arc<Telemetry>) -> Guest,
    ) -> anyhow::Result<Self> {
        let table = Arc::new(auth::table(config)?);
        let telemetry = Arc::new(Telemetry::new(config.workers, &table.labels(), Arc::clone(facts)));
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..config.workers).map(|_| mpsc::channel(MAX_PEER_QUERIES)).unzip();
        let peers = Peers::new(senders, admin_handle.clone());
        let (ids, owned, division) = (Ids::new(config.instance), OwnIds::default(), config.division());
        let interest = HiddenSubscribers::default();
        let throttle = Throttle::new(config.auth.failures);
        let (handles, commands): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| WorkerHandle::new()).unzip();
        let handles = WorkerHandles(handles.into());
        let mut guest = Some(guest(handles.clone(), Arc::clone(&telemetry)));
        let threads = TaskTracker::new();
        for (index, (peer_queries, commands)) in receivers.into_iter().zip(commands).enumerate() {
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
                commands,
                peer_queries,
                load: Arc::clone(&handles.0[index].load),
                guest: guest.take(),
            };
            let runs = threads.token();
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Err(error) = worker::run(blueprint) {
                        tracing::error!(%error, "worker could not start");
                    }
                    drop(runs);
                })
                .context("cannot start a worker thread")?;
        }
        threads.close();
        Ok(Self { telemetry, table, peers, handles, threads })
    }

    /// Commands to all of them.
    pub(super) fn commands(&self) -> WorkerCommands {
        WorkerCommands(self.handles.0.iter().map(|worker| worker.commands.clone()).collect())
    }

    /// Clients of all workers, those on their way included.
    pub(super) fn clients(&self) -> usize {
        self.handles.clients()
    }

    /// Ready when every worker has ended.
    pub(super) async fn ended(&self) {
        self.threads.wait().await;
    }
}
