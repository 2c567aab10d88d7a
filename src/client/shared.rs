//! What all clients of a worker share: the list of them, the ways to the other workers, and memory that is used again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::directory::peers::Peers;
use super::directory::table::ClientTable;
use super::drain::departure::Schedule;
use crate::resp::RequestScanner;
use crate::topology::Target;
use crate::upstream::{Node, Part, Runtime, Upstream};

/// Distance between the virtual client ids of two instances (docs/design/semantics.md 5.1).
const IDS_PER_INSTANCE: u64 = 1_000_000_000_000;

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

    pub(super) fn next(&self) -> u64 {
        self.base + self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether `id` is a virtual one, of any instance.
    pub(super) fn is_virtual(id: u64) -> bool {
        id >= IDS_PER_INSTANCE
    }
}

/// What all clients of a worker share.
pub(crate) struct Shared {
    /// The servers, as this worker reaches them.
    pub upstream: Rc<Upstream>,
    /// What the worker has once, whatever the servers: the same as `upstream.rt`, one step nearer for each request.
    pub rt: Rc<Runtime>,
    /// The ways to the clients of other workers. Cold path only.
    pub peers: Peers,
    /// Shared by all workers: an id says nothing of where its client is.
    pub ids: Arc<Ids>,
    /// When each client is to leave; set once the process drains.
    pub(super) schedule: Cell<Option<Schedule>>,
    /// Moved by the tick of the worker, for what is not done at each of them.
    pub(super) ticks: Cell<u32>,
    /// Entered and left by `serve` alone, however a client ends.
    pub(super) clients: ClientTable,
    /// Borrowed for the scan of one read. It keeps its tables, so that no request allocates them.
    pub(super) scanner: RefCell<RequestScanner>,
    /// The parts of the transaction that is being looked at; kept for its memory.
    pub(super) parts: RefCell<Vec<Part>>,
}

impl Shared {
    /// The shared parts of one worker, which has no clients yet.
    #[must_use]
    pub(crate) fn new(upstream: Rc<Upstream>, peers: Peers, ids: Arc<Ids>) -> Rc<Self> {
        Rc::new(Self {
            rt: Rc::clone(&upstream.rt),
            upstream,
            peers,
            ids,
            schedule: Cell::new(None),
            ticks: Cell::new(0),
            clients: ClientTable::default(),
            scanner: RefCell::new(RequestScanner::new()),
            parts: RefCell::default(),
        })
    }

    /// The node that a command goes to which any node can take.
    #[inline]
    pub(super) fn node(&self) -> Rc<Node> {
        self.upstream.pick(Target::Any)
    }
}
