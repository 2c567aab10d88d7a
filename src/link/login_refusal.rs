//! The upstream does not take the login of the configuration: asking again and again locks accounts and fills logs, so
//! there is a longer pause than for one that is not there.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::keyring::Credentials;
use crate::config::Upstream;

/// How often the secret of a refused login is read again.
const LOOK_AT_SECRET: Duration = Duration::from_secs(1);

struct LoginRefusal {
    login: Credentials,
    text: Vec<u8>,
    step: Duration,
    times: u32,
    until: Instant,
    look_at: Instant,
}

/// What one worker remembers of it.
#[derive(Default)]
pub(super) struct LoginRefusals(RefCell<Option<LoginRefusal>>);

impl LoginRefusals {
    /// The upstream's words while it is not asked again. A secret that has changed does not wait for the end of the
    /// pause; `current` reads it, not for every command.
    pub(super) fn still(&self, current: impl FnOnce() -> Option<Credentials>) -> Option<Vec<u8>> {
        let mut refusal = self.0.borrow_mut();
        let refusal = refusal.as_mut()?;
        let now = crate::base::now();
        if now >= refusal.until {
            return None;
        }
        if now >= refusal.look_at {
            refusal.look_at = now + LOOK_AT_SECRET;
            if current().is_some_and(|current| current != refusal.login) {
                return None;
            }
        }
        Some(refusal.text.clone())
    }

    /// The upstream refused `login` with these words: how often in a row, and how long it is left alone.
    pub(super) fn on_refused(&self, login: Credentials, text: &[u8], settings: &Upstream) -> (u32, Duration) {
        let mut refusal = self.0.borrow_mut();
        let before = refusal.as_ref().filter(|refusal| refusal.login == login);
        let times = before.map_or(0, |refusal| refusal.times).saturating_add(1);
        let step = before
            .map(|refusal| refusal.step)
            .map_or(settings.auth_backoff_min, |step| (step * 2).min(settings.auth_backoff_max));
        let backoff = step.mul_f64(0.5 + fastrand::f64() / 2.0);
        let now = crate::base::now();
        let (until, look_at) = (now + backoff, now + LOOK_AT_SECRET);
        *refusal = Some(LoginRefusal { login, text: text.to_vec(), step, times, until, look_at });
        (times, backoff)
    }

    /// The upstream accepts the configured login again.
    pub(super) fn on_accepted(&self) {
        self.0.take();
    }
}
