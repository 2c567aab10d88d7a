//! The storm as a whole: clients, chaos, audit.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::chaos;
use crate::client;
use crate::ledger::{Ledger, List};
use crate::metrics;
use crate::op::Names;
use crate::plan::Mix;
use crate::tally::{Finding, Tally};
use kit::Progress;
use kit::resp::Value;
use kit::wire::Wire;

/// What is stormed, how hard and how long.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) seed: u64,
    pub(crate) clients: u32,
    /// Where the clients connect.
    pub(crate) target: SocketAddr,
    /// The server, at the address that the proxy does not use.
    pub(crate) direct: SocketAddr,
    /// The server, at the address that the proxy uses: its connections are killed and counted.
    pub(crate) upstream: SocketAddr,
    /// At first nothing is killed, and no connection may be lost.
    pub(crate) calm: Duration,
    /// Then upstream connections are killed at random.
    pub(crate) chaos: Duration,
    /// Ends the storm early; the calm part then has its share of them.
    pub(crate) replies: u64,
    /// Where respmux shows its metrics.
    pub(crate) admin: Option<SocketAddr>,
    /// Ends the storm as soon as respmux itself says that something is wrong.
    pub(crate) stop_on_alarm: bool,
    pub(crate) mix: Mix,
    /// How long a reply may take.
    pub(crate) patience: Duration,
    /// Ends the storm at the first finding.
    pub(crate) stop_on_red: bool,
    /// The target is the server itself: it refuses nothing.
    pub(crate) direct_arm: bool,
}

/// What all clients share. One thread runs them all.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) tally: RefCell<Tally>,
    progress: Progress,
    /// No upstream connection has been killed so far.
    pub(crate) certain: Cell<bool>,
    pub(crate) stop: Cell<bool>,
    /// Every connection id that was seen, and whose it is.
    pub(crate) ids: RefCell<HashMap<i64, (u32, u32)>>,
    pub(crate) retired: RefCell<VecDeque<Retired>>,
    /// Lives in which a change of state was refused: what was pipelined behind it ran where it was not meant to.
    pub(crate) unclear: RefCell<HashSet<(u32, u32)>>,
}

impl Shared {
    /// A client could not connect.
    pub(crate) fn not_connected(&self, error: &std::io::Error) {
        let mut tally = self.tally.borrow_mut();
        if self.certain.get() {
            tally.found(Finding::Dropped, || format!("no connection: {error}"));
        } else {
            tally.disconnects += 1;
        }
    }
}

/// A life that is over, to be audited.
pub(crate) struct Retired {
    names: Names,
    /// How its connection ended, for the story of a finding.
    end: String,
    lists: Vec<List>,
    since: Instant,
}

impl Retired {
    pub(crate) fn new(names: Names, end: String, ledger: Ledger) -> Self {
        Self { names, end, lists: ledger.into_lists(), since: Instant::now() }
    }
}

/// After so long, what an ended connection had sent has been executed or never will be.
const SETTLED: Duration = Duration::from_secs(15);

/// Runs a storm on a runtime of its own.
pub(crate) fn run(config: Config) -> (Tally, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, storm(config))
}

async fn storm(config: Config) -> (Tally, Duration) {
    let started = Instant::now();
    let mut direct = Wire::connect(config.direct).await.expect("the server is there");
    client::prepare_users(&mut direct).await;
    let shared = Rc::new(Shared {
        tally: RefCell::default(),
        progress: progress(&config),
        certain: Cell::new(true),
        stop: Cell::new(false),
        ids: RefCell::default(),
        retired: RefCell::default(),
        unclear: RefCell::default(),
        config,
    });
    let clients = shared.config.clients;
    let mut tasks: Vec<_> =
        (0..clients).map(|who| tokio::task::spawn_local(client::run(shared.clone(), who))).collect();
    tasks.push(tokio::task::spawn_local(chaos::count_connections(shared.clone())));
    tasks.push(tokio::task::spawn_local(audit_meanwhile(shared.clone())));
    tasks.push(tokio::task::spawn_local(metrics::watch(shared.clone())));

    let all = shared.config.chaos.is_zero();
    let calm = if all { shared.config.replies } else { shared.config.replies / 5 * 2 };
    wait(&shared, shared.config.calm, calm).await;
    if !shared.config.chaos.is_zero() && !over(&shared, shared.config.replies) {
        shared.certain.set(false);
        let chaos = tokio::task::spawn_local(chaos::kill_connections(shared.clone()));
        wait(&shared, shared.config.chaos, shared.config.replies).await;
        chaos.abort();
    }
    shared.stop.set(true);
    let took = started.elapsed();
    if let Some(admin) = shared.config.admin
        && let Some(counted) = metrics::counted(admin).await
    {
        shared.tally.borrow_mut().counted = counted;
    }
    finish(&shared, tasks).await;
    settle(&mut direct).await;
    stray_keys(&shared, &mut direct).await;
    audit(&shared, &mut direct, Duration::ZERO).await;
    (shared.tally.take(), took)
}

fn progress(config: &Config) -> Progress {
    let progress = Progress::new("storm: replies").within(config.calm + config.chaos);
    if config.replies == u64::MAX { progress } else { progress.of(config.replies) }
}

fn over(shared: &Shared, replies: u64) -> bool {
    let tally = shared.tally.borrow();
    let alarm = shared.config.stop_on_alarm && tally.counted.violations > 0;
    tally.replies >= replies || alarm || (shared.config.stop_on_red && tally.wrong() > 0)
}

async fn wait(shared: &Shared, time: Duration, replies: u64) {
    let end = Instant::now() + time;
    while Instant::now() < end && !over(shared, replies) {
        shared.progress.reach(shared.tally.borrow().replies);
        sleep(Duration::from_millis(20)).await;
    }
}

/// Every client says farewell; one that does not is a finding of its own.
async fn finish(shared: &Shared, tasks: Vec<tokio::task::JoinHandle<()>>) {
    let end = Instant::now() + shared.config.patience * 2;
    for task in tasks {
        let left = end.saturating_duration_since(Instant::now());
        match timeout(left, task).await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => shared.tally.borrow_mut().found(Finding::Missing, || "a client does not come to its end".into()),
        }
    }
}

/// Waits until the server runs no more commands but our own: what was sent and not answered has then run.
async fn settle(direct: &mut Wire) {
    let end = Instant::now() + Duration::from_secs(10);
    let mut last = -1;
    while Instant::now() < end {
        let writes = commands_so_far(direct).await;
        if writes == last {
            return;
        }
        last = writes;
        sleep(Duration::from_millis(250)).await;
    }
}

/// How many data commands the server has run.
async fn commands_so_far(direct: &mut Wire) -> i64 {
    let Ok(Value::Bulk(text)) = direct.call(&["INFO", "commandstats"]).await else { return -1 };
    let text = String::from_utf8_lossy(&text);
    let writes = ["cmdstat_set:", "cmdstat_rpush:", "cmdstat_exec:", "cmdstat_eval:", "cmdstat_incr:"];
    let of_line = |line: &str| {
        writes
            .iter()
            .find_map(|name| line.strip_prefix(name)?.strip_prefix("calls=")?.split(',').next()?.parse::<i64>().ok())
    };
    text.lines().filter_map(of_line).sum()
}

/// Audits lives that ended a while ago and removes their keys, so that a long storm stays small.
async fn audit_meanwhile(shared: Rc<Shared>) {
    let Ok(mut direct) = Wire::connect(shared.config.direct).await else { return };
    while !shared.stop.get() {
        audit(&shared, &mut direct, SETTLED).await;
        sleep(Duration::from_millis(200)).await;
    }
}

async fn audit(shared: &Shared, direct: &mut Wire, age: Duration) {
    loop {
        let due = shared.retired.borrow().front().is_some_and(|life| life.since.elapsed() >= age);
        if !due {
            return;
        }
        let Some(life) = shared.retired.borrow_mut().pop_front() else { return };
        for list in &life.lists {
            select(direct, list.key.db).await;
            let key = life.names.key(list.key);
            let content = direct.call(&["LRANGE", &key, "0", "-1"]).await.expect("the server answers");
            let Value::Array(content) = content else { panic!("LRANGE {key}: {content:?}") };
            list.audit(&life.names, &life.end, &content, &mut shared.tally.borrow_mut());
        }
        remove_keys(&life, direct).await;
    }
}

async fn select(direct: &mut Wire, db: u8) {
    assert_eq!(direct.call(&["SELECT", &db.to_string()]).await.expect("the server answers"), Value::ok());
}

async fn remove_keys(life: &Retired, direct: &mut Wire) {
    for db in 0..3 {
        let prefix = format!("storm:{}.{}:{db}:", life.names.who, life.names.life);
        let fixed = ["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "c0", "c1", "q0", "q1", "q9"];
        let mut keys: Vec<_> = fixed.iter().map(|name| format!("{prefix}{name}")).collect();
        keys.extend(life.lists.iter().filter(|list| list.key.db == db).map(|list| life.names.key(list.key)));
        select(direct, db).await;
        let command: Vec<_> = std::iter::once("UNLINK").chain(keys.iter().map(String::as_str)).collect();
        direct.call(&command).await.expect("the server answers");
    }
}

/// The life and the database that a key's name says.
fn owner_of(key: &str) -> Option<((u32, u32), u8)> {
    let (owner, rest) = key.strip_prefix("storm:")?.split_once(':')?;
    let (who, life) = owner.split_once('.')?;
    Some(((who.parse().ok()?, life.parse().ok()?), rest.split(':').next()?.parse().ok()?))
}

/// Every key is in the database that its name says.
async fn stray_keys(shared: &Shared, direct: &mut Wire) {
    for db in 0..16_u8 {
        select(direct, db).await;
        let mut cursor = "0".to_owned();
        loop {
            let reply = direct.call(&["SCAN", &cursor, "COUNT", "1000"]).await.expect("the server answers");
            let Value::Array(parts) = reply else { panic!("SCAN: {reply:?}") };
            let [Value::Bulk(next), Value::Array(keys)] = &parts[..] else { panic!("SCAN: {parts:?}") };
            for key in keys {
                let Value::Bulk(key) = key else { continue };
                let key = String::from_utf8_lossy(key);
                let named = owner_of(&key);
                let expected = named.is_some_and(|(life, at)| at == db || shared.unclear.borrow().contains(&life));
                if !expected {
                    shared.tally.borrow_mut().found(Finding::Stray, || format!("{key} is in database {db}"));
                }
            }
            cursor = String::from_utf8_lossy(next).into_owned();
            if cursor == "0" {
                break;
            }
        }
    }
}
