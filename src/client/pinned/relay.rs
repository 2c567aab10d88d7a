//! Requests, from the client's input to the held connection.

use std::rc::Rc;

use bytes::BytesMut;

use super::expect::{Expect, Payload, Queued};
use super::sticky::Aftermath;
use super::tracking_redirect::to_nobody;
use super::{Pinned, PinnedEvent};
use crate::client::connection::{Client, Closed};
use crate::client::identity::hello::Hello;
use crate::client::identity::login::auth_credentials;
use crate::client::local::wait::bump;
use crate::client::request::{Request, Scanned, strict_integer};
use crate::command::{CommandId, Family, Lookup, Op, token_is};
use crate::resp::{ProtocolError, Scan, encode};
use crate::router::{
    Args, Aside, Effect, Extent, Local, Login, PauseChange, PinReason, PinnedRoute, Relay, pause_change, route_pinned,
};
use crate::session::TransactionGuard;
use crate::telemetry::CloseReason;

/// Commands that one overflow lease carries before the connection goes back in line.
const OVERFLOW_RUN: u32 = 64;
/// Request bytes kept for the upstream before the client is not read any more.
const OUT_AHEAD: usize = 1 << 20;

/// What a scan of the client's input found.
enum NextInput {
    Nothing,
    Relay(Request, Relay),
    /// The server begins to pause when it gets this.
    Pause(Request, Relay),
    /// Does not run on this connection.
    Aside(Request, Aside),
    Invalid(ProtocolError),
}

impl Pinned {
    /// Sends the request for which the connection was borrowed.
    pub(in crate::client) fn begin(&mut self, client: &mut Client, request: Request) {
        // The bytes are in `out` from here on, and count there.
        client.kept = 0;
        let facts = client.facts(self.has_subscriptions());
        let route = route_pinned(&self.node.rt.rules().table, request.lookup(), facts, self.view(), &request);
        // In doubt, the connection is reset afterwards.
        let relay = match route {
            PinnedRoute::Relay(relay) => relay,
            // WAIT is answered here for clients that hold no connection. This one was borrowed to send it all the same.
            _ if self.reason == PinReason::Wait => Relay::Wait,
            _ => Relay::Isolated,
        };
        self.send(client, request, relay);
    }

    /// Sends what the client has, as far as it may; whether anything was done.
    pub(super) fn relay_input(&mut self, client: &mut Client) -> Result<bool, PinnedEvent> {
        let mut relayed = false;
        // As many as are here: a pinned client may pipeline as well.
        while self.may_send(client) {
            match self.next(client) {
                NextInput::Nothing => break,
                NextInput::Invalid(error) => {
                    client.reply_error(&error.text());
                    return Err(PinnedEvent::Closed(Closed(CloseReason::ProtocolError)));
                }
                NextInput::Relay(request, relay) => {
                    relayed = true;
                    self.send(client, request, relay);
                }
                NextInput::Pause(request, relay) => return Err(PinnedEvent::Pause(request, relay)),
                NextInput::Aside(request, Aside::Local(Local::Reset)) => return Err(PinnedEvent::Reset(request)),
                NextInput::Aside(request, aside) => return Err(PinnedEvent::Aside(request, aside)),
            }
        }
        Ok(relayed)
    }

    /// Whether the next request may go upstream: the client keeps the connection or has the rest of an overflow run,
    /// neither the replies owed nor the bytes waiting are too many, and no answer must be seen first.
    pub(super) fn may_send(&self, client: &Client) -> bool {
        let more = !self.sticky().is_empty() || self.reason == PinReason::Overflow && self.relayed < OVERFLOW_RUN;
        let limit = self.node.rt.config().client.inflight_commands;
        more && !client.carry.is_empty()
            && self.expect.len() < limit
            && self.out.len() < OUT_AHEAD
            && !self.expect.back().is_some_and(Expect::is_barrier)
    }

    /// The next whole request and its route; nothing while it must wait for the answers before it.
    fn next(&mut self, client: &mut Client) -> NextInput {
        let shared = Rc::clone(&client.shared);
        // The worker's scanner: the same limits and errors as on the way to a lane.
        let mut scanner = shared.scanner.borrow_mut();
        let limits = client.limits();
        loop {
            match scanner.scan(&client.carry, &mut client.resume, &limits) {
                // Remembered for `read_on`, which then reads as much as one request may have.
                Scan::Incomplete => {
                    self.incomplete = true;
                    return NextInput::Nothing;
                }
                Scan::Empty { len } => drop(client.carry.split_to(len)),
                Scan::Invalid(error) => {
                    self.incomplete = false;
                    // The protocol error is the client's last reply: those before it come first (rule F2).
                    return if self.expect.is_empty() { NextInput::Invalid(error) } else { NextInput::Nothing };
                }
                Scan::Complete { len, canonical } => {
                    self.incomplete = false;
                    // A whole request: the clock for an unfinished one stops.
                    client.outbox().on_whole();
                    if !canonical {
                        client.detect_foreign_protocol(&client.carry);
                    }
                    let scanned = Scanned { scanner: &scanner, buf: &client.carry };
                    let second = (scanned.count() > 1).then(|| scanned.nth(1));
                    let rules = self.node.rt.rules();
                    let lookup = rules.table.lookup(scanned.nth(0), second);
                    // Routed anew for each request, since the reply before may have changed what the connection is to
                    // the client.
                    let facts = client.facts(self.has_subscriptions());
                    let route = route_pinned(&rules.table, lookup, facts, self.view(), &scanned);
                    // A transaction that has begun is carried to its end.
                    if self.node.rt.is_paused() && self.transaction.clean() && route.waits_for_resume() {
                        return NextInput::Nothing;
                    }
                    // Everybody must be ready before the server sees it, so it is not sent in passing.
                    let pauses = matches!(route, PinnedRoute::Relay(relay) if self.pauses(relay, &scanned));
                    // An answer of respmux would overtake the replies that are still owed.
                    let waits = match route {
                        PinnedRoute::Relay(relay) => pauses || waits_for_answers(relay),
                        PinnedRoute::Aside(_) => true,
                    };
                    if waits && !self.expect.is_empty() {
                        return NextInput::Nothing;
                    }
                    // Nothing keeps the connection: the request is left for the client's loop, which answers it
                    // when the connection is given back. To answer it here may take another connection, for the question
                    // whether the client may, and whoever waits for one with one in hand holds up everybody in line.
                    if matches!(route, PinnedRoute::Aside(_)) && self.sticky().is_empty() {
                        return NextInput::Nothing;
                    }
                    let request = Request::take(&scanned, len, canonical, lookup);
                    drop(client.carry.split_to(len));
                    // An empty buffer gives its memory back: clients may stay pinned for long.
                    if client.carry.is_empty() {
                        client.carry = BytesMut::new();
                    }
                    return match route {
                        PinnedRoute::Relay(relay) if pauses => NextInput::Pause(request, relay),
                        PinnedRoute::Relay(relay) => NextInput::Relay(request, relay),
                        PinnedRoute::Aside(aside) => NextInput::Aside(request, aside),
                    };
                }
            }
        }
    }

    /// Whether the server begins to pause when it gets this: everybody must be ready for that first.
    fn pauses(&self, relay: Relay, args: &impl Args) -> bool {
        match relay {
            Relay::Pause => {
                let words: Vec<_> = (1..args.count()).map(|at| args.nth(at)).collect();
                matches!(pause_change(&words), Some(PauseChange::Begun(..)))
            }
            // A CLIENT PAUSE in a transaction takes effect with EXEC.
            Relay::Exec => self.queued_pause().is_some(),
            _ => false,
        }
    }

    /// The strictest pause that EXEC begins.
    pub(in crate::client) fn queued_pause(&self) -> Option<Extent> {
        let extent = |queued: &Queued| match pause_change(&queued.text.split(|byte| *byte == b' ').collect::<Vec<_>>())
        {
            Some(PauseChange::Begun(extent, _)) if queued.effect == Effect::Pause => Some(extent),
            _ => None,
        };
        self.queued.iter().filter_map(extent).max()
    }

    /// Sends what begins a pause. Nothing else is unanswered.
    pub(in crate::client) fn send_pause(&mut self, client: &mut Client, request: Request, relay: Relay) {
        self.send(client, request, relay);
    }

    /// Sends a login that may be looked at. Nothing else is unanswered.
    pub(in crate::client) fn send_login(&mut self, client: &mut Client, request: Request, login: Login) {
        self.send(client, request, Relay::Login(login));
    }

    /// Appends one request and what its answer will mean.
    fn send(&mut self, client: &mut Client, request: Request, relay: Relay) {
        self.relayed += 1;
        // The client goes on.
        self.idle = None;
        let id = request.id();
        let known = matches!(request.lookup(), Lookup::Known(_));
        client.record.command.set(if known { id } else { CommandId::OTHER });
        // WAIT inside the transaction counts on this connection, and what the client wrote before went over others.
        if relay == Relay::Multi {
            self.wrote_before = client.wrote.any();
        }
        // Before it is sent: whether it was executed nobody may ever know.
        client.note_write(id);
        // Decided when it is sent: a CLIENT REPLY behind it must not reach back to its reply.
        let suppressed = client.record.session.borrow_mut().take_suppressed();
        match relay {
            // From the moment on in which it is sent: if the client leaves before the reply, the connection is reset as
            // well.
            Relay::Isolated | Relay::Monitor | Relay::Tracking | Relay::Session => self.becomes(Aftermath::Unproved),
            Relay::Debug => self.becomes(Aftermath::Spent),
            _ => {}
        }
        if matches!(relay, Relay::Subscribe | Relay::Unsubscribe) {
            // One confirmation for each name; without names one for each subscription that there is
            // (docs/design/semantics.md 9.1).
            let arguments = request.count() as u64 - 1;
            let family = self.node.rt.table.spec(id).family;
            self.confirmations = if arguments > 0 { arguments } else { self.subscriptions.of_family(family) };
        }
        let payload = self.payload(client, &request, relay);
        let (arguments, bytes) = (u32::try_from(request.count()).unwrap_or(u32::MAX), request.raw().len() as u64);
        let publishes = relay == Relay::Exec || self.node.rt.table.spec(id).op == Op::Publish;
        // Its message may come back over the hub before the reply does; it is kept until then (rule P7).
        let own = publishes && client.outbox().hub().is_some();
        if own {
            client.outbox().on_own_publish(&self.node.rt.buffers, false);
        }
        match &payload {
            // The server ends the transaction and forgets its watches, and nothing of the body runs.
            Payload::Nil | Payload::Abort => encode::command(&mut self.out, &["DISCARD"]),
            // The WAIT itself is kept in the payload until the write before it was answered (rule W1).
            Payload::Wait(_) => bump(&mut self.out),
            _ if self.node.rt.table.spec(id).op == Op::Tracking => self.out.extend_from_slice(&to_nobody(&request)),
            // Moved, not copied: most requests find an empty buffer.
            _ if self.out.is_empty() => self.out = request.into_raw(),
            _ => self.out.extend_from_slice(request.raw()),
        }
        let at = self.node.rt.now();
        // The first one has waited for the connection; all others are asked for when they are sent.
        let asked = self.asked.take().unwrap_or(at);
        self.expect.push_back(Expect { relay, payload, suppressed, own, id, at, asked, arguments, bytes });
    }

    /// What the reply to this request will need: taken now, because the request's bytes are given away.
    fn payload(&self, client: &Client, request: &Request, relay: Relay) -> Payload {
        match relay {
            Relay::Exec if self.queueing() => self.exec_payload(client),
            Relay::Wait => Payload::Wait(BytesMut::from(request.raw())),
            Relay::Queued(effect @ (Effect::Publish | Effect::ShardPublish)) => {
                Payload::Effect(effect, request.nth(1).to_vec())
            }
            Relay::Queued(Effect::Pause) => {
                Payload::Effect(Effect::Pause, request.args_from(1).collect::<Vec<_>>().join(&b' '))
            }
            Relay::Queued(effect) => Payload::Effect(effect, request.nth(request.count() - 1).to_vec()),
            Relay::Plain if request.count() == 3 && client.must_recount(request.id()) => {
                let sharded = self.node.rt.table.spec(request.id()).family == Family::Shard;
                Payload::Publish(self.node.interest.of_message(request.nth(1), sharded))
            }
            Relay::Select => strict_integer(request.nth(1))
                .and_then(|db| u32::try_from(db).ok())
                .map_or(Payload::None, Payload::Select),
            Relay::Pause => {
                pause_change(&request.args_from(1).collect::<Vec<_>>()).map_or(Payload::None, Payload::Pause)
            }
            Relay::Tracking => Payload::Tracking(token_is(request.nth(2), "ON")),
            Relay::Login(Login::Auth) => Payload::Auth(auth_credentials(request)),
            Relay::Login(Login::Hello) => Hello::parse(request).map_or(Payload::None, Payload::Hello),
            _ => Payload::None,
        }
    }

    /// EXEC must not run what respmux has refused a part of, nor what a lost WATCH should have guarded (rules M6 and
    /// M7).
    fn exec_payload(&self, client: &Client) -> Payload {
        // A body that was refused in part aborts; a broken WATCH gives nil, at which clients try again. Both at once
        // abort, as on a server: whether the server refused a part is looked at when the reply is there.
        let broken = client.record.session.borrow().guard == TransactionGuard::WatchBroken;
        if self.refused {
            Payload::Abort
        } else if broken {
            Payload::Nil
        } else {
            Payload::None
        }
    }
}

/// These are sent, or answered, only when everything before them is answered: their confirmations or local effects
/// must not overtake.
fn waits_for_answers(relay: Relay) -> bool {
    matches!(relay, Relay::Subscribe | Relay::Unsubscribe | Relay::Monitor | Relay::Wait | Relay::Tracking)
}
