//! Questions to the clients of all workers: CLIENT LIST, KILL and UNBLOCK see every client of the process. The
//! cold path only; messages, no shared state.

use tokio::sync::{mpsc, oneshot};

use crate::client::admin_command::AdminHandle;
use crate::client::directory::line::ClientLine;
use crate::client::directory::selection::Selection;
use crate::router::{Extent, PauseChange};
use crate::upstream::{HotKey, LaneReport, Report, SlowRequest, Unblocked};

/// Questions that may wait for one worker.
pub(crate) const MAX_PEER_QUERIES: usize = 1024;

/// What an unblocked client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnblockWith {
    Nil,
    Error,
}

/// What one worker may ask another.
pub(crate) enum PeerQuery {
    List(oneshot::Sender<Vec<ClientLine>>),
    /// Some of its clients.
    Choose(Selection, oneshot::Sender<Vec<ClientLine>>),
    /// Close the clients of these virtual ids; answers how many there were.
    Kill(Vec<u64>, oneshot::Sender<u64>),
    /// What the worker's upstream side looks like.
    Report(oneshot::Sender<Report>),
    /// Its lanes.
    Lanes(oneshot::Sender<Vec<LaneReport>>),
    /// How many slow requests it keeps, and the newest so many.
    SlowRequests(usize, oneshot::Sender<(usize, Vec<SlowRequest>)>),
    ForgetSlowRequests(oneshot::Sender<()>),
    /// How many commands it has looked at, and their keys.
    HotKeys(oneshot::Sender<(u64, Vec<HotKey>)>),
    ForgetHotKeys(oneshot::Sender<()>),
    /// A CLIENT PAUSE is about to be sent, or was refused; answered when nothing that it would hold is under way.
    Quiesce(Option<Extent>, oneshot::Sender<()>),
    /// The server has accepted a CLIENT PAUSE or UNPAUSE.
    ServerPause(PauseChange, oneshot::Sender<()>),
    /// Unblock this client, with nil or with an error. No answer if there is no such client here.
    Unblock(u64, UnblockWith, oneshot::Sender<Unblocked>),
}

/// Ways to all workers, the asking one included, and to the main thread.
#[derive(Clone)]
pub(crate) struct Peers {
    /// A queue for each worker. Whoever asks faster than they answer waits in line.
    workers: Vec<mpsc::Sender<PeerQuery>>,
    main: AdminHandle,
}

impl Peers {
    /// The ways to all workers, in their order.
    #[must_use]
    pub(crate) fn new(workers: Vec<mpsc::Sender<PeerQuery>>, main: AdminHandle) -> Self {
        Self { workers, main }
    }

    /// The way to the main thread.
    pub(in crate::client) fn main(&self) -> &AdminHandle {
        &self.main
    }

    pub(in crate::client) async fn ask<T>(&self, make: impl Fn(oneshot::Sender<T>) -> PeerQuery) -> Vec<T> {
        let mut answers = Vec::new();
        for worker in &self.workers {
            let (sender, answer) = oneshot::channel();
            if worker.send(make(sender)).await.is_ok() {
                answers.push(answer);
            }
        }
        // All are asked before the first answer is waited for.
        let mut found = Vec::new();
        for answer in answers {
            // A worker that is stopping has no clients to tell about.
            found.extend(answer.await.ok());
        }
        found
    }

    /// Every client of the process, by id.
    pub(crate) async fn lines(&self) -> Vec<ClientLine> {
        let mut lines: Vec<ClientLine> = self.ask(PeerQuery::List).await.into_iter().flatten().collect();
        // Ids grow over all workers, so this is the order in which the clients came.
        lines.sort_by_key(|line| line.id);
        lines
    }

    /// The clients of the process that `selection` means, worker by worker.
    pub(in crate::client) async fn chosen(&self, selection: &Selection) -> Vec<ClientLine> {
        self.ask(|answer| PeerQuery::Choose(selection.clone(), answer)).await.into_iter().flatten().collect()
    }

    /// The lanes of every worker, in their order.
    pub(crate) async fn lanes(&self) -> Vec<LaneReport> {
        self.ask(PeerQuery::Lanes).await.into_iter().flatten().collect()
    }

    /// How many slow requests there are, and the newest `count` of each worker.
    pub(in crate::client) async fn slow_requests(&self, count: usize) -> (usize, Vec<SlowRequest>) {
        let answers = self.ask(|answer| PeerQuery::SlowRequests(count, answer)).await;
        let length = answers.iter().map(|(length, _)| length).sum();
        (length, answers.into_iter().flat_map(|(_, requests)| requests).collect())
    }

    pub(in crate::client) async fn forget_slow_requests(&self) {
        self.ask(PeerQuery::ForgetSlowRequests).await;
    }

    /// The sample of each worker.
    pub(in crate::client) async fn hot_keys(&self) -> Vec<(u64, Vec<HotKey>)> {
        self.ask(PeerQuery::HotKeys).await
    }

    pub(in crate::client) async fn forget_hot_keys(&self) {
        self.ask(PeerQuery::ForgetHotKeys).await;
    }

    /// The upstream side of every worker, in their order.
    pub(crate) async fn reports(&self) -> Vec<Report> {
        self.ask(PeerQuery::Report).await
    }

    /// Closes these clients; how many there were.
    pub(in crate::client) async fn kill(&self, ids: &[u64]) -> u64 {
        self.ask(|answer| PeerQuery::Kill(ids.to_vec(), answer)).await.into_iter().sum()
    }

    /// Unblocks client `id`; `None` if there is no such client.
    pub(in crate::client) async fn unblock(&self, id: u64, how: UnblockWith) -> Option<Unblocked> {
        self.ask(|answer| PeerQuery::Unblock(id, how, answer)).await.pop()
    }
}

impl UnblockWith {
    pub(in crate::client) fn word(self) -> &'static str {
        match self {
            Self::Nil => "TIMEOUT",
            Self::Error => "ERROR",
        }
    }
}
