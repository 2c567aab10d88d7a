//! Which server a connection leads to, and what that server calls one of its clients. Two servers give out equal client
//! ids, and one server gives them out again when it starts anew: a bare id names nobody.

use crate::topology::NodeId;

/// A server as one worker knows it. Two connections of equal references lead to the same server; the generation is
/// moved by `Dialer::rotate` each time all connections are to be replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ServerRef {
    node: NodeId,
    generation: u32,
}

impl ServerRef {
    /// The server that `node` is before anything has happened to it.
    pub(crate) fn first(node: NodeId) -> Self {
        Self { node, generation: 0 }
    }

    /// The same node after its connections were told to move once more. Wraps after four billion moves, of which only
    /// the last few still have connections.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        Self { generation: self.generation.wrapping_add(1), ..self }
    }

    /// The node.
    pub(crate) fn node(self) -> NodeId {
        self.node
    }

    /// Whether connections to `other`, of the same node, are newer than those to this one.
    pub(crate) fn is_before(self, other: Self) -> bool {
        debug_assert_eq!(self.node, other.node, "generations of two nodes");
        self.generation < other.generation
    }
}

/// A client of a server, by the id that this server gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServerClient {
    pub server: ServerRef,
    pub id: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ids_of_two_servers_are_two_clients() {
        let server = ServerRef::first(NodeId::numbered(1));
        let client = |server| ServerClient { server, id: 7 };
        assert_eq!(client(server), client(server));
        assert_ne!(client(server), client(ServerRef::first(NodeId::numbered(2))));
        assert_ne!(client(server), client(server.next()), "a server that took the first one's place");
        assert!(server.is_before(server.next()) && !server.next().is_before(server));
    }
}
