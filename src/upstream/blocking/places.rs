//! Wait groups that have no connection, and which of them get one.

use std::rc::Rc;

use super::{Node, WaitGroup};

impl WaitGroup {
    /// Nothing waits for its clients, and nobody asks for them at this moment.
    pub(super) fn is_without_connection(&self) -> bool {
        !self.asked_aside.get() && self.bundle.borrow().is_none() && self.machine.borrow().needs_polls()
    }
}

/// Wait groups without a connection, those that have waited longest first.
pub(super) fn waiting(node: &Node) -> Vec<Rc<WaitGroup>> {
    let mut wait_groups = node.wait_groups.all();
    wait_groups.retain(|group| group.is_without_connection());
    wait_groups.sort_by_key(|group| group.number);
    wait_groups
}

/// Lets as many groups as there are places wait on a connection, the oldest first. Not those with a key of another
/// type: such a connection would bring an error that blocked clients do not get.
pub(super) fn offer_places(node: &Rc<Node>) {
    let free = node.rt.pool.places_for_blocked();
    if free > 0 {
        for group in waiting(node).into_iter().filter(|group| !group.difficult.get()).take(free) {
            group.act(node, super::queue::Queue::offer);
        }
    }
}
