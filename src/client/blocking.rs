//! Blocked clients that hold no connection: pops wait in a fold, stream reads ask in turns (docs/design/semantics.md
//! 7).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::connection::{Client, Closed};
use super::request::Request;
use super::ride::CannotRide;
use crate::command::{CommandId, Op, Pop, StreamWait, is_nil};
use crate::resp::encode;
use crate::router::{Args, PinReason};
use crate::session::ReplyMode;
use crate::telemetry::{AnomalyReason, CloseReason};
use crate::upstream::{Answer, Lane, Return, Wait, WaitEnd, WaitGroups, Waiter};

/// What a client is told that CLIENT UNBLOCK … ERROR has freed.
pub(super) const UNBLOCKED: &[u8] = b"UNBLOCKED client unblocked via CLIENT UNBLOCK";

/// What came of a question for which no lane was to be had.
enum LentAnswer {
    Reply(Vec<u8>),
    NotAsked,
    /// The client's time is over, or it was unblocked.
    Over,
}

/// A client's blocking command: when it began, when its time is over.
pub(super) struct Command {
    id: CommandId,
    /// When it was asked for, nanoseconds of the worker's clock: how long it took is counted from here.
    began: u64,
    /// How many changes of the server's pauses there had been then.
    pauses: u64,
    /// As the client gave it; none is for ever.
    timeout: Option<Duration>,
    /// Moved once, by `begin_to_wait`. There is none either for a time that the clock has no date for.
    deadline: Option<Instant>,
}

impl Command {
    pub(super) fn begin(client: &Client, request: &Request, timeout: Option<Duration>) -> Self {
        let (node, deadline) = (client.node(), timeout.and_then(|timeout| Instant::now().checked_add(timeout)));
        Self { id: request.id(), began: node.rt.now(), pauses: node.server_pause.changes(), timeout, deadline }
    }

    /// The server has found nothing: a client waits from there on when a pause held its command back before.
    /// The time in which the command was held back does not count (rule B10).
    fn begin_to_wait(&mut self, client: &Client) {
        if client.node().server_pause.changes() != self.pauses {
            self.deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Client {
    /// A blocking pop: asks once without waiting, then waits together with others. What is not surely understood
    /// waits on a connection of its own, verbatim.
    pub(super) async fn wait_in_group_for(&mut self, request: Request) -> Result<(), Closed> {
        // What is not surely understood waits verbatim: the server judges its arguments.
        let parsed = Pop::parse(&(0..request.count()).map(|i| request.nth(i)).collect::<Vec<_>>());
        let Some(pop) = parsed else { return self.pin(request, PinReason::Blocking).await };
        // The time runs from here, not from the place in the queue.
        let mut command = Command::begin(self, &request, pop.timeout());
        // Without a lane nothing can be asked in between: it waits verbatim, on a connection of its own.
        let Some(lane) = self.lane_with_room(request.raw().len()).await? else {
            return self.pin(request, PinReason::Blocking).await;
        };
        let node = self.node();
        let key = self.record.session.borrow().key.clone();
        // The non-blocking form first: most queues are not empty, and then nothing is waited for. It also has the
        // server judge rights and types.
        let won = match self.call(&lane, CommandId::OURS, &pop.non_blocking()).await? {
            Answer::NotExecuted(line) => {
                self.reply_error(&line);
                return Ok(());
            }
            Answer::Reply(frame) if is_nil(&frame) => Vec::new(),
            // The user may have a right to this command and not to its twin.
            Answer::Reply(frame) if frame.starts_with(b"-NOPERM") || frame.starts_with(b"-ERR unknown command") => {
                return self.pin(request, PinReason::Blocking).await;
            }
            // Every other error is the one that the command itself would have had (rule B1).
            Answer::Reply(frame) if frame.starts_with(b"-") || frame.starts_with(b"!") => {
                self.finish(&command, &frame);
                return Ok(());
            }
            Answer::Reply(frame) => {
                // The element has left its list: a WAIT behind this must cover that.
                self.note_write(command.id);
                let Some(won) = pop.elements(&frame) else {
                    // A lane that answers neither nil nor elements is out of step (rule I5).
                    lane.distrust(AnomalyReason::UnexpectedReply, request.id());
                    return Err(Closed(CloseReason::UpstreamAnomaly));
                };
                // For a client that is gone, the fold gives the element to somebody else, or back.
                // An element that is won while older clients wait for the same goes to the oldest, and this client
                // queues (rule B1).
                if !node.wait_groups.has_waiters(&key, &pop) && !self.outbox().peer_is_gone() {
                    self.finish(&command, &won.concat());
                    return Ok(());
                }
                won
            }
        };
        command.begin_to_wait(self);
        // Who wants no reply still gets its element taken from the list, as on a server.
        let wants_reply = self.record.session.borrow().reply == ReplyMode::On;
        let waiter = WaitGroups::join(&node, &key, pop, Wait::new(self.outbox(), wants_reply), won);
        let end = self.wait_in_group(&waiter, command.deadline).await?;
        // From here on CLIENT UNBLOCK finds nobody, and whoever asked before learns whether it was in time.
        let with_error = waiter.wait().left(matches!(end, WaitEnd::Nil));
        // Out of the group before the reply: the next element is for the others.
        drop(waiter);
        match end {
            WaitEnd::Element(frame) => {
                self.note_write(command.id);
                self.finish(&command, &frame);
            }
            // The reply went out from the group itself, ahead of this task. What is left to do are the counts.
            WaitEnd::Served => {
                self.note_write(command.id);
                self.count(&command);
            }
            WaitEnd::Nil => self.finish_empty(&command, with_error),
            // The wait of the whole group has ended so: each would have got an error of its own (rule B7).
            WaitEnd::Error(frame, closes) => {
                self.node().on_error_reply(&frame);
                self.finish(&command, &frame);
                if closes {
                    return Err(Closed(CloseReason::UpstreamLost));
                }
            }
            // A connection of the group was lost, and an element for this client may have been on it (rule B8).
            WaitEnd::Close(reason) => return Err(Closed(reason)),
        }
        Ok(())
    }

    /// The end of a client's place in a fold. Its input is read meanwhile, so that a close is noticed: then the
    /// command ends, and everything behind it is dropped (rule F7).
    async fn wait_in_group(&mut self, waiter: &Waiter, deadline: Option<Instant>) -> Result<WaitEnd, Closed> {
        self.record.activity.blocks(waiter.wait());
        let mut timer = timer(deadline);
        let mut leaving = false;
        let end = poll_fn(|cx| {
            if let Poll::Ready(closed) = self.poll_presence(cx) {
                return Poll::Ready(Err(closed));
            }
            // The end is asked for, not taken: an element may be on its way to this client, and the group alone knows.
            let over = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
            if (over || waiter.wait().is_asked_to_leave()) && !leaving {
                leaving = true;
                timer = None;
                waiter.leave();
            }
            waiter.take().map_or(Poll::Pending, |end| Poll::Ready(Ok(end)))
        })
        .await;
        self.record.activity.is_released();
        // The client has gone. Whoever wants it unblocked learns that it did not leave with nil.
        if end.is_err() {
            waiter.wait().left(false);
        }
        end
    }

    /// The client's lane, when it has room; nothing when no lane is to be had.
    async fn lane_with_room(&mut self, bytes: usize) -> Result<Option<Rc<Lane>>, Closed> {
        if bytes > self.rt().config().lane.max_command_bytes {
            return Ok(None);
        }
        loop {
            match self.main_lane() {
                Err(CannotRide::NoLane) => return Ok(None),
                Err(CannotRide::Wait(_)) => self.drained().await?,
                Ok(lane) if lane.has_room(&self.node(), 1, bytes) => return Ok(Some(lane)),
                Ok(lane) => self.wait_for_room(&lane, bytes).await?,
            }
        }
    }

    /// XREAD and XREADGROUP with BLOCK: on a connection of its own if there is one now, otherwise asked in turns; and
    /// every other command that can only wait on the server, in line.
    pub(super) async fn block(&mut self, request: Request) -> Result<(), Closed> {
        let node = self.node();
        let stream = node.rt.table.spec(request.id()).op == Op::StreamRead;
        // All but reads of streams have no form that does not wait. And where a place is free, asking in turns would
        // cost more than to take it.
        if !stream || node.rt.pool.has_place_for_blocked() {
            return self.pin(request, PinReason::Blocking).await;
        }
        let parsed = StreamWait::parse(&(0..request.count()).map(|i| request.nth(i)).collect::<Vec<_>>());
        let Some(mut read) = parsed else { return self.pin(request, PinReason::Blocking).await };
        let mut command = Command::begin(self, &request, read.timeout());
        let Some(lane) = self.lane_with_room(request.raw().len()).await? else {
            return self.pin(request, PinReason::Blocking).await;
        };
        // The end of a stream is where it is now, not where it will be when a connection is free (rule B13).
        for (place, key) in read.streams_from_their_end() {
            match self.call(&lane, CommandId::OURS, &StreamWait::last_entry(&key)).await? {
                Answer::Reply(frame) if read.set_id(place, &frame) => {}
                Answer::Reply(frame) if frame.starts_with(b"-WRONGTYPE") => {
                    self.finish(&command, &frame);
                    return Ok(());
                }
                // This is about the question, as for a user that may not XREVRANGE; the command itself may be allowed.
                Answer::Reply(_) => return self.pin(request, PinReason::Blocking).await,
                Answer::NotExecuted(line) => {
                    self.reply_error(&line);
                    return Ok(());
                }
            }
        }
        // The more there are, the longer each pauses: all together stay below one limit.
        node.wait_groups.count_alone(true);
        let wait = Wait::new(self.outbox(), false);
        let result = self.ask_in_turns(&mut command, &read, &wait).await;
        node.wait_groups.count_alone(false);
        self.record.activity.is_released();
        wait.left(false); // whoever asked for it meanwhile
        result
    }

    /// Asks until there is something, the time is over, or the client leaves.
    async fn ask_in_turns(&mut self, command: &mut Command, read: &StreamWait, wait: &Rc<Wait>) -> Result<(), Closed> {
        let node = self.node();
        let question = read.question();
        // Sparser with each question, up to poll_max: what was not there for long will not be there in a moment.
        let mut backoff = node.rt.config().blocking.poll_min;
        let mut first = true;
        loop {
            // While the server is paused nothing is asked; the time goes on.
            let answer = if node.is_any_pause() {
                None
            } else if let Some(lane) = self.lane_with_room(question.len()).await? {
                node.rt.shard.group_polls.inc();
                Some(self.call(&lane, CommandId::OURS, &question).await?)
            } else {
                match self.ask_aside(&question, command.deadline, wait).await? {
                    LentAnswer::Reply(frame) => Some(Answer::Reply(frame)),
                    LentAnswer::NotAsked => None,
                    LentAnswer::Over => return self.end_empty(command, wait),
                }
            };
            let Some(answer) = answer else {
                if self.back_off(wait, node.rt.config().blocking.poll_max, command.deadline).await? {
                    return self.end_empty(command, wait);
                }
                continue;
            };
            match answer {
                Answer::Reply(frame) if is_nil(&frame) => {}
                // A client that was blocked already would not have seen this on a server. To the first question it is
                // the command's own error.
                Answer::Reply(frame) if !first && passes(&frame, node.rt.table.spec(command.id).write) => {}
                Answer::Reply(frame) => {
                    self.note_write(command.id);
                    self.finish(command, &frame);
                    return Ok(());
                }
                // The wait has begun, and an outage does not end it.
                Answer::NotExecuted(_) if !first => {}
                Answer::NotExecuted(line) => {
                    self.reply_error(&line);
                    return Ok(());
                }
            }
            if std::mem::take(&mut first) {
                command.begin_to_wait(self);
            }
            let over = self.back_off(wait, backoff.max(node.wait_groups.backoff_alone()), command.deadline).await?;
            if over {
                return self.end_empty(command, wait);
            }
            backoff = (backoff * 3 / 2).min(node.rt.config().blocking.poll_max.max(backoff));
        }
    }

    /// Asks on a lent connection, where no lane is to be had. The time in line is part of the wait.
    async fn ask_aside(
        &mut self,
        question: &[u8],
        deadline: Option<Instant>,
        wait: &Rc<Wait>,
    ) -> Result<LentAnswer, Closed> {
        let (node, key) = (self.node(), self.record.session.borrow().key.clone());
        let lend = node.rt.pool.lease(&node, &key);
        let lease = match self.wait_until(wait, pin!(lend), deadline).await? {
            None => return Ok(LentAnswer::Over),
            Some(Err(_)) => return Ok(LentAnswer::NotAsked),
            Some(Ok(lease)) => lease,
        };
        // A pause may have begun while it stood in line.
        if node.is_any_pause() {
            lease.give_back(Return::Clean);
            return Ok(LentAnswer::NotAsked);
        }
        node.rt.shard.group_polls.inc();
        // What it brings is the client's, so that its close is looked for only between two questions.
        lease.ask(question).await.map(LentAnswer::Reply).map_err(|_| Closed(CloseReason::UpstreamLost))
    }

    /// Waits between two questions; whether the wait as a whole is over.
    async fn back_off(
        &mut self,
        wait: &Rc<Wait>,
        backoff: Duration,
        deadline: Option<Instant>,
    ) -> Result<bool, Closed> {
        Ok(self.wait_until(wait, pin!(sleep(backoff)), deadline).await?.is_none())
    }

    /// Waits for `event`; nothing if the wait as a whole is over before it.
    async fn wait_until<T>(
        &mut self,
        wait: &Rc<Wait>,
        mut event: Pin<&mut impl Future<Output = T>>,
        deadline: Option<Instant>,
    ) -> Result<Option<T>, Closed> {
        let mut timer = timer(deadline);
        // Between two questions PROXY PAUSE need not wait for this client, and CLIENT UNBLOCK finds it.
        self.record.activity.blocks(wait);
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(closed) = self.poll_presence(cx) {
                return Poll::Ready(Err(closed));
            }
            let rung = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
            if rung || wait.is_asked_to_leave() {
                return Poll::Ready(Ok(None));
            }
            event.as_mut().poll(cx).map(|value| Ok(Some(value)))
        })
        .await;
        self.record.activity.asks();
        outcome
    }

    /// The end of a wait that brought nothing.
    fn end_empty(&self, command: &Command, wait: &Wait) -> Result<(), Closed> {
        let with_error = wait.left(true);
        self.finish_empty(command, with_error);
        Ok(())
    }

    /// The answer to the client's command, and its place in the counts.
    pub(super) fn finish(&self, command: &Command, frame: &[u8]) {
        self.reply(frame);
        self.count(command);
    }

    fn count(&self, command: &Command) {
        let node = self.node();
        node.answered(command.id, node.rt.now().saturating_sub(command.began));
    }

    /// The end without an element. The nil is made here, in the client's own protocol; one of the upstream is never
    /// passed on (rule B4).
    fn finish_empty(&self, command: &Command, with_error: bool) {
        let mut frame = BytesMut::new();
        if with_error {
            encode::error(&mut frame, UNBLOCKED);
        } else {
            encode::null_array(&mut frame, self.resp().number());
        }
        self.finish(command, &frame);
    }
}

pub(super) fn timer(deadline: Option<Instant>) -> Option<Pin<Box<Sleep>>> {
    deadline.map(|deadline| Box::pin(sleep_until(deadline)))
}

/// Errors that a client blocked in XREAD would not notice; XREADGROUP passes its own on.
fn passes(error: &[u8], group: bool) -> bool {
    let busy: [&[u8]; 4] = [b"-BUSY ", b"-LOADING", b"-MASTERDOWN", b"-TRYAGAIN"];
    busy.iter().any(|code| error.starts_with(code)) || (!group && error.starts_with(b"-WRONGTYPE"))
}
