//! The clients of a worker, and of the process: who they are, what each of them does, and what is told of them.
//!
//! ```text
//!   ClientRecord (one, moved by its task) ──▶ ClientTable (of a worker) ──▶ ClientLine (values, to any worker)
//!        CLIENT LIST, INFO, KILL, UNBLOCK and PROXY CLIENTS ask all workers through `Peers`, and `answer` answers
//! ```

pub(super) mod address;
pub(super) mod answer;
mod client_command;
mod filter;
pub(super) mod line;
pub(super) mod peers;
pub(super) mod record;
mod render;
pub(super) mod selection;
pub(super) mod table;
