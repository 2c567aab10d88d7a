//! -READONLY from an upstream that took writes before, or the end of all blocked pops: it was demoted, and its name may lead
//! to its successor.
//!
//! The client gets the reply as it is: nothing was executed, and its library knows what to do. Here the name is looked up
//! again, at most once in [`LOOK_EVERY`], and if it leads elsewhere all connections move there.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;

use super::{Node, Upstream};
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

impl Node {
    /// The upstream has answered a client's command with this error: counts it, and remembers what it may mean.
    #[inline]
    pub fn on_error_reply(&self, frame: &[u8]) {
        self.rt.shard.error(Origin::Upstream, frame);
        self.on_refusal(frame);
    }

    /// The upstream has answered with this error.
    #[inline]
    pub(super) fn on_refusal(&self, frame: &[u8]) {
        if frame.starts_with(b"-NOPERM") {
            self.permission_cache.forget();
        }
        // The second is what clients blocked on it are told.
        if frame.starts_with(b"-READONLY ") || frame.starts_with(b"-UNBLOCKED force unblock") {
            self.demotion.seen.set(true);
        }
    }
}

impl Upstream {
    /// Looks names up whose server has refused writes, if it is time. What is refused meanwhile counts for the next time.
    pub(super) fn follow_names(self: &Rc<Self>) {
        for node in self.nodes() {
            let (Demotion { seen, looked }, now) = (&node.demotion, self.rt.now());
            if !seen.get() || looked.get().is_some_and(|at| now.saturating_sub(at) < nanos(LOOK_EVERY)) {
                continue;
            }
            seen.set(false);
            looked.set(Some(now));
            let upstream = Rc::clone(self);
            spawn_local(async move {
                let found = node.dialer.look_up().await;
                node.rt.shard.readonly_lookups[found].inc();
                if found == NameLookup::Moved {
                    tracing::warn!(
                        worker = node.rt.worker,
                        upstream = %node.address(),
                        "the upstream refuses writes and its name now leads elsewhere: connections move there"
                    );
                    let next = upstream.source.borrow_mut().on_moved();
                    upstream.apply(next);
                }
            });
        }
    }
}
