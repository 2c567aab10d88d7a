//! respmux' own questions: asked by its tasks, not by a client's, and answered in the order of the lane on which they
//! ride.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::lane::{Lane, NOT_EXECUTED, Owner};
use super::{Answer, LeaseError, Node, Return};
use crate::command::CommandId;
use crate::link::DialError;
use crate::session::RouteKey;

/// Questions of a worker that have no answer yet. Bounded by those who ask: each has one at a time.
#[derive(Default)]
pub struct OwnCommands {
    last: Cell<u64>,
    open: RefCell<HashMap<u64, oneshot::Sender<Answer>>>,
}

/// The question was written and its connection broke: nobody knows whether it was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeUnknown;

impl Node {
    /// Asks `command`, which changes nothing of a connection's state: on the lane of `key`, with the clients who ride
    /// there, or, where all places for lanes are taken, on a connection that is lent for it.
    ///
    /// # Errors
    /// [`OutcomeUnknown`].
    pub(super) async fn ask(self: &Rc<Self>, key: &RouteKey, command: &[u8]) -> Result<Answer, OutcomeUnknown> {
        self.ask_if(key, command, |_| true).await
    }

    /// As [`Node::ask`], if it is `still` wanted when a connection is there: it may have stood in line for that.
    ///
    /// # Errors
    /// [`OutcomeUnknown`].
    pub(super) async fn ask_if(
        self: &Rc<Self>,
        key: &RouteKey,
        command: &[u8],
        still: impl FnOnce(&Self) -> bool,
    ) -> Result<Answer, OutcomeUnknown> {
        if let Ok(lane) = self.lanes.obtain(self, key) {
            return self.own_commands.ask(self, &lane, CommandId::OURS, command).await;
        }
        let lease = match self.rt.pool.lease(self, key).await {
            Ok(lease) => lease,
            // What the handshake was refused with is the answer, as it is on a lane.
            Err(LeaseError::Dial(DialError::Identity(line) | DialError::State(line))) => {
                return Ok(Answer::NotExecuted(line));
            }
            Err(_) => return Ok(Answer::NotExecuted(NOT_EXECUTED.to_vec())),
        };
        if !still(self) {
            lease.give_back(Return::Clean);
            return Ok(Answer::NotExecuted(NOT_EXECUTED.to_vec()));
        }
        lease.ask(command).await.map(Answer::Reply).map_err(|_| OutcomeUnknown)
    }
}

impl OwnCommands {
    /// Sends `command` on `lane` and waits for its whole reply.
    ///
    /// # Errors
    /// [`OutcomeUnknown`].
    async fn ask(&self, node: &Rc<Node>, lane: &Lane, id: CommandId, command: &[u8]) -> Result<Answer, OutcomeUnknown> {
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
