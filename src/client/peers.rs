//! Questions to the clients of all workers: CLIENT LIST, KILL and UNBLOCK see every client of the process. The
//! cold path only; messages, no shared state.

use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::directory::Line;
use super::wish::Wishes;
use crate::telemetry::CloseReason;
use crate::upstream::Report;

/// Questions that may wait for one worker.
pub(crate) const MAX_QUESTIONS: usize = 1024;

/// What one worker may ask another.
pub(crate) enum Question {
    List(oneshot::Sender<Vec<Line>>),
    /// Close the clients of these virtual ids; answers how many there were.
    Kill(Vec<u64>, oneshot::Sender<u64>),
    /// What the worker's upstream side looks like.
    Report(oneshot::Sender<Report>),
    /// On which upstream connection is this client blocked?
    Blocked(u64, oneshot::Sender<Option<i64>>),
    /// Unblock this client, which holds no connection; with `true` it gets an error instead of nil. Answers whether
    /// it left empty-handed, and nothing if it does not wait here.
    Unblock(u64, bool, oneshot::Sender<bool>),
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

    async fn ask<T>(&self, make: impl Fn(oneshot::Sender<T>) -> Question) -> Vec<T> {
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

    /// The upstream side of every worker, in their order.
    pub(crate) async fn reports(&self) -> Vec<Report> {
        self.ask(Question::Report).await
    }

    /// Closes these clients; how many there were.
    pub(super) async fn kill(&self, ids: &[u64]) -> u64 {
        self.ask(|answer| Question::Kill(ids.to_vec(), answer)).await.into_iter().sum()
    }

    /// The upstream connection on which client `id` is blocked.
    pub(super) async fn blocked_on(&self, id: u64) -> Option<i64> {
        self.ask(|answer| Question::Blocked(id, answer)).await.into_iter().flatten().next()
    }

    /// Unblocks client `id` if it waits without a connection; whether it left empty-handed.
    pub(super) async fn unblock(&self, id: u64, with_error: bool) -> bool {
        self.ask(|answer| Question::Unblock(id, with_error, answer)).await.contains(&true)
    }
}

/// Answers one question from this worker's clients.
pub(crate) fn answer(shared: &Shared, question: Question) {
    // Askers that have left need no answer.
    match question {
        Question::List(reply) => {
            let now = shared.up.now();
            let _ = reply.send(shared.directory.all().iter().map(|profile| profile.line(now)).collect());
        }
        Question::Report(reply) => drop(reply.send(shared.up.report())),
        Question::Kill(ids, reply) => {
            let here: Vec<_> = ids.iter().filter_map(|id| shared.directory.find(*id)).collect();
            for profile in &here {
                profile.outbox.close(CloseReason::Killed);
            }
            let _ = reply.send(here.len() as u64);
        }
        Question::Blocked(id, reply) => {
            let _ = reply.send(
                shared
                    .directory
                    .find(id)
                    .and_then(|profile| Some(profile.holding.get().blocked_on).filter(|id| *id != 0)),
            );
        }
        Question::Unblock(id, with_error, reply) => {
            let wait = shared.directory.find(id).and_then(|profile| profile.waiting.borrow().clone());
            if let Some(wait) = wait {
                wait.ask_to_leave(with_error, reply);
            }
        }
    }
}
