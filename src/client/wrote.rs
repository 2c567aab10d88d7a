//! Where a client wrote last: a WAIT must not be answered from another history than the one that its writes are in
//! (rule W4), and a history that somebody else's connection lost is none of its business.

use std::rc::Rc;

use super::connection::Client;
use crate::command::CommandId;
use crate::upstream::{Fate, Lane, Node};

/// What is known of the connection of a client's writes.
pub(super) enum Wrote {
    /// A lane, and how often it had been lost then.
    Lane(Rc<Fate>, u32),
    /// A connection that was there at this time, nanoseconds of the worker's clock.
    Aside(u64),
    /// Of some writes the connection was lost, or led to another server than that of later ones.
    Lost,
}

impl Wrote {
    fn is_lost(&self, node: &Node) -> bool {
        match self {
            Self::Lane(fate, losses) => {
                let connected = fate.connected();
                fate.losses() != *losses || (connected > 0 && !node.is_of_this_server(connected))
            }
            Self::Aside(at) => !node.is_of_this_server(*at),
            Self::Lost => true,
        }
    }
}

impl Client {
    /// A command that may write goes over `lane`.
    #[inline]
    pub(super) fn note_write_on(&mut self, lane: &Lane) {
        if let Some(Wrote::Lane(fate, losses)) = &self.wrote
            && Rc::ptr_eq(fate, lane.fate())
            && *losses == fate.losses()
        {
            return;
        }
        self.note(Wrote::Lane(Rc::clone(lane.fate()), lane.fate().losses()));
    }

    /// `id` runs on a connection that is no lane.
    pub(super) fn note_write(&mut self, id: CommandId) {
        if self.rt().table.spec(id).write {
            self.note(Wrote::Aside(self.rt().now()));
        }
    }

    #[cold]
    fn note(&mut self, wrote: Wrote) {
        let lost = self.has_lost_writes();
        self.wrote = Some(if lost { Wrote::Lost } else { wrote });
    }

    /// Something that it wrote may be missing from what the upstream has now.
    pub(super) fn has_lost_writes(&self) -> bool {
        self.wrote.as_ref().is_some_and(|wrote| wrote.is_lost(&self.node()))
    }
}
