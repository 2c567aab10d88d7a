//! Clients that are too slow: with the end of a request that they have begun, or with reading what they asked for.
//!
//! No timers: a client's task leaves marks, and the worker's survey of all clients compares them a few times a second.

use std::cell::Cell;
use std::time::Duration;

use super::Outbox;
use crate::config;
use crate::telemetry::CloseReason;

/// How long a client may take nothing while as much waits for it as may.
const FULL_PATIENCE: Duration = Duration::from_secs(2);

/// A request that was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PartialRequest {
    /// No request is begun.
    #[default]
    None,
    /// The client's task waits for the rest.
    Begun,
    /// Since then, when this many KiB of input were there.
    Since { seconds: u32, kib: u32 },
}

/// What a client has in buffers, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buffered {
    pub input: usize,
    pub unsent: usize,
    /// The client is not read because memory is short.
    pub throttled: bool,
    /// It is not read because its unread replies, and the requests that wait behind them, are at its limit.
    pub full: bool,
}

/// The marks of one client. Times are seconds of the worker's clock: nothing finer is needed, and they are small.
#[derive(Debug, Default)]
pub(super) struct SlowMarks {
    partial: Cell<PartialRequest>,
    /// Its socket has taken something since the last look.
    taken: Cell<bool>,
    /// Bytes that it has taken in all.
    total: Cell<u64>,
    /// Since when it has taken nothing while much waited for it; 0 is not.
    stalled: Cell<u32>,
    /// Bytes that were read ahead of it since then.
    ahead: Cell<usize>,
}

impl Outbox {
    /// Bytes that the client's socket has taken since it connected.
    pub fn total_sent(&self) -> u64 {
        self.slow_marks.total.get()
    }
}

impl SlowMarks {
    #[inline]
    pub(super) fn await_rest(&self) {
        if self.partial.get() == PartialRequest::None {
            self.partial.set(PartialRequest::Begun);
        }
    }

    #[inline]
    pub(super) fn on_whole(&self) {
        self.partial.set(PartialRequest::None);
    }

    #[inline]
    pub(super) fn on_taken(&self, bytes: usize) {
        self.taken.set(true);
        self.total.set(self.total.get() + bytes as u64);
    }

    pub(super) fn on_read_ahead(&self, bytes: usize) {
        self.ahead.set(self.ahead.get().saturating_add(bytes));
    }

    /// Why the client is to be closed, if it is; `now` is in nanoseconds.
    pub(super) fn check(&self, buffered: Buffered, limits: &config::Client, now: u64) -> Option<CloseReason> {
        let now = u32::try_from(now / 1_000_000_000).unwrap_or(u32::MAX).saturating_add(1);
        let slow = self.check_partial(buffered, limits.partial_timeout, now);
        slow.or_else(|| self.check_output(buffered, limits, now))
    }

    fn check_partial(&self, buffered: Buffered, patience: Duration, now: u32) -> Option<CloseReason> {
        let kib = u32::try_from(buffered.input >> 10).unwrap_or(u32::MAX);
        let PartialRequest::Since { seconds, kib: before } = self.partial.get() else {
            if self.partial.get() == PartialRequest::Begun && !patience.is_zero() {
                self.partial.set(PartialRequest::Since { seconds: now, kib });
            }
            return None;
        };
        let past = now.saturating_sub(seconds);
        if u64::from(past) < patience.as_secs().max(1) {
            return None;
        }
        // At least 1 KiB a second: it is a long request, and under way.
        if kib.saturating_sub(before) >= past {
            self.partial.set(PartialRequest::Since { seconds: now, kib });
            return None;
        }
        Some(if buffered.throttled { CloseReason::Memory } else { CloseReason::PartialRequest })
    }

    fn check_output(&self, buffered: Buffered, limits: &config::Client, now: u32) -> Option<CloseReason> {
        let patience = if buffered.full { FULL_PATIENCE } else { limits.output_stall_time };
        if self.taken.take() || buffered.unsent <= limits.output_soft || patience.is_zero() {
            self.stalled.set(0);
            return None;
        }
        let past = u64::from(now.saturating_sub(self.stalled.get()));
        // Who writes a long pipeline at 1 KiB a second or more reads when that is done.
        let writes = !buffered.full && self.ahead.get() as u64 >> 10 >= past.max(1);
        if self.stalled.get() == 0 || (past >= patience.as_secs() && writes) {
            self.stalled.set(now);
            self.ahead.set(0);
            return None;
        }
        (past >= patience.as_secs().max(1)).then_some(CloseReason::OutputLimit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const SECOND: u64 = 1_000_000_000;

    fn limits(partial: u64, stall: u64) -> config::Client {
        let mut limits = Config::default().client;
        limits.partial_timeout = Duration::from_secs(partial);
        limits.output_stall_time = Duration::from_secs(stall);
        limits
    }

    #[test]
    fn a_begun_request_has_its_time_and_more_if_it_goes_on() {
        let (pace, limits) = (SlowMarks::default(), limits(30, 0));
        let at = |second: u64, kib: usize| {
            pace.check(Buffered { input: kib << 10, ..Buffered::default() }, &limits, second * SECOND)
        };
        assert_eq!(at(0, 1), None);
        assert_eq!(at(1000, 1), None, "nothing is awaited");
        pace.await_rest();
        assert_eq!((at(1000, 1), at(1029, 1)), (None, None));
        assert_eq!(at(1030, 31), None, "1 KiB a second");
        assert_eq!(at(1059, 31), None);
        assert_eq!(at(1060, 60), Some(CloseReason::PartialRequest));
        pace.on_whole();
        assert_eq!(at(1061, 60), None);
        pace.await_rest();
        assert_eq!(at(1062, 0), None);
        let throttled = Buffered { throttled: true, ..Buffered::default() };
        assert_eq!(pace.check(throttled, &limits, 1092 * SECOND), Some(CloseReason::Memory));
    }

    #[test]
    fn unread_output_has_its_time_from_the_last_byte_on() {
        let (pace, limits) = (SlowMarks::default(), limits(0, 60));
        let at = |second: u64, unsent: usize| {
            pace.check(Buffered { unsent, ..Buffered::default() }, &limits, second * SECOND)
        };
        assert_eq!((at(0, 2 << 20), at(59, 2 << 20)), (None, None));
        pace.on_taken(1);
        assert_eq!((at(60, 2 << 20), at(61, 2 << 20), at(120, 2 << 20)), (None, None, None));
        assert_eq!(at(121, 2 << 20), Some(CloseReason::OutputLimit));
        assert_eq!(at(122, 1000), None, "little may wait for ever");
    }

    #[test]
    fn who_still_writes_is_waited_for_until_it_is_full() {
        let (pace, limits) = (SlowMarks::default(), limits(0, 60));
        let at = |second: u64, full: bool| {
            pace.check(Buffered { unsent: 2 << 20, full, ..Buffered::default() }, &limits, second * SECOND)
        };
        assert_eq!(at(0, false), None);
        pace.on_read_ahead(60 << 10);
        assert_eq!((at(60, false), at(119, false)), (None, None));
        pace.on_read_ahead(59 << 10);
        assert_eq!(at(120, false), Some(CloseReason::OutputLimit), "less than 1 KiB a second");
        pace.on_taken(1);
        assert_eq!((at(121, true), at(122, true)), (None, None));
        pace.on_read_ahead(1 << 20);
        assert_eq!((at(123, true), at(124, true)), (None, Some(CloseReason::OutputLimit)));
    }
}
