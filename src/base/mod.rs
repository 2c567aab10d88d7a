//! What every impure room stands on and nobody owns: the clock, maps whose order tests can replay, a token bucket, the
//! waker of a task and the switch for seeded bugs.
//!
//! The lowest room: it knows no other one, and the pure rooms do not know it, because a clock and chance are impure.
//! What needs to know what a connection, a client or a command is belongs elsewhere.

mod clock;
mod fault;
mod map;
mod token_bucket;
mod waker;

pub use clock::{nanos, now, since};
pub(crate) use fault::bug;
pub use map::{Map, Set};
pub use token_bucket::TokenBucket;
pub use waker::TaskWaker;
