//! The decision: one pure function, [`route()`], from a command and what is known of its client to a [`Route`].
//!
//! Owns the precedence between all ways that a command can take. `client` calls it once for each request and carries
//! the answer out; nobody decides again. It knows neither sockets nor where servers are.
//!
//! Precedence, first match wins: a login that is still open, the marks of a lost transaction, a connection that the
//! client is pinned to (its transaction first), then the command's own class.

mod pause;
mod route;
mod words;

pub use pause::{Extent, Passage, PauseChange, passage, pause_change};
pub use route::{Effect, Local, Login, PinReason, Refusal, Relay, Route, Switch};

use crate::command::{CommandId, CommandTable, Lookup, Op, Policy, stream_read_blocks, token_is};
use crate::session::Guard;

/// What routing may know of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub authenticated: bool,
    pub guard: Guard,
    pub held: Held,
    pub hub: Hub,
    /// Which commands the operator forbids to this client.
    pub policy: Policy,
    /// A server without respmux between would judge its DEBUG as that of a local client, or judges everybody's alike.
    pub debug: bool,
}

/// Where the client's subscriptions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hub {
    /// On a connection that it holds, or will be lent.
    Off,
    /// Nowhere yet; the next one goes to a hub.
    Open,
    /// On a hub, in RESP2: only a few commands are allowed.
    Two,
    /// On a hub, in RESP3.
    Three,
}

/// The connection that the client holds, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    None,
    /// Held, outside MULTI.
    Open,
    /// Held, inside MULTI.
    Queueing,
    /// Held and subscribed in RESP2: the server itself refuses what is not allowed.
    Subscribed,
}

/// A request as routing sees it.
pub trait Args {
    fn count(&self) -> usize;
    fn nth(&self, index: usize) -> &[u8];
}

/// Decides where a request goes.
pub fn route(table: &CommandTable, lookup: Lookup, facts: Facts, args: &impl Args) -> Route {
    let op = match lookup {
        Lookup::Known(id) => table.spec(id).op,
        Lookup::UnknownSubcommand(id) if table.spec(id).name == "CLIENT" => Op::ClientUnknown,
        Lookup::UnknownSubcommand(_) | Lookup::Nul => Op::Isolated,
        Lookup::Unknown => return unknown(facts, table.denies(facts.policy, lookup, args.nth(0))),
    };
    match op {
        Op::Quit => return Route::Quit,
        Op::CrossProtocol => return Route::Drop,
        _ => {}
    }
    // Parts of PROXY are for everybody; it looks itself.
    if !facts.authenticated && !matches!(op, Op::Auth | Op::Hello | Op::Reset | Op::Proxy) {
        return Route::Refuse(Refusal::NotAuthenticated);
    }
    // Before the arity, which a server may know better than the table.
    if table.denies(facts.policy, lookup, args.nth(0)) && !matches!(op, Op::Auth | Op::Hello | Op::Reset) {
        return Route::Refuse(Refusal::Denied);
    }
    // Arguments are only looked at behind the server's own arity check.
    if let Lookup::Known(id) = lookup
        && !table.spec(id).arity_fits(args.count())
    {
        return wrong_arity(op, id, facts);
    }
    match (facts.guard, op) {
        // A new MULTI or WATCH is a new attempt; anything else belongs to the transaction that was lost.
        (Guard::Poisoned, Op::Reset | Op::Multi | Op::Watch) => {}
        (Guard::Poisoned, _) => return poisoned(op),
        (Guard::WatchBroken, Op::Unwatch) if facts.held == Held::None => return Route::Local(Local::Unwatch),
        (Guard::WatchBroken | Guard::Intact, _) => {}
    }
    if let (Hub::Two, Lookup::Known(id)) = (facts.hub, lookup) {
        return subscribed_through_hub(table, op, id);
    }
    match (facts.hub, op) {
        (Hub::Open, Op::Subscribe) | (Hub::Three, Op::Subscribe | Op::Unsubscribe) if facts.held != Held::Queueing => {
            return Route::Hub;
        }
        _ => {}
    }
    if op == Op::Debug && !facts.debug {
        return Route::Refuse(Refusal::Debug);
    }
    match facts.held {
        Held::None => free(op, args),
        Held::Open => held(op, args),
        Held::Queueing => queueing(table, lookup, op, args),
        Held::Subscribed => subscribed(op),
    }
}

/// What a command is to a transaction that is to ride a lane whole (rule M1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitPart {
    /// One reply whatever happens, and no state: also where MULTI is refused and it runs by itself.
    Body(CommandId),
    /// The end.
    Exec(CommandId),
    /// The transaction needs a connection of its own.
    Unfit,
}

/// Decides whether a command behind MULTI may ride with it. Wrong arguments are no obstacle: the server refuses the
/// command with one reply, queued or not.
pub fn unit_part(table: &CommandTable, lookup: Lookup, policy: Policy, args: &impl Args) -> UnitPart {
    let Lookup::Known(id) = lookup else { return UnitPart::Unfit };
    if table.denies(policy, lookup, args.nth(0)) {
        return UnitPart::Unfit;
    }
    let spec = table.spec(id);
    match spec.op {
        Op::Exec if args.count() == 1 => UnitPart::Exec(id),
        Op::Plain | Op::Publish | Op::Numsub if spec.in_unit => UnitPart::Body(id),
        Op::StreamRead if spec.in_unit && stream_reads_at_once(args) => UnitPart::Body(id),
        _ => UnitPart::Unfit,
    }
}

/// A request with too few or too many arguments changes nothing: the server says so in its own words, from the
/// place where the command is harmless in any form.
fn wrong_arity(op: Op, id: CommandId, facts: Facts) -> Route {
    if !facts.authenticated {
        return Route::Refuse(Refusal::WrongArity(id));
    }
    match facts.held {
        Held::None => match op {
            // Arity errors of these are the same on a lane: the server checks before it executes.
            Op::Plain | Op::StreamRead | Op::Publish | Op::Numsub | Op::Pause | Op::Unpause => Route::Lane,
            Op::NotSupported => Route::Refuse(Refusal::NotSupported),
            _ => Route::Pin(PinReason::Isolated),
        },
        // `EXEC x` is refused, and still ends the transaction.
        Held::Queueing if op == Op::Exec => Route::Relay(Relay::Exec),
        Held::Queueing if op == Op::Discard => Route::Relay(Relay::Discard),
        Held::Queueing | Held::Open | Held::Subscribed => Route::Relay(Relay::Plain),
    }
}

/// A name that no table lists (rule L5). A lent connection carries it like any other command, but is reset later.
fn unknown(facts: Facts, denied: bool) -> Route {
    if !facts.authenticated {
        return Route::Refuse(Refusal::NotAuthenticated);
    }
    if denied {
        return Route::Refuse(Refusal::Denied);
    }
    if facts.guard == Guard::Poisoned {
        return Route::Refuse(Refusal::Poisoned);
    }
    match facts.held {
        Held::None => Route::Ask,
        Held::Open => Route::Relay(Relay::Isolated),
        Held::Queueing | Held::Subscribed => Route::Relay(Relay::Plain),
    }
}

/// MULTI was lost: only what ends a transaction is obeyed.
fn poisoned(op: Op) -> Route {
    match op {
        Op::Exec => Route::Local(Local::PoisonedExec),
        Op::Discard => Route::Local(Local::PoisonedDiscard),
        _ => Route::Refuse(Refusal::Poisoned),
    }
}

/// The client holds no connection.
fn free(op: Op, args: &impl Args) -> Route {
    match op {
        // Outside MULTI these are an error or nothing, and a lane never watches.
        Op::Plain | Op::Exec | Op::Discard | Op::Unwatch => Route::Lane,
        Op::StreamRead if stream_reads_at_once(args) => Route::Lane,
        Op::Publish => Route::Publish,
        Op::StreamRead | Op::Blocking => Route::Pin(PinReason::Blocking),
        Op::BlockingPop => Route::Fold,
        Op::Multi => Route::Pin(PinReason::Transaction),
        Op::Watch => Route::Pin(PinReason::Watch),
        Op::Subscribe | Op::Unsubscribe => Route::Pin(PinReason::Subscribe),
        Op::Monitor => Route::Pin(PinReason::Monitor),
        Op::Tracking => Route::Pin(PinReason::Tracking),
        Op::Session => Route::Pin(PinReason::Session),
        Op::Isolated | Op::Debug => Route::Pin(PinReason::Isolated),
        Op::Pause => Route::Local(Local::Pause),
        Op::Unpause => Route::Local(Local::Unpause),
        Op::OutOfBand => Route::Pin(PinReason::OutOfBand),
        Op::Select => Route::Switch(Switch::Select),
        Op::Readonly => Route::Switch(Switch::Readonly(true)),
        Op::Readwrite => Route::Switch(Switch::Readonly(false)),
        Op::NoTouch => Route::Switch(Switch::NoTouch),
        Op::Hello => hello(args),
        Op::Auth => Route::Login(Login::Auth),
        // A load balancer that says whom it speaks for: servers do not know the name.
        Op::Proxy if is_balancers_greeting(args) => Route::Refuse(Refusal::UnknownCommand),
        _ => local(op, args),
    }
}

/// The client holds a connection, outside MULTI: everything runs there, in order, but for virtual state.
fn held(op: Op, args: &impl Args) -> Route {
    match op {
        Op::Plain | Op::Publish => Route::Relay(Relay::Plain),
        Op::StreamRead if stream_reads_at_once(args) => Route::Relay(Relay::Plain),
        Op::StreamRead | Op::Blocking | Op::BlockingPop => Route::Relay(Relay::Blocking),
        Op::Exec => Route::Relay(Relay::Exec),
        Op::Discard => Route::Relay(Relay::Discard),
        Op::Unwatch => Route::Relay(Relay::Unwatch),
        Op::Multi => Route::Relay(Relay::Multi),
        Op::Watch => Route::Relay(Relay::Watch),
        Op::Subscribe => Route::Relay(Relay::Subscribe),
        Op::Unsubscribe => Route::Relay(Relay::Unsubscribe),
        Op::Monitor => Route::Relay(Relay::Monitor),
        Op::Tracking => Route::Relay(Relay::Tracking),
        Op::ClientCaching | Op::ClientGetRedir | Op::ClientTrackingInfo => Route::Relay(Relay::Plain),
        Op::Session | Op::Readonly | Op::Readwrite | Op::NoTouch => Route::Relay(Relay::Session),
        Op::Isolated | Op::OutOfBand => Route::Relay(Relay::Isolated),
        Op::Debug => Route::Relay(Relay::Debug),
        Op::Pause | Op::Unpause => Route::Relay(Relay::Pause),
        Op::Select => Route::Relay(Relay::Select),
        Op::Hello => Route::Relay(Relay::Login(Login::Hello)),
        Op::Auth => Route::Relay(Relay::Login(Login::Auth)),
        _ => local(op, args),
    }
}

/// Inside MULTI: queued by the server; what it would change in the virtual state is applied with EXEC.
fn queueing(table: &CommandTable, lookup: Lookup, op: Op, args: &impl Args) -> Route {
    let sharded = matches!(lookup, Lookup::Known(id) if is_sharded(&table.spec(id).name));
    match op {
        Op::Publish if sharded => Route::Relay(Relay::Queued(Effect::ShardPublish)),
        Op::Publish => Route::Relay(Relay::Queued(Effect::Publish)),
        Op::Numsub if sharded => Route::Relay(Relay::Queued(Effect::ShardNumsub)),
        Op::Numsub => Route::Relay(Relay::Queued(Effect::Numsub)),
        Op::Exec => Route::Relay(Relay::Exec),
        Op::Discard => Route::Relay(Relay::Discard),
        Op::Multi => Route::Relay(Relay::Multi),
        Op::Watch => Route::Relay(Relay::Watch),
        Op::Unwatch => Route::Relay(Relay::Unwatch),
        Op::ClientId => Route::Relay(Relay::Queued(Effect::ClientId)),
        Op::ClientGetName => Route::Relay(Relay::Queued(Effect::GetName)),
        Op::ClientSetName => Route::Relay(Relay::Queued(Effect::SetName)),
        Op::Select => Route::Relay(Relay::Queued(Effect::Select)),
        Op::Wait => Route::Relay(Relay::Queued(Effect::Wait)),
        Op::Pause | Op::Unpause => Route::Relay(Relay::Queued(Effect::Pause)),
        Op::Tracking | Op::Session | Op::Readonly | Op::Readwrite | Op::NoTouch => Route::Relay(Relay::Session),
        Op::Auth | Op::Hello | Op::ClientReply | Op::Subscribe | Op::Unsubscribe | Op::Monitor => {
            Route::Refuse(Refusal::InTransaction)
        }
        Op::Reset => Route::Local(Local::Reset),
        Op::Module | Op::ScriptDebug | Op::NotSupported | Op::ClientUnknown => refused(op, args),
        // CLIENT LIST, KILL and the like would show or hit the wrong connections.
        Op::ClientList | Op::ClientKill | Op::ClientUnblock | Op::ClientInfo | Op::ClientNotices | Op::Proxy => {
            Route::Refuse(Refusal::InTransaction)
        }
        Op::Isolated | Op::OutOfBand => Route::Relay(Relay::Isolated),
        Op::Debug => Route::Relay(Relay::Debug),
        _ => Route::Relay(Relay::Plain),
    }
}

/// Subscribed in RESP2: the server refuses everything but a few commands, in its own words.
fn subscribed(op: Op) -> Route {
    match op {
        Op::Subscribe => Route::Relay(Relay::Subscribe),
        Op::Unsubscribe => Route::Relay(Relay::Unsubscribe),
        Op::Reset => Route::Local(Local::Reset),
        // The server never gets to executing these here, but they must not slip through either.
        Op::NotSupported | Op::Proxy => Route::Refuse(Refusal::NotSupported),
        _ => Route::Relay(Relay::Plain),
    }
}

/// RESP2 with subscriptions on a hub: what a server allows then (docs/design/semantics.md 9.1).
fn subscribed_through_hub(table: &CommandTable, op: Op, id: CommandId) -> Route {
    match op {
        Op::Subscribe | Op::Unsubscribe => Route::Hub,
        Op::Reset => Route::Local(Local::Reset),
        Op::Plain if table.spec(id).name == "PING" => Route::Local(Local::Pong),
        _ => Route::Refuse(Refusal::Subscribed(id)),
    }
}

/// SPUBLISH and PUBSUB SHARDNUMSUB, of the commands that count subscribers.
#[must_use]
pub fn is_sharded(name: &str) -> bool {
    name.starts_with('S') || name.contains(" S")
}

/// The line that the PROXY protocol begins a connection with.
fn is_balancers_greeting(args: &impl Args) -> bool {
    args.count() > 1 && ["TCP4", "TCP6", "UNKNOWN"].iter().any(|word| args.nth(1) == word.as_bytes())
}

fn stream_reads_at_once(args: &impl Args) -> bool {
    !stream_read_blocks((1..args.count()).map(|i| args.nth(i)))
}

/// HELLO with an AUTH option proves an identity; without one it only changes the protocol.
fn hello(args: &impl Args) -> Route {
    let logs_in = (2..args.count()).any(|i| token_is(args.nth(i), "AUTH"));
    if logs_in { Route::Login(Login::Hello) } else { Route::Switch(Switch::Hello) }
}

fn local(op: Op, args: &impl Args) -> Route {
    let answer = match op {
        Op::ClientId => Local::Id,
        Op::ClientGetName => Local::GetName,
        Op::ClientSetName => Local::SetName,
        Op::ClientSetInfo => Local::SetInfo,
        Op::ClientReply => Local::Reply,
        Op::ClientNoEvict => Local::NoEvict,
        Op::ClientGetRedir => Local::GetRedir,
        Op::ClientTrackingInfo => Local::TrackingInfo,
        Op::ClientCaching => Local::Caching,
        Op::ClientInfo => Local::Info,
        Op::ClientList => Local::List,
        Op::ClientKill => Local::Kill,
        Op::ClientUnblock => Local::Unblock,
        Op::ClientNotices => Local::MaintNotifications,
        Op::Numsub => Local::Numsub,
        Op::Reset => Local::Reset,
        Op::Proxy => Local::Proxy,
        Op::Asking => Local::Asking,
        Op::Wait => Local::Wait,
        _ => return refused(op, args),
    };
    Route::Local(answer)
}

fn refused(op: Op, args: &impl Args) -> Route {
    match op {
        Op::Module => Route::Refuse(Refusal::Module),
        Op::ScriptDebug if args.count() > 2 && token_is(args.nth(2), "NO") => Route::Local(Local::Ok),
        Op::ScriptDebug => Route::Refuse(Refusal::ScriptDebug),
        Op::ClientUnknown => Route::Refuse(Refusal::UnknownSubcommand),
        _ => Route::Refuse(Refusal::NotSupported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words(&'static [&'static str]);

    impl Args for Words {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn nth(&self, index: usize) -> &[u8] {
            self.0[index].as_bytes()
        }
    }

    /// `enable-debug-command local`, and a client of another machine, which the server would take for a local one.
    #[test]
    fn debug_is_refused_to_whom_the_server_would_refuse_it() {
        let table = CommandTable::new();
        let facts = Facts {
            authenticated: true,
            guard: Guard::Intact,
            held: Held::None,
            hub: Hub::Open,
            policy: Policy::ALLOW_ALL,
            debug: false,
        };
        let debug = Words(&["DEBUG", "SLEEP", "0"]);
        let decide = |facts| route(&table, table.lookup(b"DEBUG", Some(b"SLEEP")), facts, &debug);
        for held in [Held::None, Held::Open, Held::Queueing] {
            assert_eq!(decide(Facts { held, ..facts }), Route::Refuse(Refusal::Debug), "{held:?}");
        }
        let allowed = Facts { debug: true, ..facts };
        assert_eq!(decide(allowed), Route::Pin(PinReason::Isolated));
        for held in [Held::Open, Held::Queueing] {
            assert_eq!(decide(Facts { held, ..allowed }), Route::Relay(Relay::Debug), "{held:?}");
        }
    }
}
