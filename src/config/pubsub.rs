//! `[pubsub]`: clients with subscriptions. Pure.

use std::time::Duration;

use super::key::{GIB, KIB, Key, size, table, time, word};
use super::settings::Settings;

table! {
    /// Clients with subscriptions.
    pub struct Pubsub = "pubsub." {
        /// "shared": one subscription connection per worker and user carries all subscriptions. "pinned": each
        /// subscriber is pinned to a connection of its own, so that PUBLISH and NUMSUB count exactly over several
        /// instances.
        mode = word("shared", &["shared", "pinned"]);
        /// "exact" pins each RESP3 client with subscriptions to a connection of its own, so that messages and replies
        /// keep the upstream's order between them.
        resp3 = word("shared", &["shared", "exact"]);
        /// Bytes of messages waiting for one subscriber above which it is closed after pubsub.output_soft_time.
        output_soft: usize = size("8MiB", KIB, 64 * GIB);
        /// How long a subscriber may stay above pubsub.output_soft.
        output_soft_time: Duration = time("60s", 1);
    } with {
        /// One upstream connection per worker and user; otherwise each subscriber is lent one.
        shared: bool,
        /// RESP3 subscribers are lent one all the same.
        exact_resp3: bool,
    }
}

impl Pubsub {
    pub(super) fn of(settings: &Settings) -> Self {
        Self::read(settings, settings.is("pubsub.mode", "shared"), settings.is("pubsub.resp3", "exact"))
    }
}
