//! Where a hub is in its life: whether it takes subscriptions, and what is true of its connection.
//!
//! ```text
//!              on_connected             on_replaced
//!   Opening ────────────────▶ Ready ◀─────────────┐      rotate: it goes on with another connection, as soon as
//!      │                        │  └──────────────┘      nothing is owed on this one
//!      └──────── close ─────────┴──▶ Closed              retire: it takes nobody any more, wherever it is
//! ```
//!
//! [`run`](super::run) connects, replaces and closes. Everybody else only retires, rotates or condemns, and what that
//! leads to happens in the hub's own task.

use std::cell::Cell;

use crate::telemetry::UpstreamCloseReason;

/// Where a hub is, for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream::pubsub) enum HubPhase {
    Opening,
    Ready,
    /// With the reason why there is no connection, if one could not be made.
    Closed(Option<HubFailure>),
}

/// Why a hub has no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream::pubsub) enum HubFailure {
    /// The identity may not, or is gone.
    Refused,
    Unavailable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LifeState {
    Opening,
    Ready {
        /// Another connection is to take the place of this one.
        moving: bool,
        /// It owes answers, says nothing, and the server answers others.
        hung: bool,
    },
    Closed(Option<HubFailure>),
}

/// The life of one hub.
pub(super) struct Life {
    inner: Cell<LifeState>,
    /// It takes nobody any more, and is closed for this reason when nobody is left. Never taken back.
    retired: Cell<Option<UpstreamCloseReason>>,
}

impl Life {
    /// A hub whose connection is being made.
    pub(super) fn new() -> Self {
        Self { inner: Cell::new(LifeState::Opening), retired: Cell::new(None) }
    }

    pub(super) fn phase(&self) -> HubPhase {
        match self.inner.get() {
            LifeState::Opening => HubPhase::Opening,
            LifeState::Ready { .. } => HubPhase::Ready,
            LifeState::Closed(failure) => HubPhase::Closed(failure),
        }
    }

    /// The handshake matched.
    pub(super) fn on_connected(&self) {
        debug_assert_eq!(self.inner.get(), LifeState::Opening, "two connections at once");
        self.inner.set(LifeState::Ready { moving: false, hung: false });
    }

    /// Its connection is about to be another one: what was true of the one before says nothing about it.
    pub(super) fn on_replaced(&self) {
        debug_assert!(self.is_ready(), "nothing to replace");
        self.inner.set(LifeState::Ready { moving: false, hung: false });
    }

    /// It is to go on with another connection; whether there is one to leave.
    pub(super) fn rotate(&self) -> bool {
        let LifeState::Ready { hung, .. } = self.inner.get() else { return false };
        self.inner.set(LifeState::Ready { moving: true, hung });
        true
    }

    /// Its connection hangs; the hub's task gives it up.
    pub(super) fn condemn(&self) {
        if let LifeState::Ready { moving, .. } = self.inner.get() {
            self.inner.set(LifeState::Ready { moving, hung: true });
        }
    }

    /// It takes nobody any more. Also where it is retired already: then the newer reason counts.
    pub(super) fn retire(&self, reason: UpstreamCloseReason) {
        self.retired.set(Some(reason));
    }

    /// Its end. `failure` says why there is no connection, where one could not be made.
    pub(super) fn close(&self, failure: Option<HubFailure>) {
        self.inner.set(LifeState::Closed(failure));
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.inner.get(), LifeState::Ready { .. })
    }

    pub(super) fn is_moving(&self) -> bool {
        matches!(self.inner.get(), LifeState::Ready { moving: true, .. })
    }

    pub(super) fn is_hung(&self) -> bool {
        matches!(self.inner.get(), LifeState::Ready { hung: true, .. })
    }

    /// Takes subscriptions, now or when it is connected.
    pub(super) fn accepting(&self) -> bool {
        self.retired.get().is_none() && !matches!(self.inner.get(), LifeState::Closed(_))
    }

    /// Why its connection is closed once nobody is left, if it is to be.
    pub(super) fn leaves_as(&self) -> Option<UpstreamCloseReason> {
        self.retired.get().or_else(|| self.is_moving().then_some(UpstreamCloseReason::Moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_true_of_one_connection_is_not_of_the_next() {
        let life = Life::new();
        life.condemn();
        assert!(!life.rotate() && !life.is_hung(), "there is no connection yet");
        life.on_connected();
        life.condemn();
        assert!(life.rotate() && life.is_hung() && life.is_moving());
        life.on_replaced();
        assert!(!life.is_hung() && !life.is_moving() && life.is_ready());
    }

    #[test]
    fn a_retired_hub_takes_nobody_whatever_its_connection_does() {
        let life = Life::new();
        life.on_connected();
        assert!(life.accepting() && life.leaves_as().is_none());
        assert!(life.rotate());
        assert_eq!((life.accepting(), life.leaves_as()), (true, Some(UpstreamCloseReason::Moved)));
        life.retire(UpstreamCloseReason::Idle);
        assert_eq!((life.accepting(), life.leaves_as()), (false, Some(UpstreamCloseReason::Idle)));
        life.close(Some(HubFailure::Unavailable));
        assert_eq!(life.phase(), HubPhase::Closed(Some(HubFailure::Unavailable)));
    }
}
