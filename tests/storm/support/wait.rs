//! Waiting until something is true, within a deadline.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Polls `attempt` until it gives a value; panics with its last complaint once `deadline` has passed.
#[track_caller]
pub(crate) fn eventually<T, E: Display>(deadline: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(complaint) if Instant::now() >= end => panic!("not within {deadline:?}: {complaint}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
