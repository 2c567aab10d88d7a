//! Routes of a client that is pinned to no connection; and [`settle`], what comes before the class of a command for
//! pinned clients as well.

use super::{
    Args, Aside, Facts, FreeRoute, Local, Login, PinReason, PinnedView, Refusal, SubscriptionView, Switch, local,
    stream_reads_at_once,
};
use crate::command::{CommandId, CommandTable, Lookup, Op, token_is};
use crate::session::TransactionGuard;

/// Decides which way a command takes.
pub fn route_free(table: &CommandTable, lookup: Lookup, facts: Facts, args: &impl Args) -> FreeRoute {
    match settle(table, lookup, facts, None, args) {
        Ok(Open::Command(op)) => of_class(op, args),
        Ok(Open::WrongArity(op)) => wrong_arity(op),
        Ok(Open::Unknown) => FreeRoute::Ask,
        Err(aside) => aside.into(),
    }
}

/// What is left to decide once [`settle`] has let a command pass.
pub(super) enum Open {
    /// By what the command is.
    Command(Op),
    /// A request with too few or too many arguments changes nothing: the server says so in its own words, from the
    /// place where the command is harmless in any form.
    WrongArity(Op),
    /// A name that no table lists (rule L5).
    Unknown,
}

/// What comes before the command's own class, for pinned clients and others alike: an answer, or what is left to
/// decide.
pub(super) fn settle(
    table: &CommandTable,
    lookup: Lookup,
    facts: Facts,
    pinned: Option<PinnedView>,
    args: &impl Args,
) -> Result<Open, Aside> {
    let op = match lookup {
        Lookup::Known(id) => table.spec(id).op,
        Lookup::UnknownSubcommand(id) => table.spec(id).unlisted,
        Lookup::Nul => Op::Isolated,
        Lookup::Unknown => return unknown(facts, table.denies(facts.policy, lookup, args.nth(0))),
    };
    match op {
        Op::Quit => return Err(Aside::Quit),
        Op::CrossProtocol => return Err(Aside::Drop),
        _ => {}
    }
    // Parts of PROXY are for everybody; it looks itself.
    if !facts.authenticated && !matches!(op, Op::Auth | Op::Hello | Op::Reset | Op::Proxy) {
        return Err(Aside::Refuse(Refusal::NotAuthenticated));
    }
    // Before the arity, which a server may know better than the table.
    if table.denies(facts.policy, lookup, args.nth(0)) && !matches!(op, Op::Auth | Op::Hello | Op::Reset) {
        return Err(Aside::Refuse(Refusal::Denied));
    }
    // Arguments are only looked at behind the server's own arity check.
    if let Lookup::Known(id) = lookup
        && !table.spec(id).arity_fits(args.count())
    {
        return match facts.authenticated {
            true => Ok(Open::WrongArity(op)),
            false => Err(Aside::Refuse(Refusal::WrongArity(id))),
        };
    }
    match (facts.guard, op) {
        // A new MULTI or WATCH is a new attempt; anything else belongs to the transaction that was lost.
        (TransactionGuard::Poisoned, Op::Reset | Op::Multi | Op::Watch) => {}
        (TransactionGuard::Poisoned, _) => return Err(poisoned(op)),
        (TransactionGuard::WatchBroken, Op::Unwatch) if pinned.is_none() => return Err(Aside::Local(Local::Unwatch)),
        (TransactionGuard::WatchBroken | TransactionGuard::Intact, _) => {}
    }
    match (facts.subscriptions, op) {
        (SubscriptionView::Two, _) if let Lookup::Known(id) = lookup => {
            return Err(subscribed_through_hub(table, op, id));
        }
        (SubscriptionView::Open, Op::Subscribe) | (SubscriptionView::Three, Op::Subscribe | Op::Unsubscribe)
            if pinned != Some(PinnedView::Queueing) =>
        {
            return Err(Aside::Hub);
        }
        _ => {}
    }
    if op == Op::Debug && !facts.debug {
        return Err(Aside::Refuse(Refusal::Debug));
    }
    Ok(Open::Command(op))
}

/// The checks that need no row of the table.
fn unknown(facts: Facts, denied: bool) -> Result<Open, Aside> {
    let refusal = match () {
        () if !facts.authenticated => Refusal::NotAuthenticated,
        () if denied => Refusal::Denied,
        () if facts.guard == TransactionGuard::Poisoned => Refusal::Poisoned,
        () => return Ok(Open::Unknown),
    };
    Err(Aside::Refuse(refusal))
}

/// MULTI was lost: only what ends a transaction is obeyed.
fn poisoned(op: Op) -> Aside {
    match op {
        Op::Exec => Aside::Local(Local::PoisonedExec),
        Op::Discard => Aside::Local(Local::PoisonedDiscard),
        _ => Aside::Refuse(Refusal::Poisoned),
    }
}

/// RESP2 with subscriptions on a hub: what a server allows then (docs/design/semantics.md 9.1).
fn subscribed_through_hub(table: &CommandTable, op: Op, id: CommandId) -> Aside {
    match op {
        Op::Subscribe | Op::Unsubscribe => Aside::Hub,
        Op::Reset => Aside::Local(Local::Reset),
        Op::Plain if table.spec(id).ping => Aside::Local(Local::Pong),
        _ => Aside::Refuse(Refusal::Subscribed(id)),
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
