//! Subscriptions of a client: their families, and how many it has.

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

    /// The family of SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE and their opposites, by the upper-case name.
    #[must_use]
    pub fn of_command(name: &str) -> Self {
        match name.as_bytes().first() {
            Some(b'P') => Self::Pattern,
            Some(b'S') if name != "SUBSCRIBE" => Self::Shard,
            _ => Self::Channel,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::Family;

    #[test]
    fn a_command_names_its_family() {
        for family in Family::ALL {
            assert_eq!(Family::of_command(family.leave_command()), family);
            assert_eq!(Family::of_command(family.join_command()), family);
        }
    }
}
