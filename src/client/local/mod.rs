//! Commands that respmux answers itself (docs/design/semantics.md 5.2), with what the server must allow first (rule
//! C1).
//!
//! `dispatch` calls it with nothing unanswered, so that an answer cannot overtake another.

pub(super) mod pubsub;
mod rights;
pub(super) mod wait;

use bytes::BytesMut;

use crate::client::connection::{Client, Closed};
use crate::client::error_reply;
use crate::client::request::Request;
use crate::command::token_is;
use crate::resp::encode;
use crate::router::{Args, Local, PinReason};
use crate::session::{ReplyMode, TransactionGuard, check_info_value, check_name};
use crate::telemetry::CloseReason;
use crate::upstream::Return;

impl Client {
    /// Answers `request` from the client's virtual state.
    pub(in crate::client) async fn answer(&mut self, request: &Request, local: Local) -> Result<(), Closed> {
        // Counted here, as no lane sees it.
        self.rt().shard.command(request.id().0);
        // A server would ask its rules before it answers; here that is a question to it.
        if !self.may_have_answer(request, local).await? {
            return Ok(());
        }
        match local {
            Local::Id => {
                self.answer_id();
                Ok(())
            }
            Local::GetName => {
                self.answer_name();
                Ok(())
            }
            Local::SetName => {
                self.set_name(request);
                Ok(())
            }
            Local::SetInfo => self.set_info(request).await,
            Local::Reply => {
                self.set_reply_mode(request);
                Ok(())
            }
            Local::NoEvict => self.no_evict(request).await,
            // What a server says to a connection that does not track, as in the two cases that follow.
            Local::GetRedir => {
                self.reply(b":-1\r\n");
                Ok(())
            }
            Local::TrackingInfo => {
                self.tracking_info();
                Ok(())
            }
            Local::Caching => {
                // The server looks at the tracking mode before it looks at the word.
                self.reply_error(error_reply::CACHING_WITHOUT_TRACKING);
                Ok(())
            }
            Local::Info => self.client_info(request).await,
            Local::List => self.client_list(request).await,
            Local::Kill => self.client_kill(request).await,
            Local::Unblock => self.client_unblock(request).await,
            Local::MaintNotifications => {
                self.set_notices(request);
                Ok(())
            }
            Local::Numsub => self.numsub(request).await,
            Local::Pong => self.pong(request).await,
            Local::Reset => self.reset().await,
            Local::Proxy => self.proxy(request).await,
            // SCRIPT DEBUG NO: there is nothing that it would end.
            Local::Ok => {
                self.reply_ok();
                Ok(())
            }
            Local::Asking => self.asking(request).await,
            Local::Wait => self.wait(request).await,
            Local::Unwatch | Local::PoisonedExec | Local::PoisonedDiscard => {
                self.end_marked_transaction(local);
                Ok(())
            }
        }
    }

    /// Runs `probe` on the client's lane; passes an error on and says whether there was none.
    pub(in crate::client) async fn permitted(&mut self, probe: &[u8]) -> Result<bool, Closed> {
        let key = self.record.session.borrow().key.clone();
        let answer = self.confirm_bytes_on(&key, crate::command::CommandId::OTHER, probe).await?;
        match &answer {
            crate::upstream::Answer::Reply(frame) if !frame.starts_with(b"-") => Ok(true),
            _ => {
                self.pass_on(answer);
                Ok(false)
            }
        }
    }

    /// As [`Client::permitted`], for commands that act on other clients. An operator who trusts every client may save
    /// the round trip (`client.verify_privileged`).
    pub(in crate::client) async fn may_administer(&mut self, probe: &[u8]) -> Result<bool, Closed> {
        if !self.rt().config().client.verify_privileged {
            return Ok(true);
        }
        self.permitted(probe).await
    }

    /// CLIENT ID: the client's own. Those of connections are never shown, since they are other clients' as well.
    fn answer_id(&self) {
        let mut frame = BytesMut::new();
        encode::integer(&mut frame, i64::try_from(self.outbox().id()).unwrap_or(i64::MAX));
        self.reply(&frame);
    }

    fn answer_name(&self) {
        // Cloned, as the reply itself borrows the session.
        let name = self.record.session.borrow().name().to_vec();
        let mut frame = BytesMut::new();
        if name.is_empty() {
            encode::null(&mut frame, self.resp().number());
        } else {
            encode::bulk(&mut frame, &name);
        }
        self.reply(&frame);
    }

    /// CLIENT SETNAME. It stays here: the upstream connections have names of respmux' own. An empty name clears it.
    fn set_name(&self, request: &Request) {
        let name = request.nth(2).to_vec();
        if let Err(line) = check_name(&name) {
            self.reply_error(line.as_bytes());
            return;
        }
        self.record.session.borrow_mut().labels_mut().name = name;
        self.reply_ok();
    }

    /// CLIENT SETINFO. Redis before 7.2 has no such subcommand and says so (docs/design/semantics.md 5.2). A server
    /// that nobody could ask counts as one that has it.
    async fn set_info(&self, request: &Request) -> Result<(), Closed> {
        let node = self.node();
        let flavour = node.control.known_flavour().await;
        if flavour.major != 0 && !flavour.has_setinfo() {
            let line = error_reply::unknown_subcommand("CLIENT", request);
            self.reply_error(&line);
            return Ok(());
        }
        self.set_known_info(request);
        Ok(())
    }

    /// As servers do it, the attribute is judged before its value, and repeated as it was typed.
    fn set_known_info(&self, request: &Request) {
        let (attribute, value) = (request.nth(2), request.nth(3));
        let name = if token_is(attribute, "LIB-NAME") {
            "lib-name"
        } else if token_is(attribute, "LIB-VER") {
            "lib-ver"
        } else {
            let line = [b"ERR Unrecognized option '".as_slice(), attribute, b"'"].concat();
            self.reply_error(&line);
            return;
        };
        if let Err(line) = check_info_value(&String::from_utf8_lossy(attribute), value) {
            self.reply_error(line.as_bytes());
            return;
        }
        {
            // Borrowed in a block of its own, since the reply borrows the session as well.
            let mut session = self.record.session.borrow_mut();
            let labels = session.labels_mut();
            let field = if name == "lib-name" { &mut labels.lib_name } else { &mut labels.lib_version };
            value.clone_into(field);
        }
        self.reply_ok();
    }

    /// CLIENT REPLY: ON answers, OFF and SKIP do not; SKIP while OFF changes nothing (rule F5).
    fn set_reply_mode(&self, request: &Request) {
        let wanted = request.nth(2);
        let mode = self.record.session.borrow().reply;
        // Set when the client was found to speak another protocol: nothing takes that back.
        if mode == ReplyMode::Never {
            return;
        }
        if token_is(wanted, "ON") {
            // Before the answer, which would be dropped otherwise.
            self.record.session.borrow_mut().reply = ReplyMode::On;
            self.reply_ok();
        } else if token_is(wanted, "OFF") {
            self.record.session.borrow_mut().reply = ReplyMode::Off;
        } else if token_is(wanted, "SKIP") {
            // As on a server: SKIP in OFF is forgotten, and the next ON answers again.
            if mode != ReplyMode::Off {
                self.record.session.borrow_mut().reply = ReplyMode::SkipNext;
            }
        } else {
            self.reply_error(error_reply::SYNTAX);
        }
    }

    /// CLIENT NO-EVICT: respmux leaves this client out when it carries out the server's `maxmemory-clients`.
    async fn no_evict(&mut self, request: &Request) -> Result<(), Closed> {
        // Lanes run with NO-EVICT ON already, so this command changes nothing; its error is the client's.
        let mut probe = BytesMut::new();
        encode::command(&mut probe, &["CLIENT", "NO-EVICT", "ON"]);
        if self.may_administer(&probe).await? {
            // The word is looked at behind the right, as on a server.
            let on = token_is(request.nth(2), "ON");
            if on || token_is(request.nth(2), "OFF") {
                self.outbox().set_no_evict(on);
                self.reply_ok();
            } else {
                self.reply_error(error_reply::SYNTAX);
            }
        }
        Ok(())
    }

    /// CLIENT TRACKINGINFO of a client that does not track. One that does is pinned, and its connection answers.
    fn tracking_info(&self) {
        let resp = self.resp().number();
        let mut frame = BytesMut::new();
        encode::map_header(&mut frame, 3, resp);
        encode::bulk(&mut frame, b"flags");
        encode::set_header(&mut frame, 1, resp);
        encode::bulk(&mut frame, b"off");
        encode::bulk(&mut frame, b"redirect");
        encode::integer(&mut frame, -1);
        encode::bulk(&mut frame, b"prefixes");
        encode::array_header(&mut frame, 0);
        self.reply(&frame);
    }

    /// ASKING: with cluster mode off the server refuses it and changes nothing. Tried on a lent connection, never
    /// on a lane: where it is accepted it is meant for the next command of the same connection.
    async fn asking(&self, request: &Request) -> Result<(), Closed> {
        let node = self.node();
        let key = self.record.session.borrow().key.clone();
        match node.rt.pool.lease(&node, &key).await {
            Err(error) => self.refuse_lease(PinReason::Session, error),
            Ok(mut lease) => {
                let Ok(mut replies) = lease.link().call(request.raw(), 1).await else {
                    return Err(Closed(CloseReason::UpstreamLost));
                };
                let reply = replies.swap_remove(0);
                // Where it was accepted, it would count for the first command of whoever is lent the connection next.
                lease.give_back(if reply.starts_with(b"-") { Return::Clean } else { Return::Unknown });
                self.reply(&reply);
                Ok(())
            }
        }
    }

    /// The end of a transaction that respmux could not give a connection (rule M6).
    fn end_marked_transaction(&self, local: Local) {
        // Whichever of them it is, what the mark guarded against has been prevented.
        self.record.session.borrow_mut().guard = TransactionGuard::Intact;
        match local {
            Local::PoisonedExec => self.reply_error(error_reply::EXEC_ABORT),
            // UNWATCH and DISCARD: there is nothing upstream to be undone.
            _ => self.reply_ok(),
        }
    }
}
