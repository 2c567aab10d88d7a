//! As many blocked clients as there are keys: nothing to share.

use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::figures::{Findings, Latencies, print, rounded};
use crate::settings;
use crate::stage::{self, Stage, Watch, connect, info};
use kit::resp::Value;
use kit::wire::Wire;

/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// `count` clients in BLPOP on a key each; then one element for each, in random order.
pub(crate) fn play(stage: &Stage, count: usize) {
    stage::run(scenario(stage, count));
}

async fn scenario(stage: &Stage, count: usize) {
    let watch = Watch::start(stage.origin(), 1).await;
    let mut direct = connect(stage.origin()).await;
    let mut waiters = Vec::new();
    for who in 0..count {
        let wire = connect(stage.target()).await;
        waiters.push(spawn_local(wait(wire, who)));
    }
    stage.until_blocked(count).await;

    let mut order: Vec<_> = (0..count).collect();
    Rng::with_seed(settings::seed()).shuffle(&mut order);
    let mut sent = vec![Instant::now(); count];
    let start = Instant::now();
    for who in order {
        sent[who] = Instant::now();
        let pushed = direct.call(&["RPUSH", &key(who), &element(who)]).await;
        assert_eq!(pushed.expect("the server answers"), Value::Int(1), "RPUSH {}", key(who));
    }
    let pushing = start.elapsed();

    let (mut findings, mut latencies) = (Findings::default(), Latencies::default());
    for (who, waiter) in waiters.into_iter().enumerate() {
        let wanted = Value::Array(vec![Value::text(&key(who)), Value::text(&element(who))]);
        match waiter.await.expect("a waiter does not panic") {
            Ok((reply, at)) => {
                findings.check(reply == wanted, "wrong", || format!("{who}: {reply:?}"));
                latencies.add(at - sent[who]);
            }
            Err(what) => findings.add("unserved", || format!("{who}: {what}")),
        }
    }
    let all = start.elapsed();
    let connections = watch.end().await;
    let left = direct.call(&["DBSIZE"]).await.expect("the server answers");
    findings.check(left == Value::Int(0), "left", || format!("{left:?} keys"));
    let figures = json!({
        "keys": count, "pushing_s": rounded(pushing.as_secs_f64()), "all_served_s": rounded(all.as_secs_f64()),
        "latency": latencies.json(), "peak_connections": connections.peak, "opened_connections": connections.opened,
        "server_clients": info(&mut direct, "connected_clients").await,
    });
    print("keys", stage.arm(), &findings, figures);
    findings.assert_none("keys");
    if stage.proxy.is_some() {
        assert!(connections.peak <= i64::from(settings::cap()), "{connections:?}");
    }
}

fn key(who: usize) -> String {
    format!("own:{who}")
}

fn element(who: usize) -> String {
    format!("element:{who}:{}", settings::seed())
}

/// One BLPOP: its reply and when it came. The connection stays open until then.
async fn wait(mut wire: Wire, who: usize) -> Result<(Value, Instant), String> {
    let mut bytes = Vec::new();
    kit::wire::request(&mut bytes, &[b"BLPOP", key(who).as_bytes(), b"0"]);
    tokio::io::AsyncWriteExt::write_all(&mut wire.writer, &bytes).await.map_err(|error| error.to_string())?;
    let reply = timeout(PATIENCE, wire.reader.frame()).await.map_err(|_| "no reply in time".to_owned())?;
    reply.map(|reply| (reply, Instant::now())).map_err(|error| format!("{error:?}"))
}
