//! From RPUSH to the waiter's reply, on an idle server.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::figures::{Findings, Latencies, print, rounded};
use crate::settings;
use crate::stage::{self, Stage, connect, info};
use kit::Progress;
use kit::resp::Value;
use kit::wire::{Wire, request};

/// p50 through respmux over p50 without it, at most.
const BAR: f64 = 2.5;

/// One waiter and the client that wakes it.
struct Pair {
    waiter: Wire,
    pusher: Wire,
    latencies: Latencies,
}

impl Pair {
    async fn connect(target: std::net::SocketAddr) -> Self {
        let (waiter, pusher) = (connect(target).await, connect(target).await);
        Self { waiter, pusher, latencies: Latencies::default() }
    }

    /// One wake-up: what was wrong with it, if anything.
    async fn round(&mut self, direct: &mut Wire, number: usize) -> Result<(), String> {
        let mut bytes = Vec::new();
        request(&mut bytes, &[b"BLPOP", b"bell", b"0"]);
        self.waiter.writer.write_all(&bytes).await.map_err(|error| error.to_string())?;
        let mut looks = 0;
        while info(direct, "blocked_clients").await < 1 {
            looks += 1;
            if looks > 500 {
                return Err("the server sees no blocked client".into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        let element = number.to_string();
        bytes.clear();
        request(&mut bytes, &[b"RPUSH", b"bell", element.as_bytes()]);
        let sent = Instant::now();
        self.pusher.writer.write_all(&bytes).await.map_err(|error| error.to_string())?;
        let woken = async { (self.waiter.reader.frame().await, sent.elapsed()) };
        let ((reply, took), pushed) = tokio::join!(woken, self.pusher.reader.frame());
        let wanted = Value::Array(vec![Value::text("bell"), Value::text(&element)]);
        match (reply, pushed) {
            (Ok(reply), Ok(Value::Int(1))) if reply == wanted => self.latencies.add(took),
            other => return Err(format!("{other:?}")),
        }
        Ok(())
    }
}

/// `rounds` wake-ups of each arm, in turns.
pub(crate) fn play(stage: &Stage, rounds: usize, full: bool) {
    stage::run(scenario(stage, rounds, full));
}

async fn scenario(stage: &Stage, rounds: usize, full: bool) {
    let mut direct = connect(stage.origin()).await;
    let mut pairs = [Pair::connect(stage.origin()).await, Pair::connect(stage.target()).await];
    let mut findings = Findings::default();
    for number in Progress::over("wake-ups", 0..rounds) {
        for (pair, arm) in pairs.iter_mut().zip(["direct", "respmux"]) {
            if let Err(what) = pair.round(&mut direct, number).await {
                findings.add("wrong", || format!("{arm}, round {number}: {what}"));
                print("wakeup", "both", &findings, json!({}));
                findings.assert_none("wakeup");
            }
        }
    }
    let [alone, proxied] = &mut pairs;
    let ratio = proxied.latencies.quantile(0.5) / alone.latencies.quantile(0.5);
    let figures = json!({
        "rounds": rounds, "direct": alone.latencies.json(), "respmux": proxied.latencies.json(),
        "p50_ratio": rounded(ratio), "bar": BAR, "met": ratio <= BAR,
    });
    print("wakeup", "both", &findings, figures);
    findings.assert_none("wakeup");
    assert!(!settings::bars_count(full) || ratio <= BAR, "p50 is {ratio:.2} times that of the server alone");
}
