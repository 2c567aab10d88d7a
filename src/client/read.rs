//! How a client is read: by its loop, while it waits, and ahead of what can be carried out.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;

use super::connection::{Client, Closed, Flow, Step};
use super::identity::admission::Admission;
use crate::base::nanos;
use crate::telemetry::{CloseReason, StallReason};
use crate::upstream::Wants;

/// Reads ahead of at most 64 KiB after which others have a turn.
const READS_PER_TURN: u32 = 4;

/// A client that is read again sooner than this does nothing but wait for us.
const HASTE: Duration = Duration::from_millis(1);

/// Input that is kept while a client waits for a connection or is blocked, bytes (rule F9).
pub(super) const WAITING_INPUT: usize = 64 << 10;

impl Client {
    /// Reads once, at most `most` bytes, by way of the worker's buffer, and keeps the books of it; `take` gets the
    /// bytes,
    /// none at the end, and how long before that the client was read. All readers of a client come through here: its
    /// loop,
    /// its waits, and its close. The one exception is [`Client::read_ahead`], which reads past what is kept here.
    #[inline]
    pub(super) fn poll_chunk<T>(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: impl FnOnce(&mut Self, &[u8], Option<u64>) -> T,
    ) -> Poll<Result<T, Closed>> {
        let rt = Rc::clone(self.rt());
        let mut memory = rt.read_buffer.borrow_mut();
        let room = most.min(memory.len());
        let mut buf = ReadBuf::new(&mut memory[..room]);
        let ahead = self.read.is_ahead();
        if std::task::ready!(self.read.poll_read(cx, &mut buf)).is_err() {
            return Poll::Ready(Err(Closed(self.left())));
        }
        let chunk = buf.filled();
        let mut gap = None;
        if chunk.is_empty() {
            self.eof = true;
        } else {
            // One look at the clock serves all requests of this read.
            self.now = rt.now();
            // What was read ahead was counted then.
            if !ahead {
                gap = Some(self.now.saturating_sub(self.on_received(chunk.len(), self.now)));
            }
        }
        Poll::Ready(Ok(take(self, chunk, gap)))
    }

    /// Reads once, for the loop. Whole requests are processed straight from the worker's buffer; only what is left is
    /// copied.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        match std::task::ready!(self.poll_chunk(cx, usize::MAX, Self::on_chunk)) {
            Ok(step) => Poll::Ready(step),
            Err(Closed(reason)) => Poll::Ready(Some(Step::Close(reason))),
        }
    }

    fn on_chunk(&mut self, chunk: &[u8], gap: Option<u64>) -> Option<Step> {
        if chunk.is_empty() {
            self.outbox().on_end();
            return None;
        }
        if let Some(gap) = gap {
            let reads = &self.rt().shard.client_reads;
            reads.all.inc();
            if gap < nanos(HASTE) {
                reads.hasty.inc();
            }
        }
        // Behind the beginning of a request, or behind requests that wait: kept, and processed from there.
        if !self.carry.is_empty() {
            self.keep(chunk);
            self.exhausted = false;
            if self.input_over_budget() {
                return Some(Step::Close(CloseReason::AuthInput));
            }
            if self.request_too_large() {
                return Some(Step::Close(CloseReason::QueryBuffer));
            }
            return None;
        }
        let (used, flow) = self.process(chunk);
        self.carry.extend_from_slice(&chunk[used..]);
        self.exhausted = matches!(flow, Flow::NeedMore);
        match flow {
            // The stall is found again at once, from `carry`, where the wait is arranged.
            Flow::NeedMore | Flow::Stalled(_) => None,
            Flow::Step(step) => Some(step),
        }
    }

    /// Keeps input that cannot be used yet. It counts at once, and makes room for itself.
    fn keep(&mut self, chunk: &[u8]) {
        self.carry.extend_from_slice(chunk);
        self.count_input();
        self.rt().relieve();
    }

    /// The client has so much unread that its requests wait for it.
    #[cold]
    pub(super) fn is_behind(&self) -> bool {
        let requests = self.carry.len() + self.read.held();
        self.outbox().unsent() > self.rt().look().config.client.output_soft.max(requests)
    }

    /// Holds the client's requests until it reads its replies. Returns whether it does again.
    pub(super) fn wait_until_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        // Counted once for each time that the client falls behind.
        if !self.behind {
            self.behind = true;
            self.rt().shard.client_stalls[StallReason::Output].inc();
        }
        self.outbox().on_whole(); // it waits for us
        Ok(self.read_ahead(cx)? && !self.is_behind())
    }

    /// Reads what is there although it cannot be carried out now, as far as the client's limit and everybody's memory
    /// allow; whether anything came.
    #[cold]
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let node = self.node();
        // A client that sends faster than it is read must not keep the worker from others.
        for reads in 0..READS_PER_TURN {
            // Who has not logged in has limits that are smaller than the first piece.
            let may = self.admission == Admission::Admitted && !self.read.has_ended() && !self.eof;
            if !may || self.outbox().is_full() || node.rt.pauses(self.outbox()) {
                return Ok(reads > 0);
            }
            let read = self.read.poll_ahead(cx, &mut node.rt.read_buffer.borrow_mut());
            let Poll::Ready(read) = read else { return Ok(reads > 0) };
            let bytes = read.map_err(|_| Closed(self.left()))?;
            self.on_received(bytes, node.rt.now());
            self.outbox().on_read_ahead(bytes);
            self.count_input();
            node.rt.relieve();
        }
        cx.waker().wake_by_ref();
        Ok(true)
    }

    /// As [`Client::poll_more`], for a client that may wait for ever: what `carry` has no room for is read ahead. The
    /// end shows at once.
    pub(super) fn poll_while_it_waits(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let more = self.poll_more(cx, WAITING_INPUT);
        if more.is_pending() && self.carry.len() >= WAITING_INPUT && self.read_ahead(cx)? && self.has_ended() {
            return Poll::Ready(Ok(()));
        }
        more
    }

    /// The client has closed its side, whatever it sent before.
    pub(super) fn has_ended(&self) -> bool {
        self.eof || self.read.has_ended()
    }

    /// What the client's input takes counts against the memory of all.
    #[inline]
    pub(super) fn count_input(&self) {
        self.outbox().keep_input(&self.rt().memory, self.carry.len() + self.kept, self.read.held());
    }

    /// This many bytes came from the client's socket.
    #[inline]
    pub(super) fn on_received(&mut self, bytes: usize, now: u64) -> u64 {
        self.rt().shard.client_received_bytes.add(bytes as u64);
        self.record.on_read(bytes);
        self.drain_timer = None;
        self.record.active.replace(now)
    }

    /// Ends when the client is closed, or has closed if that ends its command.
    pub(super) async fn watch(&mut self, dies_with_eof: bool) -> Closed {
        poll_fn(|cx| {
            loop {
                if let Some(reason) = self.outbox().fate() {
                    return Poll::Ready(Closed(reason));
                }
                if self.has_ended() && dies_with_eof {
                    return Poll::Ready(Closed(CloseReason::Client));
                }
                // An error of the socket shows at the next read.
                let _ = self.outbox().poll_flush(cx, &self.rt().buffers);
                self.outbox().await_with(cx, Wants::Nothing);
                match self.poll_while_it_waits(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(closed)) => return Poll::Ready(closed),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Reads into `carry` up to `most` bytes, so that a close is noticed; pending when full or at the end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<(), Closed>> {
        // Out of memory: the client waits in its own socket, as long as nobody else can give way.
        let throttled = !self.read.is_ahead() && self.rt().pauses(self.outbox());
        if self.eof || self.carry.len() >= most || throttled {
            return Poll::Pending;
        }
        self.poll_chunk(cx, most - self.carry.len(), |client, chunk, _| client.keep(chunk))
    }

    /// Ready when the client is closed or has closed; reads and sends meanwhile.
    pub(super) fn poll_presence(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.exhausted = false;
        loop {
            if let Some(reason) = self.outbox().fate() {
                return Poll::Ready(Closed(reason));
            }
            if let Poll::Ready(Err(_)) = self.outbox().poll_flush(cx, &self.rt().buffers) {
                return Poll::Ready(Closed(CloseReason::IoError));
            }
            self.outbox().await_with(cx, Wants::Nothing);
            match self.poll_while_it_waits(cx) {
                Poll::Ready(Ok(())) if self.has_ended() => return Poll::Ready(Closed(CloseReason::Client)),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(closed)) => return Poll::Ready(closed),
                Poll::Pending if self.has_ended() => return Poll::Ready(Closed(CloseReason::Client)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
