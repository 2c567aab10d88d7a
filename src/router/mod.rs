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
