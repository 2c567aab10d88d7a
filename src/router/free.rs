//! Routes of a client that is pinned to no connection.

use super::{Args, Facts, FreeRoute, Login, Open, PinReason, Refusal, Switch, local, settle, stream_reads_at_once};
use crate::command::{CommandTable, Lookup, Op, token_is};

/// Decides which way a command takes.
pub fn route_free(table: &CommandTable, lookup: Lookup, facts: Facts, args: &impl Args) -> FreeRoute {
    match settle(table, lookup, facts, None, args) {
        Ok(Open::Command(op)) => of_class(op, args),
        Ok(Open::WrongArity(op)) => wrong_arity(op),
        Ok(Open::Unknown) => FreeRoute::Ask,
        Err(aside) => aside.into(),
    }
}

/// A request with too few or too many arguments, of a free client.
fn wrong_arity(op: Op) -> FreeRoute {
    match op {
        // Arity errors of these are the same on a lane: the server checks before it executes.
        Op::Plain | Op::StreamRead | Op::Publish | Op::Numsub | Op::Pause | Op::Unpause => FreeRoute::Lane,
        Op::NotSupported => FreeRoute::Refuse(Refusal::NotSupported),
        _ => FreeRoute::Pin(PinReason::Isolated),
    }
}

/// By what the command is, for a free client.
fn of_class(op: Op, args: &impl Args) -> FreeRoute {
    match op {
        // Outside MULTI these are an error or nothing, and a lane never watches.
        Op::Plain | Op::Exec | Op::Discard | Op::Unwatch => FreeRoute::Lane,
        Op::StreamRead if stream_reads_at_once(args) => FreeRoute::Lane,
        Op::Publish => FreeRoute::Publish,
        Op::StreamRead | Op::Blocking => FreeRoute::Pin(PinReason::Blocking),
        Op::BlockingPop => FreeRoute::WaitGroup,
        Op::Multi => FreeRoute::Pin(PinReason::Transaction),
        Op::Watch => FreeRoute::Pin(PinReason::Watch),
        Op::Subscribe | Op::Unsubscribe => FreeRoute::Pin(PinReason::Subscribe),
        Op::Monitor => FreeRoute::Pin(PinReason::Monitor),
        Op::Tracking => FreeRoute::Pin(PinReason::Tracking),
        Op::Session => FreeRoute::Pin(PinReason::Session),
        Op::Isolated | Op::Debug => FreeRoute::Pin(PinReason::Isolated),
        Op::Pause => FreeRoute::Pause,
        Op::Unpause => FreeRoute::Unpause,
        Op::OutOfBand => FreeRoute::Pin(PinReason::OutOfBand),
        Op::Select => FreeRoute::Switch(Switch::Select),
        Op::Readonly => FreeRoute::Switch(Switch::Readonly(true)),
        Op::Readwrite => FreeRoute::Switch(Switch::Readonly(false)),
        Op::NoTouch => FreeRoute::Switch(Switch::NoTouch),
        Op::Hello => hello(args),
        Op::Auth => FreeRoute::Login(Login::Auth),
        // A load balancer that says whom it speaks for: servers do not know the name.
        Op::Proxy if is_balancers_greeting(args) => FreeRoute::Refuse(Refusal::UnknownCommand),
        _ => local(op, args).into(),
    }
}

/// HELLO with an AUTH option proves an identity; without one it only changes the protocol.
fn hello(args: &impl Args) -> FreeRoute {
    let logs_in = (2..args.count()).any(|i| token_is(args.nth(i), "AUTH"));
    if logs_in { FreeRoute::Login(Login::Hello) } else { FreeRoute::Switch(Switch::Hello) }
}

/// The line that the PROXY protocol begins a connection with.
fn is_balancers_greeting(args: &impl Args) -> bool {
    args.count() > 1 && ["TCP4", "TCP6", "UNKNOWN"].iter().any(|word| args.nth(1) == word.as_bytes())
}
