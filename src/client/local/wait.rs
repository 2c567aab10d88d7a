//! WAIT, answered from how far the replicas are (rule W6); and what still needs a connection for it: WAITAOF, and WAIT
//! where respmux' own user may not ask ROLE.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::client::blocking::{Command, UNBLOCKED, timer};
use crate::client::connection::{Client, Closed};
use crate::client::error_reply;
use crate::client::request::{Request, strict_integer};
use crate::command::CommandId;
use crate::resp::encode;
use crate::router::{Args, PinReason};
use crate::telemetry::{CloseReason, unix_millis};
use crate::upstream::{AcksWaiter, Answer, ReplicaAcks, RoleReply, Wait, Wants};

/// What the server says to a WAIT that has nothing wrong but our timeout.
const ALLOWED: &[u8] = b"-ERR timeout is negative\r\n";

/// What wakes a client that waits for replicas.
enum News {
    /// The replicas' offsets have been asked for again.
    Role(Rc<RoleReply>),
    /// CLIENT UNBLOCK of this client.
    Unblocked,
    /// The client's own timeout.
    Over,
}

impl Client {
    /// WAIT and WAITAOF. Nothing is unanswered, so all that the client wrote is executed.
    pub(in crate::client) async fn wait(&mut self, request: &Request) -> Result<(), Closed> {
        if self.wrote.is_lost(&self.node()) {
            return Err(Closed(CloseReason::UpstreamLost)); // rule W4
        }
        // Rights, role and arguments are the server's to judge; a negative timeout is refused behind all of them.
        let mut words: Vec<&[u8]> = (0..request.count() - 1).map(|at| request.nth(at)).collect();
        words.push(b"-1");
        // One round trip, and the server has judged everything but the wait itself.
        if !self.would_wait(&words).await? {
            return Ok(());
        }
        let Some(timeout) = self.wait_timeout(request.nth(request.count() - 1)).await else { return Ok(()) };
        // WAITAOF asks what is on the disks, of which the replicas' offsets tell nothing.
        let Some(wanted) = strict_integer(request.nth(1)).filter(|_| request.count() == 3) else {
            return self.wait_on_a_connection(request).await;
        };
        let command = Command::begin(self, request, (!timeout.is_zero()).then_some(timeout));
        let node = self.node();
        // Asks ROLE with the others that wait: one question for all of them.
        let watcher = ReplicaAcks::watch(&node, self.outbox().key());
        let first = self.wait_for(Wants::Nothing, |_| watcher.take()).await?;
        // The primary's offset was asked for with nothing of the client unanswered: it covers all that the client wrote
        // (rule W6).
        let offset = match &*first {
            RoleReply::Primary { offset, .. } => *offset,
            // It was a primary a moment ago, and says now what it says.
            RoleReply::Replica => return self.would_wait(&words).await.map(drop),
            // respmux' own user may not ask. The client's user may still be able to write and wait (rule W1).
            RoleReply::Refused(line) if line.starts_with(b"-NOPERM") => {
                return self.wait_on_a_connection(request).await;
            }
            RoleReply::Refused(line) => {
                self.reply_error(&line[1..]);
                return Ok(());
            }
            RoleReply::Away => {
                self.reply_error(error_reply::NOT_EXECUTED);
                return Ok(());
            }
        };
        let count = first.count(offset);
        if count >= wanted {
            self.finish_count(&command, count);
            return Ok(());
        }
        // From here on the question is asked again and again.
        watcher.is_behind();
        let wait = Wait::new(self.outbox(), false);
        self.record.activity.blocks(&wait);
        let end = self.await_replicas(&command, &watcher, &wait, offset, wanted, count).await;
        self.record.activity.is_released();
        wait.left(false); // whoever asked for it meanwhile
        end
    }

    /// Whether the server would carry out this WAIT, but for its timeout; if not, the client has its answer.
    async fn would_wait(&mut self, words: &[&[u8]]) -> Result<bool, Closed> {
        let mut probe = BytesMut::new();
        encode::command(&mut probe, words);
        let key = self.record.session.borrow().key.clone();
        match self.confirm_bytes_on(&key, CommandId::OURS, &probe).await? {
            Answer::Reply(frame) if frame == ALLOWED => Ok(true),
            answer => {
                self.pass_on(answer);
                Ok(false)
            }
        }
    }

    /// The time in milliseconds as servers read it; `None` when the client has the error.
    async fn wait_timeout(&self, text: &[u8]) -> Option<Duration> {
        let line: &[u8] = match strict_integer(text) {
            None => error_reply::TIMEOUT_NO_INTEGER,
            Some(millis) => match u64::try_from(millis) {
                Err(_) => error_reply::TIMEOUT_NEGATIVE,
                Ok(millis) if self.overflows(millis).await => error_reply::TIMEOUT_OUT_OF_RANGE,
                Ok(millis) => return Some(Duration::from_millis(millis)),
            },
        };
        self.reply_error(line);
        None
    }

    /// Whether the end of the wait is no date any more, which is an error since Redis 7.2 and in Valkey.
    async fn overflows(&self, millis: u64) -> bool {
        let flavour = self.node().control.known_flavour().await;
        let checks = flavour.valkey || flavour.at_least(7, 2);
        checks && millis > i64::MAX as u64 - unix_millis()
    }

    /// Looks at each new ROLE until enough replicas have reached `offset`, or the wait ends otherwise. The count never
    /// falls: what was acknowledged once stays so, also when its replica has left.
    async fn await_replicas(
        &mut self,
        command: &Command,
        watcher: &AcksWaiter,
        wait: &Rc<Wait>,
        offset: i64,
        wanted: i64,
        mut count: i64,
    ) -> Result<(), Closed> {
        let began = self.rt().now();
        loop {
            let news = self.news(watcher, wait, command.deadline()).await?;
            // The server that the offset is of may be gone; then its count is about nothing.
            if self.wrote.is_lost(&self.node()) || !self.node().is_of_this_server(began) {
                return Err(Closed(CloseReason::UpstreamLost));
            }
            match news {
                News::Role(role) => {
                    // It was demoted: a server tells its blocked clients so and closes them (docs/design/semantics.md
                    // 7.1).
                    if *role == RoleReply::Replica {
                        self.reply_error(error_reply::FORCED_UNBLOCK);
                        return Err(Closed(CloseReason::UpstreamLost));
                    }
                    count = count.max(role.count(offset));
                    if count >= wanted {
                        self.finish_count(command, count);
                        return Ok(());
                    }
                }
                News::Unblocked => {
                    // With TIMEOUT the client gets the count so far, as at the end of its time.
                    if wait.left(true) {
                        let mut frame = BytesMut::new();
                        encode::error(&mut frame, UNBLOCKED);
                        self.finish(command, &frame);
                    } else {
                        self.finish_count(command, count);
                    }
                    return Ok(());
                }
                News::Over => {
                    self.finish_count(command, count);
                    return Ok(());
                }
            }
        }
    }

    /// The next thing that happens to a client that waits. Its input is read meanwhile, so that a close is noticed.
    /// A count that is there goes before the end of the time: the answer is as high as it may be.
    async fn news(&mut self, watcher: &AcksWaiter, wait: &Rc<Wait>, deadline: Option<Instant>) -> Result<News, Closed> {
        let mut timer = timer(deadline);
        poll_fn(|cx| {
            if let Poll::Ready(closed) = self.poll_presence(cx) {
                return Poll::Ready(Err(closed));
            }
            if let Some(role) = watcher.take() {
                return Poll::Ready(Ok(News::Role(role)));
            }
            if wait.is_asked_to_leave() {
                return Poll::Ready(Ok(News::Unblocked));
            }
            match timer.as_mut().map(|timer| timer.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => Poll::Ready(Ok(News::Over)),
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn finish_count(&self, command: &Command, count: i64) {
        let mut frame = BytesMut::new();
        encode::integer(&mut frame, count);
        self.finish(command, &frame);
    }

    /// Behind a write of our own on a connection that is lent for it (rule W1). That the user may wait is known; one
    /// that may not write there waits on a connection of respmux' own user.
    async fn wait_on_a_connection(&mut self, request: &Request) -> Result<(), Closed> {
        let mut write = BytesMut::new();
        bump(&mut write);
        let key = self.record.session.borrow().key.clone();
        let as_itself = match self.confirm_bytes_on(&key, CommandId::OURS, &write).await? {
            // Only the right matters here: any other error shows again when the WAIT itself is sent.
            Answer::Reply(frame) => !frame.starts_with(b"-NOPERM"),
            answer @ Answer::NotExecuted(_) => {
                self.pass_on(answer);
                return Ok(());
            }
        };
        // For this one lease; the client's identity stays what it is.
        self.wait_as_respmux = !as_itself;
        let result = Box::pin(self.pin(request.clone(), PinReason::Wait)).await;
        self.wait_as_respmux = false;
        result
    }
}

/// A write that every replica sees and no key notices: WAIT behind it covers everything that the client wrote
/// before (rule W1).
pub(in crate::client) fn bump(out: &mut BytesMut) {
    let channel = format!("respmux:wait:{:016x}", fastrand::u64(..));
    encode::command(out, &["SPUBLISH", &channel, ""]);
}
