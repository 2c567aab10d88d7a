//! The side that faces applications.
//!
//! ```text
//!   accept ─▶ Client task:  read ─▶ scan ─▶ route ─┬─ Lane ──▶ submit (stays in `connection`)
//!                 ▲                                └─ else ──▶ drain, then `dispatch` carries it out:
//!                 │                                             switch · login · local · refuse · pin
//!                 └──────────── outbox ◀── replies from the lane, or from the held connection (`held`)
//! ```
//!
//! A client has unanswered requests on one route only; every other route waits until they are answered (rule I2).

mod address;
mod admission;
mod attempt;
mod blocking;
mod clients;
mod connection;
mod directory;
mod dispatch;
mod error_reply;
mod exchange;
mod explain;
mod filter;
mod first_bytes;
mod held;
mod hello;
mod idle;
mod inlet;
mod line;
mod local;
mod login;
mod notices;
mod parting;
mod pause;
mod peers;
mod pin;
mod proxy;
mod reload;
mod request;
mod rights;
mod seat;
mod server_pause;
mod stray;
mod subscribe;
mod unit;
mod wait;
mod wish;
mod wrote;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use address::Address;
pub(crate) use connection::Client;
pub(crate) use directory::{Line, Transport};
pub(crate) use peers::answer;
pub(crate) use peers::{MAX_QUESTIONS, Peers, Question};
pub(crate) use wish::{Asked, Granted, Wish, Wishes};

use directory::{Directory, Profile};

use crate::command::CommandId;
use crate::link::Socket;
use crate::resp::RequestScanner;
use crate::session::{Identity, Session};
use crate::telemetry::CloseReason;
use crate::topology::Target;
use crate::upstream::{Node, Outbox, OutputClass, Part, Runtime, Upstream};

/// Distance between the virtual client ids of two instances (docs/design/semantics.md 5.1).
const IDS_PER_INSTANCE: u64 = 1_000_000_000_000;

/// Ticks between two looks for clients that have not logged in.
const SWEEP_EVERY: u32 = 5;

/// Virtual client ids: unique over all instances, increasing, below 2^53.
#[derive(Debug)]
pub(crate) struct Ids {
    base: u64,
    last: AtomicU64,
}

impl Ids {
    /// Ids of this instance (1 to 9000).
    #[must_use]
    pub(crate) fn new(instance: u64) -> Arc<Self> {
        Arc::new(Self { base: instance * IDS_PER_INSTANCE, last: AtomicU64::new(0) })
    }

    fn next(&self) -> u64 {
        self.base + self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether `id` is a virtual one, of any instance.
    fn is_virtual(id: u64) -> bool {
        id >= IDS_PER_INSTANCE
    }
}

/// What all clients of a worker share.
pub(crate) struct Shared {
    pub upstream: Rc<Upstream>,
    pub rt: Rc<Runtime>,
    pub peers: Peers,
    pub ids: Arc<Ids>,
    /// There once the process drains.
    plan: Cell<Option<parting::Plan>>,
    ticks: Cell<u32>,
    directory: Directory,
    scanner: RefCell<RequestScanner>,
    /// The parts of the transaction that is being looked at; kept for its memory.
    parts: RefCell<Vec<Part>>,
}

/// A socket that was accepted, and what is known about it.
pub(crate) struct Accepted {
    pub socket: Socket,
    pub transport: Transport,
    pub address: Address,
}

impl Shared {
    /// For the clients of one worker.
    #[must_use]
    pub(crate) fn new(upstream: Rc<Upstream>, peers: Peers, ids: Arc<Ids>) -> Rc<Self> {
        Rc::new(Self {
            rt: Rc::clone(&upstream.rt),
            upstream,
            peers,
            ids,
            plan: Cell::new(None),
            ticks: Cell::new(0),
            directory: Directory::default(),
            scanner: RefCell::new(RequestScanner::new()),
            parts: RefCell::default(),
        })
    }

    /// The node that a command goes to which any node can take.
    #[inline]
    pub(super) fn node(&self) -> Rc<Node> {
        self.upstream.pick(Target::Any)
    }

    /// What time alone makes happen to clients. Called by the worker a few times a second.
    pub(crate) fn on_tick(&self) {
        // A walk over all clients, so not at every tick.
        self.ticks.set(self.ticks.get().wrapping_add(1));
        if self.ticks.get().is_multiple_of(SWEEP_EVERY) {
            self.close_the_unauthenticated();
            self.close_the_idle();
            self.retire();
        }
    }

    /// Serves one client until it leaves.
    pub(crate) async fn serve(self: Rc<Self>, accepted: Box<Accepted>) {
        let Accepted { socket, transport, address } = *accepted;
        let (read, write) = socket.into_split();
        let limit = self.node().output_limit(OutputClass::Normal);
        let id = self.ids.next();
        let outbox = self.rt.roster.admit(|key| Outbox::new(key, id, write, limit));
        let now = crate::base::now();
        let profile = Rc::new(Profile {
            outbox,
            address,
            transport,
            session: RefCell::new(Session::new(
                self.rt.config().upstream.db,
                self.rt.rules().policies.of(&Identity::Implicit),
            )),
            holding: Cell::new(directory::Holding { multi: -1, ..Default::default() }),
            waiting: RefCell::default(),
            command: Cell::new(CommandId::OTHER),
            arguments: Cell::new(0),
            locked_at: Cell::new(self.rt.now().max(1)),
            connected: now,
            active: Cell::new(self.rt.now()),
            busy: Cell::new(false),
            parting: Cell::new(self.parting_of_a_newcomer()),
            received: Cell::new(0),
        });
        self.directory.enter(&profile);
        self.rt.shard.client_began();
        let mut stay = Stay { shared: Rc::clone(&self), profile: Rc::clone(&profile), end: CloseReason::Internal };
        stay.end = Client::new(Rc::clone(&self), profile, read).run().await;
    }
}

/// What a client has of others for as long as it is served. It goes however that ends, with a panic, too.
struct Stay {
    shared: Rc<Shared>,
    profile: Rc<Profile>,
    end: CloseReason,
}

impl Drop for Stay {
    fn drop(&mut self) {
        let Self { shared, profile, end } = self;
        let (node, outbox) = (&shared.node(), &profile.outbox);
        if let Some(outcome) = profile.parting.get().and_then(|parting| parting.outcome(*end)) {
            node.rt.shard.handoffs[outcome].inc();
        }
        if let Some(wait) = profile.waiting.take() {
            wait.left(false); // somebody may have asked it to
        }
        node.rt.slowlog.on_client_left(outbox.id(), || profile.who());
        outbox.keep_input(&node.rt.memory, 0, 0);
        outbox.release(&node.rt.buffers);
        if let Some(hub) = outbox.take_hub(&node.rt.buffers) {
            hub.leave(node, outbox.key());
        }
        shared.directory.leave(outbox.id());
        node.rt.roster.leave(outbox.key());
        node.rt.shard.client_ended(*end);
        tracing::debug!(id = outbox.id(), reason = %end, "client left");
    }
}
