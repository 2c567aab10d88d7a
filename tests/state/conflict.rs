//! WATCH under contention: a counter that nobody's increment may get lost from.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use fastrand::Rng;
use serde_json::json;
use tokio::task::spawn_local;

use crate::figures::{Findings, print};
use crate::settings;
use crate::stage::{self, Stage, Watch, connect, version};
use kit::Progress;
use kit::resp::Value;
use kit::wire::{NoFrame, Wire, request};

/// Clients behind the target; one more goes straight to the server.
const CLIENTS: u64 = 8;

/// Every value that an acknowledged EXEC wrote.
#[derive(Debug, Default)]
struct Counter {
    written: HashSet<i64>,
    successes: i64,
    findings: Findings,
}

impl Counter {
    fn wrote(&mut self, value: i64) {
        self.successes += 1;
        let fresh = self.written.insert(value);
        self.findings.check(fresh, "lost update", || format!("{value} was written twice"));
    }

    fn verdict(mut self, last: i64) -> Findings {
        let successes = self.successes;
        self.findings.check(last == successes, "wrong sum", || format!("{last} after {successes} increments"));
        self.findings
    }
}

struct Shared {
    wanted: i64,
    counter: RefCell<Counter>,
    conflicts: Cell<u64>,
    progress: Progress,
}

/// Increments until `successes` transactions succeeded, and asserts that the counter says so.
pub(crate) fn play(stage: &Stage, successes: u64) {
    stage::run(scenario(stage, successes));
}

async fn scenario(stage: &Stage, successes: u64) {
    let watch = Watch::start(stage.origin(), 2).await;
    let mut direct = connect(stage.origin()).await;
    let wanted = i64::try_from(successes).expect("few enough");
    let shared = Rc::new(Shared {
        wanted,
        counter: RefCell::default(),
        conflicts: Cell::new(0),
        progress: Progress::new("race conflict: increments").of(successes),
    });
    let mut tasks = Vec::new();
    for who in 0..=CLIENTS {
        let wire = connect(if who == CLIENTS { stage.origin() } else { stage.target() }).await;
        tasks.push(spawn_local(increment(shared.clone(), who, wire)));
    }
    for task in tasks {
        task.await.expect("a client does not panic");
    }
    let connections = watch.end().await;
    let last = direct.call(&["GET", "counter"]).await.expect("the server answers");
    let last = number(&last).expect("the counter is a number");
    let done = shared.counter.borrow().successes;
    let findings = shared.counter.take().verdict(last);
    let figures = json!({
        "server": version(&mut direct).await, "rounds": done, "conflicts": shared.conflicts.get(), "counter": last,
        "peak_connections": connections.peak, "opened_connections": connections.opened,
    });
    print("race conflict", stage.arm(), &findings, figures);
    findings.assert_none("race conflict");
    assert!(shared.conflicts.get() > 0, "nobody got in anybody's way");
}

fn number(reply: &Value) -> Option<i64> {
    match reply {
        Value::Bulk(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        Value::NullBulk => Some(0),
        Value::Int(value) => Some(*value),
        _ => None,
    }
}

/// Increments in one of three ways, drawn anew each time.
async fn increment(shared: Rc<Shared>, who: u64, mut wire: Wire) {
    let mut rng = Rng::with_seed(settings::seed() ^ who);
    while shared.counter.borrow().successes < shared.wanted {
        shared.progress.reach(shared.counter.borrow().successes as u64);
        let done = match rng.u8(..5) {
            0 => whole(&mut wire).await,
            way => watched(&mut wire, way < 3).await,
        };
        match done {
            Ok(Some(value)) => shared.counter.borrow_mut().wrote(value),
            Ok(None) => shared.conflicts.set(shared.conflicts.get() + 1),
            Err(what) => {
                shared.counter.borrow_mut().findings.add("broken", || format!("client {who}: {what}"));
                return;
            }
        }
    }
}

/// The value that an EXEC of one command wrote; `None` if the transaction did not take place.
fn executed(reply: Result<Value, NoFrame>, value: Option<i64>) -> Result<Option<i64>, String> {
    match reply {
        Ok(Value::NullArray) if value.is_some() => Ok(None),
        Ok(Value::Array(items)) if items.len() == 1 => match value {
            Some(value) if items[0] == Value::ok() => Ok(Some(value)),
            None => number(&items[0]).map(Some).ok_or_else(|| format!("INCR in EXEC: {items:?}")),
            Some(_) => Err(format!("SET in EXEC: {items:?}")),
        },
        other => Err(format!("EXEC: {other:?}")),
    }
}

/// MULTI, one command and EXEC in one packet.
async fn packet(wire: &mut Wire, command: &[&[u8]], value: Option<i64>) -> Result<Option<i64>, String> {
    let mut bytes = Vec::new();
    request(&mut bytes, &[b"MULTI"]);
    request(&mut bytes, command);
    request(&mut bytes, &[b"EXEC"]);
    let begun = wire.exchange(&bytes).await.map_err(|error| format!("MULTI: {error:?}"))?;
    let queued = wire.reader.frame().await.map_err(|error| format!("{error:?}"))?;
    if begun != Value::ok() || queued != Value::Simple(b"QUEUED".to_vec()) {
        return Err(format!("MULTI: {begun:?}, then {queued:?}"));
    }
    executed(wire.reader.frame().await, value)
}

async fn whole(wire: &mut Wire) -> Result<Option<i64>, String> {
    packet(wire, &[b"INCR", b"counter"], None).await
}

/// WATCH and GET, then the transaction: in steps, or from MULTI on in one packet.
async fn watched(wire: &mut Wire, in_steps: bool) -> Result<Option<i64>, String> {
    expect(wire, &["WATCH", "counter"], &Value::ok()).await?;
    let read = wire.call(&["GET", "counter"]).await.map_err(|error| format!("GET: {error:?}"))?;
    let value = 1 + number(&read).ok_or_else(|| format!("GET: {read:?}"))?;
    let text = value.to_string();
    if !in_steps {
        return packet(wire, &[b"SET", b"counter", text.as_bytes()], Some(value)).await;
    }
    expect(wire, &["MULTI"], &Value::ok()).await?;
    expect(wire, &["SET", "counter", &text], &Value::Simple(b"QUEUED".to_vec())).await?;
    executed(wire.call(&["EXEC"]).await, Some(value))
}

async fn expect(wire: &mut Wire, command: &[&str], wanted: &Value) -> Result<(), String> {
    match wire.call(command).await {
        Ok(reply) if reply == *wanted => Ok(()),
        other => Err(format!("{}: {other:?}", command[0])),
    }
}

#[test]
fn a_lost_update_is_found() {
    let mut counter = Counter::default();
    [1, 2, 3].into_iter().for_each(|value| counter.wrote(value));
    assert_eq!(counter.verdict(3).total(), 0);

    let mut counter = Counter::default();
    [1, 2, 2].into_iter().for_each(|value| counter.wrote(value));
    let findings = counter.verdict(2);
    assert_eq!((findings.count("lost update"), findings.count("wrong sum"), findings.total()), (1, 1, 2));
}
