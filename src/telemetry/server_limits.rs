//! What the upstream's configuration limits on connections, as it was last heard.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// One class of `client-output-buffer-limit`, bytes; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLimit {
    pub hard: u64,
    pub soft: u64,
    /// For how long more than the soft limit may wait, seconds.
    pub soft_seconds: u64,
}

impl OutputLimit {
    /// The smaller of both limits; 0 is none.
    #[must_use]
    pub fn least(self) -> u64 {
        match (self.hard, self.soft) {
            (0, limit) | (limit, 0) => limit,
            (hard, soft) => hard.min(soft),
        }
    }
}

/// The parameters of the upstream that act on a connection and that respmux carries out on its clients in its place.
/// Before they were heard, and for a user who may not ask: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerLimits {
    /// `client-output-buffer-limit normal` and `pubsub`.
    pub normal: OutputLimit,
    pub pubsub: OutputLimit,
    /// `timeout`, seconds; 0 is never.
    pub timeout: u64,
    /// `client-query-buffer-limit`, bytes; 0 is not known.
    pub query_buffer: u64,
    /// `maxmemory-clients`, bytes; 0 is no limit.
    pub clients_memory: u64,
    /// `maxclients`; 0 is not known.
    pub max_clients: u64,
}

/// The limits as all workers see them.
#[derive(Debug, Default)]
pub(super) struct Heard {
    limits: Mutex<ServerLimits>,
    /// How often they have changed.
    changes: AtomicU64,
}

impl Heard {
    pub(super) fn set(&self, limits: ServerLimits) -> bool {
        let mut known = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *known != limits;
        if news {
            *known = limits;
            self.changes.fetch_add(1, Relaxed);
        }
        news
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    pub(super) fn get(&self) -> ServerLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
