//! The token storm: many clients with tokens of their own, and an exact model of what each must be answered.
//!
//! `cargo test --test storm` runs a short one, the control arm (the same seed straight to the server) and the
//! self-test of the checker. A long one: `cargo test --release --test storm -- --ignored --nocapture`, with
//! `STORM_SECONDS`, `STORM_REPLIES`, `STORM_SEED`, `STORM_CLIENTS`, `STORM_WORKERS`, `STORM_CONNECTIONS`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests report and pace themselves")]

mod chaos;
mod client;
mod ledger;
mod model;
mod op;
mod plan;
mod resp;
mod storm;
mod support;
mod token;
mod verdict;
mod wire;

use std::time::Duration;

use plan::Mix;
use storm::Config;
use support::{Flavour, Proxy, ProxyOptions, Server};
use verdict::Tally;

/// A number from the environment.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn config(server: &Server, target: std::net::SocketAddr, seconds: u64) -> Config {
    let time = Duration::from_secs(setting("STORM_SECONDS", seconds));
    Config {
        seed: setting("STORM_SEED", 20_240_611),
        clients: setting("STORM_CLIENTS", 300),
        target,
        direct: server.direct(),
        upstream: server.address(),
        calm: time.mul_f64(0.4),
        chaos: time.mul_f64(0.6),
        replies: setting("STORM_REPLIES", u64::MAX),
        mix: Mix::Everything,
        patience: wire::PATIENCE,
        stop_on_red: false,
    }
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
    assert!(tally.replies > 10_000, "only {} replies were checked", tally.replies);
}

/// The control arm: what is red here is a fault of the checker (or of the server).
#[test]
fn straight_to_the_server() {
    let server = Server::start(Flavour::Redis70);
    let config = config(&server, server.address(), 6);
    assert_green(&report("direct", config));
}
