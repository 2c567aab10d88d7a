//! How clients are sent away: when the process drains, and when they have been connected for `client.max_age`.
//!
//! ```text
//!   schedule: whose turn is when ──▶ Departure (in the client's record) ──▶ leave: announce · wait for a rest · close
//! ```

pub(super) mod departure;
mod leave;
mod maint_notifications;
mod schedule;
