//! Faults of the network and of the server, one after the other, and what clients see of them.
//!
//! `cargo test --test faults` runs a short form of each. The full size: `make prove WHAT=faults` and `make prove WHAT=restarts`, each of which
//! prints one line of JSON. Settings, by environment: `FAULTS_SEED`, `FAULTS_ROUNDS` (harm at every n-th byte is 1),
//! `RESTARTS_KILLS`, `RESTARTS_STOPS`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests report and pace themselves")]

mod harm;
mod network;
mod restarts;
mod tally;
mod victim;

use kit::setting;

fn assert_green(tally: &tally::Tally) {
    assert_eq!(tally.wrong(), 0, "findings:\n{}", tally.told.join("\n"));
    assert!(tally.replies > 0 && tally.closed > 0, "the run shows nothing");
}

#[test]
fn faults_short() {
    let tally = harm::run(setting("FAULTS_SEED", 7), 1, 61, 60);
    assert_green(&tally);
}

#[test]
#[ignore = "minutes: make prove WHAT=faults"]
fn faults_full() {
    let step = setting("FAULTS_STEP", 1);
    let tally = harm::run(setting("FAULTS_SEED", 20_241_125), 3, step, setting("FAULTS_RANDOM", 8000));
    assert_green(&tally);
}

/// The checker sees what it must: without respmux between, the same harm is torn and lost.
#[test]
fn the_checker_goes_red() {
    let tally = harm::without_respmux(9);
    assert!(tally.wrong() >= 3, "only {} findings: {}", tally.wrong(), tally.counts());
}

#[test]
fn restarts_short() {
    let tally = restarts::run(restarts::Size { kills: 2, stops: 1, writers: 6, full: false });
    assert_green(&tally);
}

#[test]
#[ignore = "minutes: make prove WHAT=restarts"]
fn restarts_full() {
    let (kills, stops) = (setting("RESTARTS_KILLS", 50), setting("RESTARTS_STOPS", 30));
    let tally = restarts::run(restarts::Size { kills, stops, writers: 12, full: true });
    assert_green(&tally);
}
