//! Thousands of consumers blocked on few queues, and many producers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::delivery::{Deliveries, Element};
use crate::figures::{Latencies, print};
use crate::settings;
use crate::stage::{self, Stage, Watch, connect, due};
use kit::Progress;
use kit::resp::Value;
use kit::wire::Wire;

/// The size of a run.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) consumers: usize,
    pub(crate) producers: usize,
    pub(crate) queues: usize,
    pub(crate) seconds: u64,
    /// Elements a second, of all producers together.
    pub(crate) rate: f64,
    /// Of each BRPOP, in seconds.
    pub(crate) timeout: u64,
}

struct Shared {
    size: Size,
    judge: RefCell<Deliveries>,
    latencies: RefCell<Latencies>,
    nils: Cell<u64>,
    /// How much later than its timeout a nil came, at most.
    latest_nil: Cell<Duration>,
    stop: Cell<bool>,
    progress: Progress,
    start: Instant,
}

/// Plays the scenario and asserts that nothing was lost, doubled or out of order.
pub(crate) fn play(stage: &Stage, size: Size) {
    stage::run(scenario(stage, size));
}

async fn scenario(stage: &Stage, size: Size) {
    let watch = Watch::start(stage.origin(), 0).await;
    let shared = Rc::new(Shared {
        size,
        judge: RefCell::default(),
        latencies: RefCell::default(),
        nils: Cell::new(0),
        latest_nil: Cell::default(),
        stop: Cell::new(false),
        progress: Progress::new("pops: elements").within(Duration::from_secs(size.seconds)),
        start: Instant::now(),
    });
    let mut consumers = Vec::new();
    for who in 0..size.consumers {
        let wire = connect(stage.target()).await;
        consumers.push(spawn_local(consume(shared.clone(), who, wire)));
    }
    stage.until_blocked(size.consumers * 9 / 10).await;
    let start = Instant::now();
    let mut producers = Vec::new();
    for who in 0..size.producers {
        producers.push(spawn_local(produce(shared.clone(), who, connect(stage.target()).await, start)));
    }
    for producer in producers {
        producer.await.expect("a producer does not panic");
    }
    let took = start.elapsed();
    for _ in 0..1000 {
        if shared.judge.borrow().complete() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    shared.stop.set(true);
    for consumer in consumers {
        consumer.await.expect("a consumer does not panic");
    }
    report(stage, &shared, watch, took).await;
}

async fn report(stage: &Stage, shared: &Shared, watch: Watch, took: Duration) {
    let connections = watch.end().await;
    let judge = shared.judge.take();
    let delivered = judge.delivered();
    let findings = judge.verdict();
    let figures = json!({
        "consumers": shared.size.consumers, "producers": shared.size.producers, "queues": shared.size.queues,
        "seconds": took.as_secs_f64().round(), "elements": delivered,
        "elements_per_s": (delivered as f64 / took.as_secs_f64()).round(),
        "latency": shared.latencies.borrow_mut().json(), "nils": shared.nils.get(),
        "latest_nil_ms": shared.latest_nil.get().as_millis() as u64,
        "peak_connections": connections.peak, "opened_connections": connections.opened,
    });
    print("blocked", stage.arm(), &findings, figures);
    findings.assert_none("blocked");
    assert!(delivered > 0, "no element was delivered");
    if stage.proxy.is_some() {
        assert!(connections.peak <= i64::from(settings::cap()), "{connections:?}");
    }
}

/// `queue:producer:sequence:microseconds`
fn element_of(text: &[u8]) -> Option<(Element, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut numbers = text.split(':').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (queue, producer) = (next()? as usize, next()? as usize);
    Some((Element { queue, producer, sequence: next()? }, next()?))
}

async fn consume(shared: Rc<Shared>, who: usize, mut wire: Wire) {
    let queue = who % shared.size.queues;
    let (key, limit) = (format!("queue:{queue}"), shared.size.timeout.to_string());
    while !shared.stop.get() {
        let sent = Instant::now();
        match wire.call(&["BRPOP", &key, &limit]).await {
            Ok(Value::Array(items)) if items.len() == 2 && items[0] == Value::text(&key) => {
                let Value::Bulk(text) = &items[1] else { panic!("an element is a bulk") };
                let (element, micros) = element_of(text).expect("an element of this run");
                let now = shared.start.elapsed();
                shared.latencies.borrow_mut().add(now.saturating_sub(Duration::from_micros(micros)));
                shared.judge.borrow_mut().deliver(who, queue, element);
            }
            Ok(Value::NullArray) => {
                shared.nils.set(shared.nils.get() + 1);
                let late = sent.elapsed().checked_sub(Duration::from_secs(shared.size.timeout));
                match late {
                    Some(late) => shared.latest_nil.set(late.max(shared.latest_nil.get())),
                    None => shared.judge.borrow_mut().wrong("early", || format!("nil after {:?}", sent.elapsed())),
                }
            }
            other => {
                shared.judge.borrow_mut().wrong("refused", || format!("BRPOP of consumer {who}: {other:?}"));
                return;
            }
        }
    }
}

/// Pushes to random queues, up to three elements at once, until the time is over.
async fn produce(shared: Rc<Shared>, who: usize, mut wire: Wire, start: Instant) {
    let mut rng = Rng::with_seed(settings::seed() ^ who as u64);
    let mut sequences = vec![0; shared.size.queues];
    let rate = shared.size.rate / shared.size.producers as f64;
    let mut pushed = rng.u64(0..3);
    while start.elapsed() < Duration::from_secs(shared.size.seconds) {
        due(start, pushed, rate).await;
        shared.progress.add(1);
        let queue = rng.usize(..shared.size.queues);
        let mut command = vec!["LPUSH".to_owned(), format!("queue:{queue}")];
        for _ in 0..if rng.u8(..8) == 0 { 3 } else { 1 } {
            let sequence = sequences[queue];
            sequences[queue] += 1;
            pushed += 1;
            shared.judge.borrow_mut().push(Element { queue, producer: who, sequence });
            command.push(format!("{queue}:{who}:{sequence}:{}", shared.start.elapsed().as_micros()));
        }
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        match timeout(Duration::from_secs(10), wire.call(&words)).await {
            Ok(Ok(Value::Int(_))) => {}
            other => return shared.judge.borrow_mut().wrong("refused", || format!("LPUSH by {who}: {other:?}")),
        }
    }
}
