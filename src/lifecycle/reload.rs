//! The configuration read again: on SIGHUP, when its file has changed, and when a client with the right for it says so.
//!
//! Parse, validate, swap. What is wrong changes nothing; what can change does, in every worker, before the answer; what
//! cannot is named in the log, in the answer, and in [`ProcessFacts::pending_restart`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::certificates::Certificates;
use super::client_listeners::ClientListeners;
use super::startup;
use super::systemd;
use super::workers::Workers;
use crate::auth;
use crate::client::AdminReply;
use crate::config::{Config, Problems, Reread, Source};
use crate::telemetry::{self, ProcessFacts};
use crate::upstream::ConfigChange;
use crate::worker::WorkerCommand;

/// What a reload needs, on the main thread.
pub(super) struct Reloader {
    source: RefCell<Source>,
    running: RefCell<Arc<Config>>,
    facts: Arc<ProcessFacts>,
    certificates: Rc<RefCell<Certificates>>,
    /// The content of the file that was read last, right or wrong.
    seen: Cell<Option<[u8; 32]>>,
}

impl Reloader {
    pub(super) fn new(
        config: &Arc<Config>,
        source: Source,
        facts: &Arc<ProcessFacts>,
        certificates: Rc<RefCell<Certificates>>,
    ) -> Self {
        Self {
            seen: Cell::new(source.digest()),
            source: RefCell::new(source),
            running: RefCell::new(Arc::clone(config)),
            facts: Arc::clone(facts),
            certificates,
        }
    }

    /// The configuration in force.
    pub(super) fn running(&self) -> Arc<Config> {
        Arc::clone(&self.running.borrow())
    }

    /// The file's content is another one than when it was read last. A file that is away for a moment is none.
    pub(super) fn is_outdated(&self) -> bool {
        let now = self.source.borrow().digest();
        now.is_some() && now != self.seen.get()
    }

    /// Reads everything again and puts it in force.
    pub(super) async fn reload(&self, why: &str, listeners: &ClientListeners, workers: &Workers) -> AdminReply {
        systemd::reloading();
        // Before it is read: a change in between is seen at the next look.
        self.seen.set(self.source.borrow().digest());
        let granted = match self.prepare() {
            Ok((reread, change)) => {
                self.apply(&change, listeners, workers).await;
                Ok(self.report(why, &reread, &change.config))
            }
            Err(problems) => {
                let problems = problems.texts().join("; ");
                tracing::error!(why, problems, "the configuration is wrong: the old one stays in effect");
                self.facts.set_load_failed();
                Err(problems)
            }
        };
        match &granted {
            Ok(lines) => systemd::reloaded(&lines.join(", ")),
            Err(problems) => {
                systemd::reloaded(&format!("the configuration is wrong, the old one stays in effect: {problems}"))
            }
        }
        granted
    }

    /// Everything that can fail.
    fn prepare(&self) -> Result<(Reread, ConfigChange), Problems> {
        let reread = self.source.borrow().reread(&self.running())?;
        let table = auth::table(&reread.config).map_err(|error| Problems::of(error.to_string()))?;
        let mut config = reread.config.clone();
        startup::fit_descriptors(&mut config).map_err(|error| Problems::of(error.to_string()))?;
        startup::settle(&mut config);
        let tls = self.certificates.borrow().prepare(&config);
        let tls = tls.map_err(|error| Problems::of(format!("upstream.tls: {error}")))?;
        Ok((reread, ConfigChange { config: Arc::new(config), table: Arc::new(table), tls }))
    }

    /// Nothing of it can fail. Told to the workers one after the other, and done when all have it in force.
    async fn apply(&self, change: &ConfigChange, listeners: &ClientListeners, workers: &Workers) {
        let config = &change.config;
        self.running.replace(Arc::clone(config));
        listeners.reload(config).await;
        self.certificates.borrow_mut().reload(config, change.tls.clone());
        telemetry::log::set_level(&config.log.level);
        self.facts.set_client_max(config.client.max_connections as u64);
        self.facts.memory().set_limit(config.memory_limit as u64);
        workers.commands().ask(|done| WorkerCommand::Reload(Box::new(change.clone()), done)).await;
    }

    /// Says what has come of it, here, to the facts, and to who asked.
    fn report(&self, why: &str, reread: &Reread, config: &Config) -> Vec<String> {
        self.source.borrow_mut().accept(reread);
        self.facts.set_loaded(&startup::endpoint(config), config.fingerprint(), reread.pending.clone());
        let (changed, pending) = (reread.changed.join(", "), reread.pending.join(", "));
        for warning in reread.warnings.iter().filter(|_| !changed.is_empty()) {
            tracing::warn!("{warning}");
        }
        if changed.is_empty() {
            tracing::info!(why, "configuration reloaded: nothing has changed");
        } else {
            tracing::info!(why, changed, "configuration reloaded: the changes are in effect");
        }
        if !pending.is_empty() {
            tracing::warn!(pending, "these keys have changed and need a restart");
        }
        let nothing = |text: String| if text.is_empty() { "nothing".to_owned() } else { text };
        vec![format!("changed:{}", nothing(changed)), format!("pending_restart:{}", nothing(pending))]
    }
}
