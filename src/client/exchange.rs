//! What a client's task does with its outbox: waits for answers, and adds replies of respmux's own behind them.

use std::future::poll_fn;
use std::task::Poll;

use bytes::BytesMut;

use super::connection::{Client, Closed};
use super::error_reply;
use super::request::Request;
use crate::command::CommandId;
use crate::resp::{ProtocolError, decode, encode};
use crate::router::PinReason;
use crate::session::RouteKey;
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
        // The loop has stopped in the middle of the input: it looks at the rest before it reads again.
        self.exhausted = false;
        poll_fn(|cx| {
            let outbox = self.outbox();
            // The close first: whoever is killed while it waits gets no further answer.
            if let Some(reason) = outbox.close_reason() {
                return Poll::Ready(Err(Closed(reason)));
            }
            if let Poll::Ready(Err(_)) = outbox.poll_flush(cx, &self.rt().buffers) {
                return Poll::Ready(Err(Closed(CloseReason::IoError)));
            }
            // Behind the flush: what it waits for may be room in its own output.
            if let Some(value) = ready(outbox) {
                return Poll::Ready(Ok(value));
            }
            // Last, when the condition was false: what changes from here on wakes this task.
            outbox.await_with(cx, wants);
            Poll::Pending
        })
        .await
    }

    /// Sends `command` on `lane` and waits for its whole reply. Nothing else may be unanswered.
    pub(super) async fn call(&mut self, lane: &Lane, id: CommandId, command: &[u8]) -> Result<Answer, Closed> {
        let node = self.node();
        // Counted before the lane has it, since the reply counts it off. It comes to this task, not to the socket.
        self.outbox().on_submitted(command.len());
        lane.submit(&node, Owner::Call(self.outbox().key()), id, command, node.rt.now());
        self.wait_for(Wants::Nothing, Outbox::take_answer).await
    }

    /// Puts one reply of respmux's own behind everything before it; dropped if the client wants no replies.
    pub(super) fn reply(&self, frame: &[u8]) {
        // A SKIP is used up by the reply that is left out, not by the command.
        if !self.record.session.borrow_mut().take_suppressed() {
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

    /// Runs `request` where the state is `key` already, so that it changes nothing there.
    pub(super) async fn confirm_on(&mut self, key: &RouteKey, request: &Request) -> Result<Answer, Closed> {
        self.confirm_bytes_on(key, request.id(), request.raw()).await
    }

    /// As [`Client::confirm_on`], for bytes of our own.
    pub(super) async fn confirm_bytes_on(
        &mut self,
        key: &RouteKey,
        id: CommandId,
        bytes: &[u8],
    ) -> Result<Answer, Closed> {
        let node = self.node();
        // The lane is opened if there is none yet. Then what its handshake is refused with is the answer (rule L3).
        if let Ok(lane) = node.lanes.obtain(&node, key) {
            return self.call(&lane, id, bytes).await;
        }
        // All places for lanes are taken: a pinned connection in the same state can tell as well. The command changes
        // nothing there, so nobody has to clean up.
        match node.rt.pool.lease(&node, key).await {
            // It was sent, and where no reply comes nobody knows what became of it (rule I11).
            Ok(lease) => lease.ask(bytes).await.map(Answer::Reply).map_err(|_| Closed(CloseReason::UpstreamLost)),
            Err(error) => Ok(Answer::NotExecuted(error_reply::no_lease(PinReason::Overflow, error))),
        }
    }

    /// Gives an answer to the client; whether it was a success.
    pub(super) fn pass_on(&self, answer: Answer) -> bool {
        match answer {
            Answer::Reply(frame) => {
                self.reply(&frame);
                !frame.starts_with(b"-")
            }
            Answer::NotExecuted(line) => {
                self.reply_error(&line);
                false
            }
        }
    }

    /// Gives the client the answer to a command that switches its state; whether it was a success.
    pub(super) fn pass_on_switch(&self, answer: Answer) -> Result<bool, Closed> {
        match answer {
            Answer::NotExecuted(line) if error_reply::is_for_want_of_a_connection(&line) => {
                Err(self.refuse_switch(&line))
            }
            answer => Ok(self.pass_on(answer)),
        }
    }
}

/// A reply decoded, if it is no error.
pub(super) fn success(frame: &[u8]) -> Option<crate::resp::Value> {
    if frame.starts_with(b"-") { None } else { decode(frame) }
}
