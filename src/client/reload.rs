//! What another configuration means for clients that are connected already.

use super::Shared;
use crate::config::Config;
use crate::session::Identity;
use crate::telemetry::CloseReason;
use crate::upstream::{Change, Outbox};

impl Shared {
    /// Takes a new configuration over, for clients that are connected too: what is forbidden to them, how much may wait
    /// for them, and whether their user is still there.
    pub(crate) fn reload(&self, change: &Change) {
        let before = self.up.config();
        self.up.reload(change);
        let (rules, now) = (self.up.rules(), self.up.config());
        self.directory.each(|profile| {
            let mut session = profile.session.borrow_mut();
            let policy = rules.policies.of(&session.key.identity);
            session.policy = policy;
            if let Identity::User(name) = &session.key.identity
                && now.auth.terminate
                && now.auth.user(name).is_none()
            {
                // As a server closes the clients of a user that is deleted.
                profile.outbox.close(CloseReason::Auth);
            }
            relimit(&profile.outbox, &before, &now);
            // A larger limit may be what it waits for.
            profile.outbox.wake();
        });
    }
}

/// The limit of what may wait for the client: which of them it has is known by its number.
fn relimit(outbox: &Outbox, before: &Config, now: &Config) {
    let limits =
        |config: &Config| [config.client.pubsub_output_limit, config.client.output_limit, config.auth.max_output];
    let subscribes = outbox.hub().is_some();
    let pairs = limits(before).into_iter().zip(limits(now)).skip(usize::from(!subscribes));
    let limit = outbox.output_limit();
    if let Some((_, new)) = pairs.into_iter().find(|(old, _)| *old == limit) {
        outbox.limit_output(new);
    }
}
