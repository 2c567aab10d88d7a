//! What went wrong last on the way to the upstream, for people.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::{Dialer, now, since};
use crate::telemetry::CircuitState;

/// Characters of a text that are kept: it may be the upstream's own.
const KEPT: usize = 200;

/// The last failed connect of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// Why, in the operating system's or the upstream's words.
    pub text: String,
    /// How long ago.
    pub age: Duration,
}

impl Dialer {
    /// The state of the circuit.
    #[must_use]
    pub fn circuit(&self) -> CircuitState {
        self.circuit.borrow().state()
    }

    /// What went wrong last.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.trouble.last()
    }
}

/// Remembers it.
#[derive(Debug, Default)]
pub(super) struct Trouble(RefCell<Option<(Instant, String)>>);

impl Trouble {
    pub(super) fn note(&self, text: &str) {
        let text = text.chars().take(KEPT).collect();
        *self.0.borrow_mut() = Some((now(), text));
    }

    pub(super) fn last(&self) -> Option<LastError> {
        self.0.borrow().as_ref().map(|(at, text)| LastError { text: text.clone(), age: since(*at) })
    }
}
