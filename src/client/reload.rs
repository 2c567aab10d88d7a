//! What another configuration means for clients that are connected already.

use super::shared::Shared;
use crate::session::Identity;
use crate::telemetry::CloseReason;
use crate::upstream::ConfigChange;

impl Shared {
    /// Takes a new configuration over, for clients that are connected too: what is forbidden to them, how much may wait
    /// for them, and whether their user is still there.
    pub(crate) fn reload(&self, change: &ConfigChange) {
        self.upstream.reload(change);
        for node in self.upstream.nodes() {
            node.on_output_limits();
        }
        let (rules, now) = (self.rt.rules(), self.rt.config());
        self.clients.each(|record| {
            // The policy is a bit in the session, so that no request has to look a name up.
            let mut session = record.session.borrow_mut();
            let policy = rules.policies.of(&session.key.identity);
            session.policy = policy;
            if let Identity::User(name) = &session.key.identity
                && now.auth.terminate
                && now.auth.user(name).is_none()
            {
                // As a server closes the clients of a user that is deleted.
                record.outbox.close(CloseReason::Auth);
            }
            // A larger limit may be what it waits for.
            record.outbox.wake();
        });
    }
}
