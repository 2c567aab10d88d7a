//! Whether the upstream is worth trying: the back-off and the circuit of one worker's connections. Pure: time and
//! chance are given.
//!
//! An answer is an answer: error replies of the server never count as failures here. What counts is a connection that
//! could not be made, and one that was lost before it had served anybody.

use std::time::{Duration, Instant};

use crate::config::Upstream;
use crate::telemetry::{CircuitState, ConnectError};

/// How soon others look again while one attempt tries whether the upstream is back.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Answers are looked for about so often.
const STALE: Duration = Duration::from_millis(300);
/// Shortest pause after a refusal because of too many clients: a place does not become free faster by asking.
const FULL: Duration = Duration::from_secs(1);

/// What an attempt that failed says of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptFailure {
    /// The server is not there, or does not answer.
    Silent,
    /// The server answers and accepts no connection now, because it is loading.
    Refusing,
    /// The server answers and accepts no connection now, because it has too many clients.
    Full,
}

impl AttemptFailure {
    /// What a failed attempt says.
    pub(super) fn of(cause: ConnectError) -> Self {
        match cause {
            ConnectError::MaxClients => Self::Full,
            ConnectError::Loading => Self::Refusing,
            _ => Self::Silent,
        }
    }
}

/// The back-off and the circuit of one worker.
pub(super) struct Circuit {
    first: Duration,
    longest: Duration,
    /// Failures that open it; 0 is never.
    threshold: u32,
    /// The circuit does not open before the upstream has been away for this long: until then commands wait.
    patience: Duration,
    /// Time of service that makes the back-off start again from the beginning.
    verified_after: Duration,
    /// Doublings of the back-off.
    step: u32,
    /// Failures with no answered command between them.
    failures: u32,
    failing_since: Option<Instant>,
    serving_since: Option<Instant>,
    last_failure: Option<Instant>,
    retry_at: Option<Instant>,
    /// While half open: from when on the attempt counts as forgotten.
    probe_until: Option<Instant>,
    state: CircuitState,
}

impl Circuit {
    pub(super) fn new(settings: &Upstream) -> Self {
        Self {
            first: settings.backoff_min,
            longest: settings.backoff_max,
            threshold: u32::try_from(settings.circuit_failures).unwrap_or(u32::MAX),
            patience: settings.connect_wait,
            verified_after: settings.verified_after,
            step: 0,
            failures: 0,
            failing_since: None,
            serving_since: None,
            last_failure: None,
            retry_at: None,
            probe_until: None,
            state: CircuitState::Closed,
        }
    }

    /// Takes other settings, and keeps what was seen so far.
    pub(super) fn reload(&mut self, settings: &Upstream) {
        let Self { first, longest, threshold, patience, verified_after, .. } = Self::new(settings);
        (self.first, self.longest, self.threshold) = (first, longest, threshold);
        (self.patience, self.verified_after) = (patience, verified_after);
    }

    pub(super) fn state(&self) -> CircuitState {
        self.state
    }

    /// Failures since the last answered command.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next attempt may start, if not now.
    pub(super) fn retry_at(&self, now: Instant) -> Option<Instant> {
        if self.probe_until.is_some_and(|until| now < until) {
            return Some(now + LOOK_AGAIN);
        }
        self.retry_at.filter(|at| *at > now)
    }

    /// Whether an attempt may start, which takes at most `limit`. On an open circuit it is the only one.
    pub(super) fn begin(&mut self, now: Instant, limit: Duration) -> bool {
        if self.state == CircuitState::Closed {
            return true;
        }
        if self.retry_at(now).is_some() {
            return false;
        }
        self.state = CircuitState::HalfOpen;
        self.probe_until = Some(now + limit);
        true
    }

    /// An attempt that began at `began` failed, or a connection ended that had served nobody. `chance` is in [0, 1).
    /// Returns the pause, or nothing for one of several attempts that failed together.
    pub(super) fn on_failure(
        &mut self,
        began: Instant,
        now: Instant,
        why: AttemptFailure,
        chance: f64,
    ) -> Option<Duration> {
        self.serving_since = None;
        if self.last_failure.replace(now).is_some_and(|last| began < last) && self.retry_at(now).is_some() {
            return None;
        }
        let step = self.first.saturating_mul(1 << self.step.min(20)).min(self.longest);
        self.step = self.step.saturating_add(1);
        // Full jitter: workers and processes that lost the same server at the same moment spread over the whole step.
        let mut backoff = step.mul_f64(chance);
        if why == AttemptFailure::Full {
            backoff = backoff.max(FULL.min(self.longest));
        }
        self.retry_at = Some(now + backoff);
        self.probe_until = None;
        if why == AttemptFailure::Silent {
            self.failures = self.failures.saturating_add(1);
            let since = *self.failing_since.get_or_insert(began);
            let long_enough = now.saturating_duration_since(since) >= self.patience;
            let many = self.threshold > 0 && self.failures >= self.threshold && long_enough;
            if many || self.state == CircuitState::HalfOpen {
                self.state = CircuitState::Open;
            }
        } else {
            self.failures = 0;
            self.failing_since = None;
            self.state = CircuitState::Closed;
        }
        Some(backoff)
    }

    /// A connection stands. That alone says little: one that is lost before it has answered a command goes on where the
    /// back-off was.
    pub(super) fn on_connected(&mut self) {
        self.retry_at = None;
        self.probe_until = None;
        self.state = CircuitState::Closed;
    }

    /// Commands were answered lately. True when that has gone on for long enough to trust the upstream again.
    pub(super) fn on_service(&mut self, now: Instant) -> bool {
        // What was answered lately may have been answered before it failed.
        if self.last_failure.is_some_and(|at| now.saturating_duration_since(at) < STALE) {
            return false;
        }
        self.failures = 0;
        self.failing_since = None;
        let since = *self.serving_since.get_or_insert(now);
        let verified = self.step > 0 && now.saturating_duration_since(since) >= self.verified_after;
        if verified {
            self.step = 0;
        }
        verified
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn circuit() -> Circuit {
        let mut upstream = Config::from_toml("").expect("the defaults are a configuration").upstream;
        upstream.connect_wait = Duration::from_secs(1);
        upstream.backoff_min = Duration::from_millis(50);
        upstream.backoff_max = Duration::from_secs(2);
        Circuit::new(&upstream)
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn open(circuit: &mut Circuit, start: Instant) -> Instant {
        for n in 0..5 {
            let at = after(start, n * 300);
            circuit.on_failure(at, at, AttemptFailure::Silent, 0.99);
        }
        after(start, 1200)
    }

    #[test]
    fn only_service_resets_the_back_off() {
        let (mut circuit, start) = (circuit(), Instant::now());
        let pauses: Vec<_> = (0..8)
            .filter_map(|n| {
                let at = after(start, n * 3000);
                circuit.on_connected();
                circuit.on_failure(at, at, AttemptFailure::Silent, 0.999)
            })
            .collect();
        assert!(pauses.windows(2).all(|p| p[1] >= p[0]) && pauses[7] > Duration::from_millis(1900), "{pauses:?}");
        assert!(!circuit.on_service(after(start, 30_000)) && !circuit.on_service(after(start, 39_000)));
        let at = after(start, 39_500);
        assert!(circuit.on_failure(at, at, AttemptFailure::Silent, 0.999) > Some(Duration::from_millis(1900)));
        assert!(!circuit.on_service(after(start, 50_000)) && circuit.on_service(after(start, 60_000)));
        let at = after(start, 61_000);
        assert!(circuit.on_failure(at, at, AttemptFailure::Silent, 0.999) < Some(Duration::from_millis(51)));
    }

    #[test]
    fn an_open_circuit_lets_one_attempt_through() {
        let (mut circuit, start) = (circuit(), Instant::now());
        let now = open(&mut circuit, start);
        assert_eq!(circuit.state(), CircuitState::Open);
        let limit = Duration::from_secs(4);
        assert!(!circuit.begin(now, limit), "the pause is not over");
        let now = after(now, 3000);
        assert!(circuit.begin(now, limit) && circuit.state() == CircuitState::HalfOpen);
        assert!(!circuit.begin(now, limit) && circuit.retry_at(now).is_some(), "one at a time");
        assert!(circuit.begin(after(now, 5000), limit), "an attempt that nobody finished does not block for ever");
        circuit.on_connected();
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_an_error_reply_does_not() {
        let (mut circuit, start) = (circuit(), Instant::now());
        let now = after(open(&mut circuit, start), 3000);
        assert!(circuit.begin(now, FULL));
        circuit.on_failure(now, now, AttemptFailure::Silent, 0.5);
        assert_eq!(circuit.state(), CircuitState::Open);
        let now = after(now, 3000);
        assert!(circuit.begin(now, FULL));
        circuit.on_failure(now, now, AttemptFailure::Refusing, 0.5);
        assert_eq!(circuit.state(), CircuitState::Closed, "who answers -LOADING is there");
    }

    #[test]
    fn it_does_not_open_before_commands_would_have_waited_in_vain() {
        let (mut circuit, start) = (circuit(), Instant::now());
        for n in 0..20 {
            let at = after(start, n * 40);
            circuit.on_failure(at, at, AttemptFailure::Silent, 0.0);
        }
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn attempts_that_fail_together_count_once() {
        let (mut circuit, start) = (circuit(), Instant::now());
        assert!(circuit.on_failure(start, after(start, 10), AttemptFailure::Silent, 0.9).is_some());
        assert!(circuit.on_failure(start, after(start, 11), AttemptFailure::Silent, 0.9).is_none());
        assert_eq!(circuit.failures(), 1);
    }
}
