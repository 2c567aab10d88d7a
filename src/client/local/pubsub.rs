//! What respmux says of subscriptions itself: PING of a RESP2 client that has some, and the counts that hubs make wrong.

use bytes::BytesMut;

use crate::client::connection::{Client, Closed};
use crate::client::request::Request;
use crate::resp::{decode, encode};
use crate::router::Args;
use crate::session::Family;
use crate::upstream::{Answer, HiddenSubscribers};

impl Client {
    /// PING of a RESP2 client with subscriptions: the server answers it as if it were a message.
    pub(super) async fn pong(&mut self, request: &Request) -> Result<(), Closed> {
        // The server must be there, and let the client ping it: then the answer is put in the other form.
        let key = self.record.session.borrow().key.clone();
        let answer = self.confirm_on(&key, request).await?;
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
        let key = self.record.session.borrow().key.clone();
        let answer = match self.confirm_on(&key, request).await? {
            Answer::Reply(frame) => {
                let sharded = self.rt().table.spec(request.id()).family == Family::Shard;
                Answer::Reply(renumbered(&self.node().interest, &frame, sharded).to_vec())
            }
            answer @ Answer::NotExecuted(_) => answer,
        };
        self.pass_on(answer);
        Ok(())
    }
}

/// The reply of NUMSUB with the counts of this process' clients; an error stays what it is.
pub(in crate::client) fn renumbered(interest: &HiddenSubscribers, frame: &[u8], sharded: bool) -> BytesMut {
    let mut counted = BytesMut::with_capacity(frame.len() + 8);
    let Some(value) = decode(frame).filter(|_| frame.starts_with(b"*")) else {
        counted.extend_from_slice(frame);
        return counted;
    };
    let family = if sharded { Family::Shard } else { Family::Channel };
    let elements = value.as_list().unwrap_or_default();
    encode::array_header(&mut counted, elements.len());
    // Names and numbers in turn, in both protocols.
    for pair in elements.chunks(2) {
        let [name, told] = pair else { continue };
        let name = name.as_text().cloned().unwrap_or_default();
        encode::bulk(&mut counted, &name);
        let told = told.as_int().unwrap_or_default();
        // The server counted a moment ago, and clients have come and gone since: the sum may fall below zero.
        encode::integer(&mut counted, told.saturating_add(interest.of_name(family, &name)).max(0));
    }
    counted
}
