//! Carries out a [`FreeRoute`]: the one `match` over it. Everything here happens with no request of the client
//! unanswered (rule I2).

use super::connection::{Client, Closed};
use super::error_reply;
use super::identity::admission_state::Admission;
use super::request::Request;
use super::ride::CannotRide;
use crate::router::{Args, FreeRoute, Local, PinReason, Refusal};
use crate::session::Flavour;
use crate::telemetry::{CloseReason, RefuseReason};
use crate::upstream::{Carrier, Fingerprint, Outbox, Verdict, Wants};
use std::rc::Rc;

impl Client {
    /// Everything that is not a ride on the client's own lane.
    pub(super) async fn dispatch(&mut self, request: Request, route: FreeRoute) -> Result<(), Closed> {
        // Nothing of the client may be unanswered: what is answered aside would overtake it (rule I2).
        self.drained().await?;
        if self.admission == Admission::Unreachable && !Self::is_known_without_upstream(route) {
            return self.on_unreachable(route);
        }
        // May wait for as long as the server is paused; the client can leave meanwhile.
        if let Some(reason) = self.pass_pause(&request, route).await? {
            return self.pin(request, reason).await;
        }
        match route {
            // It would ride and did not: it is too large, a pause had held it, or no lane was free.
            FreeRoute::Lane | FreeRoute::Publish => self.carry_over(request).await,
            FreeRoute::Hub => self.subscribe(request).await,
            // Not every command that blocks needs a connection for that.
            FreeRoute::Pin(PinReason::Blocking) => self.block(request).await,
            FreeRoute::Pin(reason) => self.pin(request, reason).await,
            FreeRoute::WaitGroup => self.wait_in_group_for(request).await,
            FreeRoute::Switch(switch) => self.switch(request, switch).await,
            FreeRoute::Login(login) => self.login(request, login).await,
            FreeRoute::Pause => self.client_pause(&request).await,
            FreeRoute::Unpause => self.client_unpause(request).await,
            FreeRoute::Local(local) => self.answer(&request, local).await,
            FreeRoute::Refuse(refusal) => {
                self.refuse(&request, refusal).await;
                Ok(())
            }
            FreeRoute::Ask => self.ask(request).await,
            FreeRoute::Quit => self.quit(),
            // `POST` and `Host:`, at which a server hangs up. Forwarded, they would end a connection with the replies
            // of others still to come (docs/design/semantics.md 3.4).
            FreeRoute::Drop => Err(Closed(CloseReason::CrossProtocol)),
        }
    }

    /// What is right whoever the client is: also while nobody can be asked.
    fn is_known_without_upstream(route: FreeRoute) -> bool {
        match route {
            FreeRoute::Quit | FreeRoute::Drop => true,
            // It has rules of its own for that time.
            FreeRoute::Local(Local::Proxy) => true,
            // The rest of a transaction of which the beginning was refused.
            FreeRoute::Local(Local::PoisonedExec | Local::PoisonedDiscard) | FreeRoute::Refuse(Refusal::Poisoned) => {
                true
            }
            _ => false,
        }
    }

    /// The upstream cannot be asked who the client is. What it sent in the same breath may come when it can be again:
    /// a MULTI or WATCH that was refused leaves its mark (rule M6).
    fn on_unreachable(&self, route: FreeRoute) -> Result<(), Closed> {
        match route {
            // What is pipelined behind it was meant for the state that it would have led to.
            FreeRoute::Switch(_) | FreeRoute::Login(_) | FreeRoute::Local(Local::Reply) => {
                return Err(self.refuse_switch(error_reply::NOT_EXECUTED));
            }
            FreeRoute::Pin(reason) => self.mark_after_failure(reason),
            _ => {}
        }
        self.reply_error(error_reply::NOT_EXECUTED);
        Ok(())
    }

    /// A command for a lane that did not ride: too large, or no lane was free.
    async fn carry_over(&mut self, request: Request) -> Result<(), Closed> {
        // Its bytes would be written for so long that everybody behind it on the lane waits for them.
        if request.raw().len() > self.rt().config().lane.max_command_bytes {
            return self.pin(request, PinReason::Large).await;
        }
        let question = Fingerprint::new(request.id(), if request.count() > 1 { request.nth(1) } else { &[] });
        // A reply as long as this one was lately could exceed what the server lets wait for a connection. It would then
        // close the lane, with everybody on it.
        if self.way(request.id(), question) == Carrier::Lease {
            return self.pin(request, PinReason::Large).await;
        }
        loop {
            match self.lane_for(request.id(), question) {
                Err(CannotRide::NoLane) => {
                    self.rt().shard.lane_overflow.inc();
                    // The pool carries it: slower, but nobody is refused because others use many databases.
                    return self.pin(request, PinReason::Overflow).await;
                }
                // The client is to have another lane than before: only with nothing unanswered (rule I2).
                Err(CannotRide::Wait(_)) => self.drained().await?,
                Ok(lane) if lane.has_room(&self.node(), 1, request.raw().len()) => {
                    self.submit(&lane, &request);
                    return Ok(());
                }
                Ok(lane) => self.wait_for_room(&lane, request.raw().len()).await?,
            }
        }
    }

    /// Waits until `lane` has room, or is retired: then nothing would ever make room, and the caller takes another
    /// lane.
    pub(super) async fn wait_for_room(&mut self, lane: &Rc<crate::upstream::Lane>, bytes: usize) -> Result<(), Closed> {
        let (node, key) = (self.node(), self.outbox().key());
        self.wait_for(Wants::Nothing, |_: &Outbox| {
            if lane.has_room(&node, 1, bytes) || !lane.accepting() {
                return Some(());
            }
            // Entered at each look that finds none: with the wake-up the lane has forgotten who waited.
            lane.wait_for_room(key);
            None
        })
        .await
    }

    /// Puts a request on a lane that has room for it, and remembers where the client wrote (rule W4).
    fn submit(&mut self, lane: &crate::upstream::Lane, request: &Request) {
        let now = self.rt().now();
        self.put_on_lane(lane, request.id(), request.raw(), request, now);
        if self.rt().table.spec(request.id()).write {
            self.wrote.on_lane(&self.node, lane);
        }
    }

    /// The table does not list this name: the upstream says what it is (rule L5).
    async fn ask(&mut self, request: Request) -> Result<(), Closed> {
        let node = self.node();
        match node.unknowns.verdict(&node.control, request.nth(0)).await {
            Verdict::Lane => self.carry_over(request).await,
            Verdict::Isolated => self.pin(request, PinReason::Isolated).await,
        }
    }

    /// QUIT: `+OK` goes out with the last words. The rest of the input is never looked at (rule F6).
    fn quit(&self) -> Result<(), Closed> {
        self.reply_ok();
        Err(Closed(CloseReason::Quit))
    }

    /// An error of respmux's own, instead of the command.
    pub(super) async fn refuse(&self, request: &Request, refusal: Refusal) {
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
            // This text names the user and differs over versions. The others are the same for everybody.
            Refusal::Denied => self.denied(request, node.control.known_flavour().await),
            _ => error_reply::refusal(&node.rt.table, request, refusal, node.login_connection.login_first()),
        };
        self.reply_error(&line);
    }

    /// The words in which `server` refuses a command to this user, for what only respmux forbids.
    pub(super) fn denied(&self, request: &Request, server: Flavour) -> Vec<u8> {
        let (node, session) = (self.node(), self.record.session.borrow());
        error_reply::denied(&node.rt.table, request, server, node.rt.rules().policies.name_of(&session.key.identity))
    }
}
