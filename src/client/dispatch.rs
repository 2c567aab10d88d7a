//! Carries out a [`Route`]: the one `match` over it. Everything here happens with no request of the client
//! unanswered (rule I2).

use std::rc::Rc;

use super::admission::Admission;
use super::connection::{Client, Closed};
use super::error_reply;
use super::held::Held;
use super::request::Request;
use super::seat::Hold;
use crate::command::{CommandId, Op, first_key};
use crate::resp::decode;
use crate::router::{Args, Local, PinReason, Refusal, Relay, Route, Switch, is_sharded};
use crate::session::RouteKey;
use crate::telemetry::{CloseReason, RefuseReason};
use crate::upstream::{Answer, LendError, Outbox, Owner, Question, Return, Verdict, Wants, Way};

impl Client {
    /// Everything that is not a ride on the client's own lane.
    pub(super) async fn dispatch(&mut self, request: Request, route: Route) -> Result<(), Closed> {
        self.drained().await?;
        if self.admission == Admission::Unreachable && !Self::is_known_without_upstream(route) {
            return self.on_unreachable(route);
        }
        if let Some(reason) = self.pass_pause(&request, route).await? {
            return self.pin(request, reason).await;
        }
        match route {
            Route::Lane | Route::Publish => self.carry_over(request).await,
            Route::Hub => self.subscribe(request).await,
            Route::Pin(PinReason::Blocking) => self.block(request).await,
            Route::Pin(reason) => self.pin(request, reason).await,
            Route::Fold => self.fold(request).await,
            Route::Switch(switch) => self.switch(request, switch).await,
            Route::Login(login) => self.login(request, login).await,
            Route::Local(Local::Pause) => self.client_pause(&request).await,
            Route::Local(Local::Unpause) => self.client_unpause(request).await,
            Route::Local(local) => self.answer(&request, local).await,
            Route::Refuse(refusal) => {
                self.refuse(&request, refusal);
                Ok(())
            }
            Route::Ask => self.ask(request).await,
            Route::Quit => self.quit(),
            Route::Drop => Err(Closed(CloseReason::CrossProtocol)),
            Route::Relay(_) => unreachable!("only a client that holds a connection is routed to it"),
        }
    }

    /// What is right whoever the client is: also while nobody can be asked.
    fn is_known_without_upstream(route: Route) -> bool {
        match route {
            Route::Quit | Route::Drop => true,
            // It has rules of its own for that time.
            Route::Local(Local::Proxy) => true,
            // The rest of a transaction of which the beginning was refused.
            Route::Local(Local::PoisonedExec | Local::PoisonedDiscard) | Route::Refuse(Refusal::Poisoned) => true,
            _ => false,
        }
    }

    /// The upstream cannot be asked who the client is. What it sent in the same breath may come when it can be again:
    /// a MULTI or WATCH that was refused leaves its mark (rule M6).
    fn on_unreachable(&self, route: Route) -> Result<(), Closed> {
        match route {
            Route::Switch(_) | Route::Login(_) => return Err(self.refuse_switch(error_reply::NOT_EXECUTED)),
            Route::Pin(reason) => self.mark_after_failure(reason),
            _ => {}
        }
        self.reply_error(error_reply::NOT_EXECUTED);
        Ok(())
    }

    /// A command that does not run on the held connection. Everything sent before it is answered.
    pub(super) async fn aside(&mut self, held: &mut Held, request: Request, route: Route) -> Result<(), Closed> {
        match route {
            Route::Local(local) => self.answer(&request, local).await,
            Route::Hub => self.subscribe_aside(held, request).await,
            Route::Refuse(refusal) => {
                if refusal == Refusal::InTransaction || held.queueing() {
                    held.on_refused();
                }
                self.refuse(&request, refusal);
                Ok(())
            }
            Route::Quit => {
                self.reply_ok();
                Err(Closed(CloseReason::Quit))
            }
            Route::Drop => Err(Closed(CloseReason::CrossProtocol)),
            Route::Relay(Relay::Login(login)) => self.login_on_held(held, request, login).await,
            Route::Relay(relay @ (Relay::Pause | Relay::Exec)) => self.pause_on_held(held, request, relay).await,
            Route::Lane
            | Route::Publish
            | Route::Relay(_)
            | Route::Pin(_)
            | Route::Fold
            | Route::Switch(_)
            | Route::Login(_)
            | Route::Ask => {
                unreachable!("the router sends what a held connection can carry to it ({:?})", request.nth(0))
            }
        }
    }

    /// A command for a lane that did not ride: too large, or no lane was free.
    async fn carry_over(&mut self, request: Request) -> Result<(), Closed> {
        if request.raw().len() > self.rt().config().lane.max_command_bytes {
            return self.pin(request, PinReason::Large).await;
        }
        let question = Question::new(request.id(), if request.count() > 1 { request.nth(1) } else { &[] });
        if self.way(request.id(), question) == Way::Lent {
            return self.pin(request, PinReason::Large).await;
        }
        loop {
            match self.lane_for(request.id(), question) {
                Err(Hold::NoLane) => {
                    self.rt().shard.lane_overflow.inc();
                    return self.pin(request, PinReason::Overflow).await;
                }
                Err(Hold::Wait(_)) => self.drained().await?,
                Ok(lane) if lane.has_room(&self.node(), 1, request.raw().len()) => {
                    self.submit(&lane, &request);
                    return Ok(());
                }
                Ok(lane) => self.wait_for_room(&lane, request.raw().len()).await?,
            }
        }
    }

    pub(super) async fn wait_for_room(&mut self, lane: &Rc<crate::upstream::Lane>, bytes: usize) -> Result<(), Closed> {
        let (node, key) = (self.node(), self.outbox().key());
        self.wait_for(Wants::Nothing, |_: &Outbox| {
            if lane.has_room(&node, 1, bytes) || !lane.accepting() {
                return Some(());
            }
            lane.wait_for_room(key);
            None
        })
        .await
    }

    fn submit(&mut self, lane: &crate::upstream::Lane, request: &Request) {
        let now = self.rt().now();
        self.put_on_lane(lane, request.id(), request.raw(), request, now);
        if self.rt().table.spec(request.id()).write {
            self.note_write_on(lane);
        }
    }

    /// Appends one request to the lane; says there who gets the reply, and what is to be done with it.
    pub(super) fn put_on_lane(
        &self,
        lane: &crate::upstream::Lane,
        id: CommandId,
        bytes: &[u8],
        args: &impl Args,
        now: u64,
    ) {
        let (node, key) = (&self.node, self.outbox().key());
        if node.rt.hotkeys.is_due() {
            self.sample_key(id, args);
        }
        self.outbox().on_submitted(bytes.len());
        if self.profile.session.borrow_mut().take_suppressed() {
            lane.submit(node, Owner::Discard(key), id, bytes, now);
        } else if self.must_recount(id) && args.count() == 3 {
            let sharded = is_sharded(&node.rt.table.spec(id).name);
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
        node.rt.hotkeys.sample(self.profile.session.borrow().key.db, key);
    }

    /// The table does not list this name: the upstream says what it is (rule L5).
    async fn ask(&mut self, request: Request) -> Result<(), Closed> {
        let node = self.node();
        match node.unknowns.verdict(&node.control, request.nth(0)).await {
            Verdict::Lane => self.carry_over(request).await,
            Verdict::Isolated => self.pin(request, PinReason::Isolated).await,
        }
    }

    fn quit(&self) -> Result<(), Closed> {
        self.reply_ok();
        Err(Closed(CloseReason::Quit))
    }

    /// An error of respmux's own, instead of the command.
    pub(super) fn refuse(&self, request: &Request, refusal: Refusal) {
        let node = self.node();
        let reason = match refusal {
            Refusal::NotAuthenticated => RefuseReason::Auth,
            Refusal::Denied => RefuseReason::Denied,
            Refusal::UnknownSubcommand | Refusal::UnknownCommand | Refusal::WrongArity(_) => {
                RefuseReason::UnknownSubcommand
            }
            Refusal::NotSupported | Refusal::Debug | Refusal::Module | Refusal::ScriptDebug => {
                RefuseReason::Unsupported
            }
            Refusal::InTransaction | Refusal::Poisoned | Refusal::Subscribed(_) => RefuseReason::State,
        };
        node.rt.shard.commands_rejected[reason].inc();
        let line = match refusal {
            Refusal::Denied => self.denied(request),
            _ => error_reply::refusal(&node.rt.table, request, refusal, node.scratch.login_first()),
        };
        self.reply_error(&line);
    }

    pub(super) fn denied(&self, request: &Request) -> Vec<u8> {
        let (node, session) = (self.node(), self.profile.session.borrow());
        error_reply::denied(
            &node.rt.table,
            request,
            node.control.flavour(),
            node.rt.rules().policies.name_of(&session.key.identity),
        )
    }

    /// SELECT and its like: the client's next lane is another one. Its twin runs there, so the answer is the
    /// server's own, and the client moves only if that is `+OK`.
    async fn switch(&mut self, request: Request, switch: Switch) -> Result<(), Closed> {
        match switch {
            Switch::Select => self.select(&request).await,
            Switch::Readonly(false) => self.read_write(&request).await,
            Switch::Readonly(true) | Switch::NoTouch => self.switch_mode(&request).await,
            Switch::Hello => self.hello(&request).await,
        }
    }

    async fn select(&mut self, request: &Request) -> Result<(), Closed> {
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
        let key = RouteKey { db, ..self.profile.session.borrow().key.clone() };
        let answer = self.twin(&key, request).await?;
        if matches!(&answer, Answer::NotExecuted(text) if text == error_reply::DB_OUT_OF_RANGE) {
            self.node().on_bad_db(db);
        }
        if self.pass_on_switch(answer)? {
            self.adopt(key);
        }
        Ok(())
    }

    async fn read_write(&mut self, request: &Request) -> Result<(), Closed> {
        let key = RouteKey { readonly: false, ..self.profile.session.borrow().key.clone() };
        let answer = self.twin(&key, request).await?;
        if self.pass_on_switch(answer)? {
            self.adopt(key);
        }
        Ok(())
    }

    /// READONLY and CLIENT NO-TOUCH change a connection where the server knows them: tried on a lent one, so that
    /// a refusal opens no lane.
    async fn switch_mode(&mut self, request: &Request) -> Result<(), Closed> {
        let node = self.node();
        let mut key = self.profile.session.borrow().key.clone();
        let mut lease = match node.rt.pool.lend(&node, &key).await {
            Ok(lease) => lease,
            Err(error) => return self.refuse_lease(PinReason::Session, error),
        };
        let Ok(mut replies) = lease.link().call(request.raw(), 1).await else {
            return Err(Closed(CloseReason::UpstreamLost));
        };
        let reply = replies.swap_remove(0);
        if reply.starts_with(b"-") {
            lease.give_back(Return::Clean);
        } else {
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

    /// Runs `request` where the state is `key` already, so that it changes nothing there.
    pub(super) async fn twin(&mut self, key: &RouteKey, request: &Request) -> Result<Answer, Closed> {
        self.twin_bytes(key, request.id(), request.raw()).await
    }

    /// As [`Client::twin`], for bytes of our own.
    pub(super) async fn twin_bytes(&mut self, key: &RouteKey, id: CommandId, bytes: &[u8]) -> Result<Answer, Closed> {
        let node = self.node();
        if let Ok(lane) = node.lanes.obtain(&node, key) {
            return self.call(&lane, id, bytes).await;
        }
        match node.rt.pool.lend(&node, key).await {
            Ok(mut lease) => match lease.link().call(bytes, 1).await {
                Ok(mut replies) => {
                    lease.give_back(Return::Clean);
                    Ok(Answer::Reply(replies.swap_remove(0)))
                }
                Err(_) => Err(Closed(CloseReason::UpstreamLost)),
            },
            Err(error) => Ok(Answer::NotExecuted(lease_error(PinReason::Overflow, error))),
        }
    }

    /// Gives an answer to the client; whether it was a success.
    pub(super) fn pass_on(&self, answer: Answer) -> bool {
        match answer {
            Answer::Reply(frame) => {
                self.reply(&frame);
                !frame.starts_with(b"-")
            }
            Answer::NotExecuted(line) => {
                self.reply_error(&line);
                false
            }
        }
    }

    /// Gives the client the answer to a command that switches its state; whether it was a success.
    pub(super) fn pass_on_switch(&self, answer: Answer) -> Result<bool, Closed> {
        match answer {
            Answer::NotExecuted(line) if error_reply::is_for_want_of_a_connection(&line) => {
                Err(self.refuse_switch(&line))
            }
            answer => Ok(self.pass_on(answer)),
        }
    }

    /// A SELECT, AUTH or HELLO that nobody could be asked about. Clients pipeline what they mean for the new state
    /// behind it, and no server would run that in the old one: the client is closed behind the answer.
    pub(super) fn refuse_switch(&self, line: &[u8]) -> Closed {
        self.reply_error(line);
        Closed(CloseReason::UpstreamLost)
    }

    /// From here on the client is served by connections in this state.
    pub(super) fn adopt(&mut self, key: RouteKey) {
        self.profile.session.borrow_mut().key = key;
        (self.lane, self.on_big_lane) = (None, false);
    }

    /// No connection could be lent. The marks keep a client safe that ignores errors (rule M6).
    pub(super) fn refuse_lease(&self, reason: PinReason, error: LendError) -> Result<(), Closed> {
        let rejected = match error {
            LendError::Exhausted => RefuseReason::Pool,
            LendError::Dial(_) => RefuseReason::UpstreamDown,
        };
        self.rt().shard.commands_rejected[rejected].inc();
        let line = lease_error(reason, error);
        self.reply_error(&line);
        self.mark_after_failure(reason);
        Ok(())
    }

    fn mark_after_failure(&self, reason: PinReason) {
        let mut session = self.profile.session.borrow_mut();
        session.guard = error_reply::mark_after_failure(reason, session.guard);
    }
}

/// What a client is told whose command found no connection.
fn lease_error(reason: PinReason, error: LendError) -> Vec<u8> {
    use crate::link::DialError;
    match error {
        LendError::Exhausted => error_reply::pool_exhausted(reason).to_vec(),
        LendError::Dial(DialError::Unavailable { .. }) => error_reply::NOT_EXECUTED.to_vec(),
        LendError::Dial(DialError::State(text)) => text,
        LendError::Dial(DialError::Identity(text)) if text.starts_with(b"NOAUTH") => {
            b"NOAUTH Authentication required.".to_vec()
        }
        LendError::Dial(DialError::Identity(_)) => {
            b"ERR respmux could not log in to the upstream, command was not executed".to_vec()
        }
    }
}

/// An integer as servers read it: no sign but a minus, no leading zero, no blank (rule L3).
pub(super) fn strict_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = digits.iter().all(u8::is_ascii_digit) && !digits.is_empty();
    if !plain || (digits.starts_with(b"0") && text != b"0") {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A reply decoded, if it is no error.
pub(super) fn success(frame: &[u8]) -> Option<crate::resp::Value> {
    if frame.starts_with(b"-") { None } else { decode(frame) }
}

#[cfg(test)]
mod tests {
    use super::strict_integer;

    #[test]
    fn integers_are_read_as_servers_read_them() {
        assert_eq!(strict_integer(b"0"), Some(0));
        assert_eq!(strict_integer(b"15"), Some(15));
        assert_eq!(strict_integer(b"-1"), Some(-1));
        for bad in [" 1", "1 ", "+1", "01", "", "-", "1.0", "-0", "99999999999999999999", "1\0"] {
            assert_eq!(strict_integer(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
