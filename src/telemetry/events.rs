//! What happened to the process lately, for people: a short list that never holds anything of a client.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::reasons::LogLevel;

/// Events that are kept.
const KEPT: usize = 64;

/// An event that repeats within this time is counted, not listed twice; milliseconds.
const TOGETHER: u64 = 60_000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// First and last time: unix time in milliseconds.
    pub first: u64,
    /// See `first`.
    pub last: u64,
    /// How often the event happened, or to how many clients.
    pub count: u64,
    /// How much the event matters.
    pub level: LogLevel,
    /// A text of ours, without names, keys or addresses of clients.
    pub text: String,
}

/// The events, oldest first. Written a few times a minute, by the main thread.
#[derive(Debug, Default)]
pub struct Events(Mutex<VecDeque<Event>>);

impl Events {
    /// `text` happened `count` times, as of `now`.
    pub fn note(&self, now: u64, level: LogLevel, text: &str, count: u64) {
        let mut events = self.lock();
        let again = events.iter_mut().rev().find(|e| e.text == text && now.saturating_sub(e.last) <= TOGETHER);
        if let Some(event) = again {
            (event.last, event.count) = (now, event.count.saturating_add(count));
            return;
        }
        if events.len() >= KEPT {
            events.pop_front();
        }
        events.push_back(Event { first: now, last: now, count, level, text: text.to_owned() });
    }

    /// All that are kept, the latest first.
    pub fn latest(&self) -> Vec<Event> {
        let mut events: Vec<_> = self.lock().iter().rev().cloned().collect();
        events.sort_by_key(|event| std::cmp::Reverse(event.last));
        events
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // A list that a panic left behind is as good as before.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_counted_until_it_is_old() {
        let events = Events::default();
        events.note(1000, LogLevel::Info, "started", 1);
        events.note(2000, LogLevel::Warn, "refused", 3);
        events.note(62_000, LogLevel::Warn, "refused", 2);
        events.note(200_000, LogLevel::Warn, "refused", 1);
        let seen: Vec<_> = events.latest().into_iter().map(|e| (e.first, e.last, e.count, e.text)).collect();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            seen,
            [
                (200_000, 200_000, 1, text("refused")),
                (2000, 62_000, 5, text("refused")),
                (1000, 1000, 1, text("started"))
            ]
        );
    }

    #[test]
    fn there_are_never_more_than_fit() {
        let events = Events::default();
        for number in 0..10 * KEPT as u64 {
            events.note(number, LogLevel::Info, &number.to_string(), 1);
        }
        let latest = events.latest();
        assert_eq!(latest.len(), KEPT);
        assert_eq!(latest[0].text, (10 * KEPT - 1).to_string());
    }
}
