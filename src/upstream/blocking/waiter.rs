//! One blocked client, as its own task and its wait group see it.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::queue::{Via, WaiterId};
use super::{Node, Outbox, WaitGroup};
use crate::telemetry::CloseReason;

/// How a wait ends.
#[derive(Debug)]
pub enum WaitEnd {
    /// The reply to the client's command, which its task has to pass on.
    Element(Vec<u8>),
    /// The reply went to the client's socket already.
    Served,
    Nil,
    /// This error; with `true` the client is closed behind it.
    Error(Vec<u8>, bool),
    Close(CloseReason),
}

/// CLIENT UNBLOCK for this client.
struct UnblockRequest {
    with_error: bool,
    answer: oneshot::Sender<bool>,
}

/// What a blocked client waits for. Its task is woken by everything that happens to it.
pub struct Wait {
    outbox: Rc<Outbox>,
    /// The client wants replies, so an element may pass its task by.
    direct: bool,
    /// Put by the group, taken by the client's task, or by the waiter that is dropped: then an element goes back.
    end: RefCell<Option<WaitEnd>>,
    /// The first who wants the client unblocked. Answered when it has left, one way or the other.
    asked: RefCell<Option<UnblockRequest>>,
}

impl Wait {
    /// For the client of `outbox`; `direct` says that it wants replies, so that an element may go to its socket without
    /// its task.
    #[must_use]
    pub fn new(outbox: &Rc<Outbox>, direct: bool) -> Rc<Self> {
        Rc::new(Self { outbox: Rc::clone(outbox), direct, end: RefCell::default(), asked: RefCell::default() })
    }

    pub(super) fn put(&self, node: &Node, end: WaitEnd) {
        let end = match end {
            WaitEnd::Element(frame) if self.serve(node, &frame) => WaitEnd::Served,
            end => end,
        };
        *self.end.borrow_mut() = Some(end);
        self.outbox.wake();
    }

    /// Sends an element at once: a wake-up should not wait for the tasks of other clients. Not to a client that is
    /// gone as far as its socket knows: its task finds out, and the element goes back.
    fn serve(&self, node: &Node, frame: &[u8]) -> bool {
        if !self.direct || self.outbox.close_reason().is_some() || self.outbox.peer_is_gone() {
            return false;
        }
        self.outbox.push(&node.rt.buffers, frame);
        self.outbox.flush(&node.rt.buffers);
        self.outbox.close_reason().is_none()
    }

    fn take(&self) -> Option<WaitEnd> {
        self.end.borrow_mut().take()
    }

    /// Somebody wants this client unblocked; `answer` gets whether it was.
    pub fn ask_to_leave(&self, with_error: bool, answer: oneshot::Sender<bool>) {
        let mut asked = self.asked.borrow_mut();
        if asked.is_some() {
            let _ = answer.send(false); // somebody else is first
            return;
        }
        *asked = Some(UnblockRequest { with_error, answer });
        drop(asked);
        self.outbox.wake();
    }

    /// Whether somebody wants it to leave.
    #[must_use]
    pub fn is_asked_to_leave(&self) -> bool {
        self.asked.borrow().is_some()
    }

    /// The client has left without an element, or not; whoever asked learns it. Whether it leaves with an error.
    pub fn left(&self, empty_handed: bool) -> bool {
        let Some(asked) = self.asked.borrow_mut().take() else { return false };
        // Whoever asked may have gone.
        let _ = asked.answer.send(empty_handed);
        asked.with_error && empty_handed
    }
}

/// A client's place in a wait group. Dropping it gives the place up, and an element that was not taken with it.
pub struct Waiter {
    node: Rc<Node>,
    group: Rc<WaitGroup>,
    id: WaiterId,
    wait: Rc<Wait>,
}

impl Waiter {
    pub(super) fn new(node: &Rc<Node>, group: Rc<WaitGroup>, id: WaiterId, wait: Rc<Wait>) -> Self {
        Self { node: Rc::clone(node), group, id, wait }
    }

    /// What others may ask of it.
    #[must_use]
    pub fn wait(&self) -> &Rc<Wait> {
        &self.wait
    }

    /// The end of the wait, when it has come.
    #[must_use]
    pub fn take(&self) -> Option<WaitEnd> {
        self.wait.take()
    }

    /// Time is over: the wait ends with nil as soon as no element can be on its way.
    pub fn leave(&self) {
        self.group.act(&self.node, |machine| machine.leave(self.id));
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.group.waits.borrow_mut().remove(&self.id);
        let (id, untaken) = (self.id, self.wait.take());
        self.group.act(&self.node, |machine| match untaken {
            Some(WaitEnd::Element(element)) => machine.returned(element, Via::Armed),
            Some(_) => {}
            None => machine.gone(id),
        });
    }
}
