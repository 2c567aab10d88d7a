//! respmux' own questions on lanes: asked by its tasks, not by a client's, and answered in the lane's order.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::lane::{Lane, Owner};
use super::{Answer, Node};
use crate::command::CommandId;

/// Questions of a worker that have no answer yet. Bounded by those who ask: each has one at a time.
#[derive(Default)]
pub struct OwnCommands {
    last: Cell<u64>,
    open: RefCell<HashMap<u64, oneshot::Sender<Answer>>>,
}

/// The question was written and its connection broke: nobody knows whether it was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeUnknown;

impl OwnCommands {
    /// Sends `command` on `lane` and waits for its whole reply.
    ///
    /// # Errors
    /// [`OutcomeUnknown`].
    pub async fn ask(
        &self,
        node: &Rc<Node>,
        lane: &Lane,
        id: CommandId,
        command: &[u8],
    ) -> Result<Answer, OutcomeUnknown> {
        let number = self.last.get() + 1;
        self.last.set(number);
        let (sender, answer) = oneshot::channel();
        self.open.borrow_mut().insert(number, sender);
        lane.submit(node, Owner::Inner(number), id, command, node.rt.now());
        answer.await.map_err(|_| OutcomeUnknown)
    }

    /// The answer has come. Whoever asked may have left: it is dropped then.
    pub(super) fn answer(&self, number: u64, answer: Answer) {
        if let Some(sender) = self.open.borrow_mut().remove(&number) {
            let _ = sender.send(answer);
        }
    }

    /// The connection broke after the question was written.
    pub(super) fn lose(&self, number: u64) {
        self.open.borrow_mut().remove(&number);
    }
}
