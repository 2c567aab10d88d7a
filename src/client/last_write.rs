//! Where a client wrote last: a WAIT must not be answered from another history than the one that its writes are in
//! (rule W4), and a history that somebody else's connection lost is none of its business.

use crate::upstream::{Lane, LaneHistory, Node};
use std::rc::Rc;

/// The connection of a client's writes, as far as it is known. Moved by the verbs below alone.
#[derive(Default)]
pub(super) struct LastWrite(Option<Place>);

enum Place {
    /// A lane, and how often it had been lost then.
    Lane(Rc<LaneHistory>, u32),
    /// A connection that was there at this time, nanoseconds of the worker's clock.
    Aside(u64),
    /// The connection of some write was lost, or led to another server than that of later writes.
    Lost,
}

impl LastWrite {
    /// A command that may write goes over `lane`. Called for every write that rides: nearly always it is the lane of
    /// the write before, and nothing is to be done.
    #[inline]
    pub(super) fn on_lane(&mut self, node: &Node, lane: &Lane) {
        // Compared by pointer: a lane keeps its history over all its connections.
        if let Some(Place::Lane(history, losses)) = &self.0
            && Rc::ptr_eq(history, lane.history())
            && *losses == history.losses()
        {
            return;
        }
        self.note(node, Place::Lane(Rc::clone(lane.history()), lane.history().losses()));
    }

    /// A command that may write runs on a connection that is no lane.
    pub(super) fn aside(&mut self, node: &Node) {
        self.note(node, Place::Aside(node.rt.now()));
    }

    /// A loss is remembered before the place is overwritten: the next WAIT is about all writes, not about the last one.
    #[cold]
    fn note(&mut self, node: &Node, place: Place) {
        self.0 = Some(if self.is_lost(node) { Place::Lost } else { place });
    }

    /// The client has written something.
    pub(super) fn any(&self) -> bool {
        self.0.is_some()
    }

    /// Something that the client wrote may be missing from what the upstream has now.
    pub(super) fn is_lost(&self, node: &Node) -> bool {
        match &self.0 {
            None => false,
            Some(Place::Lane(history, losses)) => {
                let connected = history.connected();
                history.losses() != *losses || (connected > 0 && !node.is_of_this_server(connected))
            }
            Some(Place::Aside(at)) => !node.is_of_this_server(*at),
            Some(Place::Lost) => true,
        }
    }
}
