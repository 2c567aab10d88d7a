//! How clients are sent away between two of their requests: when the process drains, and when they have been
//! connected for `client.max_age`.
//!
//! ```text
//!   schedule: whose turn is when ──▶ Departure (in the client's record) ──▶ leave: announce · wait for a rest · close
//! ```
//!
//! The worker sets the schedule; each client's task carries its own departure out.

pub(super) mod departure;
mod leave;
mod maint_notifications;
mod schedule;
