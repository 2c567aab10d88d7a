//! Which servers there are, and where each of them is: a value, compared and replaced as a whole.
//!
//! ```text
//!   configuration, PROXY RECONNECT, a name that was looked up
//!        └─▶ standalone: the next Topology ──▶ upstream::Upstream::apply ──▶ diff ──▶ what each node does
//! ```
//!
//! The router says *what* a command needs ([`Target`]), the topology says *where* that is ([`NodeId`]), and
//! `upstream::Node` has the connections. This room is pure: no sockets, no clock, no metrics. Every source of a
//! topology is a file of its own; there is one, [`standalone`]: one server behind one name. `link` and the rooms
//! above may use it.

mod standalone;
#[cfg(test)]
mod tests;

pub(crate) use standalone::{PeerAddresses, Standalone};

use std::fmt;

/// One server of the upstream, by the place it has in the topology. It keeps its number when its address changes and
/// when another process takes its place: connections belong to a node, not to an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u16);

impl NodeId {
    /// The server of an upstream that has only one.
    pub(crate) const ONLY: Self = Self(0);

    /// The place of the server in lists that have one entry for each.
    pub(crate) fn number(self) -> usize {
        usize::from(self.0)
    }

    /// For tests and for sources that count their servers.
    #[cfg(test)]
    pub(crate) fn numbered(number: u16) -> Self {
        Self(number)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a node is for. A standalone server takes everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
}

/// What a command needs of the node that it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A node that takes any command.
    Any,
}

/// A node as the topology describes it; `A` is what an address is to whoever connects. The two counters only ever grow;
/// each is moved by the source of the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement<A> {
    pub id: NodeId,
    pub role: Role,
    /// Where connections go; a name is resolved at each connect.
    pub address: A,
    /// How often another server was found behind the same address.
    pub server: u64,
    /// How often the connections were to be replaced although the server is the same.
    pub rotation: u64,
}

/// All nodes of an upstream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topology<A> {
    nodes: Vec<Placement<A>>,
}

/// What a node has to do to come from one topology to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change<A> {
    /// The node is new.
    Added(NodeId, A),
    /// The node has another address: nothing that was learnt from the server before is true any more.
    Readdressed(NodeId, A),
    /// The address of the node leads to another server.
    Replaced(NodeId),
    /// The server is the same; its connections are to be replaced.
    Rotated(NodeId),
}

impl<A: Clone + PartialEq> Topology<A> {
    /// A topology of these nodes, each with an id of its own.
    pub(crate) fn new(nodes: Vec<Placement<A>>) -> Self {
        debug_assert!(
            nodes.iter().enumerate().all(|(at, node)| nodes[..at].iter().all(|other| other.id != node.id)),
            "two nodes of one id"
        );
        Self { nodes }
    }

    /// The node `id`, if the topology has it.
    pub(crate) fn node(&self, id: NodeId) -> Option<&Placement<A>> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The node that `target` means; nothing while there is none.
    pub(crate) fn pick(&self, target: Target) -> Option<NodeId> {
        match target {
            Target::Any => self.nodes.iter().find(|node| node.role == Role::Primary).map(|node| node.id),
        }
    }

    /// What has to happen so that `next` holds: at most one change for each node, the one that includes the others.
    ///
    /// No source loses a node yet; the first that can has to bring the change for it.
    pub(crate) fn diff(&self, next: &Self) -> Vec<Change<A>> {
        debug_assert!(self.nodes.iter().all(|node| next.node(node.id).is_some()), "a node that is lost");
        let changes = next.nodes.iter().filter_map(|new| {
            let Some(old) = self.node(new.id) else { return Some(Change::Added(new.id, new.address.clone())) };
            if old.address != new.address {
                Some(Change::Readdressed(new.id, new.address.clone()))
            } else if old.server != new.server {
                Some(Change::Replaced(new.id))
            } else if old.rotation != new.rotation {
                Some(Change::Rotated(new.id))
            } else {
                None
            }
        });
        changes.collect()
    }
}
