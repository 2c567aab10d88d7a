//! `[blocking]`: clients that wait for an element, an entry or a replica. Pure.

use std::time::Duration;

use super::key::{Key, count, key, switch, table, time};
use super::kind::Kind;
use super::settings::Settings;

table! {
    /// Clients that wait for an element, an entry or a replica.
    pub struct Blocking = "blocking." {
        /// Pinned connections on which blocked clients may wait (BLPOP and its relatives, XREAD BLOCK, WAIT), over all
        /// workers. "auto" leaves one of each worker's pool to transactions. Clients beyond that share connections, or are
        /// asked for in turns.
        max_connections: Option<usize> = key("auto", Kind::Or("auto", &Kind::Count { min: 1, max: 100_000 })).restart();
        /// Connections on which clients that wait with the same command may wait together, as a group. More than one
        /// gives them a fairer share against clients that are connected to the upstream directly. Its old name,
        /// blocking.fold_width, is read for one more version.
        group_width: usize = count("1", 1, 1024).formerly("blocking.fold_width");
        /// Shortest time between two questions for clients that wait without a connection.
        poll_min: Duration = time("5ms", 1);
        /// Longest time between two such questions. With more waiting clients it grows, so that there are never more
        /// than some thousand questions a second.
        poll_max: Duration = time("50ms", 1);
        /// An element that was popped for a client that has left goes back to the end it came from. "false" drops it,
        /// as a server does that has written it to a dead connection.
        give_back: bool = switch("true");
    }
}

impl Blocking {
    pub(super) const ORDERED: &[(&str, &str)] = &[("blocking.poll_min", "blocking.poll_max")];

    /// How many of the `pool` connections of worker `index` blocked clients may use: at least one, and where the pool
    /// allows it one fewer than it has, so that they never keep transactions waiting.
    pub(super) fn share(&self, pool: usize, index: usize, workers: usize) -> usize {
        let most = pool.saturating_sub(1).max(1);
        let asked = self.max_connections.map(|all| all / workers + usize::from(index < all % workers));
        asked.map_or(most, |share| share.clamp(1, most))
    }
}
