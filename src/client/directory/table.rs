//! All clients of a worker.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::record::ClientRecord;

/// All clients of a worker, by virtual id.
#[derive(Default)]
pub(in crate::client) struct ClientTable {
    /// In the order of the ids, which is the order in which they came: lists are shown so.
    clients: RefCell<BTreeMap<u64, Rc<ClientRecord>>>,
}

impl ClientTable {
    pub(in crate::client) fn enter(&self, record: &Rc<ClientRecord>) {
        self.clients.borrow_mut().insert(record.outbox.id(), Rc::clone(record));
    }

    pub(in crate::client) fn leave(&self, id: u64) {
        self.clients.borrow_mut().remove(&id);
    }

    pub(in crate::client) fn find(&self, id: u64) -> Option<Rc<ClientRecord>> {
        self.clients.borrow().get(&id).cloned()
    }

    /// Runs `act` on every client.
    pub(in crate::client) fn each(&self, act: impl FnMut(&Rc<ClientRecord>)) {
        self.clients.borrow().values().for_each(act);
    }

    /// A copy, so that clients may come and go while it is looked through.
    pub(in crate::client) fn all(&self) -> Vec<Rc<ClientRecord>> {
        self.clients.borrow().values().cloned().collect()
    }
}
