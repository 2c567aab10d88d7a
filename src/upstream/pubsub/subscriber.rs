//! What a client with subscriptions on a hub has beside its outbox.

use std::rc::Rc;
use std::time::Duration;

use super::Hub;
use crate::session::Subscribed;

/// The rare part of an outbox.
pub(crate) struct Subscriber {
    pub hub: Rc<Hub>,
    pub counts: Subscribed,
    /// Messages that wait until the reply in progress, or the one to the client's own PUBLISH, is complete.
    pub aside: Vec<u8>,
    /// A reply is being passed on in pieces.
    mid_reply: bool,
    /// PUBLISH and EXEC of the client itself that are not answered: their reply comes before their message (rule P7).
    own: u32,
    /// Since when more waits for the client than the soft limit, nanoseconds of the worker's clock.
    over_since: Option<u64>,
}

impl Subscriber {
    pub(in crate::upstream) fn new(hub: Rc<Hub>) -> Self {
        let counts = Subscribed::default();
        Self { hub, counts, aside: Vec::new(), mid_reply: false, own: 0, over_since: None }
    }

    /// Messages must wait.
    pub(in crate::upstream) fn withholds(&self) -> bool {
        self.mid_reply || self.own > 0
    }

    pub(in crate::upstream) fn on_reply_part(&mut self, last: bool) {
        self.mid_reply = !last;
    }

    pub(in crate::upstream) fn on_own(&mut self, answered: bool) {
        self.own = if answered { self.own.saturating_sub(1) } else { self.own + 1 };
    }

    /// The soft limit: whether the client has been above it for too long.
    pub(in crate::upstream) fn too_slow(&mut self, unsent: usize, soft: usize, patience: Duration, now: u64) -> bool {
        if soft == 0 || unsent <= soft {
            self.over_since = None;
            return false;
        }
        let since = *self.over_since.get_or_insert(now);
        u128::from(now.saturating_sub(since)) >= patience.as_nanos()
    }
}
