//! Where a lane is in its life: whether it takes requests, and what is true of its connection.
//!
//! ```text
//!              on_connected                 condemn
//!   Opening ────────────────▶ Ready ───────────────────▶ Condemned
//!      ▲  │                     │ on_disconnected           │
//!      │  │                     ▼                           │
//!      └──┼─────────────────────┴───────────────────────────┘
//!         └── close ──▶ Closed            retire: takes no more requests, wherever it is
//! ```
//!
//! A lane has one connection after the other; what is retired never takes requests again. [`task::run`](super::task::run)
//! connects, disconnects and closes. Everybody else only retires or condemns, and what that leads to happens in the
//! lane's own task.

use std::cell::Cell;

use super::deliver::Anomaly;
use crate::telemetry::{LossVerdict, UpstreamCloseReason};

/// Where a lane is, for those who only look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanePhase {
    /// Waiting for a permit, for the back-off, or for the handshake.
    Opening,
    /// It has a connection.
    Ready,
    Closed,
}

impl LanePhase {
    /// For people.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Ready => "ready",
            Self::Closed => "closed",
        }
    }
}

/// Why a connection that stands must not be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is hung, or serves nobody: requests are lost with it as with any connection.
    GivenUp(LossVerdict),
    /// Its replies cannot be trusted: every client that has a slot on it is closed.
    Distrusted(Anomaly),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LifeState {
    Opening,
    Ready {
        /// Something came since the handshake. A connection that dies without that counts as one that could not be made.
        answered: bool,
        /// It owes replies and has been silent for too long.
        suspect: bool,
    },
    Condemned {
        answered: bool,
        cause: Cause,
    },
    Closed,
}

/// The life of one lane.
pub(super) struct Life {
    inner: Cell<LifeState>,
    /// It takes no requests any more, and its connection is closed for this reason when it owes nothing.
    retired: Cell<Option<UpstreamCloseReason>>,
}

impl Life {
    /// A lane that takes requests, which wait for its connection.
    pub(super) fn new() -> Self {
        Self { inner: Cell::new(LifeState::Opening), retired: Cell::new(None) }
    }

    /// The handshake matched.
    pub(super) fn on_connected(&self) {
        debug_assert_eq!(self.inner.get(), LifeState::Opening, "two connections at once");
        self.enter(LifeState::Ready { answered: false, suspect: false });
    }

    /// Something came from the connection.
    #[inline]
    pub(super) fn on_answer(&self) {
        if let LifeState::Ready { answered: false, suspect } = self.inner.get() {
            self.inner.set(LifeState::Ready { answered: true, suspect });
        }
    }

    /// Whether it owes replies and says nothing; whether that is news.
    pub(super) fn on_silence(&self, silent: bool) -> bool {
        let LifeState::Ready { answered, suspect } = self.inner.get() else { return false };
        self.enter(LifeState::Ready { answered, suspect: silent });
        silent && !suspect
    }

    /// The connection must not be used any more; the lane's task tears it down. Of two causes the worse one counts, else
    /// the first. Where no connection stands there is nothing to condemn: the one that gave cause is gone already.
    pub(super) fn condemn(&self, cause: Cause) {
        match self.inner.get() {
            LifeState::Ready { answered, .. } => self.enter(LifeState::Condemned { answered, cause }),
            LifeState::Condemned { answered, cause: Cause::GivenUp(_) } if matches!(cause, Cause::Distrusted(_)) => {
                self.enter(LifeState::Condemned { answered, cause });
            }
            LifeState::Condemned { .. } | LifeState::Opening | LifeState::Closed => {}
        }
    }

    /// Why the connection is to be torn down, if it is.
    #[inline]
    pub(super) fn sentence(&self) -> Option<Cause> {
        if let LifeState::Condemned { cause, .. } = self.inner.get() { Some(cause) } else { None }
    }

    /// The connection is gone, however; whether it had answered anything.
    pub(super) fn on_disconnected(&self) -> bool {
        let answered = match self.inner.get() {
            LifeState::Ready { answered, .. } | LifeState::Condemned { answered, .. } => answered,
            LifeState::Opening | LifeState::Closed => false,
        };
        self.enter(LifeState::Opening);
        answered
    }

    /// It takes no more requests. Also where it is retired already: then the newer reason counts.
    pub(super) fn retire(&self, reason: UpstreamCloseReason) {
        self.retired.set(Some(reason));
        self.check_invariants();
    }

    /// Nothing can be put on it any more, and nothing is: its end.
    pub(super) fn close(&self) {
        self.retired.set(self.retired.get().or(Some(UpstreamCloseReason::Idle)));
        self.enter(LifeState::Closed);
    }

    /// Takes requests.
    #[inline]
    pub(super) fn accepting(&self) -> bool {
        self.retired.get().is_none()
    }

    /// It is retired because there is another connection in its place.
    pub(super) fn is_replaced(&self) -> bool {
        self.retired.get() == Some(UpstreamCloseReason::Moved)
    }

    /// Why its connection is closed when nobody needs it.
    pub(super) fn leaves_as(&self) -> UpstreamCloseReason {
        self.retired.get().unwrap_or(UpstreamCloseReason::Idle)
    }

    /// It owes replies and has been silent for too long.
    pub(super) fn is_suspect(&self) -> bool {
        matches!(self.inner.get(), LifeState::Ready { suspect: true, .. })
    }

    #[inline]
    pub(super) fn phase(&self) -> LanePhase {
        match self.inner.get() {
            LifeState::Opening => LanePhase::Opening,
            LifeState::Ready { .. } | LifeState::Condemned { .. } => LanePhase::Ready,
            LifeState::Closed => LanePhase::Closed,
        }
    }

    fn enter(&self, next: LifeState) {
        debug_assert!(self.inner.get() != LifeState::Closed || next == LifeState::Closed, "nothing follows the end");
        self.inner.set(next);
        self.check_invariants();
    }

    fn check_invariants(&self) {
        debug_assert!(self.inner.get() != LifeState::Closed || !self.accepting(), "a closed lane takes requests");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::AnomalyReason;

    fn distrusted() -> Cause {
        Cause::Distrusted(AnomalyReason::Push.into())
    }

    #[test]
    fn only_a_connection_that_stands_can_be_condemned_and_the_worse_cause_counts() {
        let life = Life::new();
        life.condemn(distrusted());
        assert_eq!(life.sentence(), None, "there is nothing to condemn");
        life.on_connected();
        life.condemn(Cause::GivenUp(LossVerdict::Hung));
        life.condemn(Cause::GivenUp(LossVerdict::Abandoned));
        assert_eq!(life.sentence(), Some(Cause::GivenUp(LossVerdict::Hung)));
        life.condemn(distrusted());
        life.condemn(Cause::GivenUp(LossVerdict::Hung));
        assert_eq!((life.sentence(), life.phase()), (Some(distrusted()), LanePhase::Ready));
        assert!(!life.on_disconnected(), "it has answered nothing");
        life.on_connected();
        life.on_answer();
        assert_eq!(life.sentence(), None, "the next connection is another one");
        assert!(life.on_disconnected());
    }

    #[test]
    fn suspicion_ends_with_the_connection_and_retirement_does_not() {
        let life = Life::new();
        life.on_connected();
        assert!(life.on_silence(true) && !life.on_silence(true) && life.is_suspect());
        life.on_answer();
        assert!(life.is_suspect(), "the next look at the time decides");
        life.retire(UpstreamCloseReason::Moved);
        life.on_disconnected();
        assert!(!life.is_suspect() && !life.accepting() && life.is_replaced());
        life.close();
        assert_eq!((life.phase(), life.leaves_as()), (LanePhase::Closed, UpstreamCloseReason::Moved));
    }
}
