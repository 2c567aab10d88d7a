//! -READONLY from an upstream that took writes before, or the end of all blocked pops: it was demoted, and its name may lead
//! to its successor.
//!
//! The client gets the reply as it is: nothing was executed, and its library knows what to do. Here the name is looked up
//! again, at most once in [`LOOK_EVERY`], and if it leads elsewhere all connections move there.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;

use super::Upstreams;
use crate::base::nanos;
use crate::telemetry::{NameLookup, Origin};

/// Time between two lookups; names are cached for some seconds anyway.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What one worker has seen of it.
#[derive(Debug, Default)]
pub struct Demotion {
    seen: Cell<bool>,
    /// When the name was looked up last, nanoseconds of the worker's clock.
    looked: Cell<Option<u64>>,
}

impl Upstreams {
    /// The upstream has answered a client's command with this error: counts it, and remembers what it may mean.
    #[inline]
    pub fn on_error_reply(&self, frame: &[u8]) {
        self.shard.error(Origin::Upstream, frame);
        self.on_refusal(frame);
    }

    /// The upstream has answered with this error.
    #[inline]
    pub(super) fn on_refusal(&self, frame: &[u8]) {
        if frame.starts_with(b"-NOPERM") {
            self.granted.forget();
        }
        // The second is what clients blocked on it are told.
        if frame.starts_with(b"-READONLY ") || frame.starts_with(b"-UNBLOCKED force unblock") {
            self.demotion.seen.set(true);
        }
    }

    /// Looks the name up if it is time. What is refused meanwhile counts for the next time.
    pub(super) fn demotion_tick(self: &Rc<Self>) {
        let Demotion { seen, looked } = &self.demotion;
        let now = self.now();
        if !seen.get() || looked.get().is_some_and(|at| now.saturating_sub(at) < nanos(LOOK_EVERY)) {
            return;
        }
        seen.set(false);
        looked.set(Some(now));
        let up = Rc::clone(self);
        spawn_local(async move {
            let found = up.dialer.look_up().await;
            up.shard.readonly_lookups[found].inc();
            if found == NameLookup::Moved {
                tracing::warn!(
                    worker = up.worker,
                    "the upstream refuses writes and its name now leads elsewhere: connections move there"
                );
                up.on_upstream_replaced(up.now());
                up.move_on();
            }
        });
    }
}
