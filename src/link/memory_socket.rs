//! Sockets in memory, for simulations: everything on one thread, reads and writes cut as chance wants it, and chance
//! is the thread's `fastrand`, so that a seed replays.

#![allow(clippy::needless_pass_by_ref_mut, reason = "the signatures are those of polling")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

/// Bytes that are on their way in one direction.
const CAPACITY: usize = 4096;

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// The writer has said that nothing follows, or is gone.
    ended: bool,
    /// The reader is gone.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

struct PipeEnd {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut incoming = self.incoming.borrow_mut();
        incoming.unread = true;
        incoming.wake();
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.ended = true;
        outgoing.wake();
    }
}

/// One end; clones are the same end, which closes with the last.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "part of enums that are public")]
pub struct MemorySocket(Rc<PipeEnd>);

/// Both ends of a new connection.
#[must_use]
pub(crate) fn pair() -> (MemorySocket, MemorySocket) {
    let (one, two) = (Rc::new(RefCell::new(Pipe::default())), Rc::new(RefCell::new(Pipe::default())));
    let end = |incoming, outgoing| MemorySocket(Rc::new(PipeEnd { incoming, outgoing }));
    (end(Rc::clone(&one), Rc::clone(&two)), end(two, one))
}

/// How many of `most` bytes one call moves, by chance.
fn portion(most: usize) -> usize {
    if fastrand::u8(..3) == 0 { most.min(1 + fastrand::usize(..12)) } else { most }
}

impl MemorySocket {
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.0.incoming.borrow_mut();
        if pipe.bytes.is_empty() && !pipe.ended {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let take = portion(pipe.bytes.len().min(buf.remaining()));
        let chunk: Vec<u8> = pipe.bytes.drain(..take).collect();
        buf.put_slice(&chunk);
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.0.outgoing.borrow_mut();
        if pipe.unread || pipe.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = CAPACITY - pipe.bytes.len();
        if room == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let take = portion(bytes.len().min(room));
        pipe.bytes.extend(&bytes[..take]);
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Ok(take)
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.0.outgoing.borrow_mut();
        if pipe.bytes.len() < CAPACITY || pipe.unread {
            return Poll::Ready(Ok(()));
        }
        pipe.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.poll_writable(cx)?.is_pending() {
                        return Poll::Pending;
                    }
                }
                result => return Poll::Ready(result),
            }
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let pipe = self.0.incoming.borrow();
        pipe.bytes.is_empty() && !pipe.ended
    }

    pub(crate) fn peer_is_gone(&self) -> bool {
        let pipe = self.0.incoming.borrow();
        pipe.bytes.is_empty() && pipe.ended
    }

    /// The peer has said that nothing follows, whatever came before that is not read.
    pub(crate) fn peer_has_ended(&self) -> bool {
        self.0.incoming.borrow().ended
    }

    /// Wakes the task of `cx` when something arrives or the peer leaves.
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        self.0.incoming.borrow_mut().reader = Some(cx.waker().clone());
    }

    /// Says that nothing follows.
    pub(crate) fn end(&self) {
        let mut pipe = self.0.outgoing.borrow_mut();
        pipe.ended = true;
        pipe.wake();
    }

    /// As when the connection is reset: both directions are over, and what was on its way is lost.
    pub(crate) fn cut(&self) {
        for pipe in [&self.0.incoming, &self.0.outgoing] {
            let mut pipe = pipe.borrow_mut();
            (pipe.ended, pipe.unread) = (true, true);
            pipe.bytes.clear();
            pipe.wake();
        }
    }
}

type Listener = Rc<dyn Fn() -> io::Result<MemorySocket>>;

thread_local! {
    static UPSTREAM: RefCell<Option<Listener>> = const { RefCell::new(None) };
    static ADDRESS: Cell<Option<SocketAddr>> = const { Cell::new(None) };
}

/// From now on the upstream's name leads here.
pub(crate) fn move_to(address: SocketAddr) {
    ADDRESS.set(Some(address));
}

/// Where it leads, if this thread has a simulated upstream.
pub(crate) fn address() -> Option<SocketAddr> {
    ADDRESS.get()
}

/// From now on this thread's connects to the upstream end here.
pub(crate) fn listen(listener: Listener) {
    UPSTREAM.set(Some(listener));
}

/// A connection to the simulated upstream, if there is one on this thread.
pub(crate) fn connect() -> Option<io::Result<MemorySocket>> {
    UPSTREAM.with_borrow(Clone::clone).map(|listener| listener())
}
