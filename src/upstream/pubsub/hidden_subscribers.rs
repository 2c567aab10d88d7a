//! How the upstream's counts of subscribers differ from the truth (rule P8): it sees one connection where
//! respmux has many clients.
//!
//! Shared by all workers, because PUBLISH on one of them counts the subscribers of all. Touched when a subscription is
//! confirmed or ends, and by PUBLISH while the counts differ; otherwise PUBLISH costs one relaxed load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::command::glob_matches;
use crate::session::Family;

/// For each name how many more clients hear it than connections of ours are subscribed to it.
#[derive(Clone, Debug, Default)]
pub struct HiddenSubscribers {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Names whose number is not zero.
    differing: AtomicUsize,
    names: Mutex<[HashMap<Box<[u8]>, i64>; 3]>,
}

impl HiddenSubscribers {
    /// Some count of the upstream is wrong now.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.inner.differing.load(Ordering::Acquire) > 0
    }

    /// The difference for one name has changed. A confirmation is given to its client only afterwards, so that a
    /// PUBLISH sent after it counts the client.
    pub fn change(&self, family: Family, name: &[u8], by: i64) {
        if by == 0 {
            return;
        }
        let mut names = self.names();
        let table = &mut names[family as usize];
        let now = table.get(name).copied().unwrap_or(0) + by;
        if now == 0 {
            table.remove(name);
        } else if let Some(number) = table.get_mut(name) {
            *number = now;
        } else {
            table.insert(name.into(), now);
        }
        let differing = names.iter().map(HashMap::len).sum();
        self.inner.differing.store(differing, Ordering::Release);
    }

    /// How many more clients a message to `channel` reaches than the upstream says, patterns included.
    #[must_use]
    pub fn of_message(&self, channel: &[u8], sharded: bool) -> i64 {
        let names = self.names();
        if sharded {
            return names[Family::Shard as usize].get(channel).copied().unwrap_or(0);
        }
        let patterns = names[Family::Pattern as usize].iter().filter(|(pattern, _)| glob_matches(pattern, channel));
        names[Family::Channel as usize].get(channel).copied().unwrap_or(0) + patterns.map(|(_, by)| by).sum::<i64>()
    }

    /// How many more subscribers of exactly this name there are than the upstream says.
    #[must_use]
    pub fn of_name(&self, family: Family, name: &[u8]) -> i64 {
        self.names()[family as usize].get(name).copied().unwrap_or(0)
    }

    fn names(&self) -> MutexGuard<'_, [HashMap<Box<[u8]>, i64>; 3]> {
        self.inner.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Family, HiddenSubscribers};

    #[test]
    fn channels_and_every_matching_pattern_are_counted() {
        let interest = HiddenSubscribers::default();
        assert!(!interest.differs());
        interest.change(Family::Channel, b"ab", 3);
        interest.change(Family::Pattern, b"a*", 2);
        interest.change(Family::Pattern, b"?b", -1);
        interest.change(Family::Shard, b"ab", 7);
        assert_eq!(interest.of_message(b"ab", false), 4);
        assert_eq!(interest.of_message(b"ac", false), 2);
        assert_eq!(interest.of_message(b"ab", true), 7);
        assert_eq!(interest.of_name(Family::Channel, b"ab"), 3);
        for (family, name, by) in [
            (Family::Channel, "ab", -3),
            (Family::Pattern, "a*", -2),
            (Family::Pattern, "?b", 1),
            (Family::Shard, "ab", -7),
        ] {
            assert!(interest.differs());
            interest.change(family, name.as_bytes(), by);
        }
        assert!(!interest.differs());
    }
}
