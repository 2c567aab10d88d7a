//! CLIENT PAUSE: the server answers, and holds commands back on purpose. That is no outage. What it would hold is held
//! at the clients, so that nobody else's commands stand behind it on a lane.
//!
//! A pause is *known* when it passed through respmux, with its length; it is *seen* when it came another way and was
//! recognised by what it does (`control_pause`). [`KnownPauses`] is the pure part; time is given.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::Node;
use crate::router::{Extent, PauseChange};

/// Servers end a pause in a task that runs ten times a second, so up to so much later than they were told.
const SERVER_IS_LATE: Duration = Duration::from_millis(110);
/// How long nothing is begun while a pause is on its way to the server.
const QUIESCED: Duration = Duration::from_secs(1);
/// A sign of life not older than this says that the server is paused, not hung.
const ALIVE: Duration = Duration::from_secs(6);

/// What is known of the server's pauses.
#[derive(Debug, Default)]
pub(super) struct KnownPauses {
    known: Option<(Extent, Instant)>,
    seen: Option<Extent>,
    /// One is on its way to the server, which says itself when it is longer.
    quiesced: Option<(Extent, Instant)>,
}

impl KnownPauses {
    /// What is held back now.
    pub(super) fn extent(&self) -> Option<Extent> {
        self.known.map(|(extent, _)| extent).max(self.seen).max(self.quiesced.map(|(extent, _)| extent))
    }

    /// As servers do: of two pauses the stricter kind and the later end count.
    pub(super) fn on_change(&mut self, now: Instant, change: PauseChange) {
        match change {
            PauseChange::Begun(extent, time) => {
                // No later than servers count time: what is longer ends with UNPAUSE.
                let time = time.min(Duration::from_secs(u64::from(u32::MAX))) + SERVER_IS_LATE;
                let (before, end) = self.known.unwrap_or((extent, now));
                self.known = Some((extent.max(before), end.max(now + time)));
            }
            PauseChange::Ended => (self.known, self.seen) = (None, None),
        }
    }

    /// A pause is about to be sent: until that is decided nothing is begun that it would hold.
    pub(super) fn quiesce(&mut self, now: Instant, extent: Option<Extent>) {
        self.quiesced = extent.map(|extent| (extent, now + QUIESCED));
    }

    /// A pause that came another way, or its end.
    pub(super) fn see(&mut self, extent: Option<Extent>) {
        self.seen = extent;
    }

    /// Takes out what is over. When to look again.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.known = self.known.filter(|(_, end)| *end > now);
        self.quiesced = self.quiesced.filter(|(_, end)| *end > now);
        let ends = [self.known, self.quiesced].into_iter().flatten().map(|(_, end)| end);
        ends.min()
    }
}

/// The server's pauses as a worker sees them.
#[derive(Default)]
pub struct ServerPause {
    pauses: RefCell<KnownPauses>,
    /// What is held back: `pauses` as of the last look.
    extent: Cell<Option<Extent>>,
    quiesced: Cell<bool>,
    changes: Cell<u64>,
    changed: Notify,
    /// When the server last showed that it answers although it is paused.
    alive_at: Cell<Option<Instant>>,
    /// When the last pause ended.
    ended_at: Cell<Option<Instant>>,
}

impl ServerPause {
    /// What is held back now.
    #[inline]
    #[must_use]
    pub fn extent(&self) -> Option<Extent> {
        self.extent.get()
    }

    /// Everything is held back.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.extent() == Some(Extent::All)
    }

    /// A pause is on its way to the server: what it would hold must not even be sent.
    #[must_use]
    pub fn is_quiesced(&self) -> bool {
        self.quiesced.get()
    }

    /// Counts changes of what is held back.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// The pause did not pass through respmux; it was recognised by its effect.
    pub(super) fn is_seen(&self) -> bool {
        self.pauses.borrow().seen.is_some()
    }

    /// The server is silent because it is paused, and has shown that it lives.
    pub(super) fn excuses_silence(&self) -> bool {
        self.extent().is_some() && self.alive_at.get().is_some_and(|at| crate::base::since(at) <= ALIVE)
    }

    /// Everything is held back, by a server that lives.
    pub(super) fn is_all_and_alive(&self) -> bool {
        self.is_all() && self.excuses_silence()
    }

    /// Silence counts from here at the earliest: nanoseconds ago.
    pub(super) fn ended_before(&self) -> u64 {
        self.ended_at.get().map_or(u64::MAX, |at| crate::base::nanos(crate::base::since(at)))
    }

    /// The server has shown that it lives.
    pub(super) fn on_sign_of_life(&self) {
        self.alive_at.set(Some(crate::base::now()));
    }
}

impl Node {
    /// A CLIENT PAUSE or UNPAUSE was accepted by the server.
    pub fn on_server_pause(&self, change: PauseChange) {
        let now = crate::base::now();
        self.server_pause.pauses.borrow_mut().on_change(now, change);
        self.server_pause.pauses.borrow_mut().quiesce(now, None);
        if let PauseChange::Begun(..) = change {
            self.server_pause.on_sign_of_life();
        }
        self.look_at_pauses();
        self.control.check_now();
    }

    /// The server is not there, or is another one.
    pub(super) fn forget_pauses(&self) {
        if self.server_pause.extent().is_some() {
            tracing::info!(
                worker = self.rt.worker, upstream = %self.address(),
                "the upstream's pause is over: the upstream is away, or it is another server"
            );
            self.server_pause.pauses.borrow_mut().on_change(crate::base::now(), PauseChange::Ended);
            self.look_at_pauses();
        }
    }

    /// A pause is about to be sent to the server; nothing: it was not accepted.
    pub fn quiesce_for_pause(&self, extent: Option<Extent>) {
        self.server_pause.pauses.borrow_mut().quiesce(crate::base::now(), extent);
        self.look_at_pauses();
    }

    /// A pause that came another way was recognised, or is over.
    pub(super) fn see_pause(&self, extent: Option<Extent>) {
        let before = self.server_pause.pauses.borrow().seen;
        if before == extent {
            return;
        }
        match extent {
            Some(extent) => {
                tracing::warn!(
                    worker = self.rt.worker, upstream = %self.address(),
                    ?extent,
                    "the upstream is paused (CLIENT PAUSE or a failover): clients wait"
                );
            }
            None => {
                tracing::info!(worker = self.rt.worker, upstream = %self.address(), "the upstream is no longer paused")
            }
        }
        self.server_pause.pauses.borrow_mut().see(extent);
        self.look_at_pauses();
    }

    /// Takes out pauses that are over; at the end of one, or at any change, whoever is held looks again.
    pub(super) fn look_at_pauses(&self) {
        let pause = &self.server_pause;
        let (extent, quiesced) = {
            let mut pauses = pause.pauses.borrow_mut();
            pauses.expire(crate::base::now());
            (pauses.extent(), pauses.quiesced.is_some())
        };
        if extent.is_some() {
            self.control.on_paused();
        }
        self.dialer.be_patient(extent == Some(Extent::All) && pause.excuses_silence());
        if (extent, quiesced) == (pause.extent.get(), pause.quiesced.get()) {
            return;
        }
        if extent < pause.extent.get() {
            pause.ended_at.set(Some(crate::base::now()));
        }
        pause.extent.set(extent);
        pause.quiesced.set(quiesced);
        pause.changes.set(pause.changes.get() + 1);
        self.on_pause_changed();
        pause.changed.notify_waiters();
        self.rt.wake_all();
    }

    /// As a timeout; but the time in which the server holds everything back does not count.
    pub(super) async fn within<T>(&self, limit: Duration, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        loop {
            if let Ok(result) = timeout(limit, what.as_mut()).await {
                return Some(result);
            }
            if !self.server_pause.is_all() {
                return None;
            }
            tokio::select! {
                biased;
                result = what.as_mut() => return Some(result),
                () = self.server_pause_over() => {}
            }
        }
    }

    /// Waits until the server does not hold everything back.
    pub async fn server_pause_over(&self) {
        while self.server_pause.is_all() {
            self.server_pause.changed.notified().await;
        }
    }

    /// Waits until the server holds nothing back.
    pub(super) async fn server_takes_writes(&self) {
        while self.server_pause.extent().is_some() {
            self.server_pause.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn of_two_pauses_the_stricter_kind_and_the_later_end_count() {
        let (mut pauses, start) = (KnownPauses::default(), Instant::now());
        pauses.on_change(start, PauseChange::Begun(Extent::Write, seconds(10)));
        pauses.on_change(start, PauseChange::Begun(Extent::All, seconds(1)));
        pauses.expire(start + seconds(9));
        assert_eq!(pauses.extent(), Some(Extent::All));
        pauses.expire(start + seconds(11));
        assert_eq!(pauses.extent(), None);
        // A new one does not begin with what an old one was.
        pauses.on_change(start + seconds(12), PauseChange::Begun(Extent::Write, seconds(1)));
        assert_eq!(pauses.extent(), Some(Extent::Write));
        pauses.on_change(start + seconds(12), PauseChange::Ended);
        assert_eq!(pauses.extent(), None);
    }

    #[test]
    fn a_pause_that_was_never_sent_ends_by_itself() {
        let (mut pauses, start) = (KnownPauses::default(), Instant::now());
        pauses.quiesce(start, Some(Extent::All));
        assert_eq!(pauses.expire(start), Some(start + QUIESCED));
        assert_eq!(pauses.extent(), Some(Extent::All));
        assert_eq!((pauses.expire(start + QUIESCED), pauses.extent()), (None, None));
    }

    #[test]
    fn unpause_ends_what_was_seen_and_never_what_is_on_its_way() {
        let (mut pauses, start) = (KnownPauses::default(), Instant::now());
        pauses.see(Some(Extent::All));
        pauses.quiesce(start, Some(Extent::Write));
        pauses.on_change(start, PauseChange::Ended);
        assert_eq!(pauses.extent(), Some(Extent::Write));
    }

    #[test]
    fn a_pause_for_ever_does_not_overflow() {
        let (mut pauses, start) = (KnownPauses::default(), Instant::now());
        pauses.on_change(start, PauseChange::Begun(Extent::Write, Duration::from_millis(i64::MAX as u64)));
        pauses.expire(start + seconds(86_400));
        assert_eq!(pauses.extent(), Some(Extent::Write));
    }
}
