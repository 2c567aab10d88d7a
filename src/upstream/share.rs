//! What one client has of the worker's buffers, and what that means for it.

use std::cell::Cell;

use super::Outbox;
use super::memory::Memory;
use super::pace::Held;
use crate::config;
use crate::telemetry::BufferKind;

/// One client's input, as its task has told it last.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Bytes of input that the client's task keeps.
    input: Cell<usize>,
    /// The part of `input` that was read ahead of need.
    ahead: Cell<usize>,
    /// The client is not read because memory is short; moved by the survey of memory.
    paused: Cell<bool>,
}

impl Outbox {
    /// Bytes of buffers that are this client's.
    pub fn held(&self) -> usize {
        self.share.input.get() + self.held_output()
    }

    /// Bytes of buffers for what it has not read, and for requests that wait until it does.
    pub fn held_back(&self) -> usize {
        self.share.ahead.get() + self.held_output()
    }

    /// The client's task keeps this much input now, and this much more that it has read ahead.
    #[inline]
    pub fn keep_input(&self, memory: &Memory, bytes: usize, ahead: usize) {
        let (input, share) = (bytes + ahead, &self.share);
        share.ahead.set(ahead);
        if share.input.get() != input {
            memory.change(BufferKind::Input, share.input.replace(input), input);
        }
    }

    /// As much waits, unread replies and requests behind them, as may wait of replies.
    pub fn is_full(&self) -> bool {
        let limit = self.output_limit();
        limit != 0 && self.share.input.get() + self.unsent() >= limit
    }

    /// The client has sent this much although its requests wait.
    pub fn on_read_ahead(&self, bytes: usize) {
        self.pace.on_read_ahead(bytes);
    }

    /// Closes a client that is too slow. Called a few times a second for all; `now` is in nanoseconds.
    pub(super) fn check_client_pace(&self, limits: &config::Client, now: u64) {
        let (input, unsent, paused) = (self.share.input.get(), self.unsent(), self.share.paused.get());
        let full = unsent > limits.output_soft && self.is_full();
        if let Some(reason) = self.pace.check(Held { input, unsent, paused, full }, limits, now) {
            tracing::debug!(client = self.id(), unsent, input, paused, full, %reason, "a client that is too slow is closed");
            self.close(reason);
        }
    }

    /// Remembers that it is not read because memory is short; whether that is news.
    pub(super) fn pause(&self, paused: bool) -> bool {
        self.share.paused.replace(paused) != paused
    }
}
