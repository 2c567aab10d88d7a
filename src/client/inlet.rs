//! A client's input: how it is read, also where its requests cannot be carried out yet.
//!
//! Many libraries write a whole pipeline before they read its first reply. A server takes it all, whatever the client has
//! read, so respmux may not make such a client wait for itself:
//!
//! ```text
//!   socket ──▶ ahead (whole pieces) ──▶ carry ──▶ scan, route ──▶ … ──▶ outbox ──▶ socket
//!              filled only while requests wait, taken from first
//! ```
//!
//! Requests wait while more than `client.output_soft` of replies is unread and fewer bytes of requests than of replies
//! wait: so neither a client that asks little for much nor one that says much for little makes respmux keep more than
//! twice the smaller of the two. What is kept ends at the client's output limit, and gives way as `memory.limit` says.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;

use super::admission::Admission;
use super::connection::{Client, Closed, Flow, Step};
use super::pin::WAITING_INPUT;
use crate::base::nanos;
use crate::link::ReadHalf;
use crate::telemetry::{CloseReason, StallReason};
use crate::upstream::Pieces;

/// Reads ahead of at most 64 KiB after which others have a turn.
const READS_PER_TURN: u32 = 4;

/// A client that is read again sooner than this does nothing but wait for us.
const HASTE: Duration = Duration::from_millis(1);

/// What comes from a client: what was read ahead, then its socket.
pub(super) struct Inlet {
    socket: ReadHalf,
    /// Only after its client was read ahead.
    ahead: Option<Box<Ahead>>,
}

/// Input that was read before it could be used.
#[derive(Default)]
struct Ahead {
    /// The oldest piece, of which the bytes up to `at` are used.
    front: Vec<u8>,
    at: usize,
    rest: Pieces,
    /// The socket has ended behind it.
    ended: bool,
}

impl Inlet {
    pub(super) fn new(socket: ReadHalf) -> Self {
        Self { socket, ahead: None }
    }

    /// Bytes of memory for what was read ahead.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.ahead.as_ref().map_or(0, |ahead| ahead.front.capacity() + ahead.rest.capacity())
    }

    /// Something was read ahead, be it the end.
    #[inline]
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// The client is known to send no more.
    pub(super) fn has_ended(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.ended)
    }

    /// Reads in order; nothing at the end.
    #[inline]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.ahead {
            None => self.socket.poll_read(cx, buf),
            Some(ahead) => {
                let more = ahead.take(buf);
                if !more {
                    self.ahead = None;
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Reads the socket once, by way of `memory`; how much came, 0 at its end.
    fn poll_ahead(&mut self, cx: &mut Context<'_>, memory: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let mut buf = ReadBuf::new(memory);
        std::task::ready!(self.socket.poll_read(cx, &mut buf))?;
        let chunk = buf.filled();
        let ahead = self.ahead.get_or_insert_default();
        ahead.rest.push(chunk);
        ahead.ended = chunk.is_empty();
        Poll::Ready(Ok(chunk.len()))
    }
}

impl Ahead {
    /// Moves what fits into `buf`; whether anything is left, be it the end.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        while buf.remaining() > 0 {
            if self.at == self.front.len() {
                let Some(next) = self.rest.pop() else { break };
                (self.front, self.at) = (next, 0);
            }
            let fits = buf.remaining().min(self.front.len() - self.at);
            buf.put_slice(&self.front[self.at..self.at + fits]);
            self.at += fits;
        }
        self.ended || self.at < self.front.len() || self.rest.bytes() > 0
    }
}

impl Client {
    /// Reads once. Whole requests are processed straight from the worker's buffer; only what is left is copied.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        let node = self.node();
        let mut memory = node.rt.read_buffer.borrow_mut();
        let mut buf = ReadBuf::new(&mut memory);
        let ahead = self.read.is_ahead();
        match self.read.poll_read(cx, &mut buf) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(Some(Step::Close(self.left()))),
            Poll::Ready(Ok(())) => {}
        }
        let chunk = buf.filled();
        if chunk.is_empty() {
            self.eof = true;
            self.outbox().on_end();
            return Poll::Ready(None);
        }
        self.now = node.rt.now();
        if !ahead {
            let before = self.on_received(chunk.len(), self.now);
            let reads = &node.rt.shard.client_reads;
            reads.all.inc();
            if self.now.saturating_sub(before) < nanos(HASTE) {
                reads.hasty.inc();
            }
        }
        if !self.carry.is_empty() {
            self.carry.extend_from_slice(chunk);
            self.exhausted = false;
            self.count_input();
            node.rt.relieve();
            if self.input_over_budget() {
                return Poll::Ready(Some(Step::Close(CloseReason::AuthInput)));
            }
            if self.request_too_large() {
                return Poll::Ready(Some(Step::Close(CloseReason::QueryBuffer)));
            }
            return Poll::Ready(None);
        }
        let (used, flow) = self.process(chunk);
        self.carry.extend_from_slice(&chunk[used..]);
        self.exhausted = matches!(flow, Flow::NeedMore);
        match flow {
            // The stall is found again at once, from `carry`, where the wait is arranged.
            Flow::NeedMore | Flow::Stalled(_) => Poll::Ready(None),
            Flow::Step(step) => Poll::Ready(Some(step)),
        }
    }

    /// The client has so much unread that its requests wait for it.
    #[cold]
    pub(super) fn is_behind(&self) -> bool {
        let requests = self.carry.len() + self.read.held();
        self.outbox().unsent() > self.rt().look().config.client.output_soft.max(requests)
    }

    /// Nothing of the client's is carried out until it reads; whether that is over.
    pub(super) fn wait_until_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
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

    /// As [`Client::poll_more`], for a client that may wait for ever: what `carry` has no room for is read ahead. The end
    /// shows at once.
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
        self.profile.on_read(bytes);
        self.pause = None;
        self.profile.active.replace(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_ahead_comes_in_order_and_then_the_end() {
        let mut ahead = Ahead::default();
        let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        bytes.chunks(30_000).for_each(|chunk| ahead.rest.push(chunk));
        let (mut memory, mut got) = ([0; 7_000], Vec::new());
        for ended in [false, true] {
            ahead.ended = ended;
            let mut more = true;
            while more && got.len() < bytes.len() {
                let mut buf = ReadBuf::new(&mut memory);
                more = ahead.take(&mut buf);
                got.extend_from_slice(buf.filled());
            }
            assert_eq!(more, ended);
            assert!(got == bytes);
        }
        let mut buf = ReadBuf::new(&mut memory);
        assert!(ahead.take(&mut buf) && buf.filled().is_empty(), "the end stays");
    }
}
