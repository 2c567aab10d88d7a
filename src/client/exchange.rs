//! What a client's task does with its outbox: waits for answers, and adds replies of respmux's own behind them.

use std::future::poll_fn;
use std::task::Poll;

use bytes::BytesMut;

use super::connection::{Client, Closed};
use crate::command::CommandId;
use crate::resp::{ProtocolError, encode};
use crate::telemetry::{CloseReason, Origin};
use crate::upstream::{Answer, Lane, Outbox, Owner, Wants};

impl Client {
    /// The client's last reply; its input is ignored from here on (rule F2).
    pub(super) async fn refuse_protocol(&mut self, error: ProtocolError) -> Result<(), Closed> {
        self.drained().await?;
        self.reply_error(&error.text());
        Err(Closed(CloseReason::ProtocolError))
    }

    /// Waits until every request is answered (rule I2); sends meanwhile.
    pub(super) async fn drained(&mut self) -> Result<(), Closed> {
        self.wait_for(Wants::Pending(0), |outbox| (outbox.pending() == 0).then_some(())).await
    }

    /// Waits until `ready` gives something; sends meanwhile.
    pub(super) async fn wait_for<T>(
        &mut self,
        wants: Wants,
        mut ready: impl FnMut(&Outbox) -> Option<T>,
    ) -> Result<T, Closed> {
        self.exhausted = false;
        poll_fn(|cx| {
            let outbox = self.outbox();
            if let Some(reason) = outbox.fate() {
                return Poll::Ready(Err(Closed(reason)));
            }
            if let Poll::Ready(Err(_)) = outbox.poll_flush(cx, &self.rt().buffers) {
                return Poll::Ready(Err(Closed(CloseReason::IoError)));
            }
            if let Some(value) = ready(outbox) {
                return Poll::Ready(Ok(value));
            }
            outbox.await_with(cx, wants);
            Poll::Pending
        })
        .await
    }

    /// Sends `command` on `lane` and waits for its whole reply. Nothing else may be unanswered.
    pub(super) async fn call(&mut self, lane: &Lane, id: CommandId, command: &[u8]) -> Result<Answer, Closed> {
        let node = self.node();
        self.outbox().on_submitted(command.len());
        lane.submit(&node, Owner::Call(self.outbox().key()), id, command, node.rt.now());
        self.wait_for(Wants::Nothing, Outbox::take_answer).await
    }

    /// Puts one reply of respmux's own behind everything before it; dropped if the client wants no replies.
    pub(super) fn reply(&self, frame: &[u8]) {
        if !self.profile.session.borrow_mut().take_suppressed() {
            self.outbox().push(&self.rt().buffers, frame);
        }
    }

    /// An error of respmux's own.
    pub(super) fn reply_error(&self, line: &[u8]) {
        let mut frame = BytesMut::with_capacity(line.len() + 3);
        encode::error(&mut frame, line);
        self.rt().shard.error(Origin::Proxy, line);
        self.reply(&frame);
    }

    /// `+OK`.
    pub(super) fn reply_ok(&self) {
        self.reply(b"+OK\r\n");
    }
}
