//! How much of its output a client may leave unread: respmux' own limits and those of the server
//! (`client-output-buffer-limit`), of which the smaller counts; and whether it may be evicted (`maxmemory-clients`).

use std::cell::Cell;

use super::{Node, Outbox};
use crate::telemetry::{CloseReason, OutputLimit};

/// Whose limits apply to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputClass {
    /// A client that has not logged in where it must.
    Login,
    #[default]
    Normal,
    /// A client with subscriptions.
    Pubsub,
}

/// The part of an outbox that this is about. Small: every client has one.
#[derive(Debug, Default)]
pub(super) struct OutputBudget {
    /// Bytes that may wait for a slow reader before the client is closed; 0 is no limit.
    limit: Cell<usize>,
    class: Cell<OutputClass>,
    no_evict: Cell<bool>,
    /// Second of the worker's clock, plus one, since which more waits for it than the server's soft limit; 0 is not.
    over_since: Cell<u32>,
}

impl OutputBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: Cell::new(limit), ..Self::default() }
    }
}

impl Outbox {
    /// The output limit, bytes; 0 is none.
    #[inline]
    pub fn output_limit(&self) -> usize {
        self.output_budget.limit.get()
    }

    /// CLIENT NO-EVICT: the client is not closed for `maxmemory-clients`.
    pub fn set_no_evict(&self, on: bool) {
        self.output_budget.no_evict.set(on);
    }

    /// Whether it said so.
    pub fn no_evict(&self) -> bool {
        self.output_budget.no_evict.get()
    }

    /// Closes it when it has been above the server's soft limit for too long; `now` is in nanoseconds.
    pub(super) fn check_soft_limit(&self, limit: OutputLimit, now: u64) {
        let over_since = &self.output_budget.over_since;
        if limit.soft == 0 || (self.unsent() as u64) < limit.soft {
            over_since.set(0);
            return;
        }
        let now = u32::try_from(now / 1_000_000_000).unwrap_or(u32::MAX).saturating_add(1);
        if over_since.get() == 0 {
            over_since.set(now);
        } else if u64::from(now.saturating_sub(over_since.get())) > limit.soft_seconds {
            self.close(CloseReason::OutputLimit);
        }
    }
}

impl Node {
    /// The limits of `class` apply to the client from here on.
    pub fn limit_output(&self, outbox: &Outbox, class: OutputClass) {
        outbox.output_budget.class.set(class);
        outbox.output_budget.limit.set(self.output_limit(class));
    }

    /// Bytes that may wait for a client of `class`; 0 is no limit.
    #[must_use]
    pub fn output_limit(&self, class: OutputClass) -> usize {
        let (rules, server) = (self.rt.rules_ref(), self.server.get());
        let (own, servers) = match class {
            OutputClass::Login => return rules.config.auth.max_output,
            OutputClass::Normal => (rules.config.client.output_limit, server.normal.hard),
            OutputClass::Pubsub => (rules.config.client.pubsub_output_limit, server.pubsub.hard),
        };
        match usize::try_from(servers).unwrap_or(usize::MAX) {
            0 => own,
            servers => own.min(servers),
        }
    }

    /// The server's limits, or the configuration's, are others than before.
    pub fn on_output_limits(&self) {
        for outbox in self.rt.outboxes.all() {
            self.limit_output(&outbox, outbox.output_budget.class.get());
        }
    }

    /// The survey of all clients: the server's soft limits.
    pub(super) fn check_soft_limits(&self, now: u64) {
        let server = self.server.get();
        if server.normal.soft == 0 && server.pubsub.soft == 0 {
            return;
        }
        for outbox in self.rt.outboxes.all() {
            match outbox.output_budget.class.get() {
                OutputClass::Login => {}
                OutputClass::Normal => outbox.check_soft_limit(server.normal, now),
                OutputClass::Pubsub => outbox.check_soft_limit(server.pubsub, now),
            }
        }
    }
}
