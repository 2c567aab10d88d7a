//! Routes of a client that is pinned to a connection.

use super::free::{Open, settle};
use super::{
    Args, Aside, Effect, Facts, Local, Login, PinnedRoute, PinnedView, Refusal, Relay, local, refused,
    stream_reads_at_once,
};
use crate::command::{CommandTable, Family, Lookup, Op};

/// Decides whether a command goes to the connection that its client is pinned to, and what it means there.
pub fn route_pinned(
    table: &CommandTable,
    lookup: Lookup,
    facts: Facts,
    view: PinnedView,
    args: &impl Args,
) -> PinnedRoute {
    match settle(table, lookup, facts, Some(view), args) {
        Ok(Open::Command(op)) => match view {
            PinnedView::Open => open(op, args),
            PinnedView::Queueing => queueing(table, lookup, op, args),
            PinnedView::Subscribed => subscribed(op),
        },
        Ok(Open::WrongArity(op)) => PinnedRoute::Relay(wrong_arity(op, view)),
        // The connection carries it like any other command, but is reset later.
        Ok(Open::Unknown) if view == PinnedView::Open => PinnedRoute::Relay(Relay::Isolated),
        Ok(Open::Unknown) => PinnedRoute::Relay(Relay::Plain),
        Err(aside) => PinnedRoute::Aside(aside),
    }
}

/// `EXEC x` is refused, and still ends the transaction.
fn wrong_arity(op: Op, view: PinnedView) -> Relay {
    match op {
        Op::Exec if view == PinnedView::Queueing => Relay::Exec,
        Op::Discard if view == PinnedView::Queueing => Relay::Discard,
        _ => Relay::Plain,
    }
}

/// Outside MULTI: everything runs there, in order, but for virtual state.
fn open(op: Op, args: &impl Args) -> PinnedRoute {
    match op {
        Op::Plain | Op::Publish => PinnedRoute::Relay(Relay::Plain),
        Op::StreamRead if stream_reads_at_once(args) => PinnedRoute::Relay(Relay::Plain),
        Op::StreamRead | Op::Blocking | Op::BlockingPop => PinnedRoute::Relay(Relay::Blocking),
        Op::Exec => PinnedRoute::Relay(Relay::Exec),
        Op::Discard => PinnedRoute::Relay(Relay::Discard),
        Op::Unwatch => PinnedRoute::Relay(Relay::Unwatch),
        Op::Multi => PinnedRoute::Relay(Relay::Multi),
        Op::Watch => PinnedRoute::Relay(Relay::Watch),
        Op::Subscribe => PinnedRoute::Relay(Relay::Subscribe),
        Op::Unsubscribe => PinnedRoute::Relay(Relay::Unsubscribe),
        Op::Monitor => PinnedRoute::Relay(Relay::Monitor),
        Op::Tracking => PinnedRoute::Relay(Relay::Tracking),
        Op::ClientCaching | Op::ClientGetRedir | Op::ClientTrackingInfo => PinnedRoute::Relay(Relay::Plain),
        Op::Session | Op::Readonly | Op::Readwrite | Op::NoTouch => PinnedRoute::Relay(Relay::Session),
        Op::Isolated | Op::OutOfBand => PinnedRoute::Relay(Relay::Isolated),
        Op::Debug => PinnedRoute::Relay(Relay::Debug),
        Op::Pause | Op::Unpause => PinnedRoute::Relay(Relay::Pause),
        Op::Select => PinnedRoute::Relay(Relay::Select),
        Op::Hello => PinnedRoute::Aside(Aside::Login(Login::Hello)),
        Op::Auth => PinnedRoute::Aside(Aside::Login(Login::Auth)),
        _ => PinnedRoute::Aside(local(op, args)),
    }
}

/// Inside MULTI: queued by the server; what it would change in the virtual state is applied with EXEC.
fn queueing(table: &CommandTable, lookup: Lookup, op: Op, args: &impl Args) -> PinnedRoute {
    let sharded = matches!(lookup, Lookup::Known(id) if table.spec(id).family == Family::Shard);
    match op {
        Op::Publish if sharded => PinnedRoute::Relay(Relay::Queued(Effect::ShardPublish)),
        Op::Publish => PinnedRoute::Relay(Relay::Queued(Effect::Publish)),
        Op::Numsub if sharded => PinnedRoute::Relay(Relay::Queued(Effect::ShardNumsub)),
        Op::Numsub => PinnedRoute::Relay(Relay::Queued(Effect::Numsub)),
        Op::Exec => PinnedRoute::Relay(Relay::Exec),
        Op::Discard => PinnedRoute::Relay(Relay::Discard),
        Op::Multi => PinnedRoute::Relay(Relay::Multi),
        Op::Watch => PinnedRoute::Relay(Relay::Watch),
        Op::Unwatch => PinnedRoute::Relay(Relay::Unwatch),
        Op::ClientId => PinnedRoute::Relay(Relay::Queued(Effect::ClientId)),
        Op::ClientGetName => PinnedRoute::Relay(Relay::Queued(Effect::GetName)),
        Op::ClientSetName => PinnedRoute::Relay(Relay::Queued(Effect::SetName)),
        Op::Select => PinnedRoute::Relay(Relay::Queued(Effect::Select)),
        Op::Wait => PinnedRoute::Relay(Relay::Queued(Effect::Wait)),
        Op::Pause | Op::Unpause => PinnedRoute::Relay(Relay::Queued(Effect::Pause)),
        Op::Tracking | Op::Session | Op::Readonly | Op::Readwrite | Op::NoTouch => PinnedRoute::Relay(Relay::Session),
        Op::Auth | Op::Hello | Op::ClientReply | Op::Subscribe | Op::Unsubscribe | Op::Monitor => {
            PinnedRoute::Aside(Aside::Refuse(Refusal::InTransaction))
        }
        Op::Reset => PinnedRoute::Aside(Aside::Local(Local::Reset)),
        Op::Module | Op::ScriptDebug | Op::NotSupported | Op::ClientUnknown => PinnedRoute::Aside(refused(op, args)),
        // CLIENT LIST, KILL and the like would show or hit the wrong connections.
        Op::ClientList | Op::ClientKill | Op::ClientUnblock | Op::ClientInfo | Op::ClientNotices | Op::Proxy => {
            PinnedRoute::Aside(Aside::Refuse(Refusal::InTransaction))
        }
        Op::Isolated | Op::OutOfBand => PinnedRoute::Relay(Relay::Isolated),
        Op::Debug => PinnedRoute::Relay(Relay::Debug),
        _ => PinnedRoute::Relay(Relay::Plain),
    }
}

/// Subscribed in RESP2: the server refuses everything but a few commands, in its own words.
fn subscribed(op: Op) -> PinnedRoute {
    match op {
        Op::Subscribe => PinnedRoute::Relay(Relay::Subscribe),
        Op::Unsubscribe => PinnedRoute::Relay(Relay::Unsubscribe),
        Op::Reset => PinnedRoute::Aside(Aside::Local(Local::Reset)),
        // The server never gets to executing these here, but they must not slip through either.
        Op::NotSupported | Op::Proxy => PinnedRoute::Aside(Aside::Refuse(Refusal::NotSupported)),
        _ => PinnedRoute::Relay(Relay::Plain),
    }
}
