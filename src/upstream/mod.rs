//! The side that faces the upstream: lanes, the pool, the scratch and the control connection of one worker, and
//! the outboxes through which answers go. Never names a client's task.

mod acks;
mod aims;
mod big;
mod blocking;
mod buffers;
mod control;
mod control_pause;
mod demoted;
mod ends;
mod granted;
mod history;
mod hotkeys;
mod inquiries;
mod lane;
mod lanes;
mod limits;
mod memory;
mod observe;
mod outbox;
mod pace;
mod permissions;
mod pool;
mod pubsub;
mod ration;
mod report;
mod roster;
mod rules;
mod scratch;
mod server_pause;
mod share;
mod slowlog;
mod unblock;
mod unknown;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use acks::{Acks, Look, Watcher};
pub use aims::Unblocked;
pub use big::{BigReplies, Question, Way};
pub use blocking::{Folds, Turn, Wait, Waiter};
pub use buffers::{Buffers, Pieces};
pub use control::Control;
pub use demoted::Demotion;
pub use granted::{Granted, Known};
pub(crate) use hotkeys::{HotKey, merged};
pub use inquiries::Inquiries;
pub use lane::{Fate, Lane, RetryBudget};
pub(crate) use lane::{LaneReport, NOT_EXECUTED, Owner, Part, TOO_LATE, recounted};
pub use lanes::Lanes;
pub use memory::{Charge, Memory};
pub use outbox::{Answer, Outbox, Wants};
pub use permissions::{Permission, Permissions, Twin};
pub use pool::{Lease, LendError, Pool, Return};
pub use pubsub::{HiddenSubscribers, Hub, Hubs, NoHub, Subscribe};
pub use ration::OutputClass;
pub(crate) use report::Report;
pub use roster::{ClientKey, Roster};
pub use rules::{Change, Rules};
pub use scratch::{Scratch, Standing};
pub use server_pause::ServerPause;
pub(crate) use slowlog::{Slow, SlowRequest};
pub use unknown::{Unknowns, Verdict};

use crate::auth::Throttle;
use crate::command::{CommandId, CommandTable};
use crate::config::Config;
use crate::link::{Budget, ClientTls, Dialer, Keyring, Owned};
use crate::telemetry::{ProcessFacts, ServerLimits, Shard};

/// Size of the one buffer into which a worker reads all its sockets, bytes.
pub const READ_BUFFER: usize = 64 << 10;
/// A control answer not older than this says that the upstream is alive.
const HEALTHY_WITHIN: Duration = Duration::from_secs(6);

/// About the time between two ticks.
const TICK: Duration = Duration::from_millis(150);

/// Ticks between two surveys of the clients.
const SURVEY_EVERY: u32 = 5;

/// Everything of one worker that commands pass through. Shared by its tasks, by nobody else.
pub struct Upstreams {
    pub worker: usize,
    /// What a reload replaces; see [`Upstreams::rules`].
    rules: RefCell<Rc<Rules>>,
    pub shard: Arc<Shard>,
    pub process: Arc<ProcessFacts>,
    /// What commands are. What is forbidden of them is in the [`Rules`].
    pub table: Arc<CommandTable>,
    pub budget: Arc<Budget>,
    pub owned: Owned,
    /// How far the upstream's counts of subscribers are off, over all workers.
    pub interest: HiddenSubscribers,
    /// Failed logins, over all workers.
    pub throttle: Throttle,
    /// PROXY PAUSE: nothing is begun for clients.
    paused: Cell<bool>,
    /// That, or a pause of the server.
    holding: Cell<bool>,
    pub server_pause: ServerPause,
    /// What its users have proved: whoever dials asks it, only a login that a server accepted writes to it.
    pub keyring: Rc<Keyring>,
    pub dialer: Dialer,
    pub roster: Roster,
    pub memory: Rc<Memory>,
    pub buffers: Buffers,
    pub lanes: Lanes,
    pub pool: Pool,
    pub hubs: Hubs,
    pub scratch: Scratch,
    pub control: Control,
    pub unknowns: Unknowns,
    pub inquiries: Inquiries,
    pub permissions: Permissions,
    pub acks: Acks,
    pub granted: Granted,
    pub demotion: Demotion,
    pub folds: Folds,
    pub big_replies: BigReplies,
    pub retries: RetryBudget,
    pub(crate) slowlog: slowlog::Slowlog,
    pub(crate) hotkeys: hotkeys::Hotkeys,
    history: history::History,
    pub read_buffer: RefCell<Box<[u8]>>,
    started: Instant,
    /// Connections that were made before may lead to another server; nanoseconds of the worker's clock.
    since: Cell<u64>,
    /// Connections are to move once more when they have moved.
    moves_again: Cell<bool>,
    first_bad_db: Cell<u32>,
    ticks: Cell<u32>,
    /// The server's limits on connections, and how often they had changed when they were copied.
    server: Cell<ServerLimits>,
    server_heard: Cell<u64>,
    /// When a lane was answered last, nanoseconds of the worker's clock.
    last_answer: Cell<u64>,
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
    pub interest: HiddenSubscribers,
    /// There if the upstream speaks TLS.
    pub tls: Option<ClientTls>,
    pub throttle: Throttle,
}

impl Upstreams {
    /// The upstream side of a worker, not connected to anything yet.
    #[must_use]
    pub fn new(parts: Parts) -> Rc<Self> {
        let Parts { worker, config, shard, process, table, budget, owned, interest, tls, throttle } = parts;
        let rules = Rules::new(&config, Arc::clone(&table));
        let keyring = Rc::<Keyring>::default();
        let dialer = Dialer::new(
            Rc::clone(&rules.config),
            Arc::clone(&shard),
            Arc::clone(&process),
            worker,
            owned.clone(),
            Rc::clone(&keyring),
            tls,
        );
        let pool = Pool::new(budget.limit(crate::link::Use::Pool), config.blocking_share(worker));
        let memory = Rc::new(Memory::new(Arc::clone(&process), worker));
        let slowlog = slowlog::Slowlog::new(&config.slowlog, worker, config.workers);
        let hotkeys = hotkeys::Hotkeys::new(config.hotkeys.sample);
        Rc::new(Self {
            worker,
            rules: RefCell::new(rules),
            shard,
            process,
            table,
            budget,
            owned,
            interest,
            throttle,
            paused: Cell::new(false),
            holding: Cell::new(false),
            server_pause: ServerPause::default(),
            keyring,
            dialer,
            roster: Roster::default(),
            buffers: Buffers::new(Rc::clone(&memory)),
            memory,
            lanes: Lanes::default(),
            pool,
            hubs: Hubs::default(),
            scratch: Scratch::default(),
            control: Control::default(),
            unknowns: Unknowns::default(),
            inquiries: Inquiries::default(),
            permissions: Permissions::default(),
            acks: Acks::default(),
            granted: Granted::default(),
            demotion: Demotion::default(),
            folds: Folds::default(),
            big_replies: BigReplies::default(),
            retries: RetryBudget::default(),
            slowlog,
            hotkeys,
            history: history::History::default(),
            read_buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            started: crate::base::now(),
            since: Cell::new(0),
            moves_again: Cell::new(false),
            first_bad_db: Cell::new(u32::MAX),
            ticks: Cell::new(0),
            server: Cell::default(),
            server_heard: Cell::new(0),
            last_answer: Cell::new(0),
        })
    }

    /// Starts what runs beside the clients.
    pub fn start(self: &Rc<Self>) {
        tokio::task::spawn_local(control::run(Rc::clone(self)));
    }

    /// What a client is that has sent nothing yet, where it need not be asked.
    #[must_use]
    pub fn assumed_standing(&self) -> Option<Standing> {
        match &self.rules().users {
            Some(users) if users.default_is_open() => Some(Standing::Implicit),
            Some(_) => Some(Standing::Unauthenticated),
            // Clients that do not log in are the configured user; lanes prove that login themselves.
            None => self.config().upstream.password.is_some().then_some(Standing::Implicit),
        }
    }

    /// Clients have to log in, as far as is known.
    #[must_use]
    pub fn wants_login(&self) -> bool {
        self.assumed_standing().map_or_else(|| self.scratch.wants_login(), |known| known == Standing::Unauthenticated)
    }

    /// What the server limits on connections, as this worker last heard.
    #[must_use]
    pub fn server_limits(&self) -> ServerLimits {
        self.server.get()
    }

    /// Nanoseconds since the worker started.
    #[must_use]
    pub fn now(&self) -> u64 {
        crate::base::nanos(crate::base::since(self.started))
    }

    /// Whether a connection that was made at `then` leads to the server that is asked now (rule W4).
    #[must_use]
    pub fn is_of_this_server(&self, then: u64) -> bool {
        then >= self.since.get()
    }

    /// The upstream is another server, or its process another one. Connections that were made since `since` lead there.
    pub fn on_upstream_replaced(&self, since: u64) {
        self.since.set(since);
        self.on_upstream_lost();
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

    /// A connection was lost, or the upstream is another process: what was learnt from it may be different now.
    pub fn on_upstream_lost(&self) {
        self.control.look();
        self.first_bad_db.set(u32::MAX);
        self.scratch.forget_probe();
        self.unknowns.forget();
        self.folds.forget();
    }

    /// For the log: the name of the command that was being answered.
    pub(crate) fn command_name(&self, id: Option<CommandId>) -> &str {
        match id {
            None => "none",
            Some(CommandId::OURS) => "respmux's own",
            Some(id) => &self.table.spec(id).name,
        }
    }

    /// One command of a client was answered, `nanos` after it was taken.
    pub fn answered(&self, id: CommandId, nanos: u64) {
        if id == CommandId::OURS {
            return;
        }
        let spec = self.table.spec(id);
        self.shard.answered(id, spec.kind, nanos);
        if spec.reconfigures {
            self.process.on_rights_change();
            self.control.on_reconfigured();
        }
    }

    /// The upstream's reply to a command was read, `nanos` after it was written.
    #[inline]
    pub fn replied(&self, id: CommandId, nanos: u64) {
        if id != CommandId::OURS {
            self.shard.upstream_latency(self.table.spec(id).kind.into(), nanos);
        }
    }

    /// What time alone makes happen. Called by the worker a few times a second.
    pub fn on_tick(self: &Rc<Self>) {
        self.notice_limits();
        self.memory_tick();
        self.evict();
        self.history.on_tick(&self.shard, self.now());
        self.big_replies.on_tick(self.now());
        self.pause_tick();
        let healthy = self.control.healthy_within(HEALTHY_WITHIN.min(self.config().upstream.progress_timeout))
            || self.server_pause.excuses_silence();
        self.lanes.on_tick(self, self.now(), healthy);
        let served = self.lanes.all().iter().map(|lane| lane.last_answer()).max().unwrap_or(0);
        if served > self.last_answer.replace(served.max(self.last_answer.get())) || self.control.healthy_within(TICK) {
            self.dialer.on_service();
        }
        self.demotion_tick();
        self.pool.on_tick(self);
        Scratch::on_tick(self);
        self.hubs.on_tick(self, self.now(), healthy);
        let oldest = self.lanes.all().iter().filter_map(|lane| lane.oldest()).min();
        let age = oldest.map(|at| Duration::from_nanos(self.now().saturating_sub(at)));
        let in_flight = self.lanes.all().iter().map(|lane| lane.in_flight()).sum();
        self.shard.lanes_observed(in_flight, age);
        // A walk over all clients, so not at every tick.
        self.ticks.set(self.ticks.get().wrapping_add(1));
        if self.ticks.get().is_multiple_of(SURVEY_EVERY) {
            let (active, unsent) = self.roster.survey(&self.config().client, self.now());
            self.check_soft_limits(self.now());
            self.folds.observe(self);
            self.shard.clients_observed(active, self.folds.waiters() as u64, unsent, self.buffers.take_sent());
            self.hubs.survey(self, self.now());
        }
    }
}
