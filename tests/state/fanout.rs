//! One publisher, a thousand subscribers: what a message costs, and that everybody gets every byte of it.

use serde_json::json;
use tokio::task::spawn_local;

use crate::figures::{Findings, print, rounded};
use crate::settings;
use crate::stage::{self, Stage, connect};
use kit::resp::Value;
use kit::wire::request;

/// CPU of server and proxy over that of the server alone, at most.
const BAR: f64 = 1.0;
/// Rounds of each arm.
const TURNS: usize = 3;

/// `messages` messages of 100 bytes to `subscribers`, to the server alone and through respmux in turns.
pub(crate) fn play(stage: &Stage, subscribers: usize, messages: usize, full: bool) {
    let (mut alone, mut server, mut proxy) = (0.0, 0.0, 0.0);
    let mut findings = Findings::default();
    for _ in 0..TURNS {
        for target in [stage.origin(), stage.target()] {
            let before = std::cell::Cell::new((0.0, 0.0));
            findings.merge(stage::run(round(stage, target, subscribers, messages, &before)));
            let after = stage.cpu();
            let (of_server, of_proxy) = (after.0 - before.get().0, after.1 - before.get().1);
            if target == stage.origin() {
                alone += of_server;
            } else {
                server += of_server;
                proxy += of_proxy;
            }
        }
    }
    let ratio = (server + proxy) / f64::max(alone, 0.01);
    let figures = json!({
        "subscribers": subscribers, "messages": messages * TURNS, "direct_cpu_s": rounded(alone),
        "server_cpu_s": rounded(server), "proxy_cpu_s": rounded(proxy), "ratio": rounded(ratio), "bar": BAR,
        "met": ratio <= BAR,
    });
    print("fanout", "both", &findings, figures);
    findings.assert_none("fanout");
    assert!(!settings::bars_count(full) || ratio <= BAR, "{ratio:.2} times the CPU of the server alone");
}

/// Notes the CPU used before the first message in `before`, so that connecting does not count.
async fn round(
    stage: &Stage,
    target: std::net::SocketAddr,
    subscribers: usize,
    messages: usize,
    before: &std::cell::Cell<(f64, f64)>,
) -> Findings {
    let payload = |number: usize| format!("{number:0>100}");
    let mut stream = Vec::new();
    for number in 0..messages {
        Value::Array(vec![Value::text("message"), Value::text("fan"), Value::text(&payload(number))])
            .encode(&mut stream);
    }
    let stream = std::rc::Rc::new(stream);
    // Those of the round before are counted until the server has seen their ends.
    let mut publisher = connect(target).await;
    let nobody = Value::Array(vec![Value::text("fan"), Value::Int(0)]);
    while publisher.call(&["PUBSUB", "NUMSUB", "fan"]).await.expect("the count") != nobody {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut readers = Vec::new();
    for _ in 0..subscribers {
        let mut wire = connect(target).await;
        let confirmed = wire.call(&["SUBSCRIBE", "fan"]).await.expect("the confirmation");
        assert_eq!(confirmed, Value::Array(vec![Value::text("subscribe"), Value::text("fan"), Value::Int(1)]));
        let stream = stream.clone();
        readers.push(spawn_local(async move {
            // The whole of it: a dropped writer would half-close the connection.
            let mut wire = wire;
            wire.reader.expect_stream(&stream).await
        }));
    }
    before.set(stage.cpu());
    for number in 0..messages {
        let mut bytes = Vec::new();
        request(&mut bytes, &[b"PUBLISH", b"fan", payload(number).as_bytes()]);
        let heard = publisher.exchange(&bytes).await.expect("the reply of PUBLISH");
        assert_eq!(heard, Value::Int(subscribers as i64), "receivers of message {number}");
    }
    let mut findings = Findings::default();
    for reader in readers {
        if let Err(what) = reader.await.expect("a reader does not panic") {
            findings.add("wrong", || what);
        }
    }
    findings
}
