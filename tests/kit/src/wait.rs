//! Waiting: for a thing to become true, within a deadline. The only place of the tests that lets time pass.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Polls `attempt` until it gives a value, and panics with its last complaint when `deadline` has passed.
#[track_caller]
pub fn eventually<T, E: Display>(deadline: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + deadline;
    let mut step = Duration::from_micros(500);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(complaint) if Instant::now() >= end => {
                panic!("not within {deadline:?}: {complaint}")
            }
            Err(_) => pause(step),
        }
        step = (step * 2).min(Duration::from_millis(20));
    }
}

/// Tells threads to end when it is dropped, also because the test has failed.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets `time` pass. For pacing (bytes of a split packet, rounds of a storm) and for showing that something does
/// *not* happen; never as a stand-in for waiting until something has.
#[allow(clippy::disallowed_methods, reason = "the ban is for the data path; the tests pace themselves here only")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
