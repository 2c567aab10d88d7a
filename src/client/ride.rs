//! The path of a command that rides a lane: what routing may know, the decision, the lane, the place on it.

use std::rc::Rc;

use bytes::BytesMut;

use super::connection::{Client, Halt, Multi, Step};
use super::identity::admission_state::Admission;
use super::request::{Request, Scanned};
use crate::command::{CommandId, Family, Lookup, Op, first_key};
use crate::resp::encode;
use crate::router::{Args, Facts, FreeRoute, PinReason, SubscriptionView, route_free};
use crate::session::{Resp, TransactionGuard};
use crate::telemetry::StallReason;
use crate::upstream::{Carrier, Fingerprint, Lane, Owner, Wants};

/// Why a request cannot ride now.
pub(super) enum CannotRide {
    Wait(Wants),
    /// The budget has no lane for this key: the pool carries the command.
    NoLane,
}

impl Client {
    /// The lane of the client's key. It may be another one than before only when nothing is unanswered (rule I2).
    pub(super) fn current_lane(&mut self) -> Result<Rc<Lane>, CannotRide> {
        // A lane that is retired accepts nothing more; what is on it comes to its end, and the next request begins a
        // new one.
        if let Some(lane) = &self.lane
            && lane.accepting()
        {
            return Ok(Rc::clone(lane));
        }
        // Its replies would come over two lanes, in whatever order those are read (rule I2).
        if self.outbox().pending() > 0 {
            return Err(CannotRide::Wait(Wants::Pending(0)));
        }
        (self.lane, self.on_long_lane) = (None, false);
        let key = self.record.session.borrow().key.clone();
        self.node = self.node();
        let lane = self.node.lanes.obtain(&self.node, &key).map_err(|_| CannotRide::NoLane)?;
        self.lane = Some(Rc::clone(&lane));
        Ok(lane)
    }

    /// As [`Client::current_lane`], for what is no read that may be asked again: not over the lane for long replies
    /// while the server may end that one.
    pub(super) fn main_lane(&mut self) -> Result<Rc<Lane>, CannotRide> {
        if self.on_long_lane && self.node.long_replies.is_guarded() {
            return self.change_lane(false);
        }
        self.current_lane()
    }

    /// As [`Client::current_lane`], but a question that had a long reply lately goes over the lane for those, or over
    /// none.
    #[inline]
    pub(super) fn lane_for(&mut self, id: CommandId, fingerprint: Fingerprint) -> Result<Rc<Lane>, CannotRide> {
        // Nearly always one look at an empty table: nobody had a long reply lately.
        let long = match self.way(id, fingerprint) {
            Carrier::Lane => false,
            Carrier::LongLane => true,
            Carrier::Lease => return Err(CannotRide::NoLane),
        };
        if long == self.on_long_lane {
            return self.current_lane();
        }
        self.change_lane(long)
    }

    /// How a request of this command travels.
    #[inline]
    pub(super) fn way(&self, id: CommandId, fingerprint: Fingerprint) -> Carrier {
        self.node.long_replies.way(fingerprint, || self.rt().table.spec(id).reads_at_length())
    }

    /// Moves the client between its ordinary lane and the one for long replies, if nothing that it has asked is in the
    /// way.
    fn change_lane(&mut self, long: bool) -> Result<Rc<Lane>, CannotRide> {
        if self.outbox().pending() > 0 {
            // Behind its own long replies a short one may stay; a long one must not hold up the other lane. While the
            // server limits replies, what cannot be asked again must not stay.
            let stays = !long && !self.node.long_replies.is_guarded();
            // The short one goes with the long ones, so that its reply keeps its place.
            return if stays { self.current_lane() } else { Err(CannotRide::Wait(Wants::Pending(0))) };
        }
        (self.lane, self.on_long_lane) = (None, false);
        if long {
            let key = self.record.session.borrow().key.clone();
            self.node = self.node();
            self.lane = self.node.lanes.obtain_long(&self.node, &key);
            self.on_long_lane = self.lane.is_some();
        }
        self.current_lane()
    }

    /// Routes one request; rides the lane if that is the route.
    pub(super) fn on_request(&mut self, scanned: &Scanned<'_>, len: usize, canonical: bool) -> Result<(), Halt> {
        if !canonical {
            self.detect_foreign_protocol(scanned.buf);
        }
        // A container needs its second word; the table does not look at it for others.
        let second = (scanned.count() > 1).then(|| scanned.nth(1));
        let rt = Rc::clone(self.rt());
        let rules = rt.rules_ref();
        let lookup = rules.table.lookup(scanned.nth(0), second);
        let route = route_free(&rules.table, lookup, self.facts(false), scanned);
        // One flag for all kinds of pause, so that a request pays one look while there is none.
        let pinned = self.node.is_any_pause();
        if pinned && rt.is_paused() && route.waits_for_resume() {
            return Err(Halt::Stalled(Wants::Nothing));
        }
        // What the server would hold back may not ride: everybody behind it on the lane would wait.
        let aside = pinned && self.steps_aside(route, lookup, scanned);
        if let (true, Lookup::Known(id)) = (route.rides() && !aside, lookup)
            && len <= rules.config.lane.max_command_bytes
            && self.admission == Admission::Admitted
        {
            // The whole way of a command that rides is in this call; everything below is for those that do not.
            match self.ride(id, scanned, len, canonical) {
                Ok(()) => return Ok(()),
                Err(CannotRide::Wait(wants)) => return Err(Halt::Stalled(wants)),
                Err(CannotRide::NoLane) => {}
            }
        }
        // MULTI may ride after all, if the whole transaction is here: only the caller has the input behind it.
        if let (FreeRoute::Pin(PinReason::Transaction), Lookup::Known(id), false) = (route, lookup, aside)
            && self.admission == Admission::Admitted
            && self.record.session.borrow().guard == TransactionGuard::Intact
        {
            return Err(Halt::Multi(Multi { id, len, canonical }));
        }
        self.record.command.set(if let Lookup::Known(id) = lookup { id } else { CommandId::OTHER });
        Err(Halt::Step(Step::Command(Request::take(scanned, len, canonical, lookup), route)))
    }

    /// Puts one request on the client's lane.
    fn ride(&mut self, id: CommandId, scanned: &Scanned<'_>, len: usize, canonical: bool) -> Result<(), CannotRide> {
        let fingerprint = Fingerprint::new(id, if scanned.count() > 1 { scanned.nth(1) } else { &[] });
        let lane = self.lane_for(id, fingerprint)?;
        if !lane.has_room(&self.node, 1, len) {
            self.rt().shard.client_stalls[StallReason::LaneFull].inc();
            lane.wait_for_room(self.outbox().key());
            return Err(CannotRide::Wait(Wants::Nothing));
        }
        // Behind the last reason to stay: a request that waits for room is looked at again, and must not be counted
        // twice.
        self.record.command.set(id);
        self.outbox().asks(fingerprint);
        if canonical {
            self.put_on_lane(&lane, id, &scanned.buf[..len], scanned, self.now);
        } else {
            let mut encoded = BytesMut::new();
            encode::request(&mut encoded, scanned.scanner, scanned.buf);
            self.put_on_lane(&lane, id, &encoded, scanned, self.now);
        }
        // A WAIT asks later which history has the client's writes.
        if self.rt().table.spec(id).write {
            self.wrote.on_lane(&self.node, &lane);
        }
        Ok(())
    }

    /// Appends one request to the lane; says there who gets the reply, and what is to be done with it.
    pub(super) fn put_on_lane(&self, lane: &Lane, id: CommandId, bytes: &[u8], args: &impl Args, now: u64) {
        let (node, key) = (&self.node, self.outbox().key());
        // A countdown of the worker: true for one command in `hotkeys.sample`.
        if node.rt.hotkeys.is_due() {
            self.sample_key(id, args);
        }
        // Before the lane has it: the reply counts it off, and may be read in this very turn.
        self.outbox().on_submitted(bytes.len());
        // The server replies all the same. The slot stays, and the reply is dropped (rule F5).
        if self.record.session.borrow_mut().take_suppressed() {
            lane.submit(node, Owner::Discard(key), id, bytes, now);
        } else if self.must_recount(id) && args.count() == 3 {
            let sharded = node.rt.table.spec(id).family == Family::Shard;
            let by = i32::try_from(node.interest.of_message(args.nth(1), sharded)).unwrap_or(i32::MAX);
            self.outbox().on_own_publish(&node.rt.buffers, false);
            lane.submit(node, Owner::Publish(key, by), id, bytes, now);
        } else {
            lane.submit(node, Owner::Forward(key), id, bytes, now);
        }
    }

    /// Counts the key of a command for PROXY HOTKEYS.
    #[cold]
    fn sample_key(&self, id: CommandId, args: &impl Args) {
        let node = self.node();
        let key = first_key(node.rt.table.spec(id), args.count(), |at| args.nth(at));
        node.rt.hotkeys.sample(self.record.session.borrow().key.db, key);
    }

    /// What routing may know; `here` says that the client's subscriptions are on the connection that it is pinned to.
    pub(super) fn facts(&self, here: bool) -> Facts {
        let authenticated = !matches!(self.admission, Admission::Unauthenticated);
        // One borrow for all facts.
        let session = self.record.session.borrow();
        // Everything here is a look at a field: routing costs no question to anybody.
        let subscriptions = self.subscription_view(session.key.resp, here);
        let debug = !self.node.control.debug_is_local() || self.record.address.is_of_this_machine();
        Facts { authenticated, guard: session.guard, subscriptions, policy: session.policy, debug }
    }

    /// Where routing sees the client's subscriptions. With `here` they are the matter of the connection that it is
    /// pinned to; and `pubsub.resp3 = "exact"` gives a RESP3 client a connection instead of a hub (rule P7).
    fn subscription_view(&self, resp: Resp, here: bool) -> SubscriptionView {
        let rules = self.rt().rules_ref();
        let settings = &rules.config.pubsub;
        match resp {
            Resp::Two if !self.outbox().subscribed().is_empty() => SubscriptionView::Two,
            Resp::Three if !self.outbox().subscribed().is_empty() => SubscriptionView::Three,
            _ if here || !settings.shared || (settings.exact_resp3 && resp == Resp::Three) => SubscriptionView::Off,
            _ => SubscriptionView::Open,
        }
    }

    /// This command's reply has counts that the upstream gets wrong, or its message must come behind its reply.
    pub(super) fn must_recount(&self, id: CommandId) -> bool {
        matches!(self.rt().table.spec(id).op, Op::Publish | Op::Numsub)
            && (self.node().interest.differs() || !self.outbox().subscribed().is_empty())
    }
}
