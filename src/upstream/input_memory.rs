//! What one client has of the worker's buffers, and what that means for it.

use std::cell::Cell;

use super::Outbox;
use super::memory::Memory;
use super::slow_clients::Buffered;
use crate::config;
use crate::telemetry::BufferKind;

/// One client's input, as its task has told it last.
#[derive(Debug, Default)]
pub(super) struct InputMemory {
    /// Bytes of input that the client's task keeps.
    input: Cell<usize>,
    /// The part of `input` that was read ahead of need.
    ahead: Cell<usize>,
    /// The client is not read because memory is short; moved by the survey of memory.
    throttled: Cell<bool>,
}

impl Outbox {
    /// Bytes of buffers that are this client's.
    pub fn buffered(&self) -> usize {
        self.input_memory.input.get() + self.buffered_output()
    }

    /// Bytes of buffers for what it has not read, and for requests that wait until it does.
    pub fn buffered_unread(&self) -> usize {
        self.input_memory.ahead.get() + self.buffered_output()
    }

    /// The client's task keeps this much input now, and this much more that it has read ahead.
    #[inline]
    pub fn keep_input(&self, memory: &Memory, bytes: usize, ahead: usize) {
        let (input, share) = (bytes + ahead, &self.input_memory);
        share.ahead.set(ahead);
        if share.input.get() != input {
            memory.change(BufferKind::Input, share.input.replace(input), input);
        }
    }

    /// As much waits, unread replies and requests behind them, as may wait of replies.
    pub fn is_full(&self) -> bool {
        let limit = self.output_limit();
        limit != 0 && self.input_memory.input.get() + self.unsent() >= limit
    }

    /// The client has sent this much although its requests wait.
    pub fn on_read_ahead(&self, bytes: usize) {
        self.slow_marks.on_read_ahead(bytes);
    }

    /// Closes a client that is too slow. Called a few times a second for all; `now` is in nanoseconds.
    pub(super) fn check_slow_client(&self, limits: &config::Client, now: u64) {
        let (input, unsent, throttled) =
            (self.input_memory.input.get(), self.unsent(), self.input_memory.throttled.get());
        let full = unsent > limits.output_soft && self.is_full();
        if let Some(reason) = self.slow_marks.check(Buffered { input, unsent, throttled, full }, limits, now) {
            tracing::debug!(client = self.id(), unsent, input, throttled, full, %reason, "a client that is too slow is closed");
            self.close(reason);
        }
    }

    /// Remembers that it is not read because memory is short; whether that is news.
    pub(super) fn throttle(&self, throttled: bool) -> bool {
        self.input_memory.throttled.replace(throttled) != throttled
    }
}
