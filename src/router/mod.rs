//! The decision: a pure function from a command and what is known of its client to a route, in two forms. Of a client
//! that is pinned to no connection, [`route_free`] (`free`) says which of the shared ways its command takes; of one that is,
//! [`route_pinned`] (`pinned`) says whether the command goes to that connection as well.
//!
//! Owns the precedence between all ways that a command can take. `client` calls it once for each request and carries
//! the answer out; nobody decides again. It knows neither sockets nor where servers are.
//!
//! Precedence, first match wins: a login that is still open, the marks of a lost transaction, the client's
//! subscriptions (all this is `settle`), then its pinned connection (a transaction first), then the command's own
//! class.

mod free;
mod pinned;
mod route;
mod server_pause;
mod words;

pub use free::route_free;
pub use pinned::route_pinned;
pub use route::{Aside, Effect, FreeRoute, Local, Login, PinReason, PinnedRoute, Refusal, Relay, Switch};
pub use server_pause::{Extent, Passage, PauseChange, passage, pause_change};

use crate::command::{CommandId, CommandTable, Lookup, Op, Policy, stream_read_blocks, token_is};
use crate::session::TransactionGuard;

/// What routing may know of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub authenticated: bool,
    pub guard: TransactionGuard,
    pub subscriptions: SubscriptionView,
    /// Which commands the operator forbids to this client.
    pub policy: Policy,
    /// A server without respmux between would judge its DEBUG as that of a local client, or judges everybody's alike.
    pub debug: bool,
}

/// Where the client's subscriptions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionView {
    /// On a connection that it is pinned to, or will be.
    Off,
    /// Nowhere yet; the next one goes to a hub.
    Open,
    /// On a hub, in RESP2: only a few commands are allowed.
    Two,
    /// On a hub, in RESP3.
    Three,
}

/// The connection that the client is pinned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinnedView {
    /// Outside MULTI.
    Open,
    /// Inside MULTI.
    Queueing,
    /// Subscribed in RESP2: the server itself refuses what is not allowed.
    Subscribed,
}

/// A request as routing sees it.
pub trait Args {
    fn count(&self) -> usize;
    fn nth(&self, index: usize) -> &[u8];
}

impl<T: AsRef<[u8]>> Args for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }

    fn nth(&self, index: usize) -> &[u8] {
        self[index].as_ref()
    }
}

/// What is left to decide once [`settle`] has let a command pass.
enum Open {
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
fn settle(
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

fn stream_reads_at_once(args: &impl Args) -> bool {
    !stream_read_blocks((1..args.count()).map(|i| args.nth(i)))
}

/// What respmux answers or refuses whether or not the client is pinned.
fn local(op: Op, args: &impl Args) -> Aside {
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
    Aside::Local(answer)
}

fn refused(op: Op, args: &impl Args) -> Aside {
    match op {
        Op::Module => Aside::Refuse(Refusal::Module),
        Op::ScriptDebug if args.count() > 2 && token_is(args.nth(2), "NO") => Aside::Local(Local::Ok),
        Op::ScriptDebug => Aside::Refuse(Refusal::ScriptDebug),
        Op::ClientUnknown => Aside::Refuse(Refusal::UnknownSubcommand),
        _ => Aside::Refuse(Refusal::NotSupported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `enable-debug-command local`, and a client of another machine, which the server would take for a local one.
    #[test]
    fn debug_is_refused_to_whom_the_server_would_refuse_it() {
        let table = CommandTable::new();
        let facts = Facts {
            authenticated: true,
            guard: TransactionGuard::Intact,
            subscriptions: SubscriptionView::Open,
            policy: Policy::ALLOW_ALL,
            debug: false,
        };
        let debug = vec!["DEBUG", "SLEEP", "0"];
        let free = |facts| route_free(&table, table.lookup(b"DEBUG", Some(b"SLEEP")), facts, &debug);
        let pinned = |facts, view| route_pinned(&table, table.lookup(b"DEBUG", Some(b"SLEEP")), facts, view, &debug);
        let refused = Aside::Refuse(Refusal::Debug);
        assert_eq!(free(facts), refused.into());
        let allowed = Facts { debug: true, ..facts };
        assert_eq!(free(allowed), FreeRoute::Pin(PinReason::Isolated));
        for view in [PinnedView::Open, PinnedView::Queueing] {
            assert_eq!(pinned(facts, view), PinnedRoute::Aside(refused), "{view:?}");
            assert_eq!(pinned(allowed, view), PinnedRoute::Relay(Relay::Debug), "{view:?}");
        }
    }
}
