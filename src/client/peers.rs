//! Questions to the clients of all workers: CLIENT LIST, KILL and UNBLOCK see every client of the process. The
//! cold path only; messages, no shared state.

use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use super::Shared;
use super::directory::{Line, Profile};
use super::proxy::Selection;
use super::wish::Wishes;
use crate::router::{Extent, PauseChange};
use crate::session::RouteKey;
use crate::telemetry::CloseReason;
use crate::upstream::{HotKey, LaneReport, Node, Report, SlowRequest, Unblocked};

/// Questions that may wait for one worker.
pub(crate) const MAX_QUESTIONS: usize = 1024;

/// What an unblocked client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    Nil,
    Error,
}

/// What one worker may ask another.
pub(crate) enum Question {
    List(oneshot::Sender<Vec<Line>>),
    /// Some of its clients.
    Choose(Selection, oneshot::Sender<Vec<Line>>),
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
    Brace(Option<Extent>, oneshot::Sender<()>),
    /// The server has accepted a CLIENT PAUSE or UNPAUSE.
    ServerPause(PauseChange, oneshot::Sender<()>),
    /// Unblock this client, with nil or with an error. No answer if there is no such client here.
    Unblock(u64, Goodbye, oneshot::Sender<Unblocked>),
}

/// Ways to all workers, the asking one included, and to the main thread.
#[derive(Clone)]
pub(crate) struct Peers {
    workers: Vec<mpsc::Sender<Question>>,
    main: Wishes,
}

impl Peers {
    /// In the order of the workers.
    #[must_use]
    pub(crate) fn new(workers: Vec<mpsc::Sender<Question>>, main: Wishes) -> Self {
        Self { workers, main }
    }

    /// The way to the main thread.
    pub(super) fn main(&self) -> &Wishes {
        &self.main
    }

    pub(super) async fn ask<T>(&self, make: impl Fn(oneshot::Sender<T>) -> Question) -> Vec<T> {
        let mut answers = Vec::new();
        for worker in &self.workers {
            let (sender, answer) = oneshot::channel();
            if worker.send(make(sender)).await.is_ok() {
                answers.push(answer);
            }
        }
        let mut found = Vec::new();
        for answer in answers {
            // A worker that is stopping has no clients to tell about.
            found.extend(answer.await.ok());
        }
        found
    }

    /// Every client of the process, by id.
    pub(crate) async fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = self.ask(Question::List).await.into_iter().flatten().collect();
        lines.sort_by_key(|line| line.id);
        lines
    }

    /// The clients of the process that `selection` means, worker by worker.
    pub(super) async fn chosen(&self, selection: &Selection) -> Vec<Line> {
        self.ask(|answer| Question::Choose(selection.clone(), answer)).await.into_iter().flatten().collect()
    }

    /// The lanes of every worker, in their order.
    pub(crate) async fn lanes(&self) -> Vec<LaneReport> {
        self.ask(Question::Lanes).await.into_iter().flatten().collect()
    }

    /// How many slow requests there are, and the newest `count` of each worker.
    pub(super) async fn slow_requests(&self, count: usize) -> (usize, Vec<SlowRequest>) {
        let answers = self.ask(|answer| Question::SlowRequests(count, answer)).await;
        let length = answers.iter().map(|(length, _)| length).sum();
        (length, answers.into_iter().flat_map(|(_, requests)| requests).collect())
    }

    pub(super) async fn forget_slow_requests(&self) {
        self.ask(Question::ForgetSlowRequests).await;
    }

    /// The sample of each worker.
    pub(super) async fn hot_keys(&self) -> Vec<(u64, Vec<HotKey>)> {
        self.ask(Question::HotKeys).await
    }

    pub(super) async fn forget_hot_keys(&self) {
        self.ask(Question::ForgetHotKeys).await;
    }

    /// The upstream side of every worker, in their order.
    pub(crate) async fn reports(&self) -> Vec<Report> {
        self.ask(Question::Report).await
    }

    /// Closes these clients; how many there were.
    pub(super) async fn kill(&self, ids: &[u64]) -> u64 {
        self.ask(|answer| Question::Kill(ids.to_vec(), answer)).await.into_iter().sum()
    }

    /// Unblocks client `id`; `None` if there is no such client.
    pub(super) async fn unblock(&self, id: u64, how: Goodbye) -> Option<Unblocked> {
        self.ask(|answer| Question::Unblock(id, how, answer)).await.pop()
    }
}

/// Answers one question from this worker's clients.
pub(crate) fn answer(shared: &Shared, question: Question) {
    // Askers that have left need no answer.
    match question {
        Question::List(reply) => {
            let now = shared.rt.now();
            let _ = reply.send(shared.directory.all().iter().map(|profile| profile.line(now)).collect());
        }
        Question::Choose(selection, reply) => {
            let _ = reply.send(selection.of(&shared.directory, shared.rt.now()));
        }
        Question::Report(reply) => drop(reply.send(shared.node().report())),
        Question::Lanes(reply) => drop(reply.send(lanes(shared))),
        Question::SlowRequests(count, reply) => {
            let who = |id| shared.directory.find(id).map(|profile| profile.who());
            let _ = reply.send((shared.rt.slowlog.len(), shared.rt.slowlog.newest(count, who)));
        }
        Question::ForgetSlowRequests(reply) => {
            shared.rt.slowlog.clear();
            let _ = reply.send(());
        }
        Question::HotKeys(reply) => drop(reply.send(shared.rt.hotkeys.seen())),
        Question::ForgetHotKeys(reply) => {
            shared.rt.hotkeys.clear();
            let _ = reply.send(());
        }
        Question::Kill(ids, reply) => {
            let here: Vec<_> = ids.iter().filter_map(|id| shared.directory.find(*id)).collect();
            for profile in &here {
                profile.outbox.close(CloseReason::Killed);
            }
            let _ = reply.send(here.len() as u64);
        }
        Question::Brace(extent, ready) => shared.brace(extent, ready),
        Question::ServerPause(change, done) => {
            shared.node().on_server_pause(change);
            let _ = done.send(());
        }
        Question::Unblock(id, how, reply) => {
            if let Some(profile) = shared.directory.find(id) {
                let node = Rc::clone(&shared.node());
                spawn_local(async move { reply.send(unblock(&node, &profile, how).await) });
            }
        }
    }
}

/// CLIENT UNBLOCK of a client of this worker, wherever it waits.
async fn unblock(node: &Node, profile: &Profile, how: Goodbye) -> Unblocked {
    let wait = profile.waiting.borrow().clone();
    if let Some(wait) = wait {
        let (answer, left) = oneshot::channel();
        wait.ask_to_leave(how == Goodbye::Error, answer);
        return Unblocked::Reply(if left.await == Ok(true) { b":1\r\n" } else { b":0\r\n" }.to_vec());
    }
    let Some(blocked_on) = profile.holding.get().blocked_on else { return Unblocked::Reply(b":0\r\n".to_vec()) };
    let id = blocked_on.id.to_string();
    let unblock: &[&[u8]] = &[b"CLIENT", b"UNBLOCK", id.as_bytes(), how.word().as_bytes()];
    let still = || profile.holding.get().blocked_on == Some(blocked_on);
    node.unblock_for_another(blocked_on, unblock, still).await
}

impl Goodbye {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Nil => "TIMEOUT",
            Self::Error => "ERROR",
        }
    }
}

/// The worker's lanes, with the clients whose commands would go over each.
fn lanes(shared: &Shared) -> Vec<LaneReport> {
    let mut lanes = shared.node().lane_reports();
    let mut clients: HashMap<RouteKey, usize> = HashMap::new();
    shared.directory.each(|profile| {
        // Looked up by reference first: most clients are of few kinds.
        let session = profile.session.borrow();
        match clients.get_mut(&session.key) {
            Some(count) => *count += 1,
            None => drop(clients.insert(session.key.clone(), 1)),
        }
    });
    for lane in lanes.iter_mut().filter(|lane| !lane.retired && !lane.big) {
        lane.clients = clients.get(&lane.key).copied().unwrap_or(0);
    }
    lanes
}
