//! How a client is sent away between two requests: when the process drains, or when it has been connected for long
//! enough (`client.max_age`).
//!
//! Its turn comes; if it asked for that, it is told to connect anew and has time to do so by itself; else, or when that
//! time is over, its connection is closed. There is no moment at which that is surely safe, as a request may be on its
//! way and a TCP connection whose one direction is closed brings no answers any more. The best moment is a short rest
//! after a reply: a client that sends one request at a time has just read it, a burst of requests is over, and the
//! next one is not yet written. So a client that is busy is closed a moment after one of its replies, and one that
//! has been silent for long is closed at once.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::base::nanos;
use crate::config::Config;
use crate::telemetry::{CloseReason, HandoffResult, unix_millis};

/// Silence behind a reply in which a client has come to rest. Longer than a client in the middle of a burst needs for
/// its next request, shorter than any pause that is meant.
const REST: Duration = Duration::from_millis(1);
/// How late that may be noticed. On a busy machine it may be much later, and the client about to send; then the rest
/// behind its next reply is a better moment.
const LATE: Duration = Duration::from_millis(2);
/// A client that has been silent for this long does not hurry: the moment does not matter.
const IDLE: Duration = Duration::from_millis(500);
/// From one client's turn to the next, on each worker.
const TURN: Duration = Duration::from_millis(2);
/// How long a client that is too old has to leave by itself, and how long a rest of its is waited for.
const TERM: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DepartureStage {
    /// To be told, if it wants to be; else to be closed.
    Tell,
    /// May leave by itself.
    Told,
    Close,
}

/// How far a client is on its way out, between two of its requests. Times are nanoseconds of the worker's clock.
///
/// ```text
///   Tell ── announced() ──▶ Told ── `by` is over ──▶ Close
///     └──────────────── cannot be told ───────────────▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) struct Departure {
    /// Moved by [`Departure::announced`] and [`Departure::at`].
    stage: DepartureStage,
    reason: CloseReason,
    /// The client's turn: before it nothing happens to it. Moved once, to the end of the time that it was promised.
    from: u64,
    /// The end of the time that the client is promised when it is told.
    by: u64,
    /// The time from which on the close does not wait for a quiet moment.
    hurry: u64,
    /// Stays set when the stage is over: the outcome of the move is counted when the client is gone.
    told: bool,
}

/// How the clients of a worker are sent away in a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) struct Schedule {
    began: u64,
    timeout: u64,
    /// From one turn to the next.
    step: u64,
    /// From one turn to the next of clients with subscriptions, whose turns are behind all others'.
    last_step: u64,
    others: u64,
    /// Names this move to all clients alike, so that one that has many connections acts once.
    seq: u64,
}

impl Schedule {
    pub(super) fn new(config: &Config, now: u64, others: usize, subscribers: usize) -> Self {
        let timeout = nanos(config.drain.timeout);
        let most = nanos(config.drain.spread).min(timeout / 2);
        let step = |clients: usize, most: u64| nanos(TURN).min(most / (clients as u64).max(1));
        Self {
            began: now,
            timeout,
            step: step(others, most),
            last_step: step(subscribers, most / 2),
            others: others as u64,
            seq: sequence(config),
        }
    }

    /// The departure of the client that is `place`th in line.
    pub(super) fn departure_of(&self, place: u64) -> Departure {
        let last = place.saturating_sub(self.others);
        let from = self.began + self.step * (place - last) + self.last_step * last;
        let by = self.began + self.timeout / 10 * 8;
        let hurry = self.began + self.timeout / 10 * 9;
        Departure { stage: DepartureStage::Tell, reason: CloseReason::Drain, from, by, hurry, told: false }
    }

    /// The departure of a client that connects now: behind all others'.
    pub(super) fn departure_of_newcomer(&self) -> Departure {
        self.departure_of(self.others)
    }

    /// The number that names this move.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }
}

impl Departure {
    /// The departure of a client that has been connected for `client.max_age`.
    pub(super) fn too_old(now: u64) -> Self {
        let (by, hurry) = (now + nanos(TERM), now + 2 * nanos(TERM));
        Self { stage: DepartureStage::Tell, reason: CloseReason::MaxAge, from: now, by, hurry, told: false }
    }

    /// As `self` in a drain, for a client that was sent away already because of its age: it keeps what it was promised.
    pub(super) fn after(self, told: Self) -> Self {
        if !told.told {
            return self;
        }
        Self { stage: DepartureStage::Told, told: true, by: told.by.min(self.by), ..self }
    }

    /// The close is asked for because of the client's age, not by a drain.
    pub(super) fn is_for_age(self) -> bool {
        self.reason == CloseReason::MaxAge
    }

    pub(super) fn reason(self) -> CloseReason {
        self.reason
    }

    /// Its turn has come, and it has not been told yet.
    pub(super) fn is_to_be_told(self, now: u64) -> bool {
        self.stage == DepartureStage::Tell && now >= self.from
    }

    /// How long the client has to leave by itself, at least a second.
    pub(super) fn seconds_left(self, now: u64) -> u64 {
        (self.by.saturating_sub(now) / 1_000_000_000).max(1)
    }

    /// The client was told.
    pub(super) fn announced(self) -> Self {
        Self { stage: DepartureStage::Told, told: true, ..self }
    }

    /// What the departure is at `now`, for a client that can be told or cannot.
    pub(super) fn at(self, now: u64, tells: bool) -> Self {
        match self.stage {
            DepartureStage::Tell if !tells => Self { stage: DepartureStage::Close, ..self },
            DepartureStage::Told if now >= self.by => Self { stage: DepartureStage::Close, from: self.by, ..self },
            _ => self,
        }
    }

    /// When a client that stays silent until then may be closed, and what is waited for; nothing while it is to be told
    /// first. `active` is when it was last read, `timer` what is waited for already.
    pub(super) fn moment(self, now: u64, active: u64, timer: Option<&DrainTimer>) -> Option<(u64, TimerFor)> {
        match self.stage {
            DepartureStage::Tell if now >= self.from => return None,
            DepartureStage::Told => return Some((self.by, TimerFor::Turn)),
            _ if now < self.from => return Some((self.from, TimerFor::Turn)),
            _ if now >= self.hurry => return Some((now, TimerFor::Turn)),
            _ => {}
        }
        let silence = (active + nanos(IDLE), TimerFor::Silence);
        let (until, waits) = match timer.map(|timer| (timer.until, timer.waits)) {
            // Nothing was read since its turn came: it rests already, and may go on to rest for long.
            _ if active <= self.from => silence,
            Some((_, TimerFor::Silence)) => silence,
            Some(rest @ (_, TimerFor::Rest)) => rest,
            _ => (now + nanos(REST), TimerFor::Rest),
        };
        let (until, waits) = (until.min(self.hurry), waits);
        // A rest that was noticed too late is none any more.
        if waits == TimerFor::Rest && now > until + nanos(LATE) && now < self.hurry {
            return Some(((active + nanos(IDLE)).min(self.hurry), TimerFor::Silence));
        }
        Some((until, waits))
    }

    /// What became of the move that a client was told of, if it was.
    pub(in crate::client) fn outcome(self, reason: CloseReason) -> Option<HandoffResult> {
        self.told.then_some(match reason {
            CloseReason::Client | CloseReason::Quit | CloseReason::IoError => HandoffResult::Moved,
            CloseReason::Drain | CloseReason::MaxAge => HandoffResult::Closed,
            _ => HandoffResult::Cut,
        })
    }
}

/// What a departing client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerFor {
    /// Its turn, or the end of what it was promised.
    Turn,
    /// The end of a short rest behind a reply.
    Rest,
    /// The end of a long silence.
    Silence,
}

/// The timer of a departing client. Gone when something is read from the client: then the rest is over.
pub(in crate::client) struct DrainTimer {
    until: u64,
    waits: TimerFor,
    sleep: Pin<Box<Sleep>>,
}

impl DrainTimer {
    pub(super) fn new(until: u64, waits: TimerFor, now: u64) -> Box<Self> {
        let time = Duration::from_nanos(until.saturating_sub(now));
        Box::new(Self { until, waits, sleep: Box::pin(sleep(time)) })
    }

    /// Waits for this already.
    pub(super) fn is_set_for(&self, moment: (u64, TimerFor)) -> bool {
        (self.until, self.waits) == moment
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

/// Names a move: different in every second and on every replica, below 2^53 for clients that count in doubles.
pub(super) fn sequence(config: &Config) -> u64 {
    unix_millis() / 1000 * 10_000 + config.instance
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;

    fn schedule(spread: &str, timeout: &str, others: usize, subscribers: usize) -> Schedule {
        let text = format!("drain.spread = '{spread}'\ndrain.timeout = '{timeout}'");
        Schedule::new(&Config::from_toml(&text).unwrap(), 1000 * MILLI, others, subscribers)
    }

    fn turns(plan: &Schedule, count: u64) -> Vec<u64> {
        (0..count).map(|place| plan.departure_of(place).from / MILLI - 1000).collect()
    }

    #[test]
    fn turns_are_spread_and_subscribers_are_last() {
        assert_eq!(turns(&schedule("10s", "25s", 3, 2), 5), [0, 2, 4, 6, 8]);
        assert_eq!(turns(&schedule("0s", "25s", 3, 2), 5), [0; 5]);
        // Many clients: within the spread, and subscribers within half of it again.
        let many = schedule("10s", "25s", 10_000, 10_000);
        assert_eq!(
            [0, 9_999, 10_000, 19_999].map(|place| many.departure_of(place).from / MILLI - 1000),
            [0, 9_999, 10_000, 14_999]
        );
        // Never more than half of the time that there is.
        assert!(schedule("10s", "1s", 10_000, 1).departure_of(10_000).from <= 1500 * MILLI);
    }

    #[test]
    fn a_client_that_was_told_has_most_of_the_time_to_leave() {
        let turn = schedule("10s", "10s", 1, 0).departure_of(0);
        assert_eq!((turn.by, turn.hurry), (9000 * MILLI, 10_000 * MILLI));
        let told = Departure { stage: DepartureStage::Told, told: true, ..turn };
        assert_eq!(told.at(turn.by - 1, true), told);
        let over = told.at(turn.by, true);
        assert_eq!((over.stage, over.from), (DepartureStage::Close, turn.by));
        assert_eq!(turn.at(0, false).stage, DepartureStage::Close);
    }

    #[test]
    fn only_who_was_told_has_an_outcome() {
        let turn = Departure::too_old(0);
        assert_eq!(turn.outcome(CloseReason::Client), None);
        let told = Departure { told: true, ..turn };
        let outcomes = [CloseReason::Client, CloseReason::MaxAge, CloseReason::DrainTimeout].map(|r| told.outcome(r));
        assert_eq!(outcomes, [HandoffResult::Moved, HandoffResult::Closed, HandoffResult::Cut].map(Some));
    }
}
