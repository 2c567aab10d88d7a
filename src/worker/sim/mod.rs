//! A whole worker under simulation: the real loop of every client, the router, lanes, pool, wait groups, login and control
//! connection, between simulated clients and a simulated Redis, over sockets in memory, on one thread with a clock that
//! jumps. Everything that chance decides (cuts, pauses, kills, cancellations) follows from the seed.
//!
//! `SIM_SEED` replays one seed; `make prove WHAT=sim` runs `SIM_SEEDS` of them.

mod cancel;
mod channels;
mod client;
mod listener;
mod lists;
mod plan;
mod server;
mod tests;
mod waiter;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::runtime::{Builder, Handle, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use self::cancel::{Cancel, Watched};
use self::client::{Life, Wire};
use self::listener::Listener;
use self::plan::{Plan, Role};
use self::server::Server;
use self::waiter::{Unblocks, Waiter};
use super::{answer_peer_queries, tick};
use crate::client::{Accepted, AdminHandle, Ids, MAX_PEER_QUERIES, Peers, Shared};
use crate::command::CommandTable;
use crate::config::{Config, tested};
use crate::link::memory_socket::{MemorySocket, listen, pair};
use crate::link::{Budget, OwnIds, Socket, Use};
use crate::telemetry::cells::Level;
use crate::telemetry::{AnomalyReason, ProcessFacts, Telemetry, UpstreamKind};
use crate::topology::Target;
use crate::upstream::{HiddenSubscribers, Node, Parts, Upstream};

/// What happened, as one number that two runs of a seed must share.
#[derive(Default)]
pub(super) struct Log(RefCell<DefaultHasher>);

impl Log {
    fn note(&self, what: &str, who: u64, bytes: &[u8]) {
        if std::env::var_os("SIM_SHOW").is_some() {
            println!("{what} {who} {}", bytes.escape_ascii());
        }
        (what, who, bytes).hash(&mut *self.0.borrow_mut());
    }
}

/// What was promised and what was seen, over all clients.
#[derive(Default)]
pub(super) struct Ledger {
    /// Elements that were pushed: acknowledged, refused, or not known.
    pushes: RefCell<BTreeMap<Vec<u8>, Option<bool>>>,
    pops: RefCell<BTreeMap<Vec<u8>, u32>>,
    /// Of clients that wait, by the number under which others know them.
    unblocks: RefCell<BTreeMap<u64, Unblocks>>,
    replies: Cell<u64>,
    refused: Cell<u64>,
    /// Answers that nobody knows what became of a command.
    unknown: Cell<u64>,
    /// Connections are told to move now and then.
    moves: Cell<bool>,
    /// The server is paused now and then.
    pauses: Cell<bool>,
    violations: RefCell<Vec<String>>,
}

impl Ledger {
    fn wrong(&self, what: String) {
        self.violations.borrow_mut().push(what);
    }

    /// A client that may be waiting, to be unblocked: with an error, which nothing else brings.
    fn somebody(&self) -> Option<u64> {
        let mut unblocks = self.unblocks.borrow_mut();
        let chosen = fastrand::choice(unblocks.keys().copied().collect::<Vec<_>>())?;
        unblocks.entry(chosen).or_default().sent += 1;
        Some(chosen)
    }

    /// So many were unblocked with it.
    fn on_unblock(&self, number: u64, hit: u32) {
        let mut unblocks = self.unblocks.borrow_mut();
        let unblocks = unblocks.entry(number).or_default();
        unblocks.told += hit;
        unblocks.sent -= 1 - hit;
    }
}

/// What a seed came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    polls: u64,
    cancelled: u64,
    commands: u64,
    replies: u64,
    refused: u64,
    unknown: u64,
    millis: u64,
    violations: Vec<String>,
}

struct World {
    config: Arc<Config>,
    upstream: Rc<Upstream>,
    node: Rc<Node>,
    shared: Rc<Shared>,
    server: Rc<Server>,
    ledger: Rc<Ledger>,
    log: Rc<Log>,
    polls: Rc<Cell<u64>>,
    cancelled: Rc<Cell<u64>>,
    /// Connections that were not trusted before this began.
    distrusted: u64,
}

thread_local! {
    static TABLE: (Arc<CommandTable>, Arc<Telemetry>, Arc<ProcessFacts>) = {
        let table = Arc::new(CommandTable::new());
        let facts = Arc::new(ProcessFacts::new("sim", "sim"));
        let telemetry = Arc::new(Telemetry::new(1, &table.labels(), Arc::clone(&facts)));
        (table, telemetry, facts)
    };
}

impl World {
    fn new(config: Arc<Config>) -> Self {
        let log = Rc::new(Log::default());
        let server = Server::new(Rc::clone(&log));
        let accepting = Rc::clone(&server);
        listen(Rc::new(move || accepting.accept()));
        let (table, telemetry, process) = TABLE.with(Clone::clone);
        let upstream = Upstream::new(Parts {
            worker: 0,
            shard: Arc::clone(&telemetry.shards[0]),
            process,
            table,
            budget: Budget::new(config.division().worker(0)),
            owned: OwnIds::default(),
            interest: HiddenSubscribers::default(),
            tls: None,
            throttle: crate::auth::Throttle::new(config.auth.failures),
            config: Arc::clone(&config),
        });
        upstream.start();
        let node = upstream.pick(Target::Any);
        let (sender, peer_queries) = mpsc::channel(MAX_PEER_QUERIES);
        let shared = Shared::new(Rc::clone(&upstream), Peers::new(vec![sender], AdminHandle::new().0), Ids::new(1));
        spawn_local(answer_peer_queries(Rc::clone(&shared), peer_queries));
        spawn_local(tick(Rc::clone(&shared)));
        let (polls, cancelled) = (Rc::default(), Rc::default());
        let distrusted = distrusted(&node);
        Self { config, upstream, node, shared, server, ledger: Rc::default(), log, polls, cancelled, distrusted }
    }

    /// One client after the other in this place, until it has had its lives.
    async fn place(self: Rc<Self>, number: u64, plan: Plan) {
        for life in 0..2 {
            let cancel = match (plan.victim, number) {
                (Some(cancel), 0) if life == 0 => cancel,
                (Some(_), _) => Cancel::Never,
                (None, _) if plan.drains => Cancel::Never,
                (None, _) => match fastrand::u8(..4) {
                    0 => Cancel::Cut(1 + fastrand::u64(..30)),
                    1 => Cancel::Drop(1 + fastrand::u64(..30)),
                    _ => Cancel::Never,
                },
            };
            let wire = self.admit(number * 10 + life, cancel);
            let server = Rc::clone(&self.server);
            match plan.role(number) {
                Role::Life => Life::new(wire).live(plan, server).await,
                Role::Listener => Listener::new(wire, server).live(plan.rounds).await,
                Role::Waiter => Waiter::new(wire).live(plan.rounds).await,
            }
        }
    }

    /// A new client of the worker.
    fn admit(&self, id: u64, cancel: Cancel) -> Wire {
        let (theirs, ours) = pair();
        let accepted = Accepted {
            socket: Socket::Memory(ours),
            transport: crate::client::Transport::Tcp,
            address: crate::client::Address::Unix("sim".into()),
        };
        let task = Box::pin(Rc::clone(&self.shared).serve(Box::new(accepted)));
        spawn_local(Watched {
            task: Some(task),
            socket: theirs.clone(),
            cancel,
            polls: 0,
            total: Rc::clone(&self.polls),
            done: Rc::clone(&self.cancelled),
        });
        let (log, ledger) = (Rc::clone(&self.log), Rc::clone(&self.ledger));
        Wire { id, socket: theirs, log, ledger, input: Vec::new() }
    }

    async fn drain_soon(self: Rc<Self>) {
        sleep(Duration::from_micros(fastrand::u64(..20_000))).await;
        self.shared.drain();
    }

    async fn play(self: Rc<Self>, plan: Plan) {
        let places: Vec<_> =
            (0..plan.clients as u64).map(|number| spawn_local(Rc::clone(&self).place(number, plan))).collect();
        if plan.drains {
            spawn_local(Rc::clone(&self).drain_soon());
        }
        let killer = plan.kills.then(|| {
            let world = Rc::clone(&self);
            spawn_local(async move {
                // Whoever has seen something wrong may wait for long, and nothing new is learned meanwhile.
                while world.ledger.violations.borrow().is_empty() {
                    sleep(Duration::from_micros(500 + fastrand::u64(..20_000))).await;
                    world.server.kill(fastrand::u8(..6) == 0);
                    if fastrand::u8(..6) == 0 {
                        world.server.refuses.set(true);
                        pause(50_000).await;
                        world.server.refuses.set(false);
                    }
                }
            })
        });
        self.ledger.moves.set(plan.moves);
        self.ledger.pauses.set(plan.pauses);
        let pauser = plan.pauses.then(|| {
            let world = Rc::clone(&self);
            spawn_local(async move {
                while world.ledger.violations.borrow().is_empty() {
                    sleep(Duration::from_micros(2_000 + fastrand::u64(..30_000))).await;
                    let time = Duration::from_millis(fastrand::u64(..1_500));
                    world.server.pause(fastrand::bool(), time);
                    sleep(time).await;
                }
            })
        });
        let mover = plan.moves.then(|| spawn_local(Rc::clone(&self).move_about()));
        for place in places {
            if place.await.is_err() {
                self.ledger.wrong("a client's side panicked".to_owned());
            }
        }
        if let Some(killer) = killer {
            killer.abort();
            self.server.refuses.set(false);
        }
        if let Some(pauser) = pauser {
            pauser.abort();
        }
        if let Some(mover) = mover {
            mover.abort();
            self.upstream.set_paused(false);
        }
        self.check_the_end().await;
    }

    /// Tells connections to move, to the other server or to the same one, and holds clients, again and again.
    async fn move_about(self: Rc<Self>) {
        while self.ledger.violations.borrow().is_empty() {
            sleep(Duration::from_micros(2_000 + fastrand::u64(..20_000))).await;
            if fastrand::u8(..3) > 0 {
                if fastrand::bool() {
                    self.server.take_over();
                }
                self.upstream.reconnect();
            } else {
                self.upstream.set_paused(true);
                pause(20_000).await;
                self.upstream.set_paused(false);
            }
        }
    }

    /// When everybody has left and the idle connections are gone, nothing is held and nothing is missing.
    async fn check_the_end(&self) {
        sleep(self.config.upstream.idle_timeout + Duration::from_secs(10)).await;
        let held: Vec<usize> =
            [Use::Lane, Use::Pool, Use::Hub].into_iter().map(|purpose| self.node.rt.budget.used(purpose)).collect();
        if held.iter().any(|held| *held > 0) {
            self.ledger.wrong(format!("lanes, pool and hubs still hold {held:?} permits"));
        }
        let permits: usize = [Use::Lane, Use::Pool, Use::Hub, Use::Login, Use::Control]
            .map(|purpose| self.node.rt.budget.used(purpose))
            .iter()
            .sum();
        if permits != self.server.connected() {
            self.ledger.wrong(format!("{permits} permits for {} connections", self.server.connected()));
        }
        self.check_figures();
        if self.server.most.get() > self.config.upstream.max_connections {
            self.ledger.wrong(format!("{} connections at once", self.server.most.get()));
        }
        // The control connection, the tick, the questions, this one, and the server's side of what is connected.
        let tasks = Handle::current().metrics().num_alive_tasks();
        let expected = 3 + self.server.connected();
        if tasks > expected + 2 {
            self.ledger.wrong(format!("{tasks} tasks are left, {expected} expected"));
        }
        // The server says nothing wrong.
        let distrusted = distrusted(&self.node) - self.distrusted;
        if distrusted > 0 {
            self.ledger.wrong(format!("{distrusted} connections were not trusted"));
        }
        self.check_jobs();
    }

    /// What is shown is what is: of this run and, because all runs share their figures, of those before it.
    fn check_figures(&self) {
        for purpose in [Use::Lane, Use::Pool, Use::Hub, Use::Login, Use::Control] {
            let levels = &self.node.rt.shard.upstream_connections[UpstreamKind::from(purpose)];
            let shown = levels.as_slice().iter().map(Level::value).sum::<u64>();
            let used = self.node.rt.budget.used(purpose) as u64;
            if shown != used {
                self.ledger.wrong(format!("the gauge shows {shown} connections for {purpose:?}, the budget {used}"));
            }
        }
        let pinned = self.node.rt.shard.pinned.as_slice().iter().map(Level::value).sum::<u64>();
        if pinned > 0 {
            self.ledger.wrong(format!("{pinned} clients are shown that hold a connection, and nobody is there"));
        }
    }

    /// Every element acknowledged was popped once, or is there, or was on its way to somebody who was cut off.
    fn check_jobs(&self) {
        for (number, unblocks) in self.ledger.unblocks.borrow().iter().filter(|(_, unblocks)| !unblocks.is_right()) {
            self.ledger.wrong(format!("CLIENT UNBLOCK of {number}: {unblocks:?}"));
        }
        let list = |queue| match self.server.item(&(0, client::jobs(queue))) {
            Some(server::Item::List(list)) => list.into_iter().collect::<Vec<_>>(),
            _ => Vec::new(),
        };
        let remaining: Vec<_> = (0..client::QUEUES).flat_map(list).collect();
        for (element, acknowledged) in self.ledger.pushes.borrow().iter() {
            let there = self.ledger.pops.borrow().contains_key(element) || remaining.contains(element);
            if *acknowledged == Some(false) && there {
                self.ledger.wrong(format!("{} was refused and is there", element.escape_ascii()));
            }
        }
        for element in &remaining {
            if remaining.iter().filter(|other| *other == element).count() > 1 {
                self.ledger.wrong(format!("{} is there twice", element.escape_ascii()));
            }
        }
    }
}

/// Connections that were killed because of what they said.
fn distrusted(node: &Node) -> u64 {
    let of_kind = |kind: &UpstreamKind| -> u64 {
        AnomalyReason::ALL.iter().map(|reason| node.rt.shard.integrity_violations[*kind][*reason].value()).sum()
    };
    UpstreamKind::ALL.iter().map(of_kind).sum()
}

/// A pause of up to so many microseconds, often none.
async fn pause(most: u64) {
    if fastrand::bool() {
        sleep(Duration::from_micros(fastrand::u64(..=most))).await;
    }
}

/// The next bytes; `None` at the end.
async fn read(socket: &MemorySocket) -> Option<Vec<u8>> {
    let mut memory = [0; 1024];
    let mut buf = ReadBuf::new(&mut memory);
    poll_fn(|cx| socket.poll_read(cx, &mut buf)).await.ok()?;
    (!buf.filled().is_empty()).then(|| buf.filled().to_vec())
}

/// Writes all; false when the other side is gone.
async fn write(socket: &MemorySocket, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match poll_fn(|cx| socket.poll_write(cx, bytes)).await {
            Ok(written) => bytes = &bytes[written..],
            Err(_) => return false,
        }
        if fastrand::u8(..8) == 0 {
            pause(200).await;
        }
    }
    true
}

/// Runs one simulation on this thread, with a clock that jumps.
fn simulate<T>(plan: Plan, what: impl AsyncFnOnce(Rc<World>) -> T) -> T {
    fastrand::seed(plan.seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .expect("a runtime");
    let mut config = "workers = 1\nupstream.max_connections = 8\ninstance = 1\n".to_owned() + plan.settings;
    if plan.moves {
        // More than are told to move, or nobody would ever have one.
        config.push_str("upstream.connects_per_second = 5000\n");
    }
    runtime.block_on(async { what(Rc::new(World::new(Arc::new(tested(&config))))).await })
}

fn run(plan: Plan) -> Outcome {
    simulate(plan, async |world| {
        let began = Instant::now();
        Rc::clone(&world).play(plan).await;
        Outcome {
            hash: world.log.0.borrow().finish(),
            polls: world.polls.get(),
            cancelled: world.cancelled.get(),
            commands: world.server.commands.get(),
            replies: world.ledger.replies.get(),
            refused: world.ledger.refused.get(),
            unknown: world.ledger.unknown.get(),
            millis: began.elapsed().as_millis() as u64,
            violations: world.ledger.violations.take(),
        }
    })
}
