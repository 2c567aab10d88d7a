//! PROXY PAUSE and PROXY RESUME over all workers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::workers::WorkerCommands;
use crate::client::{AdminReply, AdminRequest};
use crate::telemetry::ProcessFacts;
use crate::worker::WorkerCommand;

/// How long PROXY PAUSE waits until nothing is in flight, unless it names a time.
const WAIT: Duration = Duration::from_secs(10);

/// The pause of the process: whether there is one is in [`ProcessFacts::paused`].
#[derive(Clone)]
pub(super) struct ProxyPause {
    workers: WorkerCommands,
    facts: Arc<ProcessFacts>,
    /// Of the pause that was begun last. [`Self::end`] cancels it, so that nothing that was started for one pause ends or
    /// answers for a later one.
    over: Rc<RefCell<CancellationToken>>,
}

impl ProxyPause {
    pub(super) fn new(workers: WorkerCommands, facts: &Arc<ProcessFacts>) -> Self {
        Self { workers, facts: Arc::clone(facts), over: Rc::default() }
    }

    /// Begins a pause of at most `most`. It is granted once nothing is in flight, or called off after `wait`.
    pub(super) async fn begin(&self, asked: AdminRequest, wait: Option<Duration>, most: Duration) {
        if self.facts.paused() {
            return asked.answer(Err("already paused; PROXY RESUME ends it".to_owned()));
        }
        self.facts.set_paused(true);
        let over = CancellationToken::new();
        self.over.replace(over.clone());
        let wait = wait.unwrap_or(WAIT).min(most);
        tracing::warn!(
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            most_s = most.as_secs(),
            "paused: the commands of clients are held"
        );
        let quiet = self.workers.begin(WorkerCommand::Pause).await;
        let (pause, ended) = (self.clone(), over.clone());
        spawn_local(async move {
            if ended.run_until_cancelled(sleep(most)).await.is_some() {
                tracing::warn!(most_s = most.as_secs(), "pause.max has passed: clients go on without PROXY RESUME");
                pause.end("pause.max").await;
            }
        });
        let pause = self.clone();
        spawn_local(async move {
            let granted = pause.settle(&over, quiet, wait).await;
            asked.answer(granted.map(|()| {
                vec![
                    "paused: nothing is in flight upstream".to_owned(),
                    format!("resumes_by_itself_after_s:{}", most.as_secs()),
                ]
            }));
        });
    }

    /// Waits until every worker has nothing in flight.
    async fn settle(
        &self,
        over: &CancellationToken,
        quiet: Vec<oneshot::Receiver<()>>,
        wait: Duration,
    ) -> Result<(), String> {
        let all = async {
            for silence in quiet {
                silence.await.map_err(|_| "ended before everything was answered".to_owned())?;
            }
            Ok(())
        };
        if let Ok(result) = timeout(wait, all).await {
            return result.and_then(|()| if over.is_cancelled() { Err("ended".to_owned()) } else { Ok(()) });
        }
        let busy: usize = self.workers.ask(WorkerCommand::Busy).await.into_iter().sum();
        if !over.is_cancelled() {
            self.end("PAUSE took too long").await;
        }
        let millis = wait.as_millis();
        Err(format!("not paused, clients go on: after {millis} ms {busy} of them still had commands in flight"))
    }

    /// PROXY RESUME.
    pub(super) async fn resume(&self) -> AdminReply {
        if !self.facts.paused() {
            return Ok(vec!["not paused".to_owned()]);
        }
        self.end("PROXY RESUME").await;
        Ok(vec!["resumed".to_owned()])
    }

    /// Ends the pause if there is one: clients go on.
    pub(super) async fn end(&self, why: &str) {
        if !self.facts.paused() {
            return;
        }
        self.facts.set_paused(false);
        self.over.borrow().cancel();
        self.workers.give(|| WorkerCommand::Resume).await;
        tracing::info!(why, "resumed");
    }
}
