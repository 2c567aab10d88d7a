//! CLIENT UNBLOCK by another client, for one that waits on a lent connection. Until it is answered it would hit whoever
//! waits there, so nobody else is lent that connection meanwhile.

use std::cell::RefCell;
use std::io;

use bytes::BytesMut;

use super::Upstreams;

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Unblocked {
    /// The server's answer.
    Reply(Vec<u8>),
    NotExecuted,
    /// It was sent, and nobody knows.
    Unknown,
}

/// The connections of one worker at which one is aimed, by their upstream ids.
#[derive(Default)]
pub(super) struct Aims {
    under_way: RefCell<Vec<i64>>,
    /// It was sent and may still come. These serve nobody else any more; at most as many as are connected.
    astray: RefCell<Vec<i64>>,
}

impl Aims {
    /// Nobody else may be lent this connection now.
    pub(super) fn is_at(&self, id: i64) -> bool {
        self.under_way.borrow().contains(&id) || self.is_astray(id)
    }

    /// Nobody else may ever be lent it.
    pub(super) fn is_astray(&self, id: i64) -> bool {
        self.astray.borrow().contains(&id)
    }

    fn end(&self, id: i64) {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(position) = under_way.iter().position(|other| *other == id) {
            under_way.swap_remove(position);
        }
    }
}

impl Upstreams {
    /// Runs `request`, a CLIENT UNBLOCK of our connection `id` of that [generation](crate::link::Link::generation). It
    /// is aimed from the first poll on, when the client that it is meant for must be waiting there.
    pub async fn unblock_for_another(&self, id: i64, generation: u64, request: BytesMut) -> Unblocked {
        let aims = &self.pool.aims;
        aims.under_way.borrow_mut().push(id);
        let outcome = match self.control.ask_batch(request, 1, None, Some(generation)).await {
            Ok(mut replies) => Unblocked::Reply(replies.swap_remove(0)),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Unblocked::NotExecuted,
            Err(_) => {
                let mut astray = aims.astray.borrow_mut();
                astray.retain(|other| self.owned.contains(*other));
                astray.push(id);
                Unblocked::Unknown
            }
        };
        aims.end(id);
        outcome
    }
}
