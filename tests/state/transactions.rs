//! Transactions: what they cost, and that they cost no connections.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::task::spawn_local;

use crate::figures::{Findings, Latencies, print, rounded};
use crate::settings;
use crate::stage::{self, Stage, Watch, connect, due};
use kit::Progress;
use kit::resp::Value;
use kit::wire::{Wire, request};

/// CPU of a command in a transaction over that of the same command outside, at most.
const BAR: f64 = 1.1;

/// How a transaction is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// MULTI, SET, INCR, EXEC in one packet.
    Whole,
    /// WATCH, GET, MULTI, SET, EXEC, each after the reply to the one before.
    Watched,
}

struct Shared {
    findings: RefCell<Findings>,
    latencies: RefCell<Latencies>,
    progress: Progress,
}

/// `rate` transactions a second for `seconds`, by `clients` with keys of their own.
pub(crate) fn play(stage: &Stage, form: Form, rate: f64, seconds: u64, clients: usize) {
    stage::run(async {
        let shared = Rc::new(Shared {
            findings: RefCell::default(),
            latencies: RefCell::default(),
            progress: Progress::new("transactions").within(Duration::from_secs(seconds)),
        });
        let mut wires = Vec::new();
        for who in 0..clients {
            let mut wire = connect(stage.target()).await;
            // Once before the count: whatever has to be opened for this form is open then.
            one(&mut wire, form, who, 0).await.expect("the first transaction");
            wires.push(wire);
        }
        let own = if stage.proxy.is_some() { 0 } else { clients as i64 };
        let watch = Watch::start(stage.origin(), own).await;
        let (cpu, start) = (stage.cpu(), Instant::now());
        let each = rate / clients as f64;
        let tasks: Vec<_> = (0..)
            .zip(wires)
            .map(|(who, wire)| spawn_local(client(shared.clone(), wire, form, who, each, seconds, start)))
            .collect();
        for task in tasks {
            task.await.expect("a client does not panic");
        }
        let (took, after) = (start.elapsed().as_secs_f64(), stage.cpu());
        let connections = watch.end().await;
        let mut latencies = shared.latencies.take();
        let count = latencies.count() as f64;
        let findings = shared.findings.take();
        let micros = |before: f64, after: f64| rounded((after - before) * 1e6 / count.max(1.0));
        let figures = json!({
            "form": format!("{form:?}"), "rate": rate, "done_per_s": (count / took).round(),
            "transactions": count, "opened_connections": connections.opened, "peak_connections": connections.peak,
            "server_cpu_us": micros(cpu.0, after.0), "proxy_cpu_us": micros(cpu.1, after.1),
            "latency": latencies.json(),
        });
        print("transactions", stage.arm(), &findings, figures);
        findings.assert_none("transactions");
        assert!(connections.opened <= i64::from(settings::cap()), "{} transactions: {connections:?}", count);
        if stage.proxy.is_some() {
            assert!(connections.peak <= i64::from(settings::cap()), "{connections:?}");
        }
    });
}

async fn client(shared: Rc<Shared>, mut wire: Wire, form: Form, who: usize, rate: f64, seconds: u64, start: Instant) {
    let mut number = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        due(start, number, rate).await;
        number += 1;
        shared.progress.add(1);
        let sent = Instant::now();
        match one(&mut wire, form, who, number).await {
            Ok(()) => shared.latencies.borrow_mut().add(sent.elapsed()),
            Err(what) => {
                shared.findings.borrow_mut().add("wrong", || format!("client {who}, number {number}: {what}"));
                return;
            }
        }
    }
}

/// The `number`th transaction of client `who`; the replies must say that no other came between.
async fn one(wire: &mut Wire, form: Form, who: usize, number: u64) -> Result<(), String> {
    let (key, count, text) = (format!("t:{who}"), format!("n:{who}"), number.to_string());
    let queued = || Value::Simple(b"QUEUED".to_vec());
    let steps: Vec<(Vec<&str>, Value)> = match form {
        Form::Whole => {
            let counted = Value::Int(i64::try_from(number).unwrap_or(0) + 1);
            let done = Value::Array(vec![Value::ok(), counted]);
            vec![
                (vec!["MULTI"], Value::ok()),
                (vec!["SET", &key, &text], queued()),
                (vec!["INCR", &count], queued()),
                (vec!["EXEC"], done),
            ]
        }
        Form::Watched => {
            let before = number.checked_sub(1).map_or(Value::NullBulk, |before| Value::text(&before.to_string()));
            vec![
                (vec!["WATCH", &key], Value::ok()),
                (vec!["GET", &key], before),
                (vec!["MULTI"], Value::ok()),
                (vec!["SET", &key, &text], queued()),
                (vec!["EXEC"], Value::Array(vec![Value::ok()])),
            ]
        }
    };
    if form == Form::Watched {
        for (words, wanted) in steps {
            same(wire.call(&words).await, &wanted)?;
        }
        return Ok(());
    }
    let mut bytes = Vec::new();
    for (words, _) in &steps {
        request(&mut bytes, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    }
    let mut replies = steps.iter().map(|(_, wanted)| wanted);
    same(wire.exchange(&bytes).await, replies.next().expect("four replies"))?;
    for wanted in replies {
        same(wire.reader.frame().await, wanted)?;
    }
    Ok(())
}

fn same(reply: Result<Value, kit::wire::NoFrame>, wanted: &Value) -> Result<(), String> {
    match reply {
        Ok(reply) if reply == *wanted => Ok(()),
        other => Err(format!("{other:?} instead of {wanted:?}")),
    }
}

/// A packet of four commands and the bytes of its replies.
fn packet(in_transaction: bool, who: usize, depth: usize) -> (Vec<u8>, Vec<u8>) {
    let key = format!("p:{who}");
    let set: [&[u8]; 3] = [b"SET", key.as_bytes(), b"0123456789"];
    let get: [&[u8]; 2] = [b"GET", key.as_bytes()];
    let commands: [&[&[u8]]; 4] =
        if in_transaction { [&[b"MULTI"], &set, &get, &[b"EXEC"]] } else { [&set, &get, &set, &get] };
    let mut bytes = Vec::new();
    commands.iter().for_each(|command| request(&mut bytes, command));
    let value = "$10\r\n0123456789\r\n";
    let replies = if in_transaction {
        format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n{value}")
    } else {
        format!("+OK\r\n{value}+OK\r\n{value}")
    };
    (bytes.repeat(depth), replies.repeat(depth).into_bytes())
}

/// CPU of the proxy for packets of MULTI, SET, GET, EXEC against SET, GET, SET, GET, in turns.
pub(crate) fn pipelined(stage: &Stage, packets: usize, depth: usize, full: bool) {
    let mut cpu = [0.0; 2];
    let mut findings = Findings::default();
    const TURNS: usize = 4;
    for _ in 0..TURNS {
        for (form, spent) in cpu.iter_mut().enumerate() {
            let before = stage.cpu().1;
            findings.merge(stage::run(rounds(stage, form == 1, packets / TURNS, depth)));
            *spent += stage.cpu().1 - before;
        }
    }
    let commands = (packets * depth * 4) as f64;
    let ratio = cpu[1] / cpu[0].max(0.01);
    let each = |spent: f64| -> Json { rounded(spent * 1e6 / commands).into() };
    let figures = json!({
        "packets": packets, "depth": depth, "plain_cpu_us_per_command": each(cpu[0]),
        "transaction_cpu_us_per_command": each(cpu[1]), "ratio": rounded(ratio), "bar": BAR, "met": ratio <= BAR,
    });
    print("pipelined", stage.arm(), &findings, figures);
    findings.assert_none("pipelined");
    assert!(!settings::bars_count(full) || ratio <= BAR, "a command in a transaction costs {ratio:.2} times as much");
}

async fn rounds(stage: &Stage, in_transaction: bool, packets: usize, depth: usize) -> Findings {
    const CLIENTS: usize = 20;
    let mut tasks = Vec::new();
    for who in 0..CLIENTS {
        let mut wire = connect(stage.target()).await;
        let (bytes, wanted) = packet(in_transaction, who, depth);
        tasks.push(spawn_local(async move {
            for _ in 0..packets / CLIENTS {
                wire.exchange_exactly(&bytes, &wanted).await?;
            }
            Ok::<(), String>(())
        }));
    }
    let mut findings = Findings::default();
    for task in tasks {
        if let Err(what) = task.await.expect("a client does not panic") {
            findings.add("wrong", || what);
        }
    }
    findings
}
