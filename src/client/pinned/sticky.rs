//! Why a pinned connection stays its client's, and what it is good for when it is not any more.

use std::ops::BitOr;

/// What of the client's is on the connection: while there is anything, the client keeps it. A set, as a client may
/// watch keys, track and subscribe at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sticky(u8);

impl Sticky {
    pub(super) const WATCH: Self = Self(1);
    pub(super) const MULTI: Self = Self(2);
    pub(super) const SUBSCRIBED: Self = Self(4);
    pub(super) const MONITOR: Self = Self(8);
    pub(super) const TRACKING: Self = Self(16);
    /// State that only RESET or the end of the connection removes.
    pub(super) const SESSION: Self = Self(32);
    /// What RESET is needed for before the connection serves somebody else.
    pub(super) const NEEDS_RESET: Self = Self(4 | 8 | 16 | 32);

    /// Nothing: the connection may go back.
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Any of `others` is in it.
    pub(super) fn has_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Puts `other` in or takes it out.
    pub(super) fn set(&mut self, other: Self, on: bool) {
        self.0 = if on { self.0 | other.0 } else { self.0 & !other.0 };
    }

    /// `self`, if that is so.
    pub(super) fn when(self, so: bool) -> Self {
        if so { self } else { Self::default() }
    }
}

impl BitOr for Sticky {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What the connection is good for when its client leaves it. It only gets worse: each step is reached by what ran, and
/// none is left again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Aftermath {
    /// The transaction state says all there is to be undone.
    Known,
    /// Something ran whose traces only RESET removes.
    Unproved,
    /// DEBUG ran, and what it leaves RESET need not remove: the connection serves nobody else.
    Spent,
    /// A reply could not be trusted: the connection is of no use to anybody, its client included.
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_reasons() {
        let mut sticky = Sticky::default();
        assert!(sticky.is_empty());
        sticky.set(Sticky::TRACKING, true);
        let both = sticky | Sticky::WATCH.when(true) | Sticky::MULTI.when(false);
        assert!(both.has_any(Sticky::NEEDS_RESET) && both.has_any(Sticky::WATCH) && !both.has_any(Sticky::MULTI));
        sticky.set(Sticky::TRACKING, false);
        assert!(sticky.is_empty());
        assert!(!(Sticky::WATCH | Sticky::MULTI).has_any(Sticky::NEEDS_RESET), "UNWATCH and DISCARD are enough");
    }

    #[test]
    fn it_only_gets_worse() {
        assert_eq!(Aftermath::Spent.max(Aftermath::Unproved), Aftermath::Spent);
        assert!(Aftermath::Known < Aftermath::Unproved && Aftermath::Spent < Aftermath::Broken);
    }
}
