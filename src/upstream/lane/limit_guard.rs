//! What keeps the server's limits on connections away from a lane: `client-output-buffer-limit normal` counts the replies
//! of all clients of a lane together, `client-query-buffer-limit` their requests.
//!
//! How long a reply is shows only when it comes. So as many requests are under way as replies of the length of late fit
//! into half of the limit. When the server closes the lane all the same, reads are sent again, the first time one by
//! one: who is alone when it happens again is the one whose reply is too long.

use std::cell::Cell;

use crate::config;
use crate::telemetry::ServerLimits;
use crate::upstream::server_limits::requests_on_a_lane;

/// How long a reply counts among those of late: up to twice this, nanoseconds.
const WINDOW: u64 = 5_000_000_000;
/// Before any reply was seen, one is taken to be this part of the limit.
const GUESS: usize = 64;
/// Reads under way at most, on the lane where any reply may be long: the first ones of a kind that is new are not
/// foreseen.
const MOST_READS: usize = 32;

/// The guard of one lane. A lane is made anew when the server's limits change.
pub(super) struct LimitGuard {
    /// Bytes of replies that may wait on the server; 0 is no limit.
    ceiling: usize,
    /// Requests and bytes under way.
    configured: usize,
    most_commands: Cell<usize>,
    most_bytes: usize,
    /// The longest reply of this window and of the one before.
    longest: Cell<[usize; 2]>,
    since: Cell<u64>,
    /// One request at a time.
    solo: Cell<bool>,
}

impl LimitGuard {
    /// `reads`: of a lane for reads whose replies may be of any length.
    pub(super) fn new(lane: &config::Lane, server: &ServerLimits, reads: bool, now: u64) -> Self {
        let ceiling = usize::try_from(server.normal.least()).unwrap_or(usize::MAX);
        let configured = match reads && ceiling > 0 {
            true => lane.max_inflight_commands.min(MOST_READS),
            false => lane.max_inflight_commands,
        };
        let guard = Self {
            ceiling,
            configured,
            most_commands: Cell::new(configured),
            most_bytes: requests_on_a_lane(lane, server),
            longest: Cell::new([0, ceiling / GUESS]),
            since: Cell::new(now),
            solo: Cell::new(false),
        };
        guard.settle();
        guard
    }

    /// The server limits the replies of a connection.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.ceiling != 0
    }

    #[inline]
    pub(super) fn most_commands(&self) -> usize {
        self.most_commands.get()
    }

    #[inline]
    pub(super) fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    fn settle(&self) {
        if self.is_on() {
            let longest = self.longest.get().into_iter().fold(1, usize::max);
            self.most_commands.set((self.ceiling / 2 / longest).clamp(1, self.configured));
        }
    }

    /// A reply of so many bytes has come.
    pub(super) fn on_reply(&self, bytes: usize) {
        let [now, before] = self.longest.get();
        if bytes > now {
            self.longest.set([bytes, before]);
            if bytes > before {
                self.settle();
            }
        }
    }

    pub(super) fn on_tick(&self, now: u64) {
        if self.is_on() && now.saturating_sub(self.since.get()) >= WINDOW {
            self.since.set(now);
            let [last, _] = self.longest.get();
            // Nothing was asked: nothing is known anew.
            if last > 0 {
                self.longest.set([0, last]);
                self.settle();
            }
        }
    }

    /// One request at a time, from here on or no longer.
    pub(super) fn set_solo(&self, solo: bool) {
        self.solo.set(solo);
    }

    #[inline]
    pub(super) fn is_solo(&self) -> bool {
        self.solo.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::telemetry::OutputLimit;

    fn guard(hard: u64, soft: u64, query_buffer: u64) -> LimitGuard {
        let normal = OutputLimit { hard, soft, soft_seconds: 1 };
        LimitGuard::new(
            &Config::default().lane,
            &ServerLimits { normal, query_buffer, ..ServerLimits::default() },
            false,
            0,
        )
    }

    #[test]
    fn without_limits_the_configuration_counts() {
        let (guard, lane) = (guard(0, 0, 0), Config::default().lane);
        guard.on_reply(1 << 30);
        guard.on_tick(9 * WINDOW);
        assert_eq!((guard.is_on(), guard.most_commands()), (false, lane.max_inflight_commands));
        assert_eq!(guard.most_bytes(), lane.max_inflight_bytes);
    }

    #[test]
    fn as_many_as_fit_into_half_of_the_smaller_limit() {
        let guard = guard(64 << 20, 32 << 20, 1 << 20);
        assert_eq!((guard.most_commands(), guard.most_bytes()), (GUESS / 2, 512 << 10));
        guard.on_reply(1000);
        assert_eq!(guard.most_commands(), GUESS / 2, "one short reply says little");
        guard.on_tick(WINDOW);
        assert!(guard.most_commands() > 1000, "{}", guard.most_commands());
        guard.on_reply(4 << 20);
        assert_eq!(guard.most_commands(), 4);
        guard.on_tick(2 * WINDOW);
        guard.on_tick(3 * WINDOW);
        assert_eq!(guard.most_commands(), 4, "nothing came, nothing is known anew");
        guard.on_reply(1 << 30);
        assert_eq!(guard.most_commands(), 1, "one always may");
    }
}
