//! The clients of a worker, by index and generation: what a slot points to (rule I6).

use std::cell::RefCell;
use std::rc::Rc;

use super::client_key::ClientKey;
use super::outbox::Outbox;
use crate::config;

#[derive(Default)]
struct OutboxEntry {
    /// Moved when the client leaves: from then on the slots that it leaves behind point to nobody.
    generation: u32,
    /// There while the place is taken.
    outbox: Option<Rc<Outbox>>,
}

/// All clients of a worker.
#[derive(Default)]
pub struct Outboxes {
    inner: RefCell<OutboxTable>,
}

#[derive(Default)]
struct OutboxTable {
    entries: Vec<OutboxEntry>,
    /// Places of clients that have left. They are taken before the table grows.
    free: Vec<u32>,
}

impl Outboxes {
    /// Adds the client whose outbox `make` builds from its key.
    pub fn admit(&self, make: impl FnOnce(ClientKey) -> Outbox) -> Rc<Outbox> {
        let mut inner = self.inner.borrow_mut();
        let index = inner.free.pop().unwrap_or_else(|| {
            inner.entries.push(OutboxEntry::default());
            u32::try_from(inner.entries.len() - 1).expect("fewer clients than 2^32")
        });
        let entry = &mut inner.entries[index as usize];
        let outbox = Rc::new(make(ClientKey { index, generation: entry.generation }));
        entry.outbox = Some(Rc::clone(&outbox));
        outbox
    }

    /// The client left; its slots become tombstones.
    pub fn leave(&self, key: ClientKey) {
        let mut inner = self.inner.borrow_mut();
        let Some(entry) = inner.entries.get_mut(key.index as usize) else { return };
        if entry.generation == key.generation && entry.outbox.take().is_some() {
            entry.generation = entry.generation.wrapping_add(1);
            inner.free.push(key.index);
        }
    }

    /// Runs `act` on the client, if it is still there.
    pub fn with<R>(&self, key: ClientKey, act: impl FnOnce(&Rc<Outbox>) -> R) -> Option<R> {
        let inner = self.inner.borrow();
        let entry = inner.entries.get(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        entry.outbox.as_ref().map(act)
    }

    /// Everybody who is connected, for cold paths.
    #[must_use]
    pub fn all(&self) -> Vec<Rc<Outbox>> {
        self.inner.borrow().entries.iter().filter_map(|e| e.outbox.clone()).collect()
    }

    /// How many have unanswered requests on a lane, and how many bytes wait for slow readers. Closes those that are too
    /// slow for `limits`; `now` is in nanoseconds.
    #[must_use]
    pub fn survey(&self, limits: &config::Client, now: u64) -> (u64, u64) {
        let inner = self.inner.borrow();
        // One walk for both, and for the slow ones: with many thousands of clients the walk is what costs.
        let connected = inner.entries.iter().filter_map(|entry| entry.outbox.as_ref());
        connected.fold((0, 0), |(active, unsent), outbox| {
            outbox.check_slow_client(limits, now);
            (active + u64::from(outbox.pending() > 0), unsent + outbox.unsent() as u64)
        })
    }

    /// The most bytes of buffers that one client holds.
    #[must_use]
    pub fn largest(&self) -> usize {
        let inner = self.inner.borrow();
        inner
            .entries
            .iter()
            .filter_map(|entry| entry.outbox.as_ref())
            .map(|outbox| outbox.buffered())
            .max()
            .unwrap_or(0)
    }

    /// The outboxes of clients that are not being closed and whose `size` is at least `least`, the largest first.
    #[must_use]
    pub fn by_size(&self, size: fn(&Outbox) -> usize, least: usize) -> Vec<Rc<Outbox>> {
        let inner = self.inner.borrow();
        let connected = inner.entries.iter().filter_map(|entry| entry.outbox.as_ref());
        let large = connected.filter(|outbox| outbox.close_reason().is_none() && size(outbox) >= least);
        let mut clients: Vec<_> = large.cloned().collect();
        clients.sort_unstable_by_key(|outbox| std::cmp::Reverse(size(outbox)));
        clients
    }

    /// A client's name without a client.
    #[cfg(test)]
    pub(crate) fn key_for_tests(&self) -> ClientKey {
        ClientKey { index: u32::try_from(self.inner.borrow().entries.len()).unwrap(), generation: 7 }
    }

    /// How many are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.inner.borrow();
        inner.entries.len() - inner.free.len()
    }

    /// Whether no client is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
