//! CLIENT MAINT_NOTIFICATIONS: which clients want to hear that they are to connect anew, and how they are told. The
//! command and the push are Redis Software's; no open server has them, so nothing of it goes upstream.

use bytes::BytesMut;

use super::connection::Client;
use super::error_reply;
use super::request::Request;
use crate::command::token_is;
use crate::resp::encode;
use crate::router::Args;
use crate::session::{Notices, Resp};

/// The kinds of address that a client may ask for. There is one address, `drain.endpoint`, and it serves them all: what
/// stock clients do with it is to connect.
const ADDRESSES: [&str; 4] = ["internal-ip", "internal-fqdn", "external-ip", "external-fqdn"];

impl Client {
    /// `CLIENT MAINT_NOTIFICATIONS ON [moving-endpoint-type <type>] | OFF`.
    pub(super) fn set_notices(&self, request: &Request) {
        let wanted = match wanted(request) {
            Ok(wanted) => wanted,
            Err(line) => return self.reply_error(&line),
        };
        if wanted != Notices::Off && self.resp() != Resp::Three {
            return self.reply_error(error_reply::NOTICES_NEED_RESP3);
        }
        if wanted == Notices::Address && self.rt().config().drain.endpoint.is_none() {
            return self.reply_error(error_reply::NO_ENDPOINT);
        }
        self.profile.session.borrow_mut().notices = wanted;
        self.reply_ok();
    }

    /// `MOVING <seq> <ttl> <endpoint>`: within `ttl` seconds the client is to be elsewhere. `seq` tells one move from
    /// another, over all replicas: a client that heard of it on one connection does not act again on the next.
    pub(super) fn push_moving(&self, seq: u64, ttl: u64) {
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        let mut frame = BytesMut::with_capacity(96);
        encode::push_header(&mut frame, 4, 3);
        encode::bulk(&mut frame, b"MOVING");
        encode::integer(&mut frame, number(seq));
        encode::integer(&mut frame, number(ttl));
        match (self.profile.session.borrow().notices, &self.rt().config().drain.endpoint) {
            (Notices::Address, Some(endpoint)) => encode::bulk(&mut frame, endpoint.as_bytes()),
            _ => encode::null(&mut frame, 3),
        }
        // Whatever CLIENT REPLY says: a push is no reply.
        self.outbox().push(&self.rt().buffers, &frame);
    }
}

/// What a request asks for, or the error line.
fn wanted(request: &Request) -> Result<Notices, Vec<u8>> {
    let (count, mode) = (request.count(), request.nth(2));
    if count < 3 {
        return Err(error_reply::wrong_arity("client|maint_notifications"));
    }
    if token_is(mode, "OFF") && count == 3 {
        return Ok(Notices::Off);
    }
    if !token_is(mode, "ON") {
        return Err(error_reply::SYNTAX.to_vec());
    }
    if count == 3 {
        return Ok(Notices::Address);
    }
    if count != 5 || !token_is(request.nth(3), "MOVING-ENDPOINT-TYPE") {
        return Err(error_reply::SYNTAX.to_vec());
    }
    let kind = request.nth(4);
    if token_is(kind, "NONE") {
        Ok(Notices::NoAddress)
    } else if ADDRESSES.iter().any(|known| kind.eq_ignore_ascii_case(known.as_bytes())) {
        Ok(Notices::Address)
    } else {
        let expected = "expected internal-ip, internal-fqdn, external-ip, external-fqdn or none";
        Err(format!("ERR Invalid moving-endpoint-type: {expected}").into_bytes())
    }
}
