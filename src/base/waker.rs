//! How a task that sleeps is woken by those who have something for it.

use std::cell::RefCell;
use std::task::{Context, Waker};

/// The waker of one task: remembered by the task in each of its polls, used by others of the same thread.
///
/// A task that is polled again by the runtime that polled it before has the same waker, so nearly every poll finds it
/// there and neither clones nor counts.
#[derive(Default)]
pub struct TaskWaker(RefCell<Option<Waker>>);

impl TaskWaker {
    /// The task that is polled now is the one to wake.
    #[inline]
    pub fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.0.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Wakes it. Nobody, if it has never been polled: its first poll looks at everything anyway.
    #[inline]
    pub fn wake(&self) {
        if let Some(waker) = self.0.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}
