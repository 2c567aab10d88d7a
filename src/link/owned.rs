//! Which of the upstream's clients are respmux itself: CLIENT LIST and CLIENT KILL leave them out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The upstream ids of all links of the process. Touched when a link opens or closes, never per command.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    ids: Arc<Mutex<HashSet<i64>>>,
}

impl Owned {
    /// Whether upstream client `id` is one of our links.
    #[must_use]
    pub fn contains(&self, id: i64) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// An entry for a new link, whose id is not known yet.
    #[must_use]
    pub fn entry(&self) -> OwnedId {
        OwnedId { owned: self.clone(), id: 0 }
    }
}

/// One link's entry, gone with the link.
#[derive(Debug)]
pub struct OwnedId {
    owned: Owned,
    id: i64,
}

impl OwnedId {
    /// The id, 0 when not known.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.id
    }

    /// The upstream told the id.
    pub fn learn(&mut self, id: i64) {
        let mut ids = self.owned.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.remove(&self.id);
        self.id = id;
        if id != 0 {
            ids.insert(id);
        }
    }
}

impl OwnedId {
    /// The entry, for what outlives its link: a connection is ours until the upstream has closed it.
    pub(super) fn take(&mut self) -> Self {
        Self { owned: self.owned.clone(), id: std::mem::take(&mut self.id) }
    }
}

impl Drop for OwnedId {
    fn drop(&mut self) {
        self.owned.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
