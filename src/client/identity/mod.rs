//! Who a client is: whether it may use the upstream at all, its logins, and the HELLO that may be one.
//!
//! Owns the client's admission and its identity in the session. The upstream proves every login, or `auth` does when
//! it is respmux that knows the users; only the client's own task calls this.

mod admission;
pub(super) mod admission_state;

pub(super) mod hello;
pub(super) mod login;
pub(super) mod login_throttle;
