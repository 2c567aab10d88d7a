//! The simplest source of a topology: one server behind one name of the configuration.

use core::net::SocketAddr;

use super::{NodeId, Placement, Role, Topology};

/// Addresses that are remembered; a name that leads to more is not one server's.
const MOST: usize = 64;

/// One server behind one name. Each verb is an event and gives the topology that follows from it, for
/// `upstream::Upstream::apply`.
#[derive(Clone, Debug)]
pub(crate) struct Standalone<A> {
    node: Placement<A>,
}

impl<A: Clone + PartialEq> Standalone<A> {
    /// The server behind `address`, to which nobody has connected yet.
    pub(crate) fn new(address: A) -> Self {
        Self { node: Placement { id: NodeId::ONLY, role: Role::Primary, address, server: 0, rotation: 0 } }
    }

    /// The topology as it is.
    pub(crate) fn topology(&self) -> Topology<A> {
        Topology::new(vec![self.node.clone()])
    }

    /// The configuration names `address` now, which may be the same. `relogin`: by other credentials or another TLS
    /// configuration than before, so connections that stand are not what new ones would be.
    pub(crate) fn on_configured(&mut self, address: A, relogin: bool) -> Topology<A> {
        if self.node.address != address {
            self.node.address = address;
            self.node.server += 1;
        } else if relogin {
            self.node.rotation += 1;
        }
        self.topology()
    }

    /// An operator wants new connections in place of all that stand.
    pub(crate) fn on_reconnect(&mut self) -> Topology<A> {
        self.node.rotation += 1;
        self.topology()
    }

    /// The name leads to another server, found when the one before refused writes.
    pub(crate) fn on_moved(&mut self) -> Topology<A> {
        self.node.server += 1;
        self.topology()
    }
}

/// The addresses to which a node's connections lead, since it moved last.
#[derive(Debug, Default)]
pub(crate) struct PeerAddresses(Vec<SocketAddr>);

impl PeerAddresses {
    /// A connection to `peer` stands; nothing for a unix socket.
    pub(crate) fn on_connected(&mut self, peer: Option<SocketAddr>) {
        if let Some(peer) = peer.filter(|peer| !self.0.contains(peer) && self.0.len() < MOST) {
            self.0.push(peer);
        }
    }

    /// Whether connections have to move because the name leads to `addresses` now, and not any more to one that they
    /// lead to. Those addresses are forgotten: the same finding does not move connections twice.
    pub(crate) fn on_resolved(&mut self, addresses: &[SocketAddr]) -> bool {
        if addresses.is_empty() || self.0.iter().all(|peer| addresses.contains(peer)) {
            return false;
        }
        self.0.retain(|peer| addresses.contains(peer));
        true
    }
}
