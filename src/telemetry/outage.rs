//! What the workers together know of the way to the upstream: each fact is said once for the process, by whichever
//! worker meets it first.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Characters of a text that are kept: it may be the upstream's own.
const KEPT: usize = 200;
/// Different reasons that are said during one outage; beyond that only how often it failed.
const REASONS: usize = 8;

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError {
    /// Unix time in milliseconds.
    pub at: u64,
    /// The error in the operating system's or the upstream's words.
    pub text: String,
}

/// Whether a server that answers is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The first one, or the first after others were configured.
    First,
    /// Another process than before.
    Another,
    Known,
}

/// Shared by the workers of a process; nothing of it is on the data path.
#[derive(Debug, Default)]
pub struct Outage(Mutex<OutageState>);

#[derive(Debug, Default)]
struct OutageState {
    last: Option<UpstreamError>,
    /// When the first of the failures in a row was; 0 while connections can be made.
    since: u64,
    /// The most failures in a row of one worker that were said.
    said: u32,
    reasons: Vec<String>,
    /// The most refusals in a row of the configured login that were said.
    refusals: u32,
    /// Workers whose circuit is open.
    circuits: usize,
    run_id: Vec<u8>,
}

impl Outage {
    /// A connection could not be made, or was lost before it served anybody.
    pub fn note(&self, now: u64, text: &str) {
        self.state().last = Some(UpstreamError { at: now, text: text.chars().take(KEPT).collect() });
    }

    /// What went wrong last.
    pub fn last(&self) -> Option<UpstreamError> {
        self.state().last.clone()
    }

    /// A worker failed `failures` times in a row, the last time for `reason`: whether that is to be said.
    pub fn on_failure(&self, now: u64, failures: u32, reason: &str) -> bool {
        let mut state = self.state();
        if state.since == 0 {
            state.since = now;
        }
        let new = state.reasons.len() < REASONS && state.reasons.iter().all(|known| known != reason);
        if new {
            state.reasons.push(reason.to_owned());
        }
        let more = failures > state.said && failures.is_power_of_two();
        if more {
            state.said = failures;
        }
        new || more
    }

    /// A connection stands: how long none could be made, if that was so.
    pub fn on_connected(&self, now: u64) -> Option<Duration> {
        let mut state = self.state();
        let since = std::mem::take(&mut state.since);
        (state.said, state.reasons) = (0, Vec::new());
        (since != 0).then(|| Duration::from_millis(now.saturating_sub(since)))
    }

    /// The configured login was refused a worker `times` times in a row: whether that is to be said.
    pub fn on_login_refused(&self, times: u32) -> bool {
        let mut state = self.state();
        let more = times > state.refusals;
        state.refusals = state.refusals.max(times);
        more
    }

    /// The configured login was accepted: whether it had been refused.
    pub fn on_login_accepted(&self) -> bool {
        std::mem::take(&mut self.state().refusals) > 0
    }

    /// A worker's circuit opened: whether it is the first.
    pub fn on_circuit_open(&self) -> bool {
        let mut state = self.state();
        state.circuits += 1;
        state.circuits == 1
    }

    /// A worker's circuit closed: whether it was the last.
    pub fn on_circuit_closed(&self) -> bool {
        let mut state = self.state();
        state.circuits = state.circuits.saturating_sub(1);
        state.circuits == 0
    }

    /// A server with this run id answers.
    pub fn on_met(&self, run_id: &[u8]) -> Met {
        let mut state = self.state();
        let met = match () {
            () if state.run_id == run_id => Met::Known,
            () if state.run_id.is_empty() => Met::First,
            () => Met::Another,
        };
        state.run_id = run_id.to_vec();
        met
    }

    /// Forgets the errors: the next ones will be another server's.
    pub fn forget(&self) {
        let mut state = self.state();
        *state = OutageState { circuits: state.circuits, ..OutageState::default() };
    }

    fn state(&self) -> MutexGuard<'_, OutageState> {
        // Words that a panic left behind are as good as before.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_workers_meet_is_said_once() {
        let outage = Outage::default();
        let both = |failures| [1, 2].map(|_| outage.on_failure(1000, failures, "refused"));
        assert_eq!(both(1), [true, false]);
        assert_eq!(both(2), [true, false]);
        assert_eq!(both(3), [false, false]);
        assert!(outage.on_failure(2000, 1, "timed out"), "a new reason");
        assert!(!outage.on_failure(2000, 1, "refused"));
        for other in 0..20 {
            outage.on_failure(2000, 3, &other.to_string());
        }
        assert!(!outage.on_failure(2000, 3, "one too many"));
        assert_eq!(outage.on_connected(4000), Some(Duration::from_secs(3)));
        assert_eq!(outage.on_connected(4000), None);
        assert_eq!(both(1), [true, false], "the next outage");
    }

    #[test]
    fn circuits_logins_and_servers() {
        let outage = Outage::default();
        assert_eq!([outage.on_circuit_open(), outage.on_circuit_open()], [true, false]);
        assert_eq!([outage.on_circuit_closed(), outage.on_circuit_closed()], [false, true]);
        assert_eq!([1, 1, 2, 2].map(|times| outage.on_login_refused(times)), [true, false, true, false]);
        assert_eq!([outage.on_login_accepted(), outage.on_login_accepted()], [true, false]);
        let met = [b"a", b"a", b"b", b"b"].map(|id| outage.on_met(id));
        assert_eq!(met, [Met::First, Met::Known, Met::Another, Met::Known]);
        outage.forget();
        assert_eq!(outage.on_met(b"c"), Met::First);
        outage.note(7, &"x".repeat(1000));
        assert_eq!(outage.last().map(|last| (last.at, last.text.len())), Some((7, KEPT)));
    }
}
