//! The side that faces the upstream: lanes, the pool, the scratch and the control connection of one worker, and
//! the outboxes through which answers go. Never names a client's task.

mod blocking;
mod control;
mod inquiries;
mod lane;
mod lanes;
mod observe;
mod outbox;
mod pool;
mod pubsub;
mod report;
mod roster;
mod scratch;
mod unknown;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use blocking::{Folds, Turn, Wait, Waiter};
pub use control::Control;
pub use inquiries::{Inquiries, OutcomeUnknown};
pub use lane::Lane;
pub(crate) use lane::{NOT_EXECUTED, Owner, Part, recounted};
pub use lanes::{Full, Lanes};
pub use outbox::{Answer, Buffers, Outbox, Wants};
pub use pool::{Lease, LendError, Pool, Return};
pub use pubsub::{Hub, Hubs, NoHub, Subscribe};
pub(crate) use report::Report;
pub use roster::{ClientKey, Roster};
pub use scratch::{Scratch, Standing};
pub use unknown::{Unknowns, Verdict};

use crate::command::{CommandId, CommandTable};
use crate::config::Config;
use crate::link::{Budget, Dialer, Interest, Owned};
use crate::telemetry::{ProcessFacts, Shard};

/// Size of the one buffer into which a worker reads all its sockets, bytes.
pub const READ_BUFFER: usize = 64 << 10;
/// A control answer not older than this says that the upstream is alive.
const HEALTHY_WITHIN: Duration = Duration::from_secs(6);

/// Ticks between two surveys of the clients.
const SURVEY_EVERY: u32 = 5;

/// Everything of one worker that commands pass through. Shared by its tasks, by nobody else.
pub struct Upstreams {
    pub worker: usize,
    pub config: Arc<Config>,
    pub shard: Arc<Shard>,
    pub process: Arc<ProcessFacts>,
    pub table: Arc<CommandTable>,
    pub budget: Arc<Budget>,
    pub owned: Owned,
    /// How far the upstream's counts of subscribers are off, over all workers.
    pub interest: Interest,
    pub dialer: Dialer,
    pub roster: Roster,
    pub buffers: Buffers,
    pub lanes: Lanes,
    pub pool: Pool,
    pub hubs: Hubs,
    pub scratch: Scratch,
    pub control: Control,
    pub unknowns: Unknowns,
    pub inquiries: Inquiries,
    pub folds: Folds,
    pub read_buffer: RefCell<Box<[u8]>>,
    started: Instant,
    epoch: Cell<u64>,
    first_bad_db: Cell<u32>,
    ticks: Cell<u32>,
}

/// What a worker is built from.
pub struct Parts {
    pub worker: usize,
    pub config: Arc<Config>,
    pub shard: Arc<Shard>,
    pub process: Arc<ProcessFacts>,
    pub table: Arc<CommandTable>,
    pub budget: Arc<Budget>,
    pub owned: Owned,
    pub interest: Interest,
}

impl Upstreams {
    /// The upstream side of a worker, not connected to anything yet.
    #[must_use]
    pub fn new(parts: Parts) -> Rc<Self> {
        let Parts { worker, config, shard, process, table, budget, owned, interest } = parts;
        let dialer = Dialer::new(Arc::clone(&config), Arc::clone(&shard), worker, owned.clone());
        let pool = Pool::new(budget.limit(crate::link::Use::Pool), config.blocking_share(worker));
        Rc::new(Self {
            worker,
            config,
            shard,
            process,
            table,
            budget,
            owned,
            interest,
            dialer,
            roster: Roster::default(),
            buffers: Buffers::default(),
            lanes: Lanes::default(),
            pool,
            hubs: Hubs::default(),
            scratch: Scratch::default(),
            control: Control::default(),
            unknowns: Unknowns::default(),
            inquiries: Inquiries::default(),
            folds: Folds::default(),
            read_buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            started: crate::link::now(),
            epoch: Cell::new(0),
            first_bad_db: Cell::new(u32::MAX),
            ticks: Cell::new(0),
        })
    }

    /// Starts what runs beside the clients.
    pub fn start(self: &Rc<Self>) {
        tokio::task::spawn_local(control::run(Rc::clone(self)));
    }

    /// Nanoseconds since the worker started.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(crate::link::since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts histories of the upstream: a WAIT must not be answered from another one than the writes it covers
    /// (rule W4).
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// The lowest database index that the upstream is known not to have. Probing beyond it opens no connection.
    #[must_use]
    pub fn first_bad_db(&self) -> u32 {
        self.first_bad_db.get()
    }

    /// The upstream said that there is no database `db`.
    pub fn on_bad_db(&self, db: u32) {
        self.first_bad_db.set(self.first_bad_db.get().min(db));
    }

    /// A connection was lost, or the upstream is another process: from here on it is another history.
    pub fn on_upstream_lost(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.first_bad_db.set(u32::MAX);
        self.scratch.forget_probe();
        self.unknowns.forget();
        self.folds.forget();
    }

    /// One command of a client was answered, `nanos` after it was taken.
    pub fn answered(&self, id: CommandId, nanos: u64) {
        if id == CommandId::OURS {
            return;
        }
        let spec = self.table.spec(id);
        self.shard.answered(id, spec.kind, nanos);
        if spec.reconfigures {
            self.control.on_reconfigured();
        }
    }

    /// What time alone makes happen. Called by the worker a few times a second.
    pub fn on_tick(self: &Rc<Self>) {
        let healthy = self.control.healthy_within(HEALTHY_WITHIN);
        self.lanes.on_tick(self, self.now(), healthy);
        self.pool.on_tick(self);
        self.hubs.on_tick(self, self.now(), healthy);
        let oldest = self.lanes.all().iter().filter_map(|lane| lane.oldest()).min();
        let age = oldest.map(|at| Duration::from_nanos(self.now().saturating_sub(at)));
        let in_flight = self.lanes.all().iter().map(|lane| lane.in_flight()).sum();
        self.shard.lanes_observed(in_flight, age);
        // A walk over all clients, so not at every tick.
        self.ticks.set(self.ticks.get().wrapping_add(1));
        if self.ticks.get().is_multiple_of(SURVEY_EVERY) {
            let (active, unsent) = self.roster.survey();
            self.folds.observe(self);
            self.shard.clients_observed(active, self.folds.waiters() as u64, unsent, self.buffers.take_sent());
            self.hubs.survey(self, self.now());
        }
    }
}
