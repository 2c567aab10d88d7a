//! The client's state machine: random histories of requests through lookup, router and transaction tracker, beside
//! rules that are written down here a second time and a small model of the server's side of a connection.

use std::collections::HashSet;

use respmux::internals::command::{CommandTable, Lookup, Policy};
use respmux::internals::router::{
    Args, Aside, Facts, FreeRoute, Local, PinReason, PinnedRoute, PinnedView, Relay, SubscriptionView, Switch,
    UnitPart, route_free, route_pinned, unit_part,
};
use respmux::internals::session::{ReplyMode, ReplyShape, Resp, Session, Tracked, Transaction, TransactionGuard};

use crate::engine::{Target, behaviour};

/// Names that leave state on a connection, wait, or give other than one reply: never on a connection that clients
/// share. From the servers' documentation, not from our table.
const NEVER_SHARED: &str = "BLPOP BRPOP BLMOVE BRPOPLPUSH BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF SUBSCRIBE \
    PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR SYNC PSYNC REPLCONF MULTI WATCH AUTH HELLO RESET \
    SELECT READONLY READWRITE ASKING QUIT DEBUG SHUTDOWN FAILOVER POST HOST: ";

/// Subcommands of CLIENT that are about the connection itself.
const OWN_CLIENT: &str =
    "REPLY TRACKING CACHING SETNAME GETNAME SETINFO NO-EVICT NO-TOUCH KILL UNBLOCK ID INFO LIST GETREDIR CAPA";

/// Words that options are made of.
const VOCABULARY: [&[u8]; 24] = [
    b"k",
    b"1",
    b"0",
    b"-1",
    b"BLOCK",
    b"block\0x",
    b"STREAMS",
    b"COUNT",
    b"GROUP",
    b"NOACK",
    b"AUTH",
    b"SETNAME",
    b"NO",
    b"YES",
    b"REPLY",
    b"ON",
    b"OFF",
    b"SKIP",
    b"$",
    b">",
    b"",
    b"3",
    b"\xff\r\n",
    b"default",
];

/// What the router says of a client, by whether it is pinned to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Free(FreeRoute),
    Pinned(PinnedRoute),
}

/// Router and session as one machine.
pub(crate) struct Machine {
    table: CommandTable,
    names: Vec<String>,
    never: HashSet<&'static str>,
}

type Words = Vec<Vec<u8>>;

/// Choices, read from the input; zero when it is used up.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, most: usize) -> usize {
        let (high, low) = (self.byte(), if most > 256 { self.byte() } else { 0 });
        (high * 256 + low) % most.max(1)
    }

    fn byte(&mut self) -> usize {
        self.0.next().copied().map_or(0, usize::from)
    }

    fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}

/// One client, and what the server knows of the connection it holds.
struct Client {
    authenticated: bool,
    guard: TransactionGuard,
    hub: SubscriptionView,
    /// The connection it holds, as we follow it and as the server has it.
    pinned: Option<(Transaction, Server)>,
    session: Session,
}

#[derive(Clone, Copy, Debug, Default)]
struct Server {
    multi: bool,
    watching: bool,
    aborted: bool,
    queued: u32,
}

impl Server {
    /// Carries out a request; `refuses` when the server finds fault with it for reasons of its own.
    fn obey(&mut self, request: Tracked, refuses: bool) -> ReplyShape {
        match request {
            Tracked::Exec | Tracked::Discard if self.multi => {
                let failed = self.aborted && request == Tracked::Exec;
                *self = Self::default();
                match (request, failed) {
                    (_, true) => ReplyShape::Error,
                    (Tracked::Discard, _) => ReplyShape::Ok,
                    _ => ReplyShape::Other,
                }
            }
            Tracked::Exec | Tracked::Discard => ReplyShape::Error,
            Tracked::Multi | Tracked::Watch if self.multi => ReplyShape::Error,
            _ if refuses => {
                self.aborted |= self.multi;
                ReplyShape::Error
            }
            Tracked::Multi => {
                self.multi = true;
                ReplyShape::Ok
            }
            Tracked::Watch => {
                self.watching = true;
                ReplyShape::Ok
            }
            Tracked::Unwatch if !self.multi => {
                self.watching = false;
                ReplyShape::Ok
            }
            Tracked::Unwatch | Tracked::Other => {
                self.queued += u32::from(self.multi);
                ReplyShape::Other
            }
        }
    }
}

impl Client {
    fn facts(&self) -> Facts {
        Facts {
            authenticated: self.authenticated,
            guard: self.guard,
            subscriptions: self.hub,
            policy: Policy::ALLOW_ALL,
            debug: true,
        }
    }

    fn view(&self) -> Option<PinnedView> {
        self.pinned.as_ref().map(|(follows, _)| match follows.queueing() {
            true => PinnedView::Queueing,
            false => PinnedView::Open,
        })
    }

    /// The held connection is lost.
    fn lose(&mut self) {
        if let Some((follows, _)) = self.pinned.take() {
            self.guard = match (follows.queueing(), follows.watching()) {
                (true, _) => TransactionGuard::Poisoned,
                (false, true) => TransactionGuard::WatchBroken,
                (false, false) => self.guard,
            };
        }
    }

    /// What happens on no connection that is the client's own.
    fn apart(&mut self, to: FreeRoute, refuses: bool, choices: &mut Choices<'_>) -> Result<(), String> {
        match to {
            FreeRoute::Local(Local::PoisonedExec | Local::PoisonedDiscard | Local::Unwatch) => {
                self.guard = TransactionGuard::Intact;
            }
            FreeRoute::Local(Local::Reset) => {
                self.pinned = None;
                self.session.on_reset(0, Policy::ALLOW_ALL);
                (self.guard, self.hub) = (TransactionGuard::Intact, SubscriptionView::Open);
                if self.session.key.resp != Resp::Two || self.session.reply != ReplyMode::On {
                    return Err("RESET leaves something".to_owned());
                }
            }
            FreeRoute::Login(_) if !refuses => self.authenticated = true,
            FreeRoute::Hub if !refuses => {
                let two = choices.byte().is_multiple_of(2);
                self.hub = if two { SubscriptionView::Two } else { SubscriptionView::Three };
            }
            _ => {}
        }
        Ok(())
    }

    fn send(&mut self, request: Tracked, refuses: bool) -> Result<(), String> {
        let Some((follows, server)) = &mut self.pinned else { return Err("relayed to nowhere".to_owned()) };
        let reply = server.obey(request, refuses);
        follows.on_reply(request, reply);
        let same = follows.queueing() == server.multi
            && follows.watching() == server.watching
            && follows.queued() == server.queued
            && (follows.aborted() || !server.aborted)
            && follows.clean() == (!server.multi && !server.watching);
        if same { Ok(()) } else { Err(format!("after {request:?} {reply:?}: {follows:?}, the server is {server:?}")) }
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        let table = CommandTable::new();
        let names = table.labels().iter().map(|label| label.replace('|', " ")).collect();
        Self { table, names, never: NEVER_SHARED.split_whitespace().collect() }
    }

    fn request(&self, choices: &mut Choices<'_>) -> Words {
        let common =
            ["get", "multi", "exec", "watch", "unwatch", "discard", "xread", "subscribe", "hello", "reset", "blpop"];
        let shape = choices.byte();
        let name = match shape % 4 {
            0 | 1 => common[choices.below(common.len())].to_owned(),
            _ => self.names[choices.below(self.names.len())].clone(),
        };
        let mut words: Vec<Vec<u8>> = name.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        if shape & 8 > 0 {
            words[0].make_ascii_uppercase();
        }
        match shape >> 4 {
            1 => words[0].extend(b"\0x"),
            2 => words[0].push(b'x'),
            3 => {
                if let Some(word) = words.last_mut() {
                    word.push(0);
                }
            }
            _ => {}
        }
        for _ in 0..choices.below(8) {
            words.push(VOCABULARY[choices.below(VOCABULARY.len())].to_vec());
        }
        words
    }

    /// Whether a connection that clients share must not see it.
    fn is_never_shared(&self, words: &[Vec<u8>]) -> bool {
        let upper = |word: &Vec<u8>| String::from_utf8_lossy(word).to_ascii_uppercase();
        let own = |word: &Vec<u8>| OWN_CLIENT.split(' ').any(|known| known == upper(word));
        let name = upper(&words[0]);
        self.never.contains(name.as_str()) || name.contains('\0') || (name == "CLIENT" && words.get(1).is_some_and(own))
    }

    /// What no route may break, whatever the state.
    fn check(&self, facts: Facts, words: &Words, lookup: Lookup, to: Route) -> Result<(), String> {
        let broken = |rule: &str| {
            let shown: Vec<_> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
            Err(format!("{rule}: {to:?} for {shown:?} ({lookup:?}) with {facts:?}"))
        };
        // As if the client were free: nothing of it goes to the pinned connection.
        let apart = match to {
            Route::Free(free) => Some(free),
            Route::Pinned(PinnedRoute::Aside(aside)) => Some(aside.into()),
            Route::Pinned(PinnedRoute::Relay(_)) => None,
        };
        let first = words[0].to_ascii_uppercase();
        let name = String::from_utf8_lossy(&first).into_owned();
        if !facts.authenticated {
            let allowed = matches!(
                apart,
                Some(
                    FreeRoute::Refuse(_)
                        | FreeRoute::Login(_)
                        | FreeRoute::Switch(Switch::Hello)
                        | FreeRoute::Local(Local::Reset)
                        // Answered without the upstream; what needs a right is refused there.
                        | FreeRoute::Local(Local::Proxy)
                        | FreeRoute::Quit
                        | FreeRoute::Drop
                )
            );
            if !allowed {
                return broken("a client that has not logged in causes nothing");
            }
        }
        let rides = apart.is_some_and(FreeRoute::rides);
        let shared = rides || apart == Some(FreeRoute::WaitGroup);
        // With too few arguments or too many the server refuses it, wherever it is.
        let complete = !matches!(lookup, Lookup::Known(id) if !self.table.spec(id).arity_fits(words.count()));
        if rides && complete && self.is_never_shared(words) {
            return broken("never on a shared connection");
        }
        if rides && name.starts_with("XREAD") && blocks(words) {
            return broken("waits on a shared connection");
        }
        if complete
            && facts.guard == TransactionGuard::Poisoned
            && (shared || matches!(apart, Some(FreeRoute::Ask | FreeRoute::Hub)))
        {
            return broken("the body of a lost transaction runs");
        }
        let runs =
            matches!(apart, Some(FreeRoute::Pin(_) | FreeRoute::Ask | FreeRoute::Switch(_) | FreeRoute::Login(_)));
        if facts.subscriptions == SubscriptionView::Two && (shared || runs) {
            return broken("a subscriber of RESP2 runs a command");
        }
        if let UnitPart::Body(_) = unit_part(&self.table, lookup, Policy::ALLOW_ALL, words)
            && (self.is_never_shared(words) || name == "EXEC" || name == "DISCARD")
        {
            return broken("rides within a transaction");
        }
        Ok(())
    }

    fn step(&self, client: &mut Client, choices: &mut Choices<'_>) -> Result<(u64, Route), String> {
        let words = self.request(choices);
        let lookup = self.table.lookup(&words[0], words.get(1).map(Vec::as_slice));
        let facts = client.facts();
        let to = match client.view() {
            None => Route::Free(route_free(&self.table, lookup, facts, &words)),
            Some(view) => Route::Pinned(route_pinned(&self.table, lookup, facts, view, &words)),
        };
        self.check(facts, &words, lookup, to)?;
        let refuses = choices.byte().is_multiple_of(5);
        match to {
            Route::Free(FreeRoute::Pin(reason)) => {
                client.guard = TransactionGuard::Intact;
                client.pinned = Some(<(Transaction, Server)>::default());
                client.send(of_reason(reason), refuses)?;
            }
            Route::Free(free) => client.apart(free, refuses, choices)?,
            Route::Pinned(PinnedRoute::Relay(relay)) => client.send(of_relay(relay), refuses)?,
            // Judged, and then sent there.
            Route::Pinned(PinnedRoute::Aside(Aside::Login(_))) => client.send(Tracked::Other, refuses)?,
            Route::Pinned(PinnedRoute::Aside(aside)) => client.apart(aside.into(), refuses, choices)?,
        }
        match choices.byte() % 8 {
            0 => client.lose(),
            1 if client.pinned.as_ref().is_some_and(|(follows, _)| follows.clean()) => client.pinned = None,
            _ => {}
        }
        let name = (matches!(lookup, Lookup::Known(_)), words.count().min(3));
        Ok((behaviour((format!("{to:?}"), format!("{facts:?}"), name)), to))
    }
}

impl Target for Machine {
    fn name(&self) -> &'static str {
        "machine"
    }

    fn corpus(&self) -> Vec<Vec<u8>> {
        (0..64_u8).map(|i| (0..40_u8).map(|j| i.wrapping_mul(37).wrapping_add(j.wrapping_mul(11))).collect()).collect()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[b"\0\x01", b"\0\x02", b"\0\x03", b"\x08\0", b"\x10\0", b"\x02", b"\x03\x01", b"\xff", b"\0\0\0", b"\x01\x04"]
    }

    fn run(&mut self, input: &[u8]) -> Result<u64, String> {
        let mut choices = Choices(input.iter());
        let start = choices.byte();
        let mut client = Client {
            authenticated: start & 1 == 0,
            guard: TransactionGuard::Intact,
            hub: if start & 2 == 0 { SubscriptionView::Open } else { SubscriptionView::Off },
            pinned: None,
            session: Session::new(0, Policy::ALLOW_ALL),
        };
        let mut last = 0;
        for _ in 0..8 {
            if choices.is_over() {
                break;
            }
            last = self.step(&mut client, &mut choices)?.0;
        }
        Ok(last)
    }

    fn weigh(&mut self, _: &[u8]) {}
}

/// Whether the server would wait: its walk over the options of XREAD and XREADGROUP, up to STREAMS.
fn blocks(words: &[Vec<u8>]) -> bool {
    let is = |word: &[u8], name: &[u8]| {
        let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
        word[..end].eq_ignore_ascii_case(name)
    };
    let (mut at, mut waits) = (1, false);
    while let Some(word) = words.get(at) {
        let more = words.len() - at - 1;
        if is(word, b"BLOCK") && more > 0 {
            waits = true;
            at += 1;
        } else if is(word, b"COUNT") && more > 0 {
            at += 1;
        } else if is(word, b"STREAMS") && more > 0 {
            return waits;
        } else if is(word, b"GROUP") && more > 1 {
            at += 2;
        } else if !is(word, b"NOACK") {
            return false;
        }
        at += 1;
    }
    false
}

fn of_reason(reason: PinReason) -> Tracked {
    match reason {
        PinReason::Transaction => Tracked::Multi,
        PinReason::Watch => Tracked::Watch,
        _ => Tracked::Other,
    }
}

fn of_relay(relay: Relay) -> Tracked {
    match relay {
        Relay::Multi => Tracked::Multi,
        Relay::Exec => Tracked::Exec,
        Relay::Discard => Tracked::Discard,
        Relay::Watch => Tracked::Watch,
        Relay::Unwatch => Tracked::Unwatch,
        _ => Tracked::Other,
    }
}

/// The rules see a router that sends everything on the lane.
pub(crate) fn a_wrong_router_is_seen() -> bool {
    let machine = Machine::new();
    let facts = Facts {
        authenticated: true,
        guard: TransactionGuard::Intact,
        subscriptions: SubscriptionView::Open,
        policy: Policy::ALLOW_ALL,
        debug: true,
    };
    let wrong = |facts: Facts, words: &[&[u8]]| {
        let words: Words = words.iter().map(|word| word.to_vec()).collect();
        let lookup = machine.table.lookup(&words[0], words.get(1).map(Vec::as_slice));
        machine.check(facts, &words, lookup, Route::Free(FreeRoute::Lane)).is_err()
    };
    wrong(facts, &[b"blpop", b"k", b"0"])
        && wrong(facts, &[b"get\0", b"k"])
        && wrong(facts, &[b"xread", b"block", b"0", b"streams", b"s", b"$"])
        && wrong(Facts { authenticated: false, ..facts }, &[b"get", b"k"])
        && wrong(Facts { guard: TransactionGuard::Poisoned, ..facts }, &[b"get", b"k"])
        && !wrong(facts, &[b"get", b"k"])
}
