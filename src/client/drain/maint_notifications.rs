//! CLIENT MAINT_NOTIFICATIONS: which clients want to hear that they are to connect anew, and how they are told. The
//! command and the push are Redis Software's; no open server has them, so nothing of it goes upstream.

use bytes::BytesMut;

use crate::client::connection::Client;
use crate::client::error_reply;
use crate::client::request::Request;
use crate::command::token_is;
use crate::resp::encode;
use crate::router::Args;
use crate::session::{MaintNotifications, Resp};

/// The kinds of address that a client may ask for. There is one address, `drain.endpoint`, and it serves them all: what
/// stock clients do with it is to connect.
const ADDRESSES: [&str; 4] = ["internal-ip", "internal-fqdn", "external-ip", "external-fqdn"];

impl Client {
    /// `CLIENT MAINT_NOTIFICATIONS ON [moving-endpoint-type <type>] | OFF`.
    pub(in crate::client) fn set_notices(&self, request: &Request) {
        let wanted = match wanted(request) {
            Ok(wanted) => wanted,
            Err(line) => return self.reply_error(&line),
        };
        // Refused at once: it could never be told, and would count on it.
        if wanted != MaintNotifications::Off && self.resp() != Resp::Three {
            return self.reply_error(error_reply::NOTICES_NEED_RESP3);
        }
        // Without an address to name, these clients are told so now. A push without one is fatal to some of them (rule
        // O2).
        if wanted == MaintNotifications::Address && self.rt().config().drain.endpoint.is_none() {
            return self.reply_error(error_reply::NO_ENDPOINT);
        }
        self.record.session.borrow_mut().notices = wanted;
        self.reply_ok();
    }

    /// `MOVING <seq> <ttl> <endpoint>`: within `ttl` seconds the client is to be elsewhere. `seq` tells one move from
    /// another, over all replicas: a client that heard of it on one connection does not act again on the next.
    pub(in crate::client) fn push_moving(&self, seq: u64, ttl: u64) {
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        let mut frame = BytesMut::with_capacity(96);
        encode::push_header(&mut frame, 4, 3);
        encode::bulk(&mut frame, b"MOVING");
        encode::integer(&mut frame, number(seq));
        encode::integer(&mut frame, number(ttl));
        match (self.record.session.borrow().notices, &self.rt().config().drain.endpoint) {
            (MaintNotifications::Address, Some(endpoint)) => encode::bulk(&mut frame, endpoint.as_bytes()),
            _ => encode::null(&mut frame, 3),
        }
        // Whatever CLIENT REPLY says: a push is no reply.
        self.outbox().push(&self.rt().buffers, &frame);
    }
}

/// What a request asks for, or the error line.
fn wanted(request: &Request) -> Result<MaintNotifications, Vec<u8>> {
    let (count, mode) = (request.count(), request.nth(2));
    if count < 3 {
        return Err(error_reply::wrong_arity("client|maint_notifications"));
    }
    if token_is(mode, "OFF") && count == 3 {
        return Ok(MaintNotifications::Off);
    }
    if !token_is(mode, "ON") {
        return Err(error_reply::SYNTAX.to_vec());
    }
    if count == 3 {
        return Ok(MaintNotifications::Address);
    }
    if count != 5 || !token_is(request.nth(3), "MOVING-ENDPOINT-TYPE") {
        return Err(error_reply::SYNTAX.to_vec());
    }
    let kind = request.nth(4);
    if token_is(kind, "NONE") {
        Ok(MaintNotifications::NoAddress)
    } else if ADDRESSES.iter().any(|known| kind.eq_ignore_ascii_case(known.as_bytes())) {
        Ok(MaintNotifications::Address)
    } else {
        let expected = "expected internal-ip, internal-fqdn, external-ip, external-fqdn or none";
        Err(format!("ERR Invalid moving-endpoint-type: {expected}").into_bytes())
    }
}
