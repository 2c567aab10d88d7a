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

use tokio::io::ReadBuf;

use crate::link::ReadHalf;
use crate::upstream::Pieces;

/// What comes from a client: what was read ahead, then its socket.
pub(super) struct Input {
    /// The other half, for writing, is the outbox's: replies go out while requests come in.
    socket: ReadHalf,
    /// Only after its client was read ahead.
    ahead: Option<Box<ReadAhead>>,
}

/// Input that was read before it could be used.
#[derive(Default)]
struct ReadAhead {
    /// The oldest piece, of which the bytes up to `at` are used.
    front: Vec<u8>,
    at: usize,
    /// What is behind `front`, in pieces as they were read; moved by `poll_ahead` and `take`.
    rest: Pieces,
    /// The socket has ended behind it.
    ended: bool,
}

impl Input {
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
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>, memory: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let mut buf = ReadBuf::new(memory);
        std::task::ready!(self.socket.poll_read(cx, &mut buf))?;
        let chunk = buf.filled();
        let ahead = self.ahead.get_or_insert_default();
        ahead.rest.push(chunk);
        ahead.ended = chunk.is_empty();
        Poll::Ready(Ok(chunk.len()))
    }
}

impl ReadAhead {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_ahead_comes_in_order_and_then_the_end() {
        let mut ahead = ReadAhead::default();
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
