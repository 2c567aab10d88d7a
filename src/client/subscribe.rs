//! Subscriptions through the hub of the client's identity, and the counts that hubs make wrong
//! (docs/design/semantics.md 9).

use std::rc::Rc;

use super::connection::{Client, Closed};
use super::error_reply;
use super::pinned::Pinned;
use super::request::Request;
use crate::command::Op;
use crate::router::PinReason;
use crate::upstream::{Hub, NoHub, Outbox, OutputClass, Subscribe, Wants};

/// Where a subscription is to go.
enum SubscribeVia {
    Hub(Rc<Hub>),
    /// A pinned connection, because no hub can be had.
    Pinned,
    /// The client was told why not.
    Refused,
}

impl Client {
    /// (P|S)(UN)SUBSCRIBE of a client that holds no connection.
    pub(super) async fn subscribe(&mut self, request: Request) -> Result<(), Closed> {
        loop {
            match self.via(&request).await? {
                SubscribeVia::Hub(hub) if self.submit_to_hub(&hub, &request) => {
                    return self.subscribed(&hub, &request).await;
                }
                SubscribeVia::Hub(_) => {} // it went away in this moment
                SubscribeVia::Pinned => return self.pin(request, PinReason::Subscribe).await,
                SubscribeVia::Refused => return Ok(()),
            }
        }
    }

    /// Subscribes while the client is pinned for something else.
    pub(super) async fn subscribe_while_pinned(&mut self, pinned: &mut Pinned, request: Request) -> Result<(), Closed> {
        loop {
            match self.via(&request).await? {
                SubscribeVia::Hub(hub) if self.submit_to_hub(&hub, &request) => {
                    return self.subscribed(&hub, &request).await;
                }
                SubscribeVia::Hub(_) => {}
                SubscribeVia::Pinned => {
                    // On the connection that the client holds, not on one more: its subscriptions must keep one path
                    // (rule P3).
                    pinned.take_subscriptions();
                    pinned.begin(self, request);
                    return Ok(());
                }
                SubscribeVia::Refused => return Ok(()),
            }
        }
    }

    /// Finds the client's hub. One path for all subscriptions of a client (rule P3): after an AUTH as somebody else it
    /// still hears what it has, and may leave it, but cannot add to it.
    async fn via(&mut self, request: &Request) -> Result<SubscribeVia, Closed> {
        let identity = self.record.session.borrow().key.identity.clone();
        if let Some(hub) = self.outbox().hub() {
            if *hub.identity() == identity || !self.joins(request) {
                return Ok(SubscribeVia::Hub(hub));
            }
            self.reply_error(error_reply::SUBSCRIBED_AS_ANOTHER);
            return Ok(SubscribeVia::Refused);
        }
        let node = self.node();
        // The hub may have to connect first; the client can leave meanwhile.
        let found = tokio::select! {
            biased;
            found = node.hubs.obtain(&node, &identity) => found,
            closed = self.watch(true) => return Err(closed),
        };
        Ok(match found {
            Ok(hub) => SubscribeVia::Hub(hub),
            Err(NoHub::UsePinned) => SubscribeVia::Pinned,
            // Nothing was sent, so the client stays as it is and may try again.
            Err(NoHub::Unavailable) => {
                self.reply_error(error_reply::NOT_EXECUTED);
                SubscribeVia::Refused
            }
        })
    }

    /// Whether the command adds subscriptions. One that only ends some concerns the hub that the client is on, whoever
    /// it is by now.
    fn joins(&self, request: &Request) -> bool {
        self.rt().table.spec(request.id()).op == Op::Subscribe
    }

    /// Hands the command to the hub; false if that cannot take it any more, and then nothing was done.
    fn submit_to_hub(&self, hub: &Rc<Hub>, request: &Request) -> bool {
        let node = self.node();
        let names: Vec<&[u8]> = request.args_from(1).collect();
        let order = Subscribe {
            joins: self.joins(request),
            family: node.rt.table.spec(request.id()).family,
            names: &names,
            resp: self.resp(),
            suppressed: self.record.session.borrow().reply != crate::session::ReplyMode::On,
            raw: request.raw(),
        };
        let outbox = self.outbox();
        // Before the command: its confirmation may come in this turn.
        outbox.enter_hub(hub);
        if !hub.submit(&node, outbox, &order) {
            // A client that had subscriptions there is being closed.
            outbox.take_hub(&node.rt.buffers);
            return false;
        }
        // Messages come whether they are read or not: the limit for subscribers counts from the first one on.
        node.limit_output(outbox, OutputClass::Pubsub);
        self.record.command.set(request.id());
        // Confirmations come whatever CLIENT REPLY says (docs/design/semantics.md 9.1), but the command uses up a SKIP.
        self.record.session.borrow_mut().take_suppressed();
        true
    }

    /// Waits for the last confirmation, or the refusal.
    async fn subscribed(&mut self, hub: &Rc<Hub>, request: &Request) -> Result<(), Closed> {
        let node = self.node();
        let started = node.rt.now();
        self.wait_for(Wants::Nothing, Outbox::take_answer).await?;
        node.answered(request.id(), node.rt.now().saturating_sub(started));
        // The last subscription ended, or the first was refused: the client may choose another hub next time.
        if self.outbox().subscribed().is_empty() {
            debug_assert!(self.outbox().hub().is_some_and(|own| Rc::ptr_eq(&own, hub)));
            self.leave_hub();
        }
        Ok(())
    }

    /// Ends all subscriptions on a hub, silently (rule P10).
    pub(super) fn leave_hub(&self) {
        if let Some(hub) = self.outbox().take_hub(&self.rt().buffers) {
            hub.leave(&self.node(), self.outbox().key());
            self.node().limit_output(self.outbox(), OutputClass::Normal);
        }
    }
}
