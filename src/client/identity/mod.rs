//! Who a client is: whether it may use the upstream at all, its logins, and the HELLO that may be one.

pub(super) mod admission;
mod admit;

pub(super) mod hello;
pub(super) mod login;
pub(super) mod login_throttle;
