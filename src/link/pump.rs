//! The one way to drive a link: write until the socket takes nothing more, read into the worker's one buffer, and let
//! those who append share one write.
//!
//! Lanes and hubs are driven by a task of their own and filled by many clients: they have a [`Pump`]. A lease has one
//! user, whose own task drives it, with the two calls on [`Link`] alone. What a client is sent takes another way
//! (`upstream::outbox`): it is written at once by whoever has a reply for it, without a task, and only what the socket
//! does not take is left to the client's.

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

use super::Link;
use crate::base::TaskWaker;

/// What waits to be written to a link.
pub trait Outgoing {
    /// What may be written now, in order; nothing when nothing may.
    fn ready(&self) -> &[u8];

    /// The socket has taken the first `bytes` of that.
    fn on_taken(&mut self, bytes: usize);
}

impl Outgoing for BytesMut {
    #[inline]
    fn ready(&self) -> &[u8] {
        self
    }

    #[inline]
    fn on_taken(&mut self, bytes: usize) {
        self.advance(bytes);
    }
}

impl Link {
    /// Writes until nothing is ready any more. Pending when the socket is full before that; the task is woken when it takes
    /// bytes again.
    ///
    /// # Errors
    /// The socket's error; the connection is of no use any more.
    #[inline]
    pub fn poll_write_out(&self, cx: &mut Context<'_>, out: &mut impl Outgoing) -> Poll<io::Result<()>> {
        loop {
            let bytes = out.ready();
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match self.try_write(bytes)? {
                0 => ready!(self.poll_writable(cx))?,
                taken => out.on_taken(taken),
            }
        }
    }

    /// Reads once, into `memory`: what came, which is never empty. Pending when nothing is there; the task is woken when
    /// something is.
    ///
    /// # Errors
    /// The socket's error, or `UnexpectedEof` when the upstream has closed the connection.
    #[inline]
    pub fn poll_chunk<'a>(&mut self, cx: &mut Context<'_>, memory: &'a mut [u8]) -> Poll<io::Result<&'a [u8]>> {
        let mut buf = ReadBuf::new(memory);
        ready!(self.poll_read(cx, &mut buf))?;
        let read = buf.filled().len();
        if read == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the upstream")));
        }
        self.counted().on_received(read);
        Poll::Ready(Ok(&memory[..read]))
    }
}

/// When the task of a shared connection writes.
///
/// The order is the point. A task that is woken by its socket stands in the middle of the run queue: clients behind it
/// have requests for the same write. So what is to be written is left for one more poll ([`Pump::end_turn`]), in which
/// the task stands behind all of them, and one system call carries everything.
#[derive(Default)]
pub struct Pump {
    task: TaskWaker,
    /// The next turn writes. Set at the end of a turn that has something to write, taken at the beginning of the next.
    deferred: Cell<bool>,
    /// The socket takes nothing more, and its readiness wakes the task: to ask for a turn would only spin. Moved by every
    /// write.
    full: Cell<bool>,
}

impl Pump {
    /// Something was appended, or has to be seen to: the task has a turn.
    #[inline]
    pub fn wake(&self) {
        self.task.wake();
    }

    /// The driving task is polled, or waits for its connection: it is the one to wake.
    #[inline]
    pub fn remember(&self, cx: &Context<'_>) {
        self.task.remember(cx);
    }

    /// The connection is another one, and nothing has been written to it.
    pub fn begin_again(&self) {
        self.deferred.set(false);
        self.full.set(false);
    }

    /// A turn begins: whether it is one that writes.
    #[inline]
    pub fn begin_turn(&self, cx: &Context<'_>) -> bool {
        self.task.remember(cx);
        self.deferred.take() || self.full.get()
    }

    /// Writes what is ready; what the socket does not take is written when it can take more.
    ///
    /// # Errors
    /// As [`Link::poll_write_out`].
    #[inline]
    pub fn write(&self, cx: &mut Context<'_>, link: &Link, out: &mut impl Outgoing) -> io::Result<()> {
        let full = match link.poll_write_out(cx, out) {
            Poll::Ready(result) => {
                result?;
                false
            }
            Poll::Pending => true,
        };
        self.full.set(full);
        Ok(())
    }

    /// Whether a write now could get rid of anything.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.full.get()
    }

    /// A turn ends. `more` is ready to be written: the next turn does that, and is asked for once.
    #[inline]
    pub fn end_turn(&self, cx: &Context<'_>, more: bool) {
        if more && !self.full.get() && !self.deferred.replace(true) {
            cx.waker().wake_by_ref();
        }
    }
}
