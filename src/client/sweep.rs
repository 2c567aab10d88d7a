//! What time alone makes happen to clients. What the upstream's `timeout` would do to an idle client, respmux does: its own
//! connections the server never sees idle.

use super::shared::Shared;
use crate::telemetry::CloseReason;

/// Ticks between two looks for clients that have not logged in.
const SWEEP_EVERY: u32 = 5;

impl Shared {
    /// What time alone makes happen to clients. Called by the worker a few times a second.
    pub(crate) fn on_tick(&self) {
        // A walk over all clients, so not at every tick.
        self.ticks.set(self.ticks.get().wrapping_add(1));
        if self.ticks.get().is_multiple_of(SWEEP_EVERY) {
            self.close_the_unauthenticated();
            self.close_the_idle();
            self.close_the_aged();
        }
    }

    /// Closes the clients that have been idle for longer than the upstream's `timeout`.
    pub(super) fn close_the_idle(&self) {
        // As of the last look at the server's settings: CONFIG SET timeout counts for clients that are here already.
        let timeout = self.node().server_limits().timeout;
        if timeout == 0 {
            return;
        }
        let now = self.rt.now();
        self.clients.each(|record| {
            // As the server counts: whole seconds, and more than the limit.
            let seconds = |at: u64| at / 1_000_000_000;
            if seconds(now).saturating_sub(seconds(record.active.get())) > timeout && record.may_be_idle() {
                record.outbox.close(CloseReason::Idle);
            }
        });
    }
}
