//! What the commands of pub/sub name: channels, patterns, shard channels.

/// What a subscription names. The order is that of arrays over all families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    Channel,
    Pattern,
    Shard,
}

impl Family {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The command that makes subscriptions of the family.
    #[must_use]
    pub fn join_command(self) -> &'static str {
        match self {
            Self::Channel => "SUBSCRIBE",
            Self::Pattern => "PSUBSCRIBE",
            Self::Shard => "SSUBSCRIBE",
        }
    }

    /// The command that ends subscriptions of the family.
    #[must_use]
    pub fn leave_command(self) -> &'static str {
        match self {
            Self::Channel => "UNSUBSCRIBE",
            Self::Pattern => "PUNSUBSCRIBE",
            Self::Shard => "SUNSUBSCRIBE",
        }
    }

    /// The first element of a confirmation.
    #[must_use]
    pub fn confirmation(self, joined: bool) -> &'static str {
        match (self, joined) {
            (Self::Channel, true) => "subscribe",
            (Self::Channel, false) => "unsubscribe",
            (Self::Pattern, true) => "psubscribe",
            (Self::Pattern, false) => "punsubscribe",
            (Self::Shard, true) => "ssubscribe",
            (Self::Shard, false) => "sunsubscribe",
        }
    }
}
