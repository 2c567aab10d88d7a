//! The upstream's `timeout`: what the server would do to an idle client, respmux does. Its own connections it keeps.

use super::Shared;
use super::directory::Profile;
use crate::telemetry::CloseReason;

impl Shared {
    /// Closes the clients that have been idle for longer than the upstream's `timeout`.
    pub(super) fn close_the_idle(&self) {
        let timeout = self.node().server_limits().timeout;
        if timeout == 0 {
            return;
        }
        let now = self.rt.now();
        self.directory.each(|profile| {
            // As the server counts: whole seconds, and more than the limit.
            let seconds = |at: u64| at / 1_000_000_000;
            if seconds(now).saturating_sub(seconds(profile.active.get())) > timeout && profile.may_be_idle() {
                profile.outbox.close(CloseReason::Idle);
            }
        });
    }
}

impl Profile {
    /// Nothing is under way for it, and it is none of those that the server lets wait for ever: blocked, with
    /// subscriptions, MONITOR. The rest of a reply that it does not read has a limit of its own
    /// (`client.output_stall_time`).
    fn may_be_idle(&self) -> bool {
        let waits = self.is_blocked() || self.busy.get() || self.subscribes();
        !waits && self.outbox.pending() == 0 && self.outbox.unsent() == 0
    }
}
