//! What went wrong last on the way to the upstream, for people: said once for the process, and always with the
//! upstream's address.

use std::time::{Duration, Instant};

use super::Dialer;
use super::circuit::{AttemptFailure, Circuit};
use super::keyring::Credentials;
use crate::base::now;
use crate::telemetry::{CircuitState, unix_millis};

impl Dialer {
    /// The state of the circuit.
    #[must_use]
    pub fn circuit(&self) -> CircuitState {
        self.circuit.borrow().state()
    }

    pub(super) fn note_trouble(&self, text: &str) {
        self.facts.outage().note(unix_millis(), text);
    }

    pub(super) fn on_connected(&self) {
        if let Some(away) = self.facts.outage().on_connected(unix_millis()) {
            let (upstream, away_ms) = (self.address(), millis(away));
            tracing::info!(%upstream, away_ms, "the upstream accepts connections again");
        }
        self.moved(Circuit::on_connected);
    }

    pub(super) fn on_failure(&self, began: Instant, why: AttemptFailure, reason: &str) {
        let now = now();
        let backoff = self.moved(|circuit| circuit.on_failure(began, now, why, fastrand::f64()));
        let failures = self.circuit.borrow().failures();
        if let Some(backoff) = backoff
            && self.facts.outage().on_failure(unix_millis(), failures, reason)
        {
            let (upstream, pause_ms) = (self.address(), millis(backoff));
            tracing::warn!(%upstream, reason, failures, pause_ms, "cannot connect to the upstream");
        }
    }

    pub(super) fn on_login_refused(&self, login: Credentials, text: &[u8]) {
        let (times, backoff) = self.refused.on_refused(login, text, &self.config().upstream);
        if self.facts.outage().on_login_refused(times) {
            let (upstream, reason, pause_s) = (self.address(), String::from_utf8_lossy(text), backoff.as_secs());
            tracing::error!(%upstream, %reason, pause_s, "the upstream refused the configured login");
        }
    }

    pub(super) fn on_login_accepted(&self) {
        self.refused.on_accepted();
        if self.facts.outage().on_login_accepted() {
            tracing::info!(upstream = %self.address(), "the upstream accepts the configured login again");
        }
    }

    /// Runs `change` and shows the state that the circuit is in then.
    pub(super) fn moved<R>(&self, change: impl FnOnce(&mut Circuit) -> R) -> R {
        let mut circuit = self.circuit.borrow_mut();
        let before = circuit.state();
        let result = change(&mut circuit);
        let after = circuit.state();
        if before != after {
            self.shard.circuit[before].sub(1);
            self.shard.circuit[after].add(1);
            if after == CircuitState::Open && before == CircuitState::Closed {
                self.shard.circuit_opened.inc();
                self.on_circuit_open();
            } else if after == CircuitState::Closed && self.facts.outage().on_circuit_closed() {
                let upstream = self.address();
                tracing::info!(%upstream, "circuit closed: commands go to the upstream");
            }
        }
        result
    }

    fn on_circuit_open(&self) {
        if self.facts.outage().on_circuit_open() {
            let upstream = self.address();
            let reason = self.facts.outage().last().map_or_else(String::new, |last| last.text);
            tracing::error!(
                %upstream,
                reason,
                "circuit open: clients get -LOADING at once until the upstream accepts a connection"
            );
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
