//! What a client hears of a request that gets no reply from the upstream.

use bytes::BytesMut;

use super::in_flight::{Owner, Slot};
use crate::resp::encode;
use crate::telemetry::{CloseReason, Origin, RetryOutcome};
use crate::upstream::client_key::ClientKey;
use crate::upstream::outbox::Answer;
use crate::upstream::{Node, Outbox};

/// Requests from which bytes are never written when the upstream is away are answered with this.
pub(crate) const NOT_EXECUTED: &[u8] = b"LOADING upstream is not available, command was not executed";
/// The answer to a written request that took longer than `client.request_timeout`.
pub(crate) const TOO_LATE: &[u8] =
    b"-ERR upstream did not answer in time, outcome unknown: the command may have been executed\r\n";
/// The answer to a written request whose connection was lost, when the configuration prefers it to a close.
pub(super) const UNKNOWN_OUTCOME: &[u8] = b"-ERR upstream connection lost, the command may have been executed\r\n";

/// What is true of the request.
#[derive(Clone, Copy)]
pub(super) enum Failed<'a> {
    /// Not a byte of it was written: it was not executed, and this error (without the dash) says why.
    NotExecuted(&'a [u8]),
    /// It was written, and nobody knows what became of it. A whole error line.
    Unknown(&'static [u8]),
}

/// Tells whoever waits for the reply to `slot`. Gives the client that has to be flushed for it: the lane notes it, as its
/// state may be borrowed here.
pub(super) fn tell(node: &Node, slot: &Slot, failed: Failed<'_>) -> Option<ClientKey> {
    if let Owner::Inner(number) = slot.owner {
        match failed {
            Failed::NotExecuted(error) => node.own_commands.answer(number, Answer::NotExecuted(error.to_vec())),
            Failed::Unknown(_) => node.own_commands.lose(number),
        }
    }
    let client = slot.owner.client()?;
    node.rt.outboxes.with(client, |outbox| {
        if slot.retried && matches!(failed, Failed::NotExecuted(_)) {
            // This time it was not written, but it was once: "not executed" would be a lie (invariant 5).
            node.rt.shard.retries[RetryOutcome::Lost].inc();
            outbox.close(CloseReason::UpstreamLost);
            return None;
        }
        let touched = tell_client(node, outbox, slot.owner, failed);
        if let Owner::Publish(..) = slot.owner {
            outbox.on_own_publish(&node.rt.buffers, true);
        }
        outbox.on_answered(slot.bytes as usize);
        touched.then_some(client)
    })?
}

/// Whether the client has to be flushed.
fn tell_client(node: &Node, outbox: &Outbox, owner: Owner, failed: Failed<'_>) -> bool {
    match (owner, failed) {
        (Owner::Forward(_) | Owner::Publish(..), Failed::NotExecuted(error)) => {
            let mut line = BytesMut::with_capacity(error.len() + 3);
            encode::error(&mut line, error);
            outbox.push_noted(&node.rt.buffers, &line)
        }
        (Owner::Forward(_) | Owner::Publish(..), Failed::Unknown(line)) => {
            node.rt.shard.error(Origin::Proxy, b"ERR");
            outbox.push_noted(&node.rt.buffers, line)
        }
        (Owner::Call(_), Failed::NotExecuted(error)) => {
            outbox.deliver(Answer::NotExecuted(error.to_vec()));
            false
        }
        // The client's task asked for it and has changed nothing yet; closing is the truthful way out.
        (Owner::Call(_), Failed::Unknown(_)) => {
            outbox.close(CloseReason::UpstreamLost);
            false
        }
        (Owner::Discard(_) | Owner::Orphan | Owner::Inner(_) | Owner::Canary(_) | Owner::Audit, _) => false,
    }
}
