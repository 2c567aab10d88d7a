//! How a client is read while it waits, and ahead of what can be carried out. Its loop reads in `run`.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::connection::{Client, Closed};
use super::identity::admission_state::Admission;
use crate::telemetry::{CloseReason, StallReason};
use crate::upstream::Wants;

/// Reads ahead of at most 64 KiB after which others have a turn.
const READS_PER_TURN: u32 = 4;

/// Input that is kept while a client waits for a connection or is blocked, bytes (rule F9).
pub(super) const WAITING_INPUT: usize = 64 << 10;

impl Client {
    /// Keeps input that cannot be used yet. It counts at once, and makes room for itself.
    pub(super) fn keep(&mut self, chunk: &[u8]) {
        self.carry.extend_from_slice(chunk);
        self.count_input();
        self.rt().relieve();
    }

    /// The client has so much unread that its requests wait for it.
    #[cold]
    pub(super) fn is_behind(&self) -> bool {
        let requests = self.carry.len() + self.read.held();
        self.outbox().unsent() > self.rt().rules_ref().config.client.output_soft.max(requests)
    }

    /// Holds the client's requests until it reads its replies. Returns whether it does again.
    pub(super) fn wait_until_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        // Counted once for each time that the client falls behind.
        if !self.behind {
            self.behind = true;
            self.rt().shard.client_stalls[StallReason::Output].inc();
        }
        // An unfinished request is not the client's fault while nobody reads it.
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
            if !may || self.outbox().is_full() || node.rt.throttles(self.outbox()) {
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
        // There may be more: this task goes to the end of the queue, behind the others.
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
                // Killed or out of memory: no answer is worth waiting for.
                if let Some(reason) = self.outbox().close_reason() {
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
        let throttled = !self.read.is_ahead() && self.rt().throttles(self.outbox());
        if self.eof || self.carry.len() >= most || throttled {
            return Poll::Pending;
        }
        self.poll_chunk(cx, most - self.carry.len(), |client, chunk, _| client.keep(chunk))
    }

    /// Ready when the client is closed or has closed; reads and sends meanwhile.
    pub(super) fn poll_presence(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.exhausted = false;
        loop {
            if let Some(reason) = self.outbox().close_reason() {
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
