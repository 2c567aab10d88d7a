//! The side that faces the upstream, as one worker has it.
//!
//! ```text
//!   Upstream ── Topology (which servers there are; replaced by `apply`)
//!      ├── Runtime   of the worker: rules, clients' outboxes, buffers, memory, places of the pool, metrics
//!      └── Node      one for each server: lanes, hubs, idle lent connections, control and login connection,
//!                    what was learnt from that server
//! ```
//!
//! A node reaches its worker's runtime as `node.rt`; the runtime knows no server. Outboxes live here because lanes fill
//! them. Never names a client's task. `client` and `worker` may call it.

mod blocking;
mod buffers;
mod client_key;
mod client_socket;
mod control;
mod counters;
mod demotion;
mod hotkeys;
mod input_memory;
mod lane;
mod lanes;
mod login_connection;
mod long_replies;
mod memory;
mod node;
mod outbox;
mod outboxes;
mod output_limit;
mod own_commands;
mod pause_detector;
mod permission_cache;
mod permissions;
mod pool;
mod pubsub;
mod replica_acks;
mod report;
mod rotate;
mod rules;
mod runtime;
mod server_limits;
mod server_pause;
mod slow_clients;
mod slowlog;
mod unblock;
mod unblock_guard;
mod unknown_commands;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

pub use blocking::{Wait, WaitEnd, WaitGroups, Waiter};
pub use buffers::{Buffers, Pieces};
pub use client_key::ClientKey;
pub use control::Control;
pub use demotion::Demotion;
pub(crate) use hotkeys::{HotKey, merged};
pub use lane::{Lane, LaneHistory, RetryBudget};
pub(crate) use lane::{LaneReport, NOT_EXECUTED, Owner, Part, TOO_LATE, recounted};
pub use lanes::Lanes;
pub use login_connection::{LoginConnection, LoginRequirement};
pub use long_replies::{Carrier, Fingerprint, LongReplies};
pub use memory::{Charge, Memory};
pub use node::Node;
pub use outbox::{Answer, Outbox, Wants};
pub use outboxes::Outboxes;
pub use output_limit::OutputClass;
pub use own_commands::OwnCommands;
pub use permission_cache::{Known, PermissionCache};
pub use permissions::{Permission, PermissionChecks, PermissionProbe};
pub use pool::{IdleLinks, Lease, LeaseError, Pool, Return};
pub use pubsub::{HiddenSubscribers, Hub, Hubs, NoHub, Subscribe};
pub use replica_acks::{AcksWaiter, ReplicaAcks, RoleReply};
pub(crate) use report::Report;
pub use rules::{ConfigChange, Rules};
pub use runtime::Runtime;
pub use server_pause::ServerPause;
pub(crate) use slowlog::{Slow, SlowRequest};
pub use unblock_guard::Unblocked;
pub use unknown_commands::{Unknowns, Verdict};

use crate::auth::Throttle;
use crate::command::CommandTable;
use crate::config::{Config, Endpoint};
use crate::link::{Budget, ClientTls, OwnIds};
use crate::telemetry::{ProcessFacts, Shard};
use crate::topology::{self, NodeId, Standalone, Target, Topology};

/// What a worker's upstream side is built from.
pub struct Parts {
    pub worker: usize,
    pub config: Arc<Config>,
    pub shard: Arc<Shard>,
    pub process: Arc<ProcessFacts>,
    pub table: Arc<CommandTable>,
    pub budget: Arc<Budget>,
    pub owned: OwnIds,
    pub interest: HiddenSubscribers,
    /// There if the servers speak TLS.
    pub tls: Option<ClientTls>,
    pub throttle: Throttle,
}

/// Everything of one worker that commands pass through on the upstream's side. Shared by its tasks, by nobody else.
pub struct Upstream {
    pub rt: Rc<Runtime>,
    /// Where the topology comes from. Moved by its events only: see [`Upstream::reload`], [`Upstream::reconnect`] and
    /// the lookup behind `-READONLY`.
    source: RefCell<Standalone<Endpoint>>,
    /// As it was applied last.
    topology: RefCell<Topology<Endpoint>>,
    /// The nodes of `topology`, in no order.
    nodes: RefCell<Vec<Rc<Node>>>,
    tls: RefCell<Option<ClientTls>>,
    /// Nodes that are added from now on start at once. Set by [`Upstream::start`].
    started: Cell<bool>,
    interest: HiddenSubscribers,
}

impl Upstream {
    /// The upstream side of a worker, not connected to anything yet.
    #[must_use]
    pub fn new(parts: Parts) -> Rc<Self> {
        let source = Standalone::new(parts.config.upstream.endpoint.clone());
        let first = source.topology();
        let upstream = Rc::new(Self {
            rt: Rc::new(Runtime::new(&parts)),
            source: RefCell::new(source),
            topology: RefCell::new(Topology::new(Vec::new())),
            nodes: RefCell::default(),
            tls: RefCell::new(parts.tls),
            started: Cell::new(false),
            interest: parts.interest,
        });
        upstream.apply(first);
        upstream
    }

    /// Starts what runs beside the clients.
    pub fn start(&self) {
        self.started.set(true);
        for node in self.nodes.borrow().iter() {
            node.start();
        }
    }

    /// The node for `target`.
    #[inline]
    #[must_use]
    pub(crate) fn pick(&self, target: Target) -> Rc<Node> {
        let nodes = self.nodes.borrow();
        // With one server every target is the same, and a request pays one comparison.
        if let [only] = &nodes[..] {
            return Rc::clone(only);
        }
        let id = self.topology.borrow().pick(target).unwrap_or_default();
        Rc::clone(nodes.iter().find(|node| node.id() == id).expect("a topology has a node for every target"))
    }

    /// Brings the nodes from the topology that held so far to this one.
    pub(crate) fn apply(&self, next: Topology<Endpoint>) {
        let changes = self.topology.borrow().diff(&next);
        self.topology.replace(next);
        for change in changes {
            match change {
                topology::Change::Added(id, address) => self.add(id, address),
                topology::Change::Readdressed(id, address) => self.with(id, |node| node.on_readdressed(address)),
                topology::Change::Replaced(id) => self.with(id, Node::on_replaced),
                topology::Change::Rotated(id) => self.with(id, Node::rotate),
            }
        }
    }

    fn add(&self, id: NodeId, address: Endpoint) {
        let node = Node::new(id, address, Rc::clone(&self.rt), self.interest.clone(), self.tls.borrow().clone());
        if self.started.get() {
            node.start();
        }
        self.nodes.borrow_mut().push(node);
    }

    fn with(&self, id: NodeId, event: impl FnOnce(&Rc<Node>)) {
        // Taken out first: the event may look at the nodes itself.
        let node = self.nodes.borrow().iter().find(|node| node.id() == id).cloned();
        if let Some(node) = node {
            event(&node);
        }
    }

    /// Every node, for what is asked of all of them.
    #[must_use]
    pub fn nodes(&self) -> Vec<Rc<Node>> {
        self.nodes.borrow().clone()
    }

    /// PROXY RECONNECT: other connections in place of all that stand.
    pub fn reconnect(&self) {
        let next = self.source.borrow_mut().on_reconnect();
        self.apply(next);
    }

    /// What time alone makes happen. Called by the worker a few times a second.
    pub fn on_tick(self: &Rc<Self>) {
        self.rt.on_tick();
        self.follow_names();
        for node in self.nodes() {
            node.on_tick();
        }
    }
}
