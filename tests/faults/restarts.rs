//! The server is killed, and stopped, again and again, under writers: how soon is it found again, and is anybody told
//! anything that is not so?

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harm::check_ledger;
use crate::tally::{Finding, Tally};
use crate::victim::{Fate, NOT_EXECUTED, Next, Victim, command};
use kit::{Flavour, Progress, Proxy, ProxyOptions, RealRedis, SetOnDrop};

/// What `upstream.connects_per_second` is set to.
const CONNECTS: i64 = 20;

pub(crate) struct Size {
    pub(crate) kills: usize,
    pub(crate) stops: usize,
    pub(crate) writers: usize,
    pub(crate) full: bool,
}

/// What the writers tell while they write.
struct Shared {
    began: Instant,
    over: AtomicBool,
    /// When each writer's last acknowledgement came, and its last end; microseconds since `began`.
    acknowledged: Vec<AtomicU64>,
    ended: Vec<AtomicU64>,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Waits until each writer was served after `since`; milliseconds that it took each.
    fn served_after(&self, since: u64, patience: Duration) -> Vec<f64> {
        let deadline = Instant::now() + patience;
        let mut took: Vec<Option<f64>> = vec![None; self.acknowledged.len()];
        while took.iter().any(Option::is_none) && Instant::now() < deadline {
            for (slot, at) in took.iter_mut().zip(&self.acknowledged) {
                let at = at.load(Ordering::Relaxed);
                if slot.is_none() && at > since {
                    *slot = Some((at - since) as f64 / 1000.0);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        took.into_iter().map(|millis| millis.unwrap_or(f64::INFINITY)).collect()
    }
}

/// What the cycles showed.
#[derive(Default)]
struct Figures {
    kill_recovery: Vec<f64>,
    stop_recovery: Vec<f64>,
    detection: Vec<f64>,
    most_connects: i64,
}

/// Runs and prints a line.
pub(crate) fn run(size: Size) -> Tally {
    let mut redis = RealRedis::start(Flavour::Redis70, &["--appendonly", "yes", "--appendfsync", "always"]);
    let options = ProxyOptions::sized(2, 16)
        .set(&format!("upstream.connects_per_second={CONNECTS}"))
        .set("upstream.progress_timeout=1s")
        .set("upstream.suspect_after=300ms")
        .set("upstream.handshake_timeout=1s");
    let mut proxy = Proxy::start(&redis, &options);
    let address = proxy.tcp_address();
    let cells = || (0..size.writers).map(|_| AtomicU64::new(0)).collect();
    let (began, over) = (Instant::now(), AtomicBool::new(false));
    let shared = &Shared { began, over, acknowledged: cells(), ended: cells() };
    let mut figures = Figures::default();
    let mut tally = Tally::default();
    let mut ledgers = Vec::new();
    std::thread::scope(|scope| {
        let end = SetOnDrop(&shared.over);
        let writers: Vec<_> =
            (0..size.writers).map(|number| scope.spawn(move || write(address, number, shared))).collect();
        shared.served_after(0, Duration::from_secs(20));
        for cycle in Progress::over("restarts", 0..size.kills + size.stops) {
            // Spread, so that both meet each other's aftermath.
            let stop =
                (cycle + 1) * size.stops / (size.kills + size.stops) > cycle * size.stops / (size.kills + size.stops);
            if stop {
                stop_cycle(&redis, shared, &mut figures)
            } else {
                kill_cycle(&mut redis, shared, &mut figures)
            }
            std::thread::sleep(Duration::from_millis(fastrand::u64(100..400)));
        }
        drop(end);
        for writer in writers {
            let (part, fates) = writer.join().expect("a writer ends well");
            tally.add(part);
            ledgers.push(fates);
        }
    });
    audit(&redis, &ledgers, &mut tally);
    if !proxy.runs() {
        tally.found(Finding::Bystander, "respmux ended");
    }
    print(&size, &proxy, &mut figures, &tally, began);
    let bar = if size.full { 2000.0 } else { 5000.0 };
    for recovery in [&mut figures.kill_recovery, &mut figures.stop_recovery] {
        assert!(quantile(recovery, 0.99) < bar, "recovery p99 is {} ms", quantile(recovery, 0.99));
    }
    // A bucket that is full at the start of the second, what flows into it, and our own question.
    assert!(figures.most_connects <= 2 * CONNECTS + 4, "{} connects in a second", figures.most_connects);
    tally
}

fn kill_cycle(redis: &mut RealRedis, shared: &Shared, figures: &mut Figures) {
    redis.kill();
    std::thread::sleep(Duration::from_millis(fastrand::u64(0..1500)));
    redis.start_again();
    let ready = shared.now();
    let before = redis.info("total_connections_received");
    let second = Instant::now();
    figures.kill_recovery.extend(shared.served_after(ready, Duration::from_secs(20)));
    std::thread::sleep(Duration::from_secs(1).saturating_sub(second.elapsed()));
    figures.most_connects = figures.most_connects.max(redis.info("total_connections_received") - before);
}

fn stop_cycle(redis: &RealRedis, shared: &Shared, figures: &mut Figures) {
    redis.signal("STOP");
    let stopped = shared.now();
    std::thread::sleep(Duration::from_millis(fastrand::u64(1500..4000)));
    let seen = shared.ended.iter().map(|at| at.load(Ordering::Relaxed)).filter(|at| *at > stopped);
    figures.detection.extend(seen.map(|at| (at - stopped) as f64 / 1000.0).min_by(f64::total_cmp));
    redis.signal("CONT");
    let going = shared.now();
    figures.stop_recovery.extend(shared.served_after(going, Duration::from_secs(20)));
}

/// One writer: one token after the other, and what it was told of each.
fn write(address: SocketAddr, number: usize, shared: &Shared) -> (Tally, HashMap<String, Fate>) {
    let (mut tally, mut fates) = (Tally::default(), HashMap::new());
    let list = format!("ledger{number}");
    let mut client = None;
    let mut turn = 0_u64;
    while !shared.over.load(Ordering::Relaxed) {
        let Some(connected) = client.as_mut() else {
            client = Victim::connect(address, 0);
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        turn += 1;
        let token = format!("w{number}-{turn}");
        connected.send(&command(&[b"RPUSH", list.as_bytes(), token.as_bytes()]));
        let fate = match connected.next() {
            Next::Frame(frame) if frame.kind == b':' => {
                tally.replies += 1;
                shared.acknowledged[number].store(shared.now(), Ordering::Relaxed);
                Fate::Executed
            }
            Next::Frame(frame) if frame.as_str() == NOT_EXECUTED => {
                tally.refused += 1;
                std::thread::sleep(Duration::from_millis(5));
                Fate::Refused
            }
            // The server's own: it is there and does not serve yet.
            Next::Frame(frame) if frame.as_str().starts_with("LOADING ") => Fate::Refused,
            Next::Frame(frame) => {
                tally.found(Finding::Misdelivered, &format!("{token}: {frame:?}"));
                Fate::Unknown
            }
            Next::End(rest) => {
                tally.closed += 1;
                shared.ended[number].store(shared.now(), Ordering::Relaxed);
                if !rest.is_empty() {
                    tally.found(Finding::Torn, &token);
                }
                client = None;
                Fate::Unknown
            }
            Next::Garbage(what) => {
                tally.found(Finding::Torn, &what);
                client = None;
                Fate::Unknown
            }
            Next::Nothing => {
                tally.found(Finding::Missing, &token);
                client = None;
                Fate::Unknown
            }
        };
        fates.insert(token, fate);
    }
    (tally, fates)
}

fn audit(redis: &RealRedis, ledgers: &[HashMap<String, Fate>], tally: &mut Tally) {
    let mut direct = redis.connect();
    for (number, fates) in ledgers.iter().enumerate() {
        let mut counts: HashMap<String, u32> = HashMap::new();
        for item in direct.ask(&format!("LRANGE ledger{number} 0 -1")).items {
            *counts.entry(item.as_str()).or_default() += 1;
        }
        check_ledger(&counts, fates, tally);
    }
}

fn print(size: &Size, proxy: &Proxy, figures: &mut Figures, tally: &Tally, began: Instant) {
    let losses = |verdict| proxy.metric("respmux_lane_losses_total", &[("verdict", verdict)]).unwrap_or(0.0);
    println!(
        "{{\"suite\":\"restarts\",\"kills\":{},\"stops\":{},\"writers\":{},\"seconds\":{:.1},\"acknowledged\":{},\
         \"not_executed\":{},\"closed\":{},\"unknown_writes\":{},\"kill_recovery_ms_p50\":{:.1},\
         \"kill_recovery_ms_p99\":{:.1},\"stop_recovery_ms_p50\":{:.1},\"stop_recovery_ms_p99\":{:.1},\
         \"hang_detection_ms_p50\":{:.1},\"hang_detection_ms_max\":{:.1},\"connects_in_a_second_max\":{},\
         \"connects_per_second\":{CONNECTS},\"lanes_dead\":{},\"lanes_hung\":{},\"circuit_opened\":{},{}}}",
        size.kills,
        size.stops,
        size.writers,
        began.elapsed().as_secs_f64(),
        tally.replies,
        tally.refused,
        tally.closed,
        tally.unknown,
        quantile(&mut figures.kill_recovery, 0.5),
        quantile(&mut figures.kill_recovery, 0.99),
        quantile(&mut figures.stop_recovery, 0.5),
        quantile(&mut figures.stop_recovery, 0.99),
        quantile(&mut figures.detection, 0.5),
        quantile(&mut figures.detection, 1.0),
        figures.most_connects,
        losses("dead"),
        losses("hung"),
        proxy.metric("respmux_upstream_circuit_opened_total", &[]).unwrap_or(0.0),
        tally.counts(),
    );
}

/// The value below which this share is; 0 of nothing.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).ceil() as usize).copied().unwrap_or(0.0)
}
