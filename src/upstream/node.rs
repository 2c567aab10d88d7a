//! One server, as one worker has it: every connection to it, and what was learnt from it. What is not about a server is
//! in [`Runtime`].

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Control, Demotion, HiddenSubscribers, Hubs, IdleLinks, Lanes, LoginConnection, LoginRequirement, LongReplies,
    OwnCommands, PermissionCache, PermissionChecks, ReplicaAcks, RetryBudget, Runtime, ServerPause, Unknowns,
    WaitGroups, control,
};
use crate::command::CommandId;
use crate::config::Endpoint;
use crate::link::{ClientTls, Dialer, DialerParts};
use crate::telemetry::{NodeFacts, ServerLimits};
use crate::topology::NodeId;

/// A control answer not older than this says that the server is alive.
const HEALTHY_WITHIN: Duration = Duration::from_secs(6);

/// About the time between two ticks.
const TICK: Duration = Duration::from_millis(150);

/// Ticks between two surveys of the clients.
const SURVEY_EVERY: u32 = 5;

/// One server, as one worker has it.
pub struct Node {
    pub rt: Rc<Runtime>,
    id: NodeId,
    /// What all workers together know of this server.
    pub facts: Arc<NodeFacts>,
    /// How far the server's counts of subscribers are off, over all workers.
    pub interest: HiddenSubscribers,
    /// Commands are held at the clients: PROXY PAUSE, or a pause of the server. Moved by [`Node::on_pause_changed`], at every
    /// change of either.
    pub(super) any_pause: Cell<bool>,
    pub server_pause: ServerPause,
    pub dialer: Rc<Dialer>,
    pub lanes: Lanes,
    /// Connections to this server that were lent and are lent again.
    pub idle: IdleLinks,
    pub hubs: Hubs,
    pub login_connection: LoginConnection,
    pub control: Control,
    pub unknowns: Unknowns,
    pub own_commands: OwnCommands,
    pub permission_checks: PermissionChecks,
    pub replica_acks: ReplicaAcks,
    pub permission_cache: PermissionCache,
    pub demotion: Demotion,
    pub wait_groups: WaitGroups,
    pub long_replies: LongReplies,
    pub retries: RetryBudget,
    /// Connections that were made before may lead to another server; nanoseconds of the worker's clock. Moved when
    /// the server is replaced.
    since: Cell<u64>,
    /// A second rotation waits for the end of the one under way.
    pub(super) rotates_again: Cell<bool>,
    first_bad_db: Cell<u32>,
    ticks: Cell<u32>,
    /// The server's limits on connections, and how often they had changed when they were copied.
    pub(super) server: Cell<ServerLimits>,
    pub(super) server_heard: Cell<u64>,
    /// When a lane was answered last, nanoseconds of the worker's clock.
    last_answer: Cell<u64>,
}

impl Node {
    /// The node `id` at `address`, not connected to anything yet. `tls` is there if the server speaks it.
    pub(super) fn new(
        id: NodeId,
        address: Endpoint,
        rt: Rc<Runtime>,
        interest: HiddenSubscribers,
        tls: Option<ClientTls>,
    ) -> Rc<Self> {
        let facts = Arc::clone(rt.process.node(id.number()));
        let parts = DialerParts {
            config: rt.config(),
            shard: Arc::clone(&rt.shard),
            facts: Arc::clone(&facts),
            worker: rt.worker,
            owned: rt.owned.clone(),
            keyring: Rc::clone(&rt.keyring),
            tls,
        };
        let dialer = Rc::new(Dialer::new(id, address, parts));
        Rc::new(Self {
            id,
            facts,
            interest,
            any_pause: Cell::new(rt.is_paused()),
            rt,
            server_pause: ServerPause::default(),
            dialer,
            lanes: Lanes::default(),
            idle: IdleLinks::default(),
            hubs: Hubs::default(),
            login_connection: LoginConnection::default(),
            control: Control::new(id),
            unknowns: Unknowns::default(),
            own_commands: OwnCommands::default(),
            permission_checks: PermissionChecks::default(),
            replica_acks: ReplicaAcks::default(),
            permission_cache: PermissionCache::default(),
            demotion: Demotion::default(),
            wait_groups: WaitGroups::default(),
            long_replies: LongReplies::default(),
            retries: RetryBudget::default(),
            since: Cell::new(0),
            rotates_again: Cell::new(false),
            first_bad_db: Cell::new(u32::MAX),
            ticks: Cell::new(0),
            server: Cell::default(),
            server_heard: Cell::new(0),
            last_answer: Cell::new(0),
        })
    }

    /// Starts what runs beside the clients.
    pub(super) fn start(self: &Rc<Self>) {
        tokio::task::spawn_local(control::run(Rc::clone(self)));
    }

    /// The server's address, for the log. Its form is that of `upstream.url`, without credentials.
    pub(crate) fn address(&self) -> impl std::fmt::Display + use<> {
        self.dialer.address()
    }

    /// Which node of the topology it is.
    #[must_use]
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// Whether client `id` of this server is one of respmux' own connections.
    #[must_use]
    pub fn owns(&self, id: i64) -> bool {
        self.rt.owned.contains(self.id, id)
    }

    /// What a client is that has sent nothing yet, where it need not be asked.
    #[must_use]
    pub fn assumed_login_requirement(&self) -> Option<LoginRequirement> {
        match &self.rt.rules().users {
            Some(users) if users.default_is_open() => Some(LoginRequirement::Implicit),
            Some(_) => Some(LoginRequirement::Unauthenticated),
            // Clients that do not log in are the configured user; lanes prove that login themselves.
            None => self.rt.config().upstream.password.is_some().then_some(LoginRequirement::Implicit),
        }
    }

    /// Clients have to log in, as far as is known.
    #[must_use]
    pub fn wants_login(&self) -> bool {
        self.assumed_login_requirement()
            .map_or_else(|| self.login_connection.wants_login(), |known| known == LoginRequirement::Unauthenticated)
    }

    /// What the server limits on connections, as this worker last heard.
    #[must_use]
    pub fn server_limits(&self) -> ServerLimits {
        self.server.get()
    }

    /// Whether a connection that was made at `then` leads to the server that is asked now (rule W4).
    #[must_use]
    pub fn is_of_this_server(&self, then: u64) -> bool {
        then >= self.since.get()
    }

    /// The server is another one, or its process another one. Connections that were made since `since` lead there.
    pub(super) fn on_new_history(&self, since: u64) {
        self.since.set(since);
        self.on_connection_lost();
    }

    /// A connection was lost: the server may have started anew, so what was learnt from it may be different now.
    pub fn on_connection_lost(&self) {
        self.control.check_now();
        self.first_bad_db.set(u32::MAX);
        self.login_connection.forget_probe();
        self.unknowns.forget();
        self.wait_groups.forget();
    }

    /// The lowest database index that the server is known not to have. Probing beyond it opens no connection.
    #[must_use]
    pub fn first_bad_db(&self) -> u32 {
        self.first_bad_db.get()
    }

    /// The server said that there is no database `db`.
    pub fn on_bad_db(&self, db: u32) {
        self.first_bad_db.set(self.first_bad_db.get().min(db));
    }

    /// One command of a client was answered, `nanos` after it was taken.
    pub fn answered(&self, id: CommandId, nanos: u64) {
        if id == CommandId::OURS {
            return;
        }
        let spec = self.rt.table.spec(id);
        self.rt.shard.answered(id, spec.kind, nanos);
        if spec.reconfigures {
            self.rt.process.on_rights_change();
            self.control.on_reconfigured();
        }
    }

    /// Requests of clients on its lanes that are not answered.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lanes.all().iter().map(|lane| lane.in_flight()).sum()
    }

    /// What time alone makes happen.
    pub(super) fn on_tick(self: &Rc<Self>) {
        let now = self.rt.now();
        self.notice_limits();
        self.evict();
        self.long_replies.on_tick(now);
        self.pause_tick();
        let healthy = self.control.healthy_within(HEALTHY_WITHIN.min(self.rt.config().upstream.progress_timeout))
            || self.server_pause.excuses_silence();
        self.lanes.on_tick(self, now, healthy);
        let served = self.lanes.all().iter().map(|lane| lane.last_answer()).max().unwrap_or(0);
        if served > self.last_answer.replace(served.max(self.last_answer.get())) || self.control.healthy_within(TICK) {
            self.dialer.on_service();
        }
        self.idle.on_tick(self);
        LoginConnection::on_tick(self);
        self.hubs.on_tick(self, now, healthy);
        let oldest = self.lanes.all().iter().filter_map(|lane| lane.oldest()).min();
        let age = oldest.map(|at| Duration::from_nanos(now.saturating_sub(at)));
        self.rt.shard.lanes_observed(self.in_flight(), age);
        // A walk over all clients, so not at every tick.
        self.ticks.set(self.ticks.get().wrapping_add(1));
        if self.ticks.get().is_multiple_of(SURVEY_EVERY) {
            let (active, unsent) = self.rt.outboxes.survey(&self.rt.config().client, now);
            self.check_soft_limits(now);
            self.wait_groups.observe(self);
            let (waiters, sent) = (self.wait_groups.waiters() as u64, self.rt.buffers.take_sent());
            self.rt.shard.clients_observed(active, waiters, unsent, sent);
            self.hubs.survey(self, now);
        }
    }
}
