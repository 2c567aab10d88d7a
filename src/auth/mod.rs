//! Who may try to log in and how often, and who may run what. Off the data path: touched by logins only, so it may be shared between the
//! workers behind a lock.

mod policies;
mod throttle;

pub use policies::{Policies, table};
pub use throttle::{Attempt, Throttle};
