//! A short rest before the sockets are looked at again, so that one write carries more.
//!
//! The worker is often quicker than its clients: it wakes for a few requests, writes them, and Redis wakes for these
//! few in turn. With many clients most of the price of a request is in such waking. So a worker that has much to do
//! and time to spare lets requests gather, as a network card does with its interrupts; no client notices, since each
//! takes far longer between two of its requests than the rest takes.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::telemetry::Shard;

/// How long the worker waits. The kernel adds its timer slack, usually 50 µs.
const WAIT: Duration = Duration::from_micros(50);
/// For how long a worker is watched before it is decided whether it waits, and for how long the decision holds.
const WATCH: Duration = Duration::from_millis(1);
/// Reads of clients a millisecond below which a rest gathers next to nothing.
const READS_PER_MILLI: u128 = 30;
/// A turn with so many reads carries much by itself, or the worker has no time to spare.
const FULL_TURN: u64 = 32;

/// What was seen since the decision before, and the decision. Pure.
#[derive(Default)]
struct Coalescer {
    /// When that was; nothing before the first turn.
    since: Option<Instant>,
    /// Reads, and hasty ones, until then.
    before: (u64, u64),
    /// Reads until the last turn.
    last: u64,
    worth_it: bool,
}

impl Coalescer {
    /// A turn is over and nothing is left to do: whether to rest. `reads` counts reads of clients since the start,
    /// `rapid` those of clients that had been read less than `HASTE` of the client before.
    fn on_idle(&mut self, now: Instant, reads: u64, rapid: u64) -> bool {
        let turn = reads - self.last;
        self.last = reads;
        let since = *self.since.get_or_insert(now);
        let watched = now.saturating_duration_since(since);
        if watched >= WATCH {
            let (reads_before, rapid_before) = self.before;
            let (new, quick) = (reads - reads_before, rapid - rapid_before);
            // Hasty clients wait for us and do nothing else: they would feel it.
            self.worth_it = u128::from(new) * 1000 >= READS_PER_MILLI * watched.as_micros() && quick * 2 <= new;
            self.since = Some(now);
            self.before = (reads, rapid);
        }
        self.worth_it && (1..FULL_TURN).contains(&turn)
    }
}

thread_local! {
    /// The runtime's hook may not own anything that belongs to one thread.
    static STATE: RefCell<Coalescer> = RefCell::default();
}

/// What a worker's runtime calls before it waits for its sockets.
pub(super) fn hook(shard: Arc<Shard>) -> impl Fn() + Send + Sync {
    move || {
        let (reads, rapid) = (shard.client_reads.all.value(), shard.client_reads.rapid.value());
        if STATE.with_borrow_mut(|coalescer| coalescer.on_idle(crate::base::now(), reads, rapid)) {
            shard.coalesce_waits.inc();
            #[allow(
                clippy::disallowed_methods,
                reason = "there is nothing to do: the next is to wait for the sockets"
            )]
            std::thread::sleep(WAIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Coalescer, Duration, FULL_TURN, Instant};

    /// Turns of `reads` reads each, `rapid` of them hasty, every `micros`: how many of a thousand end with a rest.
    fn waits(coalescer: &mut Coalescer, reads: u64, rapid: u64, micros: u64) -> usize {
        let (start, all, quick) = (coalescer.since.unwrap_or_else(Instant::now), coalescer.last, coalescer.before.1);
        let turn =
            |n: u64| coalescer.on_idle(start + Duration::from_micros(n * micros), all + n * reads, quick + n * rapid);
        (1..=1000).map(turn).filter(|waited| *waited).count()
    }

    #[test]
    fn only_many_that_take_their_time_are_let_gather() {
        let of = |reads, rapid, micros| waits(&mut Coalescer::default(), reads, rapid, micros);
        assert!(of(7, 0, 50) > 950, "140,000 a second by many");
        assert!(of(7, 3, 50) > 950, "some of them at once again");
        assert_eq!(of(7, 4, 50), 0, "most of them at once again: a few clients");
        assert_eq!(of(1, 0, 50), 0, "20,000 a second");
        assert_eq!(of(FULL_TURN, 0, 200), 0, "much at a time");
        assert_eq!(of(0, 0, 50), 0);
    }

    #[test]
    fn the_decision_follows_the_load() {
        let mut coalescer = Coalescer::default();
        assert!(waits(&mut coalescer, 7, 0, 50) > 950);
        assert!(waits(&mut coalescer, 7, 7, 50) < 30, "a few clients are left");
        assert!(waits(&mut coalescer, 7, 0, 50) > 950);
        // After a pause the first requests are not held up.
        let later = coalescer.since.unwrap() + Duration::from_secs(1);
        assert!(!coalescer.on_idle(later, coalescer.last + 5, coalescer.before.1));
    }
}
