//! What became of a lane's connections, for those who wrote over it (rule W4).

use std::cell::Cell;
use std::rc::Rc;

use super::Lane;

/// What became of the connections of one lane. It outlives the lane, for clients that wrote over it.
#[derive(Debug, Default)]
pub struct LaneHistory {
    /// Connections that broke or were given up. One that was closed because nobody needed it is none of them.
    losses: Cell<u32>,
    /// When the last connection was made, nanoseconds of the worker's clock.
    connected: Cell<u64>,
}

impl LaneHistory {
    /// How often its connection was lost.
    #[inline]
    #[must_use]
    pub fn losses(&self) -> u32 {
        self.losses.get()
    }

    /// When its connection was made; 0 before the first.
    #[must_use]
    pub fn connected(&self) -> u64 {
        self.connected.get()
    }

    pub(super) fn on_connected(&self, now: u64) {
        self.connected.set(now);
    }

    pub(super) fn on_lost(&self) {
        self.losses.set(self.losses.get() + 1);
    }
}

impl Lane {
    /// What becomes of its connections.
    #[inline]
    #[must_use]
    pub fn history(&self) -> &Rc<LaneHistory> {
        &self.history
    }
}
