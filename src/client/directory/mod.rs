//! The clients of a worker, and of the process: who they are, what each of them does, and what is told of them.
//!
//! ```text
//!   ClientRecord (one, moved by its task) ──▶ ClientTable (of a worker) ──▶ ClientLine (values, to any worker)
//!        CLIENT LIST, INFO, KILL, UNBLOCK and PROXY CLIENTS ask all workers through `Peers`, and `answer` answers
//! ```
//!
//! A client's task owns its record and is the only one that moves it; others read it, or leave a wish in it (a kill,
//! an unblock).

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
