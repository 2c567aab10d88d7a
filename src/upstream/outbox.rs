//! Where a client's answers go. Owned by `upstream`, filled by lanes and by the client's own task; the only way
//! from a reply to a client.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::buffers::{Buffers, Output};
use super::client_key::ClientKey;
use super::input_memory::InputMemory;
use super::long_replies::Fingerprint;
use super::output_limit::OutputBudget;
use super::pubsub::{Hub, Subscriber};
use super::slow_clients::SlowMarks;
use crate::base::TaskWaker;
use crate::link::WriteHalf;
use crate::session::Subscribed;
use crate::telemetry::{BufferKind, CloseReason};

/// What the client's task waits for; decides who wakes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wants {
    #[default]
    Nothing,
    /// The client waits until it has at most this many unanswered requests.
    Pending(u32),
}

/// The answer to a request that the client's task sent itself and waits for.
#[derive(Debug)]
pub enum Answer {
    /// The whole reply.
    Reply(Vec<u8>),
    /// Not executed: this error line (without the dash) says why.
    NotExecuted(Vec<u8>),
}

/// One client as its answers see it.
pub struct Outbox {
    key: ClientKey,
    id: u64,
    pub(super) writer: WriteHalf,
    output: RefCell<Output>,
    /// Bytes at the front of `output` that the socket has taken.
    sent: Cell<usize>,
    pub(super) input_memory: InputMemory,
    pub(super) slow_marks: SlowMarks,
    /// What it asked last on a lane.
    asked: Cell<Fingerprint>,
    pending: Cell<u32>,
    pending_bytes: Cell<usize>,
    touched: Cell<bool>,
    close_reason: Cell<Option<CloseReason>>,
    wants: Cell<Wants>,
    task: TaskWaker,
    mailbox: RefCell<Option<Answer>>,
    pub(super) output_budget: OutputBudget,
    /// Only while the client subscribes through a hub.
    subscriber: RefCell<Option<Box<Subscriber>>>,
}

impl Outbox {
    /// The outbox of client `id` (the virtual CLIENT ID). `limit` is in bytes.
    #[must_use]
    pub fn new(key: ClientKey, id: u64, writer: WriteHalf, limit: usize) -> Self {
        Self {
            key,
            id,
            writer,
            output: RefCell::default(),
            input_memory: InputMemory::default(),
            slow_marks: SlowMarks::default(),
            asked: Cell::default(),
            sent: Cell::new(0),
            pending: Cell::new(0),
            pending_bytes: Cell::new(0),
            touched: Cell::new(false),
            close_reason: Cell::new(None),
            wants: Cell::new(Wants::Nothing),
            task: TaskWaker::default(),
            mailbox: RefCell::new(None),
            output_budget: OutputBudget::new(limit),
            subscriber: RefCell::new(None),
        }
    }

    /// The slot address of this client.
    pub fn key(&self) -> ClientKey {
        self.key
    }

    /// The virtual CLIENT ID.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Requests of this client that have no reply yet.
    pub fn pending(&self) -> u32 {
        self.pending.get()
    }

    /// Bytes of those requests.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes.get()
    }

    /// Bytes that the socket has not taken yet.
    pub fn unsent(&self) -> usize {
        self.output.borrow().len() - self.sent.get()
    }

    /// The client asks this on a lane.
    #[inline]
    pub fn asks(&self, question: Fingerprint) {
        self.asked.set(question);
    }

    /// What it waits for, if that is one thing.
    pub(super) fn only_question(&self) -> Option<Fingerprint> {
        (self.pending.get() == 1).then(|| self.asked.get())
    }

    /// Bytes of buffers for what it has not read.
    pub fn buffered_output(&self) -> usize {
        // Borrowed only while something is appended to this very client.
        let output = self.output.try_borrow().map_or(0, |output| output.capacity());
        let aside = self.subscriber.try_borrow().ok().and_then(|s| s.as_ref().map(|s| s.aside.capacity()));
        output + aside.unwrap_or(0)
    }

    /// The client's task waits for the end of a request that was begun.
    #[inline]
    pub fn await_rest(&self) {
        self.slow_marks.await_rest();
    }

    /// The client has sent a whole request.
    #[inline]
    pub fn on_whole(&self) {
        self.slow_marks.on_whole();
    }

    /// Drops what the client has not read. Its task has ended, or is about to.
    pub fn release(&self, buffers: &Buffers) {
        self.close_reason.set(self.close_reason.get().or(Some(CloseReason::Client)));
        self.drop_output(buffers);
        if let Some(subscriber) = self.subscriber.borrow_mut().as_mut() {
            buffers.memory.change(BufferKind::Output, subscriber.aside.capacity(), 0);
            subscriber.aside = Vec::new();
        }
    }

    /// Memory is short, and this client holds most: it is closed, and its output dropped at once.
    pub(super) fn shed(&self, buffers: &Buffers, reason: CloseReason) {
        self.close(reason);
        if self.output.try_borrow_mut().is_ok() && self.subscriber.try_borrow_mut().is_ok() {
            self.release(buffers);
        }
    }

    /// The client subscribes through `hub` from here on.
    pub fn enter_hub(&self, hub: &Rc<Hub>) {
        self.subscriber.borrow_mut().get_or_insert_with(|| Box::new(Subscriber::new(Rc::clone(hub))));
    }

    /// The hub through which it subscribes.
    pub fn hub(&self) -> Option<Rc<Hub>> {
        self.subscriber.borrow().as_ref().map(|subscriber| Rc::clone(&subscriber.hub))
    }

    /// The client has no subscriptions on a hub any more; gives the hub that it must leave.
    pub fn take_hub(&self, buffers: &Buffers) -> Option<Rc<Hub>> {
        self.subscriber.take().map(|subscriber| {
            buffers.memory.change(BufferKind::Output, subscriber.aside.capacity(), 0);
            subscriber.hub
        })
    }

    /// What it subscribes to through a hub.
    #[inline]
    pub fn subscribed(&self) -> Subscribed {
        self.subscriber.borrow().as_ref().map_or_else(Subscribed::default, |subscriber| subscriber.counts)
    }

    pub(super) fn count_subscriptions(&self, counts: Subscribed) {
        if let Some(subscriber) = self.subscriber.borrow_mut().as_mut() {
            subscriber.counts = counts;
        }
    }

    /// Appends a message, between complete replies. As [`Outbox::push_noted`].
    pub(super) fn push_message(&self, buffers: &Buffers, bytes: &[u8]) -> bool {
        if let Some(subscriber) = self.subscriber.borrow_mut().as_mut().filter(|subscriber| subscriber.withholds()) {
            let limit = self.output_limit();
            if limit == 0 || self.unsent() + subscriber.aside.len() + bytes.len() <= limit {
                let before = subscriber.aside.capacity();
                subscriber.aside.extend_from_slice(bytes);
                buffers.memory.change(BufferKind::Output, before, subscriber.aside.capacity());
            } else {
                self.close(CloseReason::OutputLimit);
            }
            return false;
        }
        self.push_noted(buffers, bytes)
    }

    /// A reply is passed on in pieces: messages wait until its last one is appended.
    pub fn on_reply_part(&self, buffers: &Buffers, last: bool) {
        self.change_subscriber(buffers, |subscriber| subscriber.on_reply_part(last));
    }

    /// The client sends PUBLISH, or has its answer: the message comes behind it (rule P7).
    pub fn on_own_publish(&self, buffers: &Buffers, answered: bool) {
        self.change_subscriber(buffers, |subscriber| subscriber.on_own(answered));
    }

    fn change_subscriber(&self, buffers: &Buffers, change: impl FnOnce(&mut Subscriber)) {
        let mut subscriber = self.subscriber.borrow_mut();
        let Some(subscriber) = subscriber.as_mut() else { return };
        change(subscriber);
        if !subscriber.withholds() && !subscriber.aside.is_empty() {
            let waiting = std::mem::take(&mut subscriber.aside);
            buffers.memory.change(BufferKind::Output, waiting.capacity(), 0);
            self.push(buffers, &waiting);
        }
    }

    /// Closes a subscriber that has been above the soft limit for `patience`.
    pub(super) fn check_pace(&self, soft: usize, patience: Duration, now: u64) {
        let mut subscriber = self.subscriber.borrow_mut();
        let Some(subscriber) = subscriber.as_mut() else { return };
        let waiting = self.unsent() + subscriber.aside.len();
        if subscriber.too_slow(waiting, soft, patience, now) {
            self.close(CloseReason::OutputLimit);
        }
    }

    /// A request was handed to a lane.
    pub fn on_submitted(&self, bytes: usize) {
        self.pending.set(self.pending.get() + 1);
        self.pending_bytes.set(self.pending_bytes.get() + bytes);
    }

    /// One request has its answer.
    pub fn on_answered(&self, bytes: usize) {
        let left = self.pending.get().saturating_sub(1);
        self.pending.set(left);
        self.pending_bytes.set(self.pending_bytes.get().saturating_sub(bytes));
        if let Wants::Pending(most) = self.wants.get()
            && left <= most
        {
            self.wake();
        }
    }

    /// Appends reply bytes for a lane. Returns whether this is the first since the lane's last flush, so that it
    /// notes the client for [`Outbox::flush`].
    pub fn push_noted(&self, buffers: &Buffers, bytes: &[u8]) -> bool {
        self.push(buffers, bytes);
        self.close_reason.get().is_none() && !self.touched.replace(true)
    }

    /// Appends reply bytes; for the client's own task, which flushes before it waits. Over the limit the client is
    /// closed and its output dropped.
    pub fn push(&self, buffers: &Buffers, bytes: &[u8]) {
        if self.close_reason.get().is_some() {
            return;
        }
        let mut output = self.output.borrow_mut();
        let limit = self.output_limit();
        if limit != 0 && output.len() - self.sent.get() + bytes.len() > limit {
            drop(output);
            tracing::debug!(client = self.id, limit, "unread replies exceed the limit: the client is closed");
            self.close(CloseReason::OutputLimit);
            self.drop_output(buffers);
            return;
        }
        output.push(buffers, bytes);
    }

    fn drop_output(&self, buffers: &Buffers) {
        let output = self.output.take();
        self.sent.set(0);
        buffers.memory.change(BufferKind::Output, output.capacity(), 0);
    }

    /// Writes what the socket takes. What it does not take is sent by the client's own task, which is woken.
    pub fn flush(&self, buffers: &Buffers) {
        self.touched.set(false);
        match self.write_out(buffers) {
            Ok(true) => {}
            Ok(false) => self.wake(),
            Err(_) => self.close(CloseReason::IoError),
        }
    }

    /// Writes until the buffer is empty (`true`) or the socket is full (`false`).
    fn write_out(&self, buffers: &Buffers) -> io::Result<bool> {
        let mut output = self.output.borrow_mut();
        loop {
            while self.sent.get() < output.front.len() {
                match self.writer.try_write(&output.front[self.sent.get()..]) {
                    Ok(n) => {
                        self.sent.set(self.sent.get() + n);
                        buffers.on_sent(n);
                        self.slow_marks.on_taken(n);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        self.forget_sent(&mut output.front);
                        return Ok(false);
                    }
                    Err(e) => return Err(e),
                }
            }
            self.sent.set(0);
            if !output.advance(&buffers.memory) {
                break;
            }
        }
        buffers.give(std::mem::take(&mut output.front));
        Ok(true)
    }

    /// Moves what is left to the front when at least half is gone, so that a slow reader of a long reply costs
    /// no more memory than what it has not read.
    fn forget_sent(&self, buffer: &mut Vec<u8>) {
        let sent = self.sent.get();
        if sent > buffer.len() / 2 {
            buffer.drain(..sent);
            self.sent.set(0);
        }
    }

    /// For the client's task: sends what is left; ready when nothing is.
    pub fn poll_flush(&self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<io::Result<()>> {
        loop {
            if self.output.borrow().len() == 0 {
                return Poll::Ready(Ok(()));
            }
            match self.write_out(buffers) {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => match self.writer.poll_writable(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                    Poll::Pending => return Poll::Pending,
                },
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Says to the client that nothing follows. What was pushed before must be sent.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_end(cx)
    }

    /// Decides that the client is closed; the first reason counts. Its task sends what is buffered, then ends.
    pub fn close(&self, reason: CloseReason) {
        if self.close_reason.get().is_none() {
            self.close_reason.set(Some(reason));
        }
        self.wake();
    }

    /// Why the client is to be closed, if it is.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason.get()
    }

    /// Puts the answer of a request that the client's task waits for.
    pub fn deliver(&self, answer: Answer) {
        *self.mailbox.borrow_mut() = Some(answer);
        self.wake();
    }

    /// Takes that answer.
    pub fn take_answer(&self) -> Option<Answer> {
        self.mailbox.borrow_mut().take()
    }

    /// The client's task is about to wait: remember how to wake it, and for what.
    pub fn await_with(&self, cx: &Context<'_>, wants: Wants) {
        self.wants.set(wants);
        self.task.remember(cx);
    }

    /// Wakes the client's task.
    pub fn wake(&self) {
        self.task.wake();
    }
}
