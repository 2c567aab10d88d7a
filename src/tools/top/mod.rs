//! `respmux top`: who uses the proxy and what they wait for, as a live view, as text, or as JSON. All of it comes from
//! PROXY over RESP, so that what an operator sees here is what any client with the right can ask.

mod rows;
mod snapshot;
#[cfg(feature = "top")]
mod view;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::PingTarget;
use super::resp::RespConnection;
use snapshot::Snapshot;

/// How an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Until somebody presses q.
    Live,
    /// Once, for people.
    Once,
    /// Once, for programs.
    Json,
}

/// By what clients are ordered, and how PROXY CLIENTS calls it.
const ORDERS: [&str; 6] = ["TRAFFIC", "UNSENT", "PENDING", "IDLE", "AGE", "IN"];

/// Clients that are shown at most.
const CLIENTS: usize = 50;
/// Slow requests that are shown at most.
const SLOW: usize = 20;

/// Shows the proxy behind `target`; `every` is the time between two looks.
///
/// # Errors
/// When nobody answers, or does not know PROXY.
pub(crate) fn top(
    target: &PingTarget,
    every: Duration,
    patience: Duration,
    show: Show,
    out: &mut impl Write,
) -> Result<(), String> {
    let text = match show {
        Show::Live => return live(target, every, patience),
        Show::Once => rows::text(&Snapshot::take(&mut RespConnection::open(target, patience)?, ORDERS[0])?),
        Show::Json => {
            format!("{:#}\n", Snapshot::take(&mut RespConnection::open(target, patience)?, ORDERS[0])?.json())
        }
    };
    // A reader that went away (`| head`) is no failure.
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

fn live(target: &PingTarget, every: Duration, patience: Duration) -> Result<(), String> {
    if !std::io::stdout().is_terminal() {
        return Err("the live view needs a terminal; try --once or --json".to_owned());
    }
    #[cfg(feature = "top")]
    return view::run(target, every, patience);
    #[cfg(not(feature = "top"))]
    {
        let _ = (target, every, patience);
        Err("this build has no live view; try --once or --json".to_owned())
    }
}
