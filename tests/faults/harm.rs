//! Harm at every byte, between respmux and the server and between clients and respmux.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::network::{Harm, Network, PAYLOAD, Way};
use crate::tally::{Finding, Tally};
use crate::victim::{Fate, Next, Rules, Script, Victim, command};
use kit::{Flavour, Progress, Proxy, ProxyOptions, RealRedis, SetOnDrop};

/// Bytes of a marked reply on the wire, and of a marked request.
const REPLY: usize = PAYLOAD + 9;
const REQUEST: usize = PAYLOAD + 24;
/// Clients on a connection that nothing happens to.
const BYSTANDERS: u32 = 4;

/// Where the harm is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Upstream,
    Client,
}

/// One thing to do.
#[derive(Clone, Copy, Debug)]
struct Job {
    side: Side,
    way: Way,
    harm: Harm,
}

impl Job {
    /// Harm that adds replies, which only a connection without other requests can be expected to notice.
    fn adds(self) -> bool {
        matches!(self.harm, Harm::Surplus | Harm::Duplicate | Harm::Early)
    }

    fn rules(self) -> Rules {
        let lossless = matches!(self.harm, Harm::Latency(_) | Harm::Slice);
        Rules { lossless, torn_allowed: self.side == Side::Client }
    }
}

/// Every job of a run: ends at every `step`th byte of reply and request on both sides, and `random` others.
fn jobs(rng: &mut Rng, step: usize, random: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    for side in [Side::Upstream, Side::Client] {
        for count in (0..=REPLY).step_by(step) {
            for harm in [Harm::Cut(count), Harm::Reset(count)] {
                jobs.push(Job { side, way: Way::Reply, harm });
            }
        }
        // Where a request or a half-open reply ends matters less than that it does.
        for count in (0..=REQUEST).step_by(step * 2) {
            jobs.push(Job { side, way: Way::Request, harm: Harm::Cut(count) });
            jobs.push(Job { side, way: Way::Request, harm: Harm::Reset(count) });
            jobs.push(Job { side, way: Way::Reply, harm: Harm::HalfClose(count.min(REPLY)) });
        }
    }
    for n in 0..random {
        let side = if rng.bool() { Side::Upstream } else { Side::Client };
        let way = if rng.bool() { Way::Reply } else { Way::Request };
        jobs.push(match n % 8 {
            0 | 1 => Job { side, way, harm: Harm::Slice },
            2 => Job { side, way, harm: Harm::Latency(rng.u64(1..6)) },
            3 => Job { side: Side::Upstream, way: Way::Reply, harm: Harm::Early },
            4 | 5 => Job { side: Side::Upstream, way: Way::Reply, harm: Harm::Surplus },
            _ => Job { side: Side::Upstream, way: Way::Reply, harm: Harm::Duplicate },
        });
    }
    rng.shuffle(&mut jobs);
    jobs
}

/// The two networks, and what all threads share.
struct Stage {
    upstream: Network,
    client: Network,
    marks: AtomicU32,
    progress: Progress,
    over: AtomicBool,
}

/// Runs and prints a line.
pub(crate) fn run(seed: u64, threads: u32, step: usize, random: usize) -> Tally {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let upstream = Network::start(redis.tcp_address());
    let options = ProxyOptions {
        upstream: Some(format!("redis://{}", upstream.address)),
        ..ProxyOptions::sized(1, 24)
            .set("upstream.connects_per_second=100000")
            .set("upstream.backoff_min=1ms")
            .set("upstream.backoff_max=5ms")
    };
    let mut proxy = Proxy::start(&redis, &options);
    let client = Network::start(proxy.tcp_address());
    let all = jobs(&mut Rng::with_seed(seed), step, random);
    let total = all.len();
    let stage = Stage {
        upstream,
        client,
        marks: AtomicU32::new(1),
        progress: Progress::new("faults").of(total as u64),
        over: AtomicBool::new(false),
    };
    let began = Instant::now();
    let queue = Mutex::new(all);
    let tally = Mutex::new(Tally::default());
    let (address, queue, shared, stage) = (proxy.tcp_address(), &queue, &tally, &stage);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&stage.over);
        for number in 0..BYSTANDERS {
            scope.spawn(move || merge(shared, bystander(address, number, &stage.over)));
        }
        let victims: Vec<_> = (0..threads)
            .map(|number| scope.spawn(move || merge(shared, victim(stage, number + 2, queue, address))))
            .collect();
        for victim in victims {
            victim.join().expect("a victim's thread ends well");
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !proxy.runs() {
        tally.found(Finding::Bystander, "respmux ended");
    }
    let done = stage.upstream.done() + stage.client.done();
    let anomalies = proxy.metric("respmux_integrity_violations_total", &[]).unwrap_or(0.0);
    println!(
        "{{\"suite\":\"faults\",\"seed\":{seed},\"jobs\":{total},\"faults\":{done},\"seconds\":{:.1},\"replies\":{},\
         \"bystander_replies\":{},\"closed\":{},\"not_executed\":{},\"unknown_writes\":{},\"anomalies\":{anomalies},{}}}",
        began.elapsed().as_secs_f64(),
        tally.replies,
        tally.bystander_replies,
        tally.closed,
        tally.refused,
        tally.unknown,
        tally.counts(),
    );
    assert!(done * 10 >= total as u64 * 9, "only {done} of {total} faults were done");
    tally
}

fn merge(shared: &Mutex<Tally>, tally: Tally) {
    shared.lock().unwrap_or_else(PoisonError::into_inner).add(tally);
}

/// Works through the queue with a database, and with it an upstream connection, of its own.
fn victim(stage: &Stage, db: u32, queue: &Mutex<Vec<Job>>, direct: SocketAddr) -> Tally {
    let mut tally = Tally::default();
    let mut fates = HashMap::new();
    let list = format!("ledger{db}");
    let mut open: HashMap<bool, Victim> = HashMap::new();
    loop {
        let Some(job) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop() else { break };
        stage.progress.add(1);
        let mark = stage.marks.fetch_add(1, Ordering::Relaxed);
        let through_network = job.side == Side::Client;
        let address = if through_network { stage.client.address } else { direct };
        // What respmux has not noticed yet may cost the SELECT, too.
        let mut tries = (0..50).filter_map(|_| Victim::connect(address, db));
        let Some(mut client) = open.remove(&through_network).or_else(|| tries.next()) else {
            tally.found(Finding::Missing, &format!("{job:?}: no connection"));
            continue;
        };
        let network = if through_network { &stage.client } else { &stage.upstream };
        network.order(mark, job.way, job.harm);
        let script = if job.adds() { Script::alone(mark) } else { Script::between(mark, &list) };
        client.send(&script.bytes);
        let before = tally.wrong();
        let (whole, fate) = script.check(&mut client, job.rules(), &mut tally);
        if !job.adds() {
            fates.insert(format!("t{mark:08x}"), fate);
        }
        if tally.wrong() > before {
            tally.told.push(format!("  … by {job:?}"));
        }
        if whole && is_in_step(&mut client, network, job, mark, &mut tally) && job.harm != Harm::Early {
            open.insert(through_network, client);
        }
    }
    audit(direct, db, &list, &fates, &mut tally);
    tally
}

/// What is asked next has its own answer, or the connection ends. A reply too many would show here.
fn is_in_step(client: &mut Victim, network: &Network, job: Job, mark: u32, tally: &mut Tally) -> bool {
    if job.harm == Harm::Early {
        // Nothing may be asked before it has come: with a request under way nobody could tell it from its reply.
        for _ in 0..1000 {
            std::thread::sleep(Duration::from_millis(2));
            if network.is_finished(mark) {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let token = format!("after{mark:08x}");
    client.send(&command(&[b"ECHO", token.as_bytes()]));
    match client.next() {
        Next::Frame(frame) if frame.text == token.as_bytes() => {
            tally.replies += 1;
            true
        }
        Next::Frame(frame) if frame.is_error() => {
            tally.refused += 1;
            true
        }
        Next::End(rest) if rest.is_empty() => {
            tally.closed += 1;
            false
        }
        other => {
            tally.found(Finding::Surplus, &format!("{job:?}: {other:?}"));
            false
        }
    }
}

/// Writes that were acknowledged are there once, those declared not executed are not.
fn audit(direct: SocketAddr, db: u32, list: &str, fates: &HashMap<String, Fate>, tally: &mut Tally) {
    let found = std::iter::repeat_with(|| {
        let mut client = Victim::connect(direct, db)?;
        client.send(&command(&[b"LRANGE", list.as_bytes(), b"0", b"-1"]));
        match client.next() {
            Next::Frame(frame) if frame.kind == b'*' => Some(frame.items),
            _ => None,
        }
    });
    let items = found.take(20).flatten().next().expect("the ledger can be read");
    let mut counts: HashMap<String, u32> = HashMap::new();
    for item in items {
        *counts.entry(item.as_str()).or_default() += 1;
    }
    check_ledger(&counts, fates, tally);
}

/// The same for any ledger.
pub(crate) fn check_ledger(counts: &HashMap<String, u32>, fates: &HashMap<String, Fate>, tally: &mut Tally) {
    for (token, fate) in fates {
        let count = counts.get(token).copied().unwrap_or(0);
        match (fate, count) {
            (Fate::Executed, 0) => tally.found(Finding::Lost, token),
            (Fate::Refused, 1..) => tally.found(Finding::Phantom, token),
            (_, 2..) => tally.found(Finding::Duplicated, token),
            _ => {}
        }
        tally.unknown += u64::from(*fate == Fate::Unknown);
    }
}

/// Asks all the time, on a connection that nothing happens to.
fn bystander(address: SocketAddr, number: u32, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let Some(mut client) = Victim::connect(address, 1) else {
        tally.found(Finding::Bystander, "no connection");
        return tally;
    };
    let mut turn = 0_u64;
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        let token = format!("bystander{number}-{turn}");
        client.send(&command(&[b"ECHO", token.as_bytes()]));
        match client.next() {
            Next::Frame(frame) if frame.text == token.as_bytes() => tally.bystander_replies += 1,
            other => {
                tally.found(Finding::Bystander, &format!("{token}: {other:?}"));
                return tally;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    tally
}

/// The control: the same checks on a client whose connection is harmed itself.
pub(crate) fn without_respmux(seed: u64) -> Tally {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let network = Network::start(redis.tcp_address());
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(seed);
    let harms = [Harm::Cut(rng.usize(1..REPLY)), Harm::Surplus, Harm::Duplicate, Harm::Reset(rng.usize(1..REPLY))];
    for (mark, harm) in (1..).zip(harms) {
        let job = Job { side: Side::Upstream, way: Way::Reply, harm };
        let mut client = Victim::connect(network.address, 0).expect("the network relays");
        network.order(mark, Way::Reply, harm);
        let script = if job.adds() { Script::alone(mark) } else { Script::between(mark, "ledger") };
        client.send(&script.bytes);
        if script.check(&mut client, job.rules(), &mut tally).0 {
            is_in_step(&mut client, &network, job, mark, &mut tally);
        }
    }
    tally
}
