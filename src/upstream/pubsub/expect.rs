//! What the upstream still owes to one subscriber connection, in order (rule P11). Pure.
//!
//! A SUBSCRIBE or UNSUBSCRIBE is owed one push for each name, or one error for all; a marker is owed one reply. Pushes
//! are matched by kind and name, errors and markers by position.

use std::collections::VecDeque;
use std::rc::Rc;

use super::registry::Name;
use crate::session::Family;

/// One command that was appended to the connection's output.
#[derive(Debug)]
pub(super) struct Expected<K> {
    /// The client whose command it is a part of; nobody's when respmux sent it for itself.
    pub owner: Option<K>,
    /// The owner wants no error replies (CLIENT REPLY).
    pub suppressed: bool,
    /// The last part of the owner's command.
    pub last: bool,
    /// When it was appended, nanoseconds of the worker's clock.
    pub at: u64,
    pub what: Expectation,
}

/// What it is.
#[derive(Debug)]
pub(super) enum Expectation {
    /// `done` of the names are confirmed.
    Join {
        family: Family,
        names: Vec<Name>,
        done: usize,
    },
    Leave {
        family: Family,
        names: Vec<Name>,
        done: usize,
    },
    /// PING with this text: a place in the stream. Where it is answered the owner stops hearing the names; without any
    /// it is told that it has none.
    Marker {
        nonce: u64,
        family: Family,
        names: Vec<Name>,
    },
}

/// What a confirmation is.
#[derive(Debug)]
pub(super) enum Confirmed<K> {
    /// Owed: to this client, and whether its command is complete with it.
    Owed { owner: Option<K>, complete: bool, name: Name },
    /// An `unsubscribe` that nobody asked for: the server has ended the subscription.
    Unasked,
}

/// Not what is owed: the connection is out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfStep;

/// Everything owed, oldest first. Bounded by the clients: each has one command at a time, and leaves once.
#[derive(Debug)]
pub(super) struct Expectations<K> {
    queue: VecDeque<Expected<K>>,
}

impl<K> Default for Expectations<K> {
    fn default() -> Self {
        Self { queue: VecDeque::new() }
    }
}

impl<K: Copy> Expectations<K> {
    /// A command was appended to the output.
    pub(super) fn push(&mut self, expected: Expected<K>) {
        self.queue.push_back(expected);
    }

    /// Whether the upstream owes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When the oldest command was appended.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.queue.front().map(|expected| expected.at)
    }

    /// The owners of all commands without their confirmations.
    pub(super) fn owners(&self) -> impl Iterator<Item = K> {
        self.queue.iter().filter_map(|expected| expected.owner)
    }

    /// A push about a subscription has come.
    ///
    /// # Errors
    /// A `subscribe` that is not the one that is owed.
    pub(super) fn on_confirmation(
        &mut self,
        joined: bool,
        family: Family,
        name: &[u8],
    ) -> Result<Confirmed<K>, OutOfStep> {
        let unasked = if joined { Err(OutOfStep) } else { Ok(Confirmed::Unasked) };
        let Some(head) = self.queue.front_mut() else { return unasked };
        let (owed, names, done) = match &mut head.what {
            Expectation::Join { family, names, done } => ((true, *family), names, done),
            Expectation::Leave { family, names, done } => ((false, *family), names, done),
            Expectation::Marker { .. } => return unasked,
        };
        let Some(next) = names.get(*done).filter(|next| owed == (joined, family) && next[..] == *name) else {
            return unasked;
        };
        let name = Rc::clone(next);
        *done += 1;
        let (owner, whole) = (head.owner, *done == names.len());
        let complete = whole && head.last;
        if whole {
            self.queue.pop_front();
        }
        Ok(Confirmed::Owed { owner, complete, name })
    }

    /// A reply has come; the command that it ends, which is a marker unless it is an error. `echo` is the reply's text.
    ///
    /// # Errors
    /// Nothing is owed a reply, or another one.
    pub(super) fn on_reply(&mut self, is_error: bool, echo: &[u8]) -> Result<Expected<K>, OutOfStep> {
        let head = self.queue.front().ok_or(OutOfStep)?;
        let fits = match &head.what {
            Expectation::Join { done, .. } | Expectation::Leave { done, .. } => is_error && *done == 0,
            Expectation::Marker { nonce, .. } => is_error || echo == marker_text(*nonce).as_bytes(),
        };
        if fits { self.queue.pop_front().ok_or(OutOfStep) } else { Err(OutOfStep) }
    }
}

/// The text of marker `nonce`.
pub(super) fn marker_text(nonce: u64) -> String {
    format!("respmux-hub-{nonce}")
}
