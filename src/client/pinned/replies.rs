//! Replies and messages, from the held connection to the client.

use bytes::BytesMut;

use super::Pinned;
use super::expect::{Expect, Payload, Queued};
use super::sticky::{Aftermath, Sticky};
use super::subscriptions::Frame;
use crate::client::connection::{Client, Closed};
use crate::client::error_reply;
use crate::client::identity::hello::{Hello, patch_id};
use crate::client::local::pubsub::renumbered;
use crate::command::ReplyMask;
use crate::config::Integrity;
use crate::link::Use;
use crate::resp::{Advance, FrameKind, decode, element_ranges, encode};
use crate::router::{Effect, Relay, pause_change};
use crate::session::{Identity, ReplyShape, Resp, TransactionGuard};
use crate::telemetry::{AnomalyReason, CloseReason, UpstreamCloseReason};
use crate::upstream::{OutputClass, Slow, recounted};

impl Pinned {
    /// Gives what was read to the client, frame by frame.
    pub(super) fn on_bytes(&mut self, client: &mut Client, chunk: &[u8]) -> Result<(), Closed> {
        let mut rest = chunk;
        while !rest.is_empty() {
            // A read may end anywhere: in the middle of a frame, or behind several.
            match self.scanner.advance(rest) {
                Advance::Complete { len, kind } => {
                    let (piece, after) = rest.split_at(len);
                    rest = after;
                    self.on_end(client, piece, kind)?;
                }
                Advance::Partial => {
                    self.on_piece(client, rest)?;
                    rest = &[];
                }
                Advance::Invalid(_) => return Err(self.distrust(AnomalyReason::ParseError, None)),
            }
        }
        Ok(())
    }

    /// The connection is killed, and its client with it (rule I5).
    fn distrust(&mut self, reason: AnomalyReason, first_byte: Option<u8>) -> Closed {
        self.becomes(Aftermath::Broken);
        self.spoil(UpstreamCloseReason::Anomaly);
        self.node.rt.shard.anomaly(Use::Pool, reason);
        self.node.on_connection_lost();
        // For the log, so that the line can be found in what the server says.
        let connection = self.lease.as_mut().and_then(|lease| lease.link().client()).map_or(0, |client| client.id);
        let command = self.node.rt.command_name(self.expect.front().map(|expect| expect.id));
        // What can be said without showing data: how the reply begins, how many are owed, why the client was pinned.
        let reply = first_byte.map_or('?', char::from);
        tracing::error!(upstream = %self.node.address(), connection, %reason, command, %reply, owed = self.expect.len(),
            pinned = ?self.reason, clients = 1,
            "pinned connection killed: its replies cannot be trusted; its client is closed");
        Closed(CloseReason::UpstreamAnomaly)
    }

    /// Whether a reply to the oldest request can begin with `byte`. The client may change the connection's protocol, so
    /// both protocols count; with subscriptions a PING is answered in a form of its own.
    fn fits(&self, byte: u8) -> bool {
        let Some(expect) = self.expect.front() else { return false };
        if self.node.rt.config().integrity == Integrity::Loose || self.unstoppable() {
            return true;
        }
        // What was sent is not always what the client asked.
        let own = match &expect.payload {
            // Sent in its place.
            Payload::Nil | Payload::Abort => ReplyMask::STATUS,
            Payload::Wait(_) => ReplyMask::of(b":"),
            _ => self.node.rt.table.spec(expect.id).replies.either(),
        };
        // +QUEUED, whatever the command's own reply would be.
        own.allows(byte) || (byte == b'+' && self.transaction.queueing())
    }

    /// Bytes in the middle of a frame: passed on, unless it must be seen whole.
    fn on_piece(&mut self, client: &Client, piece: &[u8]) -> Result<(), Closed> {
        // Kept only when it must be: a long reply passes piece by piece, and costs no memory here.
        if !self.streaming && self.needs_whole(self.scanner.kind()) {
            self.partial.extend_from_slice(piece);
            return Ok(());
        }
        if let Some(byte) = self.scanner.kind().filter(|byte| !self.streaming && !self.fits(*byte)) {
            return Err(self.distrust(AnomalyReason::WrongType, Some(byte)));
        }
        // From here on the frame belongs to the client; nothing can be said in the middle of it.
        self.streaming = true;
        if self.expect.front().is_some_and(|expect| !expect.suppressed) {
            client.outbox().on_reply_part(&self.node.rt.buffers, false);
            client.outbox().push(&self.node.rt.buffers, piece);
        }
        Ok(())
    }

    /// Frames that may be messages, confirmations or MONITOR lines, and replies that are changed on their way.
    fn needs_whole(&self, kind: Option<u8>) -> bool {
        let Some(kind) = kind else { return true };
        let head_changes = self.expect.front().is_none_or(|expect| match &expect.payload {
            Payload::None | Payload::Select(_) | Payload::Tracking(_) | Payload::Pause(_) | Payload::Effect(..) => {
                matches!(expect.relay, Relay::Exec) && !self.queued.is_empty()
            }
            Payload::Nil
            | Payload::Abort
            | Payload::Publish(..)
            | Payload::Wait(_)
            | Payload::Auth(_)
            | Payload::Hello(_) => true,
        });
        // A push is a message or a notification, and only its content says which.
        kind == b'>'
            || head_changes
            || self.may_be_pubsub(kind)
            || (self.stuck.has_any(Sticky::MONITOR) && kind == b'+')
    }

    /// In RESP2 messages and confirmations look like any other array.
    fn may_be_pubsub(&self, kind: u8) -> bool {
        kind == b'*' && self.key_resp() == Resp::Two && (self.subscriptions.any() || self.confirmations > 0)
    }

    /// The end of a frame.
    fn on_end(&mut self, client: &mut Client, piece: &[u8], kind: FrameKind) -> Result<(), Closed> {
        let held;
        let frame: &[u8] = if self.partial.is_empty() {
            piece
        } else {
            self.partial.extend_from_slice(piece);
            held = self.partial.split();
            &held
        };
        let streamed = std::mem::take(&mut self.streaming);
        // Out of turn: it answers nothing, so nothing is taken from `expect`.
        if !streamed && self.is_not_a_reply(client, frame, kind) {
            return Ok(());
        }
        if !self.fits(kind.byte()) {
            // Nobody has asked: a reply without a slot (rule I5).
            let reason = if self.expect.is_empty() { AnomalyReason::NoSlot } else { AnomalyReason::WrongType };
            return Err(self.distrust(reason, Some(kind.byte())));
        }
        let Some(expect) = self.expect.pop_front() else { return Ok(()) };
        // -READONLY and its like are news for the node as well.
        if kind.is_error() {
            self.node.on_error_reply(frame);
        }
        self.count(client, &expect);
        let own = expect.own;
        self.on_reply(client, expect, frame, kind);
        if streamed {
            client.outbox().on_reply_part(&self.node.rt.buffers, true);
        }
        if own {
            // Behind the reply: now the client's own message may come (rule P7).
            client.outbox().on_own_publish(&self.node.rt.buffers, true);
        }
        Ok(())
    }

    /// Pushes, messages, confirmations and MONITOR lines go to the client at once; position does not count for them.
    fn is_not_a_reply(&mut self, client: &Client, frame: &[u8], kind: FrameKind) -> bool {
        let monitor_line =
            self.stuck.has_any(Sticky::MONITOR) && kind.byte() == b'+' && frame.get(1).is_some_and(u8::is_ascii_digit);
        let found = if kind.is_push() || self.may_be_pubsub(kind.byte()) {
            decode(frame).map_or(Frame::Other, |value| self.subscriptions.on_frame(&value))
        } else {
            Frame::Other
        };
        if found == Frame::Other && !kind.is_push() && !monitor_line {
            return false;
        }
        client.outbox().push(&self.node.rt.buffers, frame);
        if found == Frame::Confirmation {
            self.on_confirmation(client);
        }
        true
    }

    /// One confirmation of the subscribe command under way; with the last one it is answered.
    fn on_confirmation(&mut self, client: &Client) {
        // Servers give subscribers a limit of their own, and take it back with the last subscription.
        let class = if self.subscriptions.any() { OutputClass::Pubsub } else { OutputClass::Normal };
        self.node.limit_output(client.outbox(), class);
        if self.confirmations == 0 {
            return; // sent by the server itself: a revoked channel, a moved slot
        }
        // The last one takes the request out of `expect`, where it has stood for all of them.
        self.confirmations -= 1;
        if self.confirmations == 0
            && let Some(expect) = self.expect.pop_front()
        {
            self.count(client, &expect);
        }
    }

    /// One command was answered. It was written when it was taken: here nobody else's requests come before it.
    fn count(&self, client: &Client, expect: &Expect) {
        let now = self.node.rt.now();
        let took = now.saturating_sub(expect.at);
        self.node.rt.replied(expect.id, took);
        self.node.answered(expect.id, took);
        if self.node.rt.slowlog.is_slow(now.saturating_sub(expect.asked)) && !expect.blocks() {
            self.node.rt.keep_slow(Slow {
                command: expect.id,
                client: client.outbox().id(),
                asked: expect.asked,
                written: expect.at,
                now,
                arguments: expect.arguments,
                bytes: expect.bytes,
                key: None,
            });
        }
    }

    /// The reply to the oldest request: follow what it changes, then give it to the client.
    fn on_reply(&mut self, client: &mut Client, expect: Expect, frame: &[u8], kind: FrameKind) {
        let reply = match kind.byte() {
            b'-' | b'!' => ReplyShape::Error,
            b'+' => ReplyShape::Ok,
            _ => ReplyShape::Other,
        };
        // Before the reply counts: QUEUED means something else than the reply to the same command outside MULTI.
        let was_queueing = self.transaction.queueing();
        let index = self.transaction.queued();
        // Known only now for a body that came together with its EXEC: its errors were read before this reply.
        let aborted = self.transaction.aborted();
        self.transaction.on_reply(expect.tracked(), reply);
        if matches!(expect.relay, Relay::Subscribe | Relay::Unsubscribe) {
            self.confirmations = 0; // refused: one error for all channels
        }
        match &expect.payload {
            // A login on this connection counts for the throttle like any other.
            Payload::Auth(credentials) => client.on_judged(&credentials.user, frame),
            Payload::Hello(Hello { auth: Some((user, _)), .. }) => client.on_judged(user, frame),
            _ => {}
        }
        // The state first, the reply behind it: the client may act on the reply at once.
        self.on_state(client, &expect, reply, was_queueing);
        match expect.payload {
            // Only queued so far: obeyed when EXEC tells that it was executed.
            Payload::Effect(effect, text) if was_queueing && reply != ReplyShape::Error => {
                self.queued.push(Queued { index, effect, text });
                forward(client, expect.suppressed, frame);
            }
            Payload::Nil if !aborted => {
                let mut nil = BytesMut::new();
                encode::null_array(&mut nil, self.key_resp().number());
                forward(client, expect.suppressed, &nil);
            }
            Payload::Nil | Payload::Abort => {
                let mut line = BytesMut::new();
                encode::error(&mut line, error_reply::EXEC_ABORT);
                forward(client, expect.suppressed, &line);
            }
            Payload::Wait(wait) => self.on_bumped(client, wait, frame, &expect.relay, expect.suppressed, expect.id),
            Payload::Publish(by) => forward(client, expect.suppressed, &recounted(frame, by)),
            Payload::Auth(credentials) if reply == ReplyShape::Ok => {
                // The pool must know whose connection comes back.
                let identity = Identity::user(&credentials.user);
                client.on_login(credentials);
                self.change_key(|key| key.identity = identity.clone());
                forward(client, expect.suppressed, frame);
            }
            Payload::Hello(hello) if reply != ReplyShape::Error => {
                if let Some((user, password)) = hello.auth.clone() {
                    let identity = Identity::user(&user);
                    client.on_login(crate::link::Credentials { user, password });
                    self.change_key(|key| key.identity = identity.clone());
                }
                client.on_hello(&hello);
                let resp = client.resp();
                self.change_key(|key| key.resp = resp);
                forward(client, expect.suppressed, &patch_id(frame, client.outbox().id()));
            }
            _ if expect.relay == Relay::Exec && was_queueing && !self.queued.is_empty() => {
                let patched = self.apply_queued(client, frame);
                forward(client, expect.suppressed, &patched);
            }
            _ => forward(client, expect.suppressed, frame),
        }
    }

    /// What the reply changes in the connection and in the client's virtual state.
    fn on_state(&mut self, client: &Client, expect: &Expect, reply: ReplyShape, was_queueing: bool) {
        match (expect.relay, reply) {
            // A new transaction knows nothing of the one before it.
            (Relay::Multi, ReplyShape::Ok) if !was_queueing => {
                self.queued.clear();
                self.refused = false;
            }
            // EXEC ends it whatever the reply, DISCARD only with +OK (rule M3).
            (Relay::Exec, _) | (Relay::Discard, ReplyShape::Ok) if was_queueing => {
                self.refused = false;
                client.record.session.borrow_mut().guard = TransactionGuard::Intact;
            }
            (Relay::Unwatch, ReplyShape::Ok) if !was_queueing => {
                client.record.session.borrow_mut().guard = TransactionGuard::Intact;
            }
            (Relay::Session, ReplyShape::Ok | ReplyShape::Other) => self.stuck.set(Sticky::SESSION, true),
            (Relay::Monitor, ReplyShape::Ok) if !was_queueing => self.stuck.set(Sticky::MONITOR, true),
            (Relay::Pause, ReplyShape::Ok) if !was_queueing => {
                if let Payload::Pause(change) = expect.payload {
                    client.on_pause_accepted(change);
                }
            }
            (Relay::Tracking, ReplyShape::Ok) => {
                if let Payload::Tracking(on) = expect.payload {
                    // Inside MULTI it is only queued. Whatever its word, tracking is taken to be on.
                    self.stuck.set(Sticky::TRACKING, on || was_queueing);
                }
            }
            (Relay::Select, ReplyShape::Ok) => {
                if let Payload::Select(db) = expect.payload {
                    self.change_key(|key| key.db = db);
                    client.record.session.borrow_mut().key.db = db;
                }
            }
            _ => {}
        }
    }

    /// The bump before a WAIT was answered: only then the WAIT is sent, so that its number can never be about less
    /// than everything this client wrote.
    fn on_bumped(
        &mut self,
        client: &Client,
        wait: BytesMut,
        frame: &[u8],
        relay: &Relay,
        suppressed: bool,
        id: crate::command::CommandId,
    ) {
        debug_assert_eq!(*relay, Relay::Wait);
        if !frame.starts_with(b"-") {
            self.out.extend_from_slice(&wait);
            let at = self.node.rt.now();
            // In front, where the write has stood: this is the reply that the client is owed.
            self.expect.push_front(Expect {
                relay: Relay::Blocking,
                payload: Payload::None,
                suppressed,
                own: false,
                id,
                at,
                asked: at,
                arguments: 0,
                bytes: 0,
            });
            return;
        }
        let refused = frame.starts_with(b"-NOPERM") || frame.starts_with(b"-ERR unknown command");
        if refused {
            let mut line = BytesMut::new();
            encode::error(&mut line, error_reply::WAIT_UNSOUND);
            forward(client, suppressed, &line);
        } else {
            forward(client, suppressed, frame);
        }
    }

    /// Replaces and obeys the elements of EXEC's reply that concern virtual state, in their order
    /// (docs/design/semantics.md 5.4).
    fn apply_queued(&mut self, client: &Client, frame: &[u8]) -> Vec<u8> {
        let queued = std::mem::take(&mut self.queued);
        // No array: nothing was executed, so nothing is obeyed.
        let Some(ranges) = element_ranges(frame) else { return frame.to_vec() };
        let mut patched = Vec::with_capacity(frame.len() + 32);
        let mut copied = 0;
        for entry in &queued {
            let Some(range) = ranges.get(entry.index as usize) else { continue };
            let element = &frame[range.clone()];
            // This one failed inside the transaction: its effect did not come about.
            if element.starts_with(b"-") || element.starts_with(b"!") {
                continue;
            }
            let Some(replacement) = self.obey(client, entry, element) else { continue };
            patched.extend_from_slice(&frame[copied..range.start]);
            patched.extend_from_slice(&replacement);
            copied = range.end;
        }
        patched.extend_from_slice(&frame[copied..]);
        patched
    }

    /// One executed command: changes the virtual state, or gives the element that the client must see instead.
    fn obey(&mut self, client: &Client, entry: &Queued, told: &[u8]) -> Option<BytesMut> {
        let mut element = BytesMut::new();
        let interest = &self.node.interest;
        let mut session = client.record.session.borrow_mut();
        match entry.effect {
            Effect::ClientId => encode::integer(&mut element, i64::try_from(client.outbox().id()).unwrap_or(i64::MAX)),
            Effect::GetName if session.name().is_empty() => encode::null(&mut element, session.key.resp.number()),
            Effect::GetName => encode::bulk(&mut element, session.name()),
            Effect::Publish => return Some(recounted(told, interest.of_message(&entry.text, false))),
            Effect::ShardPublish => return Some(recounted(told, interest.of_message(&entry.text, true))),
            Effect::Numsub => return Some(renumbered(interest, told, false)),
            Effect::ShardNumsub => return Some(renumbered(interest, told, true)),
            // The server counts for this connection: what the client wrote before went over others.
            Effect::Wait if !self.wrote_before => return None,
            Effect::Wait if told.starts_with(b"*") => {
                encode::array_header(&mut element, 2);
                encode::integer(&mut element, 0);
                encode::integer(&mut element, 0);
            }
            Effect::Wait => encode::integer(&mut element, 0),
            Effect::SetName => {
                session.labels_mut().name.clone_from(&entry.text);
                return None;
            }
            Effect::Pause => {
                let words: Vec<_> = entry.text.split(|byte| *byte == b' ').collect();
                if let Some(change) = pause_change(&words) {
                    client.on_pause_accepted(change);
                }
                return None;
            }
            Effect::Select => {
                let db = std::str::from_utf8(&entry.text).ok()?.parse().ok()?;
                session.key.db = db;
                drop(session);
                self.change_key(|key| key.db = db);
                return None;
            }
        }
        Some(element)
    }

    /// The client has changed its own connection; the pool must know what comes back.
    fn change_key(&mut self, change: impl Fn(&mut crate::session::RouteKey)) {
        if let Some(lease) = self.lease.as_mut() {
            change(lease.link().key_mut());
        }
    }
}

fn forward(client: &Client, suppressed: bool, frame: &[u8]) {
    if !suppressed {
        client.outbox().push(&client.rt().buffers, frame);
    }
}
