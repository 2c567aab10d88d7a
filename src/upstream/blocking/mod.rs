//! Blocked clients in groups: all clients of a worker that wait for the same share a few connections, or are asked for
//! in turns when no connection is to be had (docs/design/semantics.md 7.2, 7.3).
//!
//! ```text
//!  client ── join ──▶ WaitGroup (who waits, whose turn) ◀── replies ── task: one lent connection, waiting on the server
//!     ▲                  │                              ◀── replies ── bundle: one lent connection for many wait groups
//!     │                  │                              ◀── replies ── poll: one for all wait groups without a connection
//!     └──── Wait ◀───────┘
//! ```

mod bundle;
mod places;
mod poll;
mod queue;
mod task;
mod waiter;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::spawn_local;
use tokio::time::sleep;

use queue::{Burst, Outcome, QueueAction, SourceId, Via, WaiterId};
use task::Io;
pub use waiter::{Wait, WaitEnd, Waiter};

use super::{Answer, Node, Outbox};
use crate::command::{Pop, PopKind, is_nil};
use crate::link::{ServerClient, ServerRef};
use crate::session::RouteKey;
use crate::telemetry::{CloseReason, ElementVia, WaiterState};

/// An UNBLOCK that hit nothing is sent again after this: the command may not have arrived yet.
const ASK_AGAIN: Duration = Duration::from_millis(2);
/// An UNBLOCK is sent again after this when the server could not be asked.
const ASK_LATER: Duration = Duration::from_millis(50);
/// How often an element is offered back to an upstream that is away.
const GIVE_BACK_TRIES: u32 = 3;

/// Equal for clients that one reply could serve: the connection's state, and the command without its timeout.
type WaitGroupKey = (RouteKey, Vec<u8>);

/// An element as its client will see it.
type Element = Vec<u8>;

/// The wait groups of one worker.
#[derive(Default)]
pub struct WaitGroups {
    /// One for each key that somebody waits for. `join` enters it; it leaves with its last waiter and connection.
    by_key: RefCell<crate::base::Map<WaitGroupKey, Rc<WaitGroup>>>,
    /// The newest number of a wait group, a waiter or a connection: none is ever used twice.
    last: Cell<u64>,
    /// The task that asks in turns runs.
    polling: Cell<bool>,
    /// Connections on which many wait groups wait at once.
    bundles: bundle::Bundles,
    /// Clients that ask in turns by themselves (streams).
    alone: Cell<usize>,
    /// Whether the upstream lets us unblock connections, once it was asked.
    unblocks: Cell<Option<bool>>,
}

/// One wait group.
struct WaitGroup {
    key: WaitGroupKey,
    pop: Pop,
    number: u64,
    /// What is decided, without I/O. Only `act` moves it, and carries out at once what it decides.
    machine: RefCell<queue::Queue<Element>>,
    /// The clients behind its waiters. One leaves with its answer, or when its task drops the [`Waiter`].
    waits: RefCell<HashMap<WaiterId, Rc<Wait>>>,
    /// Its connections; each is entered and taken out by the task that drives it.
    links: RefCell<HashMap<SourceId, Io>>,
    /// A question for several keys fails because of this one.
    difficult: Cell<bool>,
    /// Its question has no lane and is asked on a lent connection, for which it may stand in line: it is not asked
    /// again before that.
    asked_aside: Cell<bool>,
    /// Where it waits together with other wait groups.
    bundle: RefCell<Option<Rc<bundle::Bundle>>>,
}

impl WaitGroups {
    /// Older clients wait for the same: an element won now is theirs.
    #[must_use]
    pub fn has_waiters(&self, key: &RouteKey, pop: &Pop) -> bool {
        let key = (key.clone(), pop.armed().to_vec());
        self.by_key.borrow().get(&key).is_some_and(|group| group.machine.borrow().len() > 0)
    }

    /// A client begins to wait; `won` are elements that its own question brought while others were waiting.
    #[must_use]
    pub fn join(node: &Rc<Node>, key: &RouteKey, pop: Pop, wait: Rc<Wait>, won: Vec<Vec<u8>>) -> Waiter {
        let wait_groups = &node.wait_groups;
        let key = (key.clone(), pop.armed().to_vec());
        let id = wait_groups.next();
        let group = Rc::clone(
            wait_groups.by_key.borrow_mut().entry(key.clone()).or_insert_with(|| WaitGroup::new(node, key, pop, id)),
        );
        group.waits.borrow_mut().insert(id, Rc::clone(&wait));
        group.act(node, |machine| if won.is_empty() { machine.join(id) } else { machine.probed(id, won) });
        Waiter::new(node, group, id, wait)
    }

    /// Whether nobody waits and no connection is left from those who did.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.borrow().is_empty() && self.bundles.is_empty()
    }

    /// The upstream may be another one now, with other rights for us.
    pub(super) fn forget(&self) {
        self.unblocks.set(None);
    }

    fn next(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }

    fn all(&self) -> Vec<Rc<WaitGroup>> {
        self.by_key.borrow().values().cloned().collect()
    }

    /// Somebody who cannot be asked in turns stands in line for a connection: one wait group goes over to being asked, or
    /// to waiting with others.
    pub(super) fn give_way(node: &Rc<Node>) {
        if !node.wait_groups.youngest_gives_way(node, |_| true) {
            node.wait_groups.bundles.give_way();
        }
    }

    /// A wait group of this class that has a connection to itself gives it up, to share it; whether there is one.
    fn share(&self, node: &Rc<Node>, class: &bundle::BundleClass) -> bool {
        self.youngest_gives_way(node, |group| {
            group.pop.mergeable().is_some() && group.key.0 == class.0 && group.pop.kind() == class.1
        })
    }

    fn youngest_gives_way(&self, node: &Rc<Node>, may: impl Fn(&WaitGroup) -> bool) -> bool {
        let armed = |group: &Rc<WaitGroup>| group.machine.borrow().is_armed() && !group.machine.borrow().gives_way();
        let youngest =
            self.all().into_iter().filter(|group| armed(group) && may(group)).max_by_key(|group| group.number);
        youngest.is_some_and(|group| {
            group.act(node, queue::Queue::give_way);
            true
        })
    }

    /// Connections are to move: those that wait on the old server are unblocked there, and their clients wait on new
    /// ones, without noticing.
    pub(super) fn rotate(node: &Rc<Node>) {
        for group in node.wait_groups.all() {
            if group.machine.borrow().is_armed() {
                group.act(node, queue::Queue::give_way);
            }
        }
        node.wait_groups.bundles.retire_all();
    }

    /// Whether connections wait on `server`.
    pub(super) fn wait_on(&self, server: ServerRef) -> bool {
        let waits = |group: &Rc<WaitGroup>| group.links.borrow().values().any(|io| io.server == server);
        self.by_key.borrow().values().any(waits) || self.bundles.wait_on(server)
    }

    /// How long a client that asks by itself pauses so that all together stay below the limit.
    #[must_use]
    pub fn backoff_alone(&self) -> Duration {
        poll::backoff_for(self.alone.get())
    }

    /// One more client asks by itself, or (`false`) one fewer.
    pub fn count_alone(&self, more: bool) {
        let now = self.alone.get();
        self.alone.set(if more { now + 1 } else { now.saturating_sub(1) });
    }

    /// Clients that wait without holding a connection.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.by_key.borrow().values().map(|group| group.machine.borrow().len()).sum::<usize>() + self.alone.get()
    }

    /// Shows who waits how.
    pub(super) fn observe(&self, node: &Node) {
        let (mut armed, mut polled) = (0, self.alone.get());
        for group in self.by_key.borrow().values() {
            let machine = group.machine.borrow();
            *if machine.is_armed() || group.bundle.borrow().is_some() { &mut armed } else { &mut polled } +=
                machine.len();
        }
        node.rt.shard.group_waiters[WaiterState::Armed].set(armed as u64);
        node.rt.shard.group_waiters[WaiterState::Polling].set(polled as u64);
        node.rt.shard.wait_groups.all.set(self.by_key.borrow().len() as u64);
        node.rt.shard.wait_groups.bundled.set(self.bundles.members() as u64);
    }
}

impl WaitGroup {
    fn new(node: &Node, key: WaitGroupKey, pop: Pop, number: u64) -> Rc<Self> {
        let burst = match pop.kind() {
            PopKind::List(_) | PopKind::Scores(_) => Burst::Count,
            PopKind::Move => Burst::Copies,
            PopKind::ManyOfList(_) | PopKind::ManyOfScores => Burst::Never,
        };
        let machine = queue::Queue::new(node.rt.config().blocking.group_width, burst);
        Rc::new(Self {
            key,
            pop,
            number,
            machine: RefCell::new(machine),
            waits: RefCell::default(),
            links: RefCell::default(),
            difficult: Cell::new(false),
            asked_aside: Cell::new(false),
            bundle: RefCell::default(),
        })
    }

    /// Tells the machine what has happened and carries out what follows.
    fn act<R>(self: &Rc<Self>, node: &Rc<Node>, event: impl FnOnce(&mut queue::Queue<Element>) -> R) -> R {
        // The machine is let go of before its decisions are carried out: some of them tell it of the next event.
        let (result, actions) = {
            let mut machine = self.machine.borrow_mut();
            let result = event(&mut machine);
            (result, machine.take_actions())
        };
        for action in actions {
            self.carry_out(node, action);
        }
        let machine = self.machine.borrow();
        if let Some(bundle) = &*self.bundle.borrow() {
            if machine.is_held() {
                bundle.disturb();
            }
        } else if machine.needs_polls() {
            poll::keep_running(node);
        }
        if machine.is_over() {
            let mut all = node.wait_groups.by_key.borrow_mut();
            // Another group for the same may have begun since.
            if all.get(&self.key).is_some_and(|group| Rc::ptr_eq(group, self)) {
                all.remove(&self.key);
            }
        }
        result
    }

    fn carry_out(self: &Rc<Self>, node: &Rc<Node>, action: QueueAction<Element>) {
        match action {
            QueueAction::Deliver(waiter, element, way) => {
                node.rt.shard.group_elements[label(way)].inc();
                self.tell(node, waiter, WaitEnd::Element(element));
            }
            QueueAction::Nil(waiter) => self.tell(node, waiter, WaitEnd::Nil),
            QueueAction::Error(waiter, error, closes) => self.tell(node, waiter, WaitEnd::Error(error, closes)),
            QueueAction::Close(waiter) => self.tell(node, waiter, WaitEnd::Close(CloseReason::UpstreamLost)),
            QueueAction::GiveBack(elements) => self.give_back(node, elements),
            QueueAction::Arm(source, burst) => self.arm(source, burst),
            QueueAction::Release(source) => {
                if let Some(io) = self.links.borrow_mut().get_mut(&source) {
                    io.release();
                }
            }
            QueueAction::Unblock(source) => self.unblock(node, source),
            QueueAction::UnblockLater(source) => self.unblock_later(node, source, ASK_AGAIN),
            QueueAction::Want => {
                if node.rt.pool.has_place_for_blocked() {
                    self.machine.borrow_mut().opening();
                    spawn_local(task::run(Rc::clone(node), Rc::clone(self), node.wait_groups.next()));
                }
            }
        }
    }

    /// A waiter is told once: it leaves the table with its end.
    fn tell(&self, node: &Node, waiter: WaiterId, turn: WaitEnd) {
        if let Some(wait) = self.waits.borrow_mut().remove(&waiter) {
            wait.put(node, turn);
        }
    }

    /// Writes the waiting command, behind a question for those who wait already.
    fn arm(&self, source: SourceId, burst: usize) {
        let mut links = self.links.borrow_mut();
        let Some(io) = links.get_mut(&source) else { return };
        let mut bytes = BytesMut::new();
        if burst > 0
            && let Some((question, _)) = self.pop.burst(burst)
        {
            bytes.extend_from_slice(&question);
        }
        bytes.extend_from_slice(&if io.sliced { self.pop.sliced() } else { self.pop.armed() });
        io.send(&bytes);
    }

    fn unblock(self: &Rc<Self>, node: &Rc<Node>, source: SourceId) {
        let asked = self.links.borrow().get(&source).map(|io| (io.client, io.server));
        let Some((Some(client), server)) = asked else { return };
        // On another server the number is somebody else's.
        if server.is_before(node.control.server()) && !crate::base::bug("any_server") {
            if let Some(io) = self.links.borrow_mut().get_mut(&source) {
                io.doom();
            }
            return;
        }
        let (group, node) = (Rc::clone(self), Rc::clone(node));
        spawn_local(async move {
            let outcome = ask_to_unblock(&node, client).await;
            if outcome == Outcome::NotBlocked
                && let Some(io) = group.links.borrow_mut().get_mut(&source)
            {
                io.on_not_blocked(crate::base::now());
            }
            group.act(&node, |machine| machine.on_unblock(source, outcome));
        });
    }

    fn unblock_later(self: &Rc<Self>, node: &Rc<Node>, source: SourceId, backoff: Duration) {
        let (group, node) = (Rc::clone(self), Rc::clone(node));
        spawn_local(async move {
            sleep(backoff).await;
            group.act(&node, |machine| machine.retry(source));
        });
    }

    /// Gives back `elements`, for which nobody is there, to where they were (rule B6), the last one first.
    fn give_back(self: &Rc<Self>, node: &Rc<Node>, elements: Vec<Element>) {
        let commands: Vec<BytesMut> = elements.iter().rev().filter_map(|element| self.pop.give_back(element)).collect();
        if !node.rt.config().blocking.give_back || commands.is_empty() {
            return; // a move has lost nothing but its reply
        }
        let (group, node) = (Rc::clone(self), Rc::clone(node));
        spawn_local(async move {
            for command in commands {
                node.rt.shard.group_given_back.inc();
                let outcome = put_back(&node, &group.key.0, &command).await;
                match outcome {
                    Ok(()) => {
                        tracing::info!(
                            worker = node.rt.worker, upstream = %node.address(),
                            "an element popped for a client that had left was put back"
                        )
                    }
                    Err(reason) => {
                        tracing::error!(
                            worker = node.rt.worker, upstream = %node.address(),
                            reason,
                            "an element popped for a client that had left is lost"
                        );
                    }
                }
            }
        });
    }

    /// What the machine should know of an error.
    fn error(frame: &[u8]) -> queue::PopReply<Element> {
        if frame.starts_with(b"-UNBLOCKED client unblocked") {
            queue::PopReply::Unblocked(frame.to_vec())
        } else {
            queue::PopReply::Error(frame.to_vec(), frame.starts_with(b"-UNBLOCKED force"))
        }
    }

    /// A reply of the pop that does not wait. `None` when it makes no sense.
    fn non_blocking_reply(&self, frame: &[u8]) -> Option<queue::PopReply<Element>> {
        if is_nil(frame) {
            return Some(queue::PopReply::Nil);
        }
        if frame.starts_with(b"-") || frame.starts_with(b"!") {
            return Some(Self::error(frame));
        }
        self.pop.elements(frame).map(queue::PopReply::Elements)
    }

    /// A reply of the waiting command itself.
    fn own_reply(&self, frame: &[u8]) -> Option<queue::PopReply<Element>> {
        // A move meets a destination of another type when it is served, and the element stays: its clients are told.
        if frame.starts_with(b"-WRONGTYPE") && self.pop.kind() != PopKind::Move {
            // It was armed a moment after a key changed its type. Asked in turns, its clients stay blocked.
            self.difficult.set(true);
            return Some(queue::PopReply::Difficult);
        }
        if frame.starts_with(b"-READONLY") {
            // It was armed a moment after the server became a replica.
            return Some(queue::PopReply::Error(task::DEMOTED.to_vec(), true));
        }
        if is_nil(frame) || frame.starts_with(b"-") || frame.starts_with(b"!") {
            return self.non_blocking_reply(frame);
        }
        self.pop.fits(frame).then(|| queue::PopReply::Elements(vec![frame.to_vec()]))
    }
}

/// Asks the server to unblock a connection that waits there. Takes a moment when it could not be asked.
async fn ask_to_unblock(node: &Node, client: ServerClient) -> Outcome {
    if node.control.server().is_before(client.server) {
        node.control.check_now(); // it is on its way there
        sleep(ASK_LATER).await;
        return Outcome::Failed;
    }
    match node.control.unblock(client).await {
        Ok(reply) if reply == b":1\r\n" => Outcome::Unblocked,
        Ok(reply) if reply == b":0\r\n" => {
            // Not blocked any more, so an element is on its way (rule B3).
            node.rt.shard.group_unblock_races.inc();
            Outcome::NotBlocked
        }
        Ok(_) | Err(_) => {
            sleep(ASK_LATER).await;
            Outcome::Failed
        }
    }
}

async fn put_back(node: &Rc<Node>, key: &RouteKey, command: &[u8]) -> Result<(), String> {
    for _ in 0..GIVE_BACK_TRIES {
        node.server_takes_writes().await;
        let reply = match node.ask(key, command).await {
            Ok(Answer::Reply(reply)) => reply,
            Ok(Answer::NotExecuted(_)) => continue,
            // Not tried again: it may have been carried out, and the element would be there twice.
            Err(_) => return Err("the connection broke".to_owned()),
        };
        return if reply.starts_with(b":") {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&reply).trim_end().to_owned())
        };
    }
    Err("the upstream is away".to_owned())
}

fn label(way: Via) -> ElementVia {
    match way {
        Via::Probe => ElementVia::Probe,
        Via::Armed => ElementVia::Armed,
        Via::Burst => ElementVia::Burst,
        Via::Poll => ElementVia::Poll,
    }
}
