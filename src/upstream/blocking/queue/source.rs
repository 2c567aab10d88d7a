//! One connection of a wait group: what it was asked and has not answered, and whether an UNBLOCK is aimed at it. Moved by
//! the queue alone.

use std::collections::VecDeque;

/// Whether an UNBLOCK is aimed at the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unblock {
    No,
    /// Sent; until its answer nothing may be armed that it could hit.
    Asked,
    /// To be sent again.
    Later,
    /// The UNBLOCK has worked: the reply of the waiting command is coming.
    Ended,
}

/// One question without a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) most: usize,
    pub(super) armed: bool,
}

/// A connection that waits for the wait group.
#[derive(Debug)]
pub(super) struct QueueSource {
    pub(super) asks: VecDeque<Ask>,
    pub(super) unblock: Unblock,
    /// Waits for slices of time, and cannot be unblocked.
    pub(super) sliced: bool,
    /// The last answer was an element: there may be more.
    pub(super) hot: bool,
}

impl QueueSource {
    pub(super) fn armed(&self) -> bool {
        self.asks.back().is_some_and(|ask| ask.armed)
    }
}
