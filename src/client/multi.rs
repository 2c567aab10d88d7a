//! A transaction that arrives whole rides the lane as one contiguous unit and costs no connection (rule M1).
//!
//! Whether it does depends on how its bytes arrive, so both roads must look the same. They do: every command of a unit
//! has exactly one reply, whatever the server thinks of it, also where MULTI itself is refused.

use std::rc::Rc;

use bytes::BytesMut;

use super::connection::{Client, Flow, Multi, Step};
use super::request::{Request, Scanned};
use super::ride::CannotRide;
use crate::command::Lookup;
use crate::resp::{RequestScanner, Scan, encode};
use crate::router::{Args, FreeRoute, PinReason, UnitPart, unit_part};
use crate::telemetry::StallReason;
use crate::upstream::{Owner, Part, Wants};

/// Size of a unit on a lane, bytes: its commands count against the server's query buffer until EXEC
/// (docs/design/semantics.md 3.4).
const MAX_UNIT: usize = 64 << 10;

/// What was found behind a MULTI.
struct Unit {
    /// Bytes of input, MULTI and EXEC included.
    len: usize,
    /// The input is what goes upstream.
    canonical: bool,
}

impl Client {
    /// MULTI: with its whole transaction behind it, it rides; otherwise the client is lent a connection.
    pub(super) fn on_multi(
        &mut self,
        scanner: &mut RequestScanner,
        buf: &[u8],
        multi: Multi,
    ) -> Result<usize, (usize, Flow)> {
        let shared = Rc::clone(&self.shared);
        // The worker's memory for it, so that a transaction costs no allocation.
        let mut parts = shared.parts.borrow_mut();
        if let Some(unit) = self.look_ahead(scanner, buf, multi, &mut parts) {
            match self.ride_unit(scanner, buf, &unit, &mut parts) {
                Ok(len) => return Ok(len),
                // Nothing was taken out of the input: the whole unit is looked for again.
                Err(CannotRide::Wait(wants)) => return Err((0, Flow::Stalled(wants))),
                // Its commands go to a pinned connection, one by one, as if EXEC were not there yet (rule M2).
                Err(CannotRide::NoLane) => {}
            }
        }
        let Multi { id, len, canonical } = multi;
        // Scanned again, as the request is copied out of the scanner.
        scanner.scan(buf, &mut None, &self.limits()); // the look ahead has left MULTI behind
        self.record.command.set(id);
        let request = Request::take(&Scanned { scanner, buf }, len, canonical, Lookup::Known(id));
        Err((len, Flow::Step(Step::Command(request, FreeRoute::Pin(PinReason::Transaction)))))
    }

    /// Looks ahead of the MULTI at the start of `buf`. `None` when its EXEC is not there yet, or when something in
    /// between needs a connection of its own.
    fn look_ahead(
        &self,
        scanner: &mut RequestScanner,
        buf: &[u8],
        multi: Multi,
        parts: &mut Vec<Part>,
    ) -> Option<Unit> {
        let Multi { id, len, canonical } = multi;
        let mut unit = Unit { len, canonical };
        // What a transaction before it has left.
        parts.clear();
        parts.push(Part { command: id, bytes: len, owner: None });
        let limits = self.limits();
        let (policy, rules) = (self.record.session.borrow().policy, self.rt().rules());
        loop {
            let rest = buf.get(unit.len..)?;
            let (len, canonical) = match scanner.scan(rest, &mut None, &limits) {
                Scan::Complete { len, canonical } => (len, canonical),
                // Bytes that are no command do not go upstream, so the input is not what is sent any more.
                Scan::Empty { len } => {
                    (unit.len, unit.canonical) = (unit.len + len, false);
                    continue;
                }
                // What is wrong with it shows again when it is its turn: what stands before it has replies that go
                // first.
                Scan::Incomplete | Scan::Invalid(_) => return None,
            };
            let args = Scanned { scanner, buf: rest };
            let second = (args.count() > 1).then(|| args.nth(1));
            let lookup = rules.table.lookup(args.nth(0), second);
            // Routed as if by itself: the same policy and the same table as for every request.
            let part = unit_part(&rules.table, lookup, policy, &args);
            unit.len += len;
            unit.canonical &= canonical;
            if unit.len > MAX_UNIT.min(rules.config.lane.max_command_bytes) {
                return None;
            }
            match part {
                UnitPart::Unfit => return None,
                // Their counts are put right in the replies of a connection of its own.
                UnitPart::Body(id) if self.must_recount(id) => return None,
                UnitPart::Body(id) => parts.push(Part { command: id, bytes: len, owner: None }),
                UnitPart::Exec(id) => {
                    parts.push(Part { command: id, bytes: len, owner: None });
                    return Some(unit);
                }
            }
        }
    }

    /// Puts a whole transaction on the client's lane, in one step. Gives the bytes of input that are done with.
    fn ride_unit(
        &mut self,
        scanner: &mut RequestScanner,
        buf: &[u8],
        unit: &Unit,
        parts: &mut [Part],
    ) -> Result<usize, CannotRide> {
        // Never the lane for long replies: a transaction cannot be asked again.
        let lane = self.main_lane()?;
        let node = self.node();
        // Room for all of it, or none of it is sent: a unit that was cut could have others' commands in it (rule M1).
        if !lane.has_room(&node, parts.len(), unit.len) {
            node.rt.shard.client_stalls[StallReason::LaneFull].inc();
            lane.wait_for_room(self.outbox().key());
            return Err(CannotRide::Wait(Wants::Nothing));
        }
        let encoded;
        let bytes = if unit.canonical {
            &buf[..unit.len]
        } else {
            encoded = self.canonical(scanner, &buf[..unit.len], parts);
            &encoded[..]
        };
        let key = self.outbox().key();
        let mut writes = false;
        for part in parts.iter_mut() {
            // CLIENT REPLY counts replies, and each part has one.
            let suppressed = self.record.session.borrow_mut().take_suppressed();
            part.owner = Some(if suppressed { Owner::Discard(key) } else { Owner::Forward(key) });
            self.outbox().on_submitted(part.bytes);
            writes |= node.rt.table.spec(part.command).write;
        }
        if let Some(exec) = parts.last() {
            self.record.command.set(exec.command);
        }
        // In one step, so that nobody's command comes between (rule M1).
        lane.submit_unit(&node, parts, bytes, self.now);
        if writes {
            self.wrote.on_lane(&self.node, &lane);
        }
        node.rt.shard.units.inc();
        Ok(unit.len)
    }

    /// Inline commands and sloppy line ends, written as they go upstream; the parts' sizes follow.
    fn canonical(&self, scanner: &mut RequestScanner, input: &[u8], parts: &mut [Part]) -> BytesMut {
        let mut encoded = BytesMut::with_capacity(input.len());
        let (mut at, mut parts) = (0, parts.iter_mut());
        let limits = self.limits();
        while let Some(rest) = input.get(at..) {
            match scanner.scan(rest, &mut None, &limits) {
                Scan::Empty { len } => at += len,
                Scan::Complete { len, .. } => {
                    let before = encoded.len();
                    encode::request(&mut encoded, scanner, rest);
                    if let Some(part) = parts.next() {
                        part.bytes = encoded.len() - before;
                    }
                    at += len;
                }
                Scan::Incomplete | Scan::Invalid(_) => break, // the end
            }
        }
        encoded
    }
}
