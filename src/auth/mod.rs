//! Who may try to log in and how often, who may run what, and who may use PROXY.
//!
//! Owns the users of the configuration ([`users`]), failed logins of all addresses ([`throttle`]), and what
//! `commands.deny` and `auth.proxy_*` say ([`policies`], [`rights`]). `client` asks it at logins, `worker` builds it
//! from the configuration. It is off the data path: only logins touch what is shared between workers, so that may be
//! behind a lock.

mod policies;
mod rights;
mod throttle;
mod users;

pub use policies::{Policies, table};
pub use rights::Rights;
pub use throttle::{Attempt, Throttle};
pub use users::{Users, hash};
