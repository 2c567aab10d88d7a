//! Thousands of subscribers, and one among them that does not read.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::figures::{Findings, Latencies, print};
use crate::settings;
use crate::stage::{self, Stage, WORKERS, Watch, connect, due};
use kit::Progress;
use kit::resp::Value;
use kit::wire::Wire;

/// Nobody may get a message later than this because of the one that does not read.
const LATEST: Duration = Duration::from_secs(5);
const PUBLISHERS: usize = 3;

/// The size of a run.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) subscribers: usize,
    pub(crate) channels: usize,
    pub(crate) seconds: u64,
    /// Messages a second of each publisher.
    pub(crate) rate: f64,
    /// Messages of 10 KB on the channel of the one that does not read.
    pub(crate) big: usize,
}

struct Shared {
    size: Size,
    start: Instant,
    /// Messages by (publisher, channel), final once `over` is set.
    published: RefCell<HashMap<(usize, usize), u64>>,
    over: Cell<bool>,
    delivered: Cell<u64>,
    progress: Progress,
    latencies: RefCell<Latencies>,
    findings: RefCell<Findings>,
}

/// What one subscriber got: each publisher's messages, one after the other.
#[derive(Default)]
struct Heard([u64; PUBLISHERS]);

impl Heard {
    /// What is wrong with the `number`th message of `publisher` coming now.
    fn take(&mut self, publisher: usize, number: u64) -> Option<&'static str> {
        let next = self.0[publisher];
        self.0[publisher] = next.max(number + 1);
        match number.cmp(&next) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Less => Some("again or late"),
            std::cmp::Ordering::Greater => Some("gap"),
        }
    }
}

/// Plays the scenario; nobody but the one that does not read may miss anything.
pub(crate) fn play(stage: &Stage, size: Size) {
    stage::run(scenario(stage, size));
}

async fn scenario(stage: &Stage, size: Size) {
    if stage.proxy.is_none() && size.big < 4000 {
        // The server's own limit of 32 MB is more than a short run publishes.
        let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0"];
        let set = connect(stage.origin()).await.call(&limit).await;
        assert_eq!(set.expect("the server answers"), Value::ok());
    }
    let watch = Watch::start(stage.origin(), 0).await;
    let shared = Rc::new(Shared {
        size,
        start: Instant::now(),
        published: RefCell::default(),
        over: Cell::new(false),
        delivered: Cell::new(0),
        progress: Progress::new("messages").within(Duration::from_secs(size.seconds)),
        latencies: RefCell::default(),
        findings: RefCell::default(),
    });
    let mut readers = Vec::new();
    for who in 0..size.subscribers {
        let wire = subscriber(stage, who, who % size.channels).await;
        readers.push(spawn_local(listen(shared.clone(), wire, who)));
    }
    let mut deaf = connect(stage.target()).await;
    deaf.call(&["SUBSCRIBE", "big"]).await.expect("the confirmation");
    let mut publishers = Vec::new();
    for who in 0..PUBLISHERS {
        // One of them past the proxy: what it is told counts connections, not subscribers.
        let aside = who == 0 && stage.proxy.is_some();
        let wire = connect(if aside { stage.origin() } else { stage.target() }).await;
        publishers.push(spawn_local(publish(shared.clone(), wire, who, !aside)));
    }
    publishers.push(spawn_local(publish_big(shared.clone(), connect(stage.target()).await)));
    for publisher in publishers {
        publisher.await.expect("a publisher does not panic");
    }
    // The last look must come while everybody is still subscribed.
    let connections = watch.end().await;
    shared.over.set(true);
    for reader in readers {
        reader.await.expect("a reader does not panic");
    }
    let rest = timeout(Duration::from_secs(30), deaf.reader.rest()).await.map(|bytes| bytes.len());
    let closed = rest.as_ref().is_ok_and(|&bytes| bytes < size.big * 10_000);
    shared.findings.borrow_mut().check(closed, "not closed", || format!("the deaf one could read {rest:?}"));
    let findings = shared.findings.take();
    let figures = json!({
        "subscribers": size.subscribers, "channels": size.channels, "delivered": shared.delivered.get(),
        "latency": shared.latencies.borrow_mut().json(), "deaf_read_bytes": rest.unwrap_or(0),
        "subscribed_connections": connections.subscribed, "peak_connections": connections.peak,
        "opened_connections": connections.opened,
    });
    print("subscribers", stage.arm(), &findings, figures);
    findings.assert_none("subscribers");
    if stage.proxy.is_some() {
        assert!(connections.subscribed <= i64::from(WORKERS), "{connections:?}");
        assert!(connections.peak <= i64::from(settings::cap()) + 1, "{connections:?}");
    }
}

/// Every other in RESP3, every tenth by a pattern.
async fn subscriber(stage: &Stage, who: usize, channel: usize) -> Wire {
    let mut wire = connect(stage.target()).await;
    if who % 2 == 1 {
        wire.call(&["HELLO", "3"]).await.expect("the reply of HELLO");
    }
    let pattern = who % 20 >= 18;
    let (command, name) = if pattern { ("PSUBSCRIBE", format!("*.{channel}")) } else { ("SUBSCRIBE", name(channel)) };
    let (Value::Array(items) | Value::Push(items)) = wire.call(&[command, &name]).await.expect("the confirmation")
    else {
        panic!("no confirmation of {command}")
    };
    assert_eq!(items.last(), Some(&Value::Int(1)), "{command} {name}");
    wire
}

fn name(channel: usize) -> String {
    format!("channel.{channel}")
}

/// Whether `heard` is all that was published on `channel`.
fn complete(shared: &Shared, heard: &Heard, channel: usize) -> bool {
    let published = shared.published.borrow();
    (0..).zip(heard.0).all(|(publisher, count)| count == published.get(&(publisher, channel)).copied().unwrap_or(0))
}

async fn listen(shared: Rc<Shared>, mut wire: Wire, who: usize) {
    let (channel, mut heard) = (who % shared.size.channels, Heard::default());
    let mut late = 0;
    while !(shared.over.get() && complete(&shared, &heard, channel)) {
        // Looks up now and then: the last message may be the one that has come.
        let message = match timeout(Duration::from_secs(1), wire.reader.frame()).await {
            Ok(Ok(Value::Array(items) | Value::Push(items))) => items,
            Ok(other) => {
                return shared.findings.borrow_mut().add("broken", || format!("subscriber {who}: {other:?}"));
            }
            Err(_) if shared.over.get() && late == 30 => {
                return shared.findings.borrow_mut().add("lost", || format!("subscriber {who}: {:?}", heard.0));
            }
            Err(_) => {
                late += i32::from(shared.over.get());
                continue;
            }
        };
        let [.., Value::Bulk(on), Value::Bulk(text)] = &message[..] else { panic!("a message: {message:?}") };
        let text = String::from_utf8_lossy(text).into_owned();
        let numbers: Vec<u64> = text.split(':').filter_map(|number| number.parse().ok()).collect();
        let [publisher, number, micros] = numbers[..] else { panic!("a message of this run: {text}") };
        let took = shared.start.elapsed().saturating_sub(Duration::from_micros(micros));
        shared.latencies.borrow_mut().add(took);
        shared.delivered.set(shared.delivered.get() + 1);
        let mut findings = shared.findings.borrow_mut();
        findings.check(*on == name(channel).into_bytes(), "misdelivered", || format!("{who}: {text}"));
        findings.check(took < LATEST, "late", || format!("{who}: {text} took {took:?}"));
        if let Some(wrong) = heard.take(publisher as usize, number) {
            findings.add(wrong, || format!("subscriber {who}: {text}"));
        }
    }
}

async fn publish(shared: Rc<Shared>, mut wire: Wire, who: usize, counts: bool) {
    let size = shared.size;
    let (mut rng, start) = (Rng::with_seed(settings::seed() ^ who as u64), Instant::now());
    let mut done = 0;
    while start.elapsed() < Duration::from_secs(size.seconds) {
        due(start, done, size.rate).await;
        done += 1;
        shared.progress.add(1);
        let channel = rng.usize(..size.channels);
        let number = {
            let mut published = shared.published.borrow_mut();
            let count = published.entry((who, channel)).or_default();
            *count += 1;
            *count - 1
        };
        let text = format!("{who}:{number}:{}", shared.start.elapsed().as_micros());
        let reply = wire.call(&["PUBLISH", &name(channel), &text]).await;
        let all = (0..size.subscribers).filter(|who| who % size.channels == channel).count() as i64;
        let right = matches!(reply, Ok(Value::Int(heard)) if heard == all || !counts);
        shared.findings.borrow_mut().check(right, "wrong count", || format!("PUBLISH of {text}: {reply:?}, not {all}"));
    }
}

/// 10 KB at a time, spread over the run.
async fn publish_big(shared: Rc<Shared>, mut wire: Wire) {
    let (size, start, text) = (shared.size, Instant::now(), "x".repeat(10_000));
    for number in 0..size.big as u64 {
        due(start, number, size.big as f64 / size.seconds as f64).await;
        if let Err(gone) = wire.call(&["PUBLISH", "big", &text]).await {
            return shared.findings.borrow_mut().add("broken", || format!("PUBLISH: {gone:?}"));
        }
    }
}

#[test]
fn a_message_that_is_missing_or_comes_twice_is_found() {
    let mut heard = Heard::default();
    let numbers = [0, 1, 3, 3, 2, 4];
    let verdicts = numbers.map(|number| heard.take(0, number));
    let again = Some("again or late");
    assert_eq!(verdicts, [None, None, Some("gap"), again, again, None]);
    assert_eq!(heard.take(1, 0), None);
}
