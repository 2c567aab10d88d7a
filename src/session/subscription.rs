//! Subscriptions of a client: how many it has of each family.

use crate::command::Family;

/// How many subscriptions a client has, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribed(pub [u32; 3]);

impl Subscribed {
    /// None at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == [0; 3]
    }

    /// Subscriptions of one family.
    #[must_use]
    pub fn of(self, family: Family) -> u64 {
        u64::from(self.0[family as usize])
    }

    /// The number in a confirmation: channels and patterns together, shard channels apart.
    #[must_use]
    pub fn told(self, family: Family) -> u64 {
        match family {
            Family::Channel | Family::Pattern => self.of(Family::Channel) + self.of(Family::Pattern),
            Family::Shard => self.of(Family::Shard),
        }
    }
}
