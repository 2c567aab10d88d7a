//! Commands after which the client's requests go over another lane: SELECT, READONLY, READWRITE, CLIENT NO-TOUCH,
//! HELLO.

use super::connection::{Client, Closed};
use super::error_reply;
use super::request::{Request, strict_integer};
use crate::command::Op;
use crate::router::{Args, PinReason, Switch};
use crate::session::RouteKey;
use crate::telemetry::CloseReason;
use crate::upstream::{Answer, Return};

impl Client {
    /// SELECT and its like: the client's next lane is another one. The same command runs there, so the answer is the
    /// server's own, and the client moves only if that is `+OK`.
    pub(super) async fn switch(&mut self, request: Request, switch: Switch) -> Result<(), Closed> {
        match switch {
            Switch::Select => self.select(&request).await,
            Switch::Readonly(false) => self.read_write(&request).await,
            Switch::Readonly(true) | Switch::NoTouch => self.switch_mode(&request).await,
            Switch::Hello => self.hello(&request).await,
        }
    }

    async fn select(&mut self, request: &Request) -> Result<(), Closed> {
        // These three errors are the same in all servers, and cost no round trip.
        let Some(index) = strict_integer(request.nth(1)) else {
            self.reply_error(error_reply::NOT_AN_INTEGER);
            return Ok(());
        };
        if i32::try_from(index).is_err() {
            self.reply_error(error_reply::NOT_AN_INT);
            return Ok(());
        }
        let Some(db) = u32::try_from(index).ok().filter(|db| *db < self.node().first_bad_db()) else {
            self.reply_error(error_reply::DB_OUT_OF_RANGE);
            return Ok(());
        };
        // Asked on a lane of that database: there the command changes nothing, and the server says whether it exists.
        let key = RouteKey { db, ..self.record.session.borrow().key.clone() };
        let answer = self.confirm_on(&key, request).await?;
        if matches!(&answer, Answer::NotExecuted(text) if text == error_reply::DB_OUT_OF_RANGE) {
            // Remembered for all: the next client with this number is refused here.
            self.node().on_bad_db(db);
        }
        if self.pass_on_switch(answer)? {
            self.adopt(key);
        }
        Ok(())
    }

    /// READWRITE is asked like SELECT, on a lane in the state that it leads to. That one is an ordinary lane, so there
    /// is nothing to be saved by a lent connection.
    async fn read_write(&mut self, request: &Request) -> Result<(), Closed> {
        let key = RouteKey { readonly: false, ..self.record.session.borrow().key.clone() };
        let answer = self.confirm_on(&key, request).await?;
        if self.pass_on_switch(answer)? {
            self.adopt(key);
        }
        Ok(())
    }

    /// READONLY and CLIENT NO-TOUCH change a connection where the server knows them: tried on a lent one, so that
    /// a refusal opens no lane.
    async fn switch_mode(&mut self, request: &Request) -> Result<(), Closed> {
        let node = self.node();
        let mut key = self.record.session.borrow().key.clone();
        let mut lease = match node.rt.pool.lease(&node, &key).await {
            Ok(lease) => lease,
            Err(error) => return self.refuse_lease(PinReason::Session, error),
        };
        let Ok(mut replies) = lease.link().call(request.raw(), 1).await else {
            return Err(Closed(CloseReason::UpstreamLost));
        };
        let reply = replies.swap_remove(0);
        if reply.starts_with(b"-") {
            // Refused, so the connection is as it was.
            lease.give_back(Return::Clean);
        } else {
            // It was accepted, so the connection is in that mode now, and must be reset.
            lease.give_back(Return::Unknown);
            let no_touch = node.rt.table.spec(request.id()).op == Op::NoTouch;
            if no_touch {
                key.no_touch = request.nth(2).eq_ignore_ascii_case(b"on");
            } else {
                key.readonly = true;
            }
            self.adopt(key);
        }
        self.reply(&reply);
        Ok(())
    }

    /// A SELECT, AUTH, HELLO or CLIENT REPLY that nobody could be asked about. Clients pipeline what they mean for the
    /// new state behind it, and no server would run that in the old one: the client is closed behind the answer.
    pub(super) fn refuse_switch(&self, line: &[u8]) -> Closed {
        self.reply_error(line);
        Closed(CloseReason::UpstreamLost)
    }

    /// Makes `key` the client's: connections in this state serve it from here on.
    /// Only with nothing unanswered: replies of the old lane and of the next one could come in either order (rule I2).
    pub(super) fn adopt(&mut self, key: RouteKey) {
        self.record.session.borrow_mut().key = key;
        (self.lane, self.on_long_lane) = (None, false);
    }
}
