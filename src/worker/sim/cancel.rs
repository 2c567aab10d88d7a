//! Clients' tasks that are cancelled in the middle.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::link::memory_socket::MemorySocket;

/// How one client's task is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    Never,
    /// At this poll of its task the client's connection is reset.
    Cut(u64),
    /// At this poll its task is dropped, wherever it waits.
    Drop(u64),
}

/// A client's task that counts its polls, and is cancelled at one of them.
pub(super) struct Watched<F> {
    pub(super) task: Option<Pin<Box<F>>>,
    pub(super) socket: MemorySocket,
    pub(super) cancel: Cancel,
    pub(super) polls: u64,
    pub(super) total: Rc<Cell<u64>>,
    pub(super) done: Rc<Cell<u64>>,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.polls += 1;
        self.total.set(self.total.get() + 1);
        match self.cancel {
            Cancel::Cut(at) if at == self.polls => {
                self.done.set(self.done.get() + 1);
                self.socket.cut();
            }
            Cancel::Drop(at) if at == self.polls => {
                self.done.set(self.done.get() + 1);
                self.task = None;
                self.socket.cut();
                return Poll::Ready(());
            }
            _ => {}
        }
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        task.as_mut().poll(cx)
    }
}
