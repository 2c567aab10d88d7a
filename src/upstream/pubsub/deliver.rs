//! Frames of a hub, from bytes to outboxes.

use bytes::BytesMut;

use super::core::HubAction;
use super::frame::{Push, echo, push};
use super::hub::{Hub, HubState};
use crate::resp::{Advance, FrameKind, encode};
use crate::session::{Family, Resp, Subscribed};
use crate::telemetry::{AnomalyReason, Origin};
use crate::upstream::outbox::Answer;
use crate::upstream::{ClientKey, Node};

/// The copy for RESP2 clients keeps no more memory than this, bytes.
const KEPT_BYTES: usize = 1 << 20;

impl Hub {
    /// Delivers `chunk`, just read.
    pub(super) fn on_bytes(&self, node: &Node, chunk: &[u8], now: u64) -> Result<(), AnomalyReason> {
        // Borrowed for the whole chunk: everything that a frame leads to goes to outboxes, none of which calls the hub back.
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.last_progress = now;
        let mut rest = chunk;
        while !rest.is_empty() {
            match state.scanner.advance(rest) {
                Advance::Complete { len, kind } => {
                    let (frame, after) = rest.split_at(len);
                    rest = after;
                    // A frame that lies whole in the read buffer is not copied before the outboxes. A hub has no streaming:
                    // a message goes to many, so it has to be there whole.
                    if state.carry.is_empty() {
                        self.on_frame(node, state, frame, kind, now)?;
                    } else {
                        state.carry.extend_from_slice(frame);
                        let whole = state.carry.split();
                        self.on_frame(node, state, &whole, kind, now)?;
                    }
                }
                Advance::Partial => {
                    state.carry.extend_from_slice(rest);
                    rest = &[];
                }
                Advance::Invalid(_) => return Err(AnomalyReason::ParseError),
            }
        }
        Ok(())
    }

    /// One whole frame: a message, a confirmation, or the reply to a marker PING, which says where an answer ends.
    fn on_frame(
        &self,
        node: &Node,
        state: &mut HubState,
        frame: &[u8],
        kind: FrameKind,
        now: u64,
    ) -> Result<(), AnomalyReason> {
        let outcome = if kind.is_push() {
            match push(frame).ok_or(AnomalyReason::UnexpectedReply)? {
                // Needs no decision, so it passes the core by.
                Push::Message { family, name } => {
                    fan_out(node, state, family, name, frame);
                    return Ok(());
                }
                Push::Confirmation { joined, family, name } => state.core.on_confirmation(joined, family, name),
            }
        } else {
            if kind.is_error() {
                node.rt.shard.error(Origin::Upstream, frame);
            }
            state.core.on_reply(kind.is_error(), echo(frame), now)
        };
        // Also before the connection is given up: what the core decided up to here is true.
        self.carry_out(node, state, frame);
        outcome.map_err(|_| AnomalyReason::UnexpectedReply)
    }

    /// Does what the core has decided; `frame` is what it decided about.
    pub(super) fn carry_out(&self, node: &Node, state: &mut HubState, frame: &[u8]) {
        // The list goes back when it is empty, for its memory.
        let mut actions = std::mem::take(&mut state.core.actions);
        for action in actions.drain(..) {
            match action {
                // Comes before the confirmation of the same name: a PUBLISH that its client sends then counts it.
                HubAction::Count { family, name, by } => node.interest.change(family, &name, by),
                HubAction::Confirm { client, resp, joined, family, name, counts } => {
                    // First the counts: the client's task routes by them as soon as it has read the confirmation.
                    node.rt.outboxes.with(client, |outbox| outbox.count_subscriptions(counts));
                    tell(node, state, client, &confirmation(resp, joined, family, name.as_deref(), counts));
                }
                HubAction::Refuse { client } => tell(node, state, client, frame),
                // An empty answer wakes the client's task; what it is told lies in the outbox before it.
                HubAction::Done { client } => {
                    node.rt.outboxes.with(client, |outbox| outbox.deliver(Answer::Reply(Vec::new())));
                }
            }
        }
        state.core.actions = actions;
    }

    /// Sends every client that has new messages what its socket takes, one call each.
    pub(super) fn flush_touched(&self, node: &Node) {
        let mut touched = std::mem::take(&mut self.state.borrow_mut().touched);
        for client in touched.drain(..) {
            node.rt.outboxes.with(client, |outbox| outbox.flush(&node.rt.buffers));
        }
        self.state.borrow_mut().touched = touched;
    }
}

/// A message, to everybody who hears its channel. The protocols differ in the first byte only.
fn fan_out(node: &Node, state: &mut HubState, family: Family, name: &[u8], frame: &[u8]) {
    let HubState { core, touched, two, .. } = state;
    let listeners = core.registry.listeners(family, name);
    // Made for the first listener that wants it, and at most once for a message.
    two.clear();
    for listener in listeners {
        let bytes: &[u8] = match listener.resp {
            Resp::Three => frame,
            Resp::Two => {
                if two.is_empty() {
                    two.extend_from_slice(frame);
                    two[0] = b'*';
                }
                &*two
            }
        };
        if node.rt.outboxes.with(listener.key, |outbox| outbox.push_message(&node.rt.buffers, bytes)) == Some(true) {
            touched.push(listener.key);
        }
        node.rt.relieve(); // one message, many copies
    }
    node.rt.shard.pubsub_messages.add(listeners.len() as u64);
    // One huge message must not keep its size for ever.
    if two.capacity() > KEPT_BYTES {
        *two = Vec::new();
    }
}

/// Something for one client, which is flushed with all others at the end of the read.
fn tell(node: &Node, state: &mut HubState, client: ClientKey, frame: &[u8]) {
    if node.rt.outboxes.with(client, |outbox| outbox.push_message(&node.rt.buffers, frame)) == Some(true) {
        state.touched.push(client);
    }
}

/// What the server would tell this client: with its own protocol and its own counts, not those of the connection.
fn confirmation(resp: Resp, joined: bool, family: Family, name: Option<&[u8]>, counts: Subscribed) -> BytesMut {
    let mut frame = BytesMut::with_capacity(64);
    encode::push_header(&mut frame, 3, resp.number());
    encode::bulk(&mut frame, family.confirmation(joined).as_bytes());
    match name {
        Some(name) => encode::bulk(&mut frame, name),
        None => encode::null(&mut frame, resp.number()),
    }
    encode::integer(&mut frame, i64::try_from(counts.told(family)).unwrap_or(i64::MAX));
    frame
}
