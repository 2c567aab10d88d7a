//! A token bucket: so many a second, after a burst.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::now;

/// How often something may be done. `0` a second is without a limit.
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    /// What may be done now, and when that was counted.
    tokens: Cell<(f64, Instant)>,
}

impl TokenBucket {
    #[must_use]
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, tokens: Cell::new((burst, now())) }
    }

    /// How long to wait before the next time; nothing when it may be now.
    pub fn missing(&self) -> Option<Duration> {
        if self.per_second == 0.0 {
            return None;
        }
        let ((tokens, counted), at) = (self.tokens.get(), now());
        let tokens = (tokens + at.duration_since(counted).as_secs_f64() * self.per_second).min(self.burst);
        self.tokens.set((tokens, at));
        (tokens < 1.0).then(|| Duration::from_secs_f64((1.0 - tokens) / self.per_second))
    }

    /// Pays one token, for one that is done now.
    pub fn take(&self) {
        let (tokens, counted) = self.tokens.get();
        self.tokens.set((tokens - 1.0, counted));
    }
}
