//! What a node does when the topology says that its connections are to be replaced: for other credentials, for another
//! server behind its address, or because an operator wants it.
//!
//! What was begun on a connection ends there; what follows is on a new one. The cap holds meanwhile: a new connection
//! waits for the place of an old one where there is no other.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::{LoginConnection, Node, Upstream, WaitGroups};
use crate::config::Endpoint;

/// How long a rotation waits for the one before it.
const ROTATION_WAIT: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Node {
    /// The configuration gave the node another address. Nothing of what was learnt from the server there before is kept,
    /// and nobody waits for it.
    pub(super) fn on_readdressed(self: &Rc<Self>, address: Endpoint) {
        tracing::info!(worker = self.rt.worker, upstream = %address, "upstream changed: connections move");
        self.dialer.on_readdressed(address);
        self.on_new_history(self.rt.now());
        self.control.forget();
        self.forget_pauses();
        self.rotate_now();
    }

    /// The node's address leads to another server now.
    pub(super) fn on_replaced(self: &Rc<Self>) {
        self.on_new_history(self.rt.now());
        self.rotate();
    }

    /// Replaces every connection.
    ///
    /// While clients wait on connections of the rotation before, and the connection that unblocks them is not there yet,
    /// it happens a moment later: nobody could unblock them afterwards.
    pub(super) fn rotate(self: &Rc<Self>) {
        if !self.is_rotating() {
            return self.rotate_now();
        }
        if self.rotates_again.replace(true) {
            return;
        }
        let (node, deadline) = (Rc::clone(self), crate::base::now() + ROTATION_WAIT);
        spawn_local(async move {
            while node.is_rotating() && crate::base::now() < deadline {
                sleep(LOOK_EVERY).await;
            }
            node.rotates_again.set(false);
            node.rotate_now();
        });
    }

    fn is_rotating(&self) -> bool {
        !self.wait_groups.is_empty() && self.control.server().is_before(self.dialer.server())
    }

    fn rotate_now(self: &Rc<Self>) {
        self.dialer.rotate();
        self.lanes.rotate(self); // also wakes whoever waits for a lane that goes
        self.idle.rotate();
        self.hubs.rotate();
        WaitGroups::rotate(self);
        LoginConnection::rotate(self);
        self.control.check_now();
    }

    /// Whether anything is held at the clients: PROXY PAUSE, or a pause of the server.
    #[inline]
    #[must_use]
    pub fn is_any_pause(&self) -> bool {
        self.any_pause.get()
    }

    /// PROXY PAUSE has begun or ended, or a pause of the server.
    pub(super) fn on_pause_changed(&self) {
        self.any_pause.set(self.rt.is_paused() || self.server_pause.extent().is_some());
    }
}

impl Upstream {
    /// Begins or ends PROXY PAUSE.
    pub fn set_paused(&self, paused: bool) {
        self.rt.set_paused(paused);
        for node in self.nodes() {
            node.on_pause_changed();
        }
    }
}
