//! PROXY PAUSE and RESUME over all workers.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::start::Orders;
use crate::client::{AdminReply, AdminRequest};
use crate::telemetry::ProcessFacts;
use crate::worker::Order;

/// How long PAUSE waits for what is under way, unless told otherwise.
const WAIT: Duration = Duration::from_secs(10);

/// Whether the process is paused, and for the how-manyeth time.
#[derive(Clone)]
pub(super) struct Pauses {
    workers: Orders,
    facts: Arc<ProcessFacts>,
    number: Rc<Cell<u64>>,
}

impl Pauses {
    pub(super) fn new(workers: Orders, facts: &Arc<ProcessFacts>) -> Self {
        Self { workers, facts: Arc::clone(facts), number: Rc::default() }
    }

    /// Begins a pause of at most `most`. It is granted when nothing is under way, or called off after `wait`.
    pub(super) async fn begin(&self, asked: AdminRequest, wait: Option<Duration>, most: Duration) {
        if self.facts.paused() {
            return asked.answer(Err("already paused; PROXY RESUME ends it".to_owned()));
        }
        self.facts.set_paused(true);
        self.number.set(self.number.get() + 1);
        let number = self.number.get();
        let wait = wait.unwrap_or(WAIT).min(most);
        tracing::warn!(
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            most_s = most.as_secs(),
            "paused: the commands of clients are held"
        );
        let quiet = self.workers.begin(Order::Pause).await;
        let pauses = self.clone();
        spawn_local(async move {
            sleep(most).await;
            if pauses.is_now(number) {
                tracing::warn!(most_s = most.as_secs(), "pause.max has passed: clients go on without PROXY RESUME");
                pauses.end("pause.max").await;
            }
        });
        let pauses = self.clone();
        spawn_local(async move {
            let granted = pauses.settle(number, quiet, wait).await;
            asked.answer(granted.map(|()| {
                vec![
                    "paused: nothing is in flight upstream".to_owned(),
                    format!("resumes_by_itself_after_s:{}", most.as_secs()),
                ]
            }));
        });
    }

    /// Waits until every worker is quiet.
    async fn settle(&self, number: u64, quiet: Vec<oneshot::Receiver<()>>, wait: Duration) -> Result<(), String> {
        let all = async {
            for silence in quiet {
                silence.await.map_err(|_| "ended before everything was answered".to_owned())?;
            }
            Ok(())
        };
        if let Ok(result) = timeout(wait, all).await {
            return result.and_then(|()| if self.is_now(number) { Ok(()) } else { Err("ended".to_owned()) });
        }
        let busy: usize = self.workers.ask(Order::Busy).await.into_iter().sum();
        if self.is_now(number) {
            self.end("PAUSE took too long").await;
        }
        let millis = wait.as_millis();
        Err(format!("not paused, clients go on: after {millis} ms {busy} of them still had commands in flight"))
    }

    fn is_now(&self, number: u64) -> bool {
        self.facts.paused() && self.number.get() == number
    }

    /// PROXY RESUME.
    pub(super) async fn resume(&self) -> AdminReply {
        if !self.facts.paused() {
            return Ok(vec!["not paused".to_owned()]);
        }
        self.end("PROXY RESUME").await;
        Ok(vec!["resumed".to_owned()])
    }

    /// Clients go on, if they are held.
    pub(super) async fn end(&self, why: &str) {
        if !self.facts.paused() {
            return;
        }
        self.facts.set_paused(false);
        self.workers.give(|| Order::Resume).await;
        tracing::info!(why, "resumed");
    }
}
