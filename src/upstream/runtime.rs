//! What a worker has whatever servers it talks to: its rules, its clients' outboxes, its buffers and its counters. No
//! field of it names a server.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::{Buffers, Memory, Outboxes, Parts, Pool, Rules, hotkeys, slowlog};
use crate::auth::Throttle;
use crate::command::{CommandId, CommandTable, Replies};
use crate::link::{Budget, Keyring, OwnIds, Use};
use crate::telemetry::{ProcessFacts, RateHistory, Shard};

/// Size of the one buffer into which a worker reads all its sockets, bytes.
pub const READ_BUFFER: usize = 64 << 10;

/// What a worker has. Every task of the worker may borrow it; nobody keeps a borrow over an await.
pub struct Runtime {
    pub worker: usize,
    /// What a reload replaces; see [`Runtime::rules`].
    pub(super) rules: RefCell<Rc<Rules>>,
    pub shard: Arc<Shard>,
    pub process: Arc<ProcessFacts>,
    /// What commands are. What is forbidden of them is in the [`Rules`].
    pub table: Arc<CommandTable>,
    pub budget: Arc<Budget>,
    pub owned: OwnIds,
    /// Failed logins, over all workers.
    pub throttle: Throttle,
    /// PROXY PAUSE: nothing is begun for clients. Moved by [`Runtime::set_paused`].
    paused: Cell<bool>,
    /// What users have proved: whoever dials asks it, only a login that a server accepted writes to it.
    pub keyring: Rc<Keyring>,
    pub outboxes: Outboxes,
    pub memory: Rc<Memory>,
    pub buffers: Buffers,
    /// The places for lent connections, and the line of clients that wait for one.
    pub pool: Pool,
    pub(crate) slowlog: slowlog::Slowlog,
    pub(crate) hotkeys: hotkeys::Hotkeys,
    pub(super) rates: RateHistory,
    /// Every socket of the worker is read into this one, one after the other.
    pub read_buffer: RefCell<Box<[u8]>>,
    started: Instant,
}

impl Runtime {
    /// The runtime of a worker that has no client yet.
    #[must_use]
    pub(super) fn new(parts: &Parts) -> Self {
        let Parts { worker, config, shard, process, table, budget, owned, throttle, .. } = parts;
        let memory = Rc::new(Memory::new(Arc::clone(process), *worker));
        Self {
            worker: *worker,
            rules: RefCell::new(Rules::new(config, Arc::clone(table))),
            shard: Arc::clone(shard),
            process: Arc::clone(process),
            table: Arc::clone(table),
            budget: Arc::clone(budget),
            owned: owned.clone(),
            throttle: throttle.clone(),
            paused: Cell::new(false),
            keyring: Rc::default(),
            outboxes: Outboxes::default(),
            buffers: Buffers::new(Rc::clone(&memory)),
            memory,
            pool: Pool::new(budget.limit(Use::Pool), config.blocking_share(*worker)),
            slowlog: slowlog::Slowlog::new(&config.slowlog, *worker, config.workers),
            hotkeys: hotkeys::Hotkeys::new(config.hotkeys.sample),
            rates: RateHistory::default(),
            read_buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            started: crate::base::now(),
        }
    }

    /// Nanoseconds since the worker started.
    #[must_use]
    pub fn now(&self) -> u64 {
        crate::base::nanos(crate::base::since(self.started))
    }

    /// The name of the command that was being answered, for the log.
    pub(crate) fn command_name(&self, id: Option<CommandId>) -> &str {
        match id {
            None => "none",
            Some(CommandId::OURS) => "respmux's own",
            Some(id) => &self.table.spec(id).name,
        }
    }

    /// Whether the command chooses the text of its errors, as scripts and commands that nobody knows do: such an error proves
    /// nothing about the connection.
    pub(super) fn chooses_its_errors(&self, id: CommandId) -> bool {
        id != CommandId::OURS && self.table.spec(id).replies == Replies::ANY
    }

    /// A server's reply to a command was read, `nanos` after it was written.
    #[inline]
    pub fn replied(&self, id: CommandId, nanos: u64) {
        if id != CommandId::OURS {
            self.shard.upstream_latency(self.table.spec(id).kind.into(), nanos);
        }
    }

    /// Whether PROXY PAUSE holds: nothing is begun for clients.
    #[inline]
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Begins or ends PROXY PAUSE; at the end every client goes on.
    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.set(paused);
        if !paused {
            self.wake_all();
        }
    }

    /// Every client looks again whether it can go on.
    pub(super) fn wake_all(&self) {
        for client in self.outboxes.all() {
            client.wake();
        }
    }

    /// What time alone makes happen, servers aside.
    pub(super) fn on_tick(&self) {
        self.memory_tick();
        self.rates.on_tick(&self.shard, self.now());
    }
}
