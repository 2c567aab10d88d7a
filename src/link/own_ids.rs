//! Which of a server's clients are respmux itself: CLIENT LIST and CLIENT KILL leave them out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::topology::NodeId;

/// The links of the process, each by its node and the id that the node gave it: two servers give out equal ids. Touched
/// when a link opens or closes, never per command.
#[derive(Clone, Debug, Default)]
pub struct OwnIds {
    ids: Arc<Mutex<HashSet<(NodeId, i64)>>>,
}

impl OwnIds {
    /// Whether client `id` of `node` is one of our links.
    #[must_use]
    pub fn contains(&self, node: NodeId, id: i64) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(&(node, id))
    }

    /// An entry for a new link to `node`, whose id is not known yet.
    #[must_use]
    pub fn entry(&self, node: NodeId) -> OwnId {
        OwnId { owned: self.clone(), node, id: 0 }
    }
}

/// One link's entry, gone with the link.
#[derive(Debug)]
pub struct OwnId {
    owned: OwnIds,
    node: NodeId,
    id: i64,
}

impl OwnId {
    /// The id, 0 when not known.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.id
    }

    /// The server told the id.
    pub fn learn(&mut self, id: i64) {
        let mut ids = self.owned.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.remove(&(self.node, self.id));
        self.id = id;
        if id != 0 {
            ids.insert((self.node, id));
        }
    }

    /// The entry, for what outlives its link: a connection is ours until the server has closed it.
    pub(super) fn take(&mut self) -> Self {
        Self { owned: self.owned.clone(), node: self.node, id: std::mem::take(&mut self.id) }
    }
}

impl Drop for OwnId {
    fn drop(&mut self) {
        self.owned.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&(self.node, self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ids_of_two_servers_are_two_entries() {
        let (owned, [one, two]) = (OwnIds::default(), [1, 2].map(NodeId::numbered));
        let (mut first, mut second) = (owned.entry(one), owned.entry(two));
        first.learn(7);
        assert!(owned.contains(one, 7) && !owned.contains(two, 7), "a stranger of the other server");
        second.learn(7);
        drop(first);
        assert!(!owned.contains(one, 7) && owned.contains(two, 7), "one closes, the other's entry stays");
        let kept = second.take();
        drop(second);
        assert!(owned.contains(two, 7), "ours until the server has closed it");
        drop(kept);
        assert!(!owned.contains(two, 7));
    }
}
