//! The token storm: many clients with tokens of their own, and an exact model of what each must be answered.
//!
//! `cargo test --test storm` runs a short one, the control arm (the same seed straight to the server) and the
//! self-test of the checker. A long one: `cargo test --release --test storm -- --ignored --nocapture`, with
//! `STORM_SECONDS`, `STORM_REPLIES` (`1e8`: for as long as that takes), `STORM_SEED`, `STORM_CLIENTS`, `STORM_WORKERS`, `STORM_CONNECTIONS`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests report and pace themselves")]

mod bad_network;
mod chaos;
mod checker;
mod client;
mod fault_proxy;
mod ledger;
mod metrics;
mod model;
mod op;
mod peer;
mod plan;
#[cfg(feature = "seeded-bugs")]
mod seeded;
mod storm;
mod tally;
mod token;
mod waiters;

use std::time::Duration;

use bad_network::BadNetwork;
use fault_proxy::{Fault, FaultProxy};
use kit::{Flavour, Proxy, ProxyOptions, RealRedis, setting};
use plan::Mix;
use storm::Config;
use tally::{Finding, Tally};

fn config(server: &RealRedis, target: std::net::SocketAddr, seconds: u64) -> Config {
    let config = Config {
        seed: setting("STORM_SEED", 20_240_611),
        clients: setting("STORM_CLIENTS", 300),
        target,
        direct: server.direct_address(),
        upstream: server.tcp_address(),
        calm: Duration::ZERO,
        chaos: Duration::ZERO,
        replies: replies(),
        admin: None,
        stop_on_alarm: false,
        mix: Mix::Everything,
        patience: kit::wire::PATIENCE,
        stop_on_red: false,
        direct_arm: target == server.tcp_address(),
    };
    lasting(config, setting("STORM_SECONDS", seconds))
}

/// How many replies end a storm early; `1e8` will do.
fn replies() -> u64 {
    let wanted: f64 = setting("STORM_REPLIES", f64::INFINITY);
    if wanted.is_finite() { wanted as u64 } else { u64::MAX }
}

/// So many seconds, of which the first part is calm.
fn lasting(config: Config, seconds: u64) -> Config {
    let time = Duration::from_secs(seconds);
    Config { calm: time.mul_f64(0.4), chaos: time.mul_f64(0.6), ..config }
}

/// Runs a storm and prints its line.
fn report(arm: &str, config: Config) -> Tally {
    let (seed, clients) = (config.seed, config.clients as usize);
    let (tally, took) = storm::run(config);
    println!("{}", tally.json(arm, seed, clients, took));
    for finding in &tally.told {
        eprintln!("{arm}: {finding}");
    }
    tally
}

fn assert_green(tally: &Tally) {
    assert_eq!(tally.wrong(), 0, "findings:\n{}", tally.told.join("\n"));
    assert_eq!(tally.counted.violations, 0, "respmux took a server's reply for a fault");
    assert!(tally.replies > 10_000, "only {} replies were checked", tally.replies);
    // Refusals that were read are the measure of those that nobody read: few clients leave.
    let (gaps, refused) = (tally.unread_gaps, tally.refused);
    assert!(
        gaps * 20 <= refused + 40,
        "{gaps} writes are missing whose reply nobody read, {refused} refusals were read"
    );
    // Allowed by the rules, but a proxy that refuses much serves nobody.
    assert!(tally.refused * 50 <= tally.replies, "{} of {} were refused", tally.refused, tally.replies);
}

/// The control arm: what is red here is a fault of the checker (or of the server).
#[test]
fn straight_to_the_server() {
    let server = RealRedis::start_with_direct_address(Flavour::Redis70);
    let config = config(&server, server.tcp_address(), 6);
    assert_green(&report("direct", config));
}

/// Through the proxy, first in peace, then with upstream connections killed at random.
#[test]
fn through_the_proxy() {
    let server = RealRedis::start_with_direct_address(Flavour::Redis70);
    let most = setting("STORM_CONNECTIONS", 64);
    let mut proxy = Proxy::start(&server, &ProxyOptions::sized(setting("STORM_WORKERS", 2), most));
    let tally = report("respmux", Config { admin: Some(proxy.admin()), ..config(&server, proxy.tcp_address(), 20) });
    // Each road was taken.
    let counted = tally.counted;
    assert!(counted.units > 100 && counted.fold_elements > 20 && counted.hub_messages > 100, "{counted:?}");
    assert_green(&tally);
    assert!(tally.max_upstream <= u64::from(most), "{} upstream connections", tally.max_upstream);
    assert!(proxy.runs(), "respmux ended");
}

/// The smallest configuration that must work, with more clients, databases and users than it has connections:
/// everything changes hands all the time.
#[test]
fn through_six_connections() {
    let server = RealRedis::start_with_direct_address(Flavour::Valkey9);
    let mut proxy = Proxy::start(&server, &ProxyOptions::sized(1, 6));
    let mut config = config(&server, proxy.tcp_address(), 10);
    config.clients = config.clients.min(40);
    config.admin = Some(proxy.admin());
    let tally = report("respmux, 6 connections", config);
    assert_eq!(tally.wrong(), 0, "findings:\n{}", tally.told.join("\n"));
    assert!(tally.max_upstream <= 6, "{} upstream connections", tally.max_upstream);
    assert!(proxy.runs(), "respmux ended");
}

/// Upstream connections come in pieces and end at any byte, also in the middle of a reply or a request.
#[test]
fn through_a_bad_network() {
    let server = RealRedis::start_with_direct_address(Flavour::Redis82);
    let network = BadNetwork::start(server.tcp_address(), setting("STORM_SEED", 7));
    let mut options = ProxyOptions::sized(2, 40);
    options.upstream = Some(format!("redis://{}", network.address));
    let mut proxy = Proxy::start(&server, &options);
    let mut config = config(&server, proxy.tcp_address(), 12);
    config.clients = config.clients.min(100);
    config.admin = Some(proxy.admin());
    config.chaos += std::mem::take(&mut config.calm);
    let tally = report("respmux, bad network", config);
    eprintln!("{} connections were cut", network.cuts());
    assert!(network.cuts() > 20, "only {} cuts", network.cuts());
    assert_eq!(tally.wrong(), 0, "findings:\n{}", tally.told.join("\n"));
    assert!(tally.replies > 1000, "only {} replies were checked", tally.replies);
    assert!(proxy.runs(), "respmux ended");
}

/// The long one, for `make prove WHAT=storm`: three servers and three sizes of proxy, a third of the time each; and before
/// them a minute with so few connections that hundreds of clients stand in line, and some are refused.
#[test]
#[ignore = "minutes to hours: STORM_SECONDS, STORM_REPLIES"]
fn long() {
    let time = setting("STORM_SECONDS", 300) / 3;
    let mut total = Tally::default();
    let mut took = Duration::ZERO;
    let sizes = [
        (Flavour::Redis70, 2, 14, time.min(60)),
        (Flavour::Redis70, 2, 24, time),
        (Flavour::Redis82, 4, 64, time),
        (Flavour::Valkey9, 1, 16, time),
    ];
    for (flavour, workers, most, time) in sizes {
        let (workers, most) = (setting("STORM_WORKERS", workers), setting("STORM_CONNECTIONS", most));
        let server = RealRedis::start_with_direct_address(flavour);
        let mut proxy = Proxy::start(&server, &ProxyOptions::sized(workers, most));
        let arm = format!("{flavour:?}, {workers} workers, {most} connections");
        let mut config = lasting(config(&server, proxy.tcp_address(), 100), time);
        config.replies = config.replies.div_ceil(3);
        config.admin = Some(proxy.admin());
        let (seed, clients, started) = (config.seed, config.clients, std::time::Instant::now());
        let tally = report(&arm, config);
        total.add(&tally);
        took += started.elapsed();
        println!("{}", total.json("all so far", seed, clients as usize, took));
        eprintln!("{arm}: respmux used at most {} KiB", proxy.peak_rss_kib());
        assert_green(&tally);
        assert!(tally.max_upstream <= u64::from(most), "{} upstream connections", tally.max_upstream);
        assert!(proxy.runs(), "respmux ended");
    }
}

/// A storm of small, separate commands, over at the first finding.
fn self_test(server: &RealRedis, fault: Fault) -> (Tally, bool) {
    let fault_proxy = FaultProxy::start(server.tcp_address(), fault);
    let mut config = config(server, fault_proxy.address, 6);
    config.clients = 20;
    config.calm = Duration::from_secs(6);
    config.chaos = Duration::ZERO;
    config.replies = 4000;
    config.mix = Mix::Simple;
    config.patience = Duration::from_secs(4);
    config.stop_on_red = true;
    let tally = report(&format!("self-test {fault:?}"), config);
    (tally, fault_proxy.done())
}

/// A checker that cannot go red proves nothing: each fault must be found under its own name, and no fault must be
/// found where there is none.
#[test]
fn the_checker_sees_each_fault() {
    let server = RealRedis::start_with_direct_address(Flavour::Redis70);
    let (tally, _) = self_test(&server, Fault::None);
    assert_eq!(tally.wrong(), 0, "without a fault:\n{}", tally.told.join("\n"));
    assert!(tally.replies >= 4000, "only {} replies", tally.replies);
    let faults = [
        (Fault::Swap, Finding::Misdelivered),
        (Fault::Stale, Finding::Misordered),
        (Fault::Drop, Finding::Missing),
        (Fault::Duplicate, Finding::Surplus),
        (Fault::Shorten, Finding::Torn),
        (Fault::Flip, Finding::Torn),
        (Fault::Close, Finding::Dropped),
        (Fault::WriteTwice, Finding::Duplicated),
        (Fault::WriteElse, Finding::Lost),
        (Fault::Deny, Finding::Phantom),
        (Fault::WrongDatabase, Finding::Stray),
    ];
    for (fault, finding) in faults {
        let (tally, done) = self_test(&server, fault);
        assert!(done, "{fault:?} never happened");
        assert!(tally.count(finding) > 0, "{fault:?} is not found as {finding:?}:\n{}", tally.told.join("\n"));
    }
}
