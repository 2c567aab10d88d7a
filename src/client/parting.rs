//! How a client is sent away between two requests: when the process drains, or when it has been connected for long
//! enough (`client.max_age`).
//!
//! Its turn comes; if it asked for that, it is told to connect anew and has time to do so by itself; else, or when that
//! time is over, its connection is closed. There is no moment at which that is surely safe, as a request may be on its
//! way and a TCP connection whose one direction is closed brings no answers any more. The best moment is a short rest
//! after a reply: a client that sends one request at a time has just read it, a burst of requests is over, and the
//! next one is not yet written. So a client that is busy is closed a moment after one of its replies, and one that
//! has been silent for long is closed at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Sleep, sleep, timeout};

use super::Shared;
use super::connection::Client;
use super::directory::Profile;
use crate::base::nanos;
use crate::config::Config;
use crate::session::{Guard, Notices, Resp};
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
/// How long a client may take to notice that its connection was closed.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be told, if it wants to be; else to be closed.
    Tell,
    /// May leave by itself.
    Told,
    Close,
}

/// That a client is sent away, and how far that is. Times are nanoseconds of the worker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parting {
    stage: Stage,
    reason: CloseReason,
    /// Its turn.
    from: u64,
    /// The end of the time that it is promised when it is told.
    by: u64,
    /// From here on no rest is waited for.
    hurry: u64,
    told: bool,
}

/// How the clients of a worker are sent away in a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    began: u64,
    timeout: u64,
    /// From one turn to the next.
    step: u64,
    /// The same for those with subscriptions, whose turns are behind all others'.
    last_step: u64,
    others: u64,
    seq: u64,
}

impl Plan {
    fn new(config: &Config, now: u64, others: usize, subscribers: usize) -> Self {
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

    /// Of the client that is `place`th in line.
    fn turn(&self, place: u64) -> Parting {
        let last = place.saturating_sub(self.others);
        let from = self.began + self.step * (place - last) + self.last_step * last;
        let by = self.began + self.timeout / 10 * 8;
        let hurry = self.began + self.timeout / 10 * 9;
        Parting { stage: Stage::Tell, reason: CloseReason::Drain, from, by, hurry, told: false }
    }
}

impl Parting {
    fn too_old(now: u64) -> Self {
        let (by, hurry) = (now + nanos(TERM), now + 2 * nanos(TERM));
        Self { stage: Stage::Tell, reason: CloseReason::MaxAge, from: now, by, hurry, told: false }
    }

    /// What it is at `now`, for a client that can be told or cannot.
    fn at(self, now: u64, tells: bool) -> Self {
        match self.stage {
            Stage::Tell if !tells => Self { stage: Stage::Close, ..self },
            Stage::Told if now >= self.by => Self { stage: Stage::Close, from: self.by, ..self },
            _ => self,
        }
    }

    /// What became of the move that a client was told of, if it was.
    pub(super) fn outcome(self, reason: CloseReason) -> Option<HandoffResult> {
        self.told.then_some(match reason {
            CloseReason::Client | CloseReason::Quit | CloseReason::IoError => HandoffResult::Moved,
            CloseReason::Drain | CloseReason::MaxAge => HandoffResult::Closed,
            _ => HandoffResult::Cut,
        })
    }
}

/// What a parting client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// Its turn, or the end of what it was promised.
    Turn,
    /// The end of a short rest behind a reply.
    Rest,
    /// The end of a long silence.
    Silence,
}

/// Its timer. Gone when something is read from it.
pub(super) struct Pause {
    until: u64,
    waits: Waits,
    sleep: Pin<Box<Sleep>>,
}

impl Client {
    /// Tells a client whose turn it is to go elsewhere; whether it must not send more before, because something is
    /// unanswered. Only here, where no connection is held: what a lent connection has of a client's state (a
    /// transaction, tracking, subscriptions) stock clients do not take along when they move.
    pub(super) fn tell(&self) -> bool {
        let Some(parting) = self.profile.parting.get() else { return false };
        if parting.stage != Stage::Tell || !self.wants_to_be_told() {
            return false;
        }
        let now = self.rt().now();
        if now < parting.from || self.profile.session.borrow().guard != Guard::Intact {
            return false;
        }
        if self.outbox().pending() > 0 {
            return true;
        }
        let seconds = parting.by.saturating_sub(now) / 1_000_000_000;
        let seq = self.shared.plan.get().map_or_else(|| sequence(&self.rt().config()), |plan| plan.seq);
        self.push_moving(seq, seconds.max(1));
        self.profile.parting.set(Some(Parting { stage: Stage::Told, told: true, ..parting }));
        false
    }

    fn wants_to_be_told(&self) -> bool {
        let session = self.profile.session.borrow();
        session.notices != Notices::Off && session.key.resp == Resp::Three && !self.profile.subscribes()
    }

    /// Ready when this is the moment to close the client; called when there is nothing to read from it. `tells`: it
    /// could be told instead.
    pub(super) fn poll_parting(&mut self, cx: &mut Context<'_>, tells: bool) -> Poll<CloseReason> {
        let Some(parting) = self.profile.parting.get() else { return Poll::Pending };
        if parting.reason == CloseReason::MaxAge && self.profile.subscribes() {
            self.profile.parting.set(None); // it would miss messages
            return Poll::Pending;
        }
        let tells = tells && self.wants_to_be_told();
        loop {
            if !self.at_boundary() {
                return Poll::Pending;
            }
            let now = self.rt().now();
            let parting = parting.at(now, tells);
            self.profile.parting.set(Some(parting));
            let (until, waits) = match parting.stage {
                Stage::Tell if now >= parting.from => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Stage::Told => (parting.by, Waits::Turn),
                _ if now < parting.from => (parting.from, Waits::Turn),
                _ => self.moment(parting, now),
            };
            if waits == Waits::Rest && now > until + nanos(LATE) && now < parting.hurry {
                self.arm(self.profile.active.get() + nanos(IDLE), Waits::Silence);
                continue;
            }
            if now >= until {
                // What is there already is read and answered first: whoever has it wakes us.
                return if self.outbox().is_silent() { Poll::Ready(parting.reason) } else { Poll::Pending };
            }
            if self.pause.as_ref().is_none_or(|pause| (pause.until, pause.waits) != (until, waits)) {
                self.arm(until, waits);
            }
            if self.pause.as_mut().is_some_and(|pause| pause.sleep.as_mut().poll(cx).is_pending()) {
                return Poll::Pending;
            }
        }
    }

    /// When a client whose turn has come may be closed, if it stays silent.
    fn moment(&self, parting: Parting, now: u64) -> (u64, Waits) {
        if now >= parting.hurry {
            return (now, Waits::Turn);
        }
        let active = self.profile.active.get();
        let silence = (active + nanos(IDLE), Waits::Silence);
        let (until, waits) = match self.pause.as_ref().map(|pause| (pause.until, pause.waits)) {
            _ if active <= parting.from => silence,
            Some((_, Waits::Silence)) => silence,
            Some(rest @ (_, Waits::Rest)) => rest,
            _ => (now + nanos(REST), Waits::Rest),
        };
        (until.min(parting.hurry), waits)
    }

    fn arm(&mut self, until: u64, waits: Waits) {
        let time = Duration::from_nanos(until.saturating_sub(self.rt().now()));
        self.pause = Some(Box::new(Pause { until, waits, sleep: Box::pin(sleep(time)) }));
    }

    /// Nothing is asked, owed or begun. A connection that the client holds has its own say in that.
    fn at_boundary(&self) -> bool {
        self.carry.is_empty()
            && !self.read.is_ahead()
            && self.outbox().pending() == 0
            && self.outbox().unsent() == 0
            && self.profile.session.borrow().guard == Guard::Intact
    }

    /// Closes our side and waits until the client has closed its own: were the socket closed while something unread
    /// comes in, the kernel would reset the connection, and the reset would overtake the last reply.
    pub(super) async fn take_leave(&mut self, reason: CloseReason) {
        self.outbox().close(reason);
        self.leave_hub();
        let node = self.node();
        let mut late = false;
        let parted = async {
            poll_fn(|cx| self.outbox().poll_end(cx)).await?;
            loop {
                let read = poll_fn(|cx| {
                    let mut memory = node.rt.read_buffer.borrow_mut();
                    let mut buf = ReadBuf::new(&mut memory);
                    self.read.poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
                });
                match read.await? {
                    0 => return std::io::Result::Ok(()),
                    _ => late = true,
                }
            }
        };
        // A client that does not notice, or has gone already, is closed all the same.
        let _ = timeout(LINGER, parted).await;
        if late {
            node.rt.shard.close_races.inc();
        }
    }
}

impl Shared {
    /// The process drains: every client gets its turn, those who can move by themselves first, subscribers last.
    pub(crate) fn drain(&self) {
        if self.draining() {
            return;
        }
        self.upstream.pause(false);
        let mut clients = self.directory.all();
        fastrand::shuffle(&mut clients);
        clients.sort_by_key(|profile| {
            (profile.subscribes(), profile.session.borrow().notices == Notices::Off) // stable
        });
        let subscribers = clients.iter().filter(|profile| profile.subscribes()).count();
        let plan = Plan::new(&self.rt.config(), self.rt.now(), clients.len() - subscribers, subscribers);
        self.plan.set(Some(plan));
        for (place, profile) in clients.iter().enumerate() {
            let turn = plan.turn(place as u64);
            let told = profile.parting.get().filter(|parting| parting.told);
            profile.parting.set(Some(told.map_or(turn, |told| Parting {
                stage: Stage::Told,
                told: true,
                by: told.by.min(turn.by),
                ..turn
            })));
            profile.outbox.wake();
        }
    }

    /// Whether [`Shared::drain`] was called.
    pub(crate) fn draining(&self) -> bool {
        self.plan.get().is_some()
    }

    /// The turn of a client that connects now: none, unless the process drains. Then it is behind all others'.
    pub(super) fn parting_of_a_newcomer(&self) -> Option<Parting> {
        self.plan.get().map(|plan| plan.turn(plan.others))
    }

    /// The time of the drain is over.
    pub(crate) fn cut(&self) {
        for client in self.rt.roster.all() {
            client.close(CloseReason::DrainTimeout);
        }
    }

    /// Sends clients away that have been connected for `client.max_age`.
    pub(super) fn retire(&self) {
        let most = self.rt.config().client.max_age;
        if most.is_zero() {
            return;
        }
        let now = self.rt.now();
        self.directory.each(|profile| {
            let age = crate::base::since(profile.connected);
            if profile.parting.get().is_none() && !profile.subscribes() && age >= limit_of(most, profile) {
                profile.parting.set(Some(Parting::too_old(now)));
                profile.outbox.wake();
            }
        });
    }
}

/// The age limit of one client: clients that came at once do not leave at once.
fn limit_of(most: Duration, profile: &Profile) -> Duration {
    let drawn = profile.outbox.id().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54; // 0 to 1023
    most / 10 * 9 + most / 5 * u32::try_from(drawn).unwrap_or_default() / 1024
}

/// Names a move: different in every second and on every replica, below 2^53 for clients that count in doubles.
fn sequence(config: &Config) -> u64 {
    unix_millis() / 1000 * 10_000 + config.instance
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;

    fn plan(spread: &str, timeout: &str, others: usize, subscribers: usize) -> Plan {
        let text = format!("drain.spread = '{spread}'\ndrain.timeout = '{timeout}'");
        Plan::new(&Config::from_toml(&text).unwrap(), 1000 * MILLI, others, subscribers)
    }

    fn turns(plan: &Plan, count: u64) -> Vec<u64> {
        (0..count).map(|place| plan.turn(place).from / MILLI - 1000).collect()
    }

    #[test]
    fn turns_are_spread_and_subscribers_are_last() {
        assert_eq!(turns(&plan("10s", "25s", 3, 2), 5), [0, 2, 4, 6, 8]);
        assert_eq!(turns(&plan("0s", "25s", 3, 2), 5), [0; 5]);
        // Many clients: within the spread, and subscribers within half of it again.
        let many = plan("10s", "25s", 10_000, 10_000);
        assert_eq!(
            [0, 9_999, 10_000, 19_999].map(|place| many.turn(place).from / MILLI - 1000),
            [0, 9_999, 10_000, 14_999]
        );
        // Never more than half of the time that there is.
        assert!(plan("10s", "1s", 10_000, 1).turn(10_000).from <= 1500 * MILLI);
    }

    #[test]
    fn a_client_that_was_told_has_most_of_the_time_to_leave() {
        let turn = plan("10s", "10s", 1, 0).turn(0);
        assert_eq!((turn.by, turn.hurry), (9000 * MILLI, 10_000 * MILLI));
        let told = Parting { stage: Stage::Told, told: true, ..turn };
        assert_eq!(told.at(turn.by - 1, true), told);
        let over = told.at(turn.by, true);
        assert_eq!((over.stage, over.from), (Stage::Close, turn.by));
        assert_eq!(turn.at(0, false).stage, Stage::Close);
    }

    #[test]
    fn only_who_was_told_has_an_outcome() {
        let turn = Parting::too_old(0);
        assert_eq!(turn.outcome(CloseReason::Client), None);
        let told = Parting { told: true, ..turn };
        let outcomes = [CloseReason::Client, CloseReason::MaxAge, CloseReason::DrainTimeout].map(|r| told.outcome(r));
        assert_eq!(outcomes, [HandoffResult::Moved, HandoffResult::Closed, HandoffResult::Cut].map(Some));
    }
}
