//! What the buffers of one worker hold, and who gives way when those of all workers together are near their limit.
//!
//! ```text
//!   outboxes ─┐                       every 64 KiB of change, and each tick
//!   inputs   ─┼─ plain cells ─▶ Memory ─────────▶ telemetry::Total (one cell a worker)
//!   lanes    ─┘                    ▲ the sum of all ◀──────┘
//!                                  └─ Pressure: pause, refuse (the acceptor), close
//! ```
//!
//! Whoever reads calls [`Runtime::relieve`] behind each read of at most 64 KiB, so no burst can pass the limit by
//! more than one read of each worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::{ClientKey, Outbox, Runtime};
use crate::telemetry::{BufferKind, CloseReason, Pressure, ProcessFacts, ShedStep, StallReason};

/// A change of this many bytes is told to the other workers at once.
const TELL_EVERY: usize = 64 << 10;
/// A client that holds less is never paused or closed for it, bytes.
const SMALL: usize = 4 << 10;
/// Closing goes on until all buffers together are at this share of the limit, percent.
const RELIEVED: u64 = 90;
/// The share at which nobody is paused, percent.
const CALM: u64 = 75;
/// Ticks for which clients may be paused or refused before those give way that do not read.
const PATIENCE: u32 = 20;

/// The buffers of one worker, in bytes of their capacity.
pub struct Memory {
    process: Arc<ProcessFacts>,
    worker: usize,
    kinds: [Cell<usize>; BufferKind::ALL.len()],
    own: Cell<usize>,
    /// What the others know.
    told: Cell<usize>,
    pressure: Cell<Pressure>,
    /// Clients that hold this much are not read.
    throttle_from: Cell<usize>,
    throttled: RefCell<Vec<ClientKey>>,
    /// Ticks since when somebody, here or elsewhere, is paused or refused.
    waiting: Cell<u32>,
    /// The second of the worker's clock of the last line about it.
    warned: Cell<u64>,
}

impl Memory {
    /// The books of worker `worker`, in which nothing is held yet.
    #[must_use]
    pub fn new(process: Arc<ProcessFacts>, worker: usize) -> Self {
        Self {
            process,
            worker,
            kinds: Default::default(),
            own: Cell::new(0),
            told: Cell::new(0),
            pressure: Cell::default(),
            throttle_from: Cell::new(usize::MAX),
            throttled: RefCell::default(),
            waiting: Cell::new(0),
            warned: Cell::new(0),
        }
    }

    /// A buffer that had `before` bytes has `after` now.
    #[inline]
    pub fn change(&self, kind: BufferKind, before: usize, after: usize) {
        if before == after {
            return;
        }
        let cell = &self.kinds[kind as usize];
        debug_assert!(cell.get() + after >= before, "{kind}: {} {before} {after}", cell.get());
        cell.set((cell.get() + after).saturating_sub(before));
        let own = (self.own.get() + after).saturating_sub(before);
        self.own.set(own);
        if own.abs_diff(self.told.get()) >= TELL_EVERY {
            self.publish();
        }
    }

    /// Tells the others, and learns from them.
    fn publish(&self) -> u64 {
        self.told.set(self.own.get());
        let total = self.process.memory();
        let sum = total.tell(self.worker, self.own.get() as u64);
        self.pressure.set(Pressure::of(sum, total.limit()));
        sum
    }

    /// How near the limit is, as of the last look.
    #[inline]
    pub fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    /// Bytes of one kind.
    #[must_use]
    pub fn buffered(&self, kind: BufferKind) -> usize {
        self.kinds[kind as usize].get()
    }
}

/// Bytes that something other than an outbox holds; it counts them out when it goes.
pub struct Charge {
    memory: Rc<Memory>,
    kind: BufferKind,
    bytes: usize,
}

impl Charge {
    /// A charge of no bytes.
    #[must_use]
    pub fn new(memory: &Rc<Memory>, kind: BufferKind) -> Self {
        Self { memory: Rc::clone(memory), kind, bytes: 0 }
    }

    /// Sets the charge to `bytes`.
    #[inline]
    pub fn set(&mut self, bytes: usize) {
        self.memory.change(self.kind, self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Runtime {
    /// Gives memory back when there is too little. Call it behind everything that may have made a buffer longer; it
    /// costs one look at a cell when all is well.
    #[inline]
    pub fn relieve(&self) {
        if self.memory.pressure() >= Pressure::Pause {
            self.shed();
        }
    }

    /// The worker's tick: what the others have done since counts too, and paused clients ask again.
    pub(super) fn memory_tick(&self) {
        let memory = &self.memory;
        let sum = memory.publish();
        memory.throttle_from.set(usize::MAX);
        self.relieve();
        self.show_buffered();
        let mut throttled = std::mem::take(&mut *memory.throttled.borrow_mut());
        throttled.sort_unstable();
        throttled.dedup();
        let total = self.process.memory();
        let throttled_anywhere = total.tell_throttled(self.worker, throttled.len() as u64) > 0;
        let anybody = throttled_anywhere || memory.pressure() >= Pressure::Refuse;
        memory.waiting.set(if anybody { memory.waiting.get() + 1 } else { 0 });
        if memory.waiting.get() >= PATIENCE {
            // Who does not read would for ever keep those out who want to come in, or to send.
            memory.waiting.set(0);
            let excess = sum.saturating_sub(total.limit() / 100 * CALM);
            let mine = u128::from(excess) * memory.own.get() as u128 / u128::from(sum.max(1));
            self.close_largest(u64::try_from(mine).unwrap_or(excess), Outbox::buffered_unread);
        }
        for client in throttled {
            self.outboxes.with(client, |outbox| outbox.wake()); // is paused again if nothing has changed
        }
    }

    fn show_buffered(&self) {
        for kind in BufferKind::ALL {
            self.shard.buffered[*kind].set(self.memory.buffered(*kind) as u64);
        }
    }

    /// The largest request that a client may send, bytes. One that pauses its client by itself could never end.
    #[must_use]
    pub fn largest_request(&self) -> usize {
        self.config().client.query_buffer_limit.min(self.config().memory_limit / 4 * 3)
    }

    #[cold]
    fn shed(&self) {
        let memory = &self.memory;
        self.buffers.drop_spare();
        if memory.throttle_from.get() == usize::MAX {
            memory.throttle_from.set((self.outboxes.largest() / 2).max(SMALL));
        }
        if memory.pressure() < Pressure::Close {
            return;
        }
        let (sum, total) = (memory.publish(), self.process.memory());
        // The workers that hold most close first; at the limit itself everybody does.
        let much = memory.own.get() as u64 * total.workers() as u64 >= sum;
        if memory.pressure() == Pressure::Over || (memory.pressure() == Pressure::Close && much) {
            let excess = sum.saturating_sub(total.limit() / 100 * RELIEVED);
            let left = self.close_largest(excess, Outbox::buffered_unread);
            // Unfinished requests are their clients' only harm, so they go only where most is held: elsewhere an honest
            // one would pay for what another worker has not given back yet.
            if much {
                self.close_largest(left, Outbox::buffered);
            }
            // At once: beside what another worker has taken since, the old figure would be more than there ever was.
            self.show_buffered();
        }
    }

    /// Closes the clients of which `share` is largest, until `excess` bytes are free; how many are not.
    fn close_largest(&self, excess: u64, share: fn(&Outbox) -> usize) -> u64 {
        if excess == 0 {
            return 0;
        }
        let (mut left, second) = (excess, self.now() / 1_000_000_000 + 1);
        for client in self.outboxes.by_size(share, SMALL) {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(share(&client) as u64);
            let (output, all) = (client.buffered_output(), client.buffered());
            self.shard.shed[ShedStep::Close].inc();
            let input = all.saturating_sub(output);
            // One line a second says it; the metric counts them.
            if self.memory.warned.replace(second) != second {
                tracing::warn!(
                    client = client.id(),
                    output,
                    input,
                    "memory.limit: the client with the largest buffers is closed"
                );
            } else {
                tracing::debug!(
                    client = client.id(),
                    output,
                    input,
                    "memory.limit: the client with the largest buffers is closed"
                );
            }
            client.shed(&self.buffers, CloseReason::Memory);
        }
        self.memory.publish();
        left
    }

    /// Whether this client must not be read now, because memory is short and it holds much. It is woken to ask again.
    #[inline]
    pub fn throttles(&self, client: &Outbox) -> bool {
        let from = self.memory.throttle_from.get();
        if from == usize::MAX {
            return false;
        }
        self.is_throttled_from(client, from)
    }

    #[cold]
    fn is_throttled_from(&self, client: &Outbox, from: usize) -> bool {
        let throttled = client.buffered() >= from;
        if client.throttle(throttled) && throttled {
            self.shard.shed[ShedStep::Pause].inc();
            self.shard.client_stalls[StallReason::Memory].inc();
        }
        if throttled {
            self.memory.throttled.borrow_mut().push(client.key());
        }
        throttled
    }
}
