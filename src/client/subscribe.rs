//! Subscriptions through the hub of the client's identity, and the counts that hubs make wrong
//! (docs/design/semantics.md 9).

use std::rc::Rc;

use bytes::BytesMut;

use super::admission::Admission;
use super::connection::{Client, Closed};
use super::error_reply;
use super::held::Held;
use super::request::Request;
use crate::command::{CommandId, Op};
use crate::resp::{decode, encode};
use crate::router::{self, Args, PinReason, is_sharded};
use crate::session::{Family, Resp};
use crate::upstream::HiddenSubscribers;
use crate::upstream::{Answer, Hub, NoHub, Outbox, OutputClass, Subscribe, Wants};

/// Where a subscription is to go.
enum Road {
    Hub(Rc<Hub>),
    /// No hub can be had: a lent connection.
    Lent,
    /// The client was told why not.
    Refused,
}

impl Client {
    /// (P|S)(UN)SUBSCRIBE of a client that holds no connection.
    pub(super) async fn subscribe(&mut self, request: Request) -> Result<(), Closed> {
        loop {
            match self.road(&request).await? {
                Road::Hub(hub) if self.submit_to_hub(&hub, &request) => return self.subscribed(&hub, &request).await,
                Road::Hub(_) => {} // it went away in this moment
                Road::Lent => return self.pin(request, PinReason::Subscribe).await,
                Road::Refused => return Ok(()),
            }
        }
    }

    /// The same while the client holds a connection for something else.
    pub(super) async fn subscribe_aside(&mut self, held: &mut Held, request: Request) -> Result<(), Closed> {
        loop {
            match self.road(&request).await? {
                Road::Hub(hub) if self.submit_to_hub(&hub, &request) => return self.subscribed(&hub, &request).await,
                Road::Hub(_) => {}
                Road::Lent => {
                    held.take_subscriptions();
                    held.begin(self, request);
                    return Ok(());
                }
                Road::Refused => return Ok(()),
            }
        }
    }

    /// Finds the client's hub. One path for all subscriptions of a client (rule P3): after an AUTH as somebody else it
    /// still hears what it has, and may leave it, but cannot add to it.
    async fn road(&mut self, request: &Request) -> Result<Road, Closed> {
        let identity = self.profile.session.borrow().key.identity.clone();
        if let Some(hub) = self.outbox().hub() {
            if *hub.identity() == identity || !self.joins(request) {
                return Ok(Road::Hub(hub));
            }
            self.reply_error(error_reply::SUBSCRIBED_AS_ANOTHER);
            return Ok(Road::Refused);
        }
        let node = self.node();
        let found = tokio::select! {
            biased;
            found = node.hubs.obtain(&node, &identity) => found,
            closed = self.watch(true) => return Err(closed),
        };
        Ok(match found {
            Ok(hub) => Road::Hub(hub),
            Err(NoHub::Lend) => Road::Lent,
            Err(NoHub::Unavailable) => {
                self.reply_error(error_reply::NOT_EXECUTED);
                Road::Refused
            }
        })
    }

    fn joins(&self, request: &Request) -> bool {
        self.rt().table.spec(request.id()).op == Op::Subscribe
    }

    /// Hands the command to the hub; false if that cannot take it any more, and then nothing was done.
    fn submit_to_hub(&self, hub: &Rc<Hub>, request: &Request) -> bool {
        let node = self.node();
        let names: Vec<&[u8]> = request.args_from(1).collect();
        let order = Subscribe {
            joins: self.joins(request),
            family: Family::of_command(&node.rt.table.spec(request.id()).name),
            names: &names,
            resp: self.resp(),
            suppressed: self.profile.session.borrow().reply != crate::session::ReplyMode::On,
            raw: request.raw(),
        };
        let outbox = self.outbox();
        outbox.enter_hub(hub);
        if !hub.submit(&node, outbox, &order) {
            // A client that had subscriptions there is being closed.
            outbox.take_hub(&node.rt.buffers);
            return false;
        }
        node.limit_output(outbox, OutputClass::Pubsub);
        self.profile.command.set(request.id());
        // Confirmations come whatever CLIENT REPLY says (docs/design/semantics.md 9.1), but the command uses up a SKIP.
        self.profile.session.borrow_mut().take_suppressed();
        true
    }

    /// Waits for the last confirmation, or the refusal.
    async fn subscribed(&mut self, hub: &Rc<Hub>, request: &Request) -> Result<(), Closed> {
        let node = self.node();
        let started = node.rt.now();
        self.wait_for(Wants::Nothing, Outbox::take_answer).await?;
        node.answered(request.id(), node.rt.now().saturating_sub(started));
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

    /// What routing may know; `lent` says that the client's subscriptions are on the connection that it holds.
    pub(super) fn facts(&self, held: router::Held, lent: bool) -> router::Facts {
        let authenticated = !matches!(self.admission, Admission::Unauthenticated);
        let session = self.profile.session.borrow();
        let hub = self.hub_view(session.key.resp, lent);
        let debug = !self.node().control.debug_is_local() || self.profile.address.is_of_this_machine();
        router::Facts { authenticated, guard: session.guard, held, hub, policy: session.policy, debug }
    }

    /// How routing sees the client's subscriptions; `lent` says that a connection which it holds has them, or is to.
    fn hub_view(&self, resp: Resp, lent: bool) -> router::Hub {
        let rules = self.rt().look();
        let settings = &rules.config.pubsub;
        match resp {
            Resp::Two if !self.outbox().subscribed().is_empty() => router::Hub::Two,
            Resp::Three if !self.outbox().subscribed().is_empty() => router::Hub::Three,
            _ if lent || !settings.shared || (settings.exact_resp3 && resp == Resp::Three) => router::Hub::Off,
            _ => router::Hub::Open,
        }
    }

    /// This command's reply has counts that the upstream gets wrong, or its message must come behind its reply.
    pub(super) fn must_recount(&self, id: CommandId) -> bool {
        matches!(self.rt().table.spec(id).op, Op::Publish | Op::Numsub)
            && (self.node().interest.differs() || !self.outbox().subscribed().is_empty())
    }

    /// PING of a RESP2 client with subscriptions: the server answers it as if it were a message.
    pub(super) async fn pong(&mut self, request: &Request) -> Result<(), Closed> {
        let key = self.profile.session.borrow().key.clone();
        let answer = self.twin(&key, request).await?;
        if !matches!(&answer, Answer::Reply(frame) if !frame.starts_with(b"-")) {
            self.pass_on(answer);
            return Ok(());
        }
        let mut frame = BytesMut::with_capacity(32);
        encode::array_header(&mut frame, 2);
        encode::bulk(&mut frame, b"pong");
        encode::bulk(&mut frame, request.nth(1));
        self.reply(&frame);
        Ok(())
    }

    /// PUBSUB NUMSUB and SHARDNUMSUB: the upstream's counts, put right.
    pub(super) async fn numsub(&mut self, request: &Request) -> Result<(), Closed> {
        let key = self.profile.session.borrow().key.clone();
        let answer = match self.twin(&key, request).await? {
            Answer::Reply(frame) => {
                let sharded = is_sharded(&self.rt().table.spec(request.id()).name);
                Answer::Reply(renumbered(&self.node().interest, &frame, sharded).to_vec())
            }
            answer @ Answer::NotExecuted(_) => answer,
        };
        self.pass_on(answer);
        Ok(())
    }
}

/// The reply of NUMSUB with the counts of this process' clients; an error stays what it is.
pub(super) fn renumbered(interest: &HiddenSubscribers, frame: &[u8], sharded: bool) -> BytesMut {
    let mut counted = BytesMut::with_capacity(frame.len() + 8);
    let Some(value) = decode(frame).filter(|_| frame.starts_with(b"*")) else {
        counted.extend_from_slice(frame);
        return counted;
    };
    let family = if sharded { Family::Shard } else { Family::Channel };
    let elements = value.as_list().unwrap_or_default();
    encode::array_header(&mut counted, elements.len());
    for pair in elements.chunks(2) {
        let [name, told] = pair else { continue };
        let name = name.as_text().cloned().unwrap_or_default();
        encode::bulk(&mut counted, &name);
        let told = told.as_int().unwrap_or_default();
        encode::integer(&mut counted, told.saturating_add(interest.of_name(family, &name)).max(0));
    }
    counted
}
