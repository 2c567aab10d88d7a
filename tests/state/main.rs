//! State under load: blocking pops, subscribers, transactions and their races, directly and through respmux.
//!
//! `cargo test --test state` runs each scenario for about a second. The full size:
//! `cargo test --release --test state -- --ignored --nocapture --test-threads 1` (`make prove WHAT=state`). Each scenario prints
//! one line of JSON per arm. Settings, all by environment: `STATE_SEED`, `STATE_SECONDS`, `STATE_CLIENTS`,
//! `STATE_ROUNDS`, `STATE_CAP` (upstream connections), `STATE_SET` (`key=value …` for the proxy), `STATE_ARM`
//! (`direct` or `respmux`), `STATE_BARS=0` (report the bars on CPU and latency without asserting them).
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests report and pace themselves")]

mod blocked;
mod conflict;
mod delivery;
mod fanout;
mod figures;
mod keys;
mod races;
mod settings;
mod stage;
mod subscribers;
mod transactions;
mod wakeup;

use kit::{Flavour, setting};
use stage::Stage;

#[test]
fn blocked_short() {
    let size = blocked::Size { consumers: 100, producers: 10, queues: 5, seconds: 1, rate: 500.0, timeout: 1 };
    Stage::each(Flavour::Redis70, &[], |stage| blocked::play(stage, size));
}

#[test]
#[ignore = "a minute for each arm: make prove WHAT=state"]
fn blocked_full() {
    let size = blocked::Size {
        consumers: setting("STATE_CLIENTS", 2000),
        producers: 200,
        queues: 5,
        seconds: setting("STATE_SECONDS", 60),
        rate: setting("STATE_RATE", 3000.0),
        timeout: 5,
    };
    Stage::each(Flavour::Redis82, &[], |stage| blocked::play(stage, size));
}

#[test]
fn keys_short() {
    Stage::each(Flavour::Redis70, &["blocking.max_connections=16"], |stage| keys::play(stage, 200));
}

#[test]
#[ignore = "ten thousand clients: make prove WHAT=state"]
fn keys_full() {
    let settings = ["blocking.max_connections=16", "client.max_connections=12000"];
    Stage::each(Flavour::Redis82, &settings, |stage| keys::play(stage, setting("STATE_CLIENTS", 10_000)));
}

#[test]
fn wakeup_short() {
    wakeup::play(&Stage::proxied(Flavour::Redis70, &[]), 50, false);
}

#[test]
#[ignore = "sizes of make prove WHAT=state"]
fn wakeup_full() {
    // One worker, as in `make bench`: the machines have two cores, and two workers and the server want three.
    let workers = setting("STATE_WORKERS", 1);
    wakeup::play(&Stage::proxied_by(workers, Flavour::Redis82, &[]), setting("STATE_ROUNDS", 2000), true);
}

/// `rounds` of one race on each server, in both arms.
fn race(race: races::Race, rounds: usize) {
    for flavour in Flavour::ALL {
        let mut lost = std::collections::BTreeMap::new();
        Stage::each(flavour, &[], |stage| {
            lost.insert(stage.arm(), races::play(stage, race, rounds));
        });
        if let (races::Race::Reset, [Some(alone), Some(proxied)]) =
            (race, ["direct", "respmux"].map(|arm| lost.get(arm)))
        {
            let allowed = alone * 3 + rounds as u64 / 50;
            assert!(
                *proxied <= allowed,
                "{flavour:?}: {proxied} elements lost with their client, {alone} without respmux"
            );
        }
    }
}

#[test]
fn race_deadline_short() {
    race(races::Race::Deadline, 100);
}

#[test]
#[ignore = "thousands of rounds: make prove WHAT=state"]
fn race_deadline_full() {
    race(races::Race::Deadline, setting("STATE_ROUNDS", 5000));
}

#[test]
fn race_half_close_short() {
    race(races::Race::HalfClose, 100);
}

#[test]
#[ignore = "thousands of rounds: make prove WHAT=state"]
fn race_half_close_full() {
    race(races::Race::HalfClose, setting("STATE_ROUNDS", 5000));
}

#[test]
fn race_reset_short() {
    race(races::Race::Reset, 100);
}

#[test]
#[ignore = "thousands of rounds: make prove WHAT=state"]
fn race_reset_full() {
    race(races::Race::Reset, setting("STATE_ROUNDS", 5000));
}

#[test]
fn race_unblock_short() {
    race(races::Race::Unblock, 100);
}

#[test]
#[ignore = "thousands of rounds: make prove WHAT=state"]
fn race_unblock_full() {
    race(races::Race::Unblock, setting("STATE_ROUNDS", 5000));
}

/// `successes` successful transactions on one counter, on each server, in both arms.
fn conflict(successes: u64) {
    for flavour in Flavour::ALL {
        Stage::each(flavour, &[], |stage| conflict::play(stage, successes));
    }
}

#[test]
fn conflict_short() {
    conflict(100);
}

#[test]
#[ignore = "thousands of rounds: make prove WHAT=state"]
fn conflict_full() {
    conflict(setting("STATE_ROUNDS", 5000));
}

/// Both forms of transactions at `rate`, in both arms.
fn transactions(rate: f64, seconds: u64, clients: usize) {
    for form in [transactions::Form::Whole, transactions::Form::Watched] {
        Stage::each(Flavour::Redis82, &[], |stage| transactions::play(stage, form, rate, seconds, clients));
    }
}

#[test]
fn transactions_short() {
    transactions(300.0, 1, 10);
}

#[test]
#[ignore = "sizes of make prove WHAT=state"]
fn transactions_full() {
    let seconds = setting("STATE_SECONDS", 10);
    for rate in [300.0, 3000.0] {
        transactions(rate, seconds, setting("STATE_CLIENTS", 50));
    }
}

#[test]
fn pipelined_short() {
    transactions::pipelined(&Stage::proxied(Flavour::Redis70, &[]), 400, 2, false);
}

#[test]
#[ignore = "sizes of make prove WHAT=state"]
fn pipelined_full() {
    let stage = Stage::proxied(Flavour::Redis82, &[]);
    transactions::pipelined(&stage, setting("STATE_ROUNDS", 200_000), setting("STATE_DEPTH", 1), true);
}

#[test]
fn fanout_short() {
    fanout::play(&Stage::proxied(Flavour::Redis70, &[]), 20, 100, false);
}

#[test]
#[ignore = "sizes of make prove WHAT=state"]
fn fanout_full() {
    let stage = Stage::proxied(Flavour::Redis82, &[]);
    fanout::play(&stage, setting("STATE_CLIENTS", 1000), setting("STATE_ROUNDS", 2000), true);
}

#[test]
fn subscribers_short() {
    let size = subscribers::Size { subscribers: 100, channels: 5, seconds: 1, rate: 50.0, big: 1000 };
    Stage::each(Flavour::Redis70, &["client.pubsub_output_limit=1MiB"], |stage| subscribers::play(stage, size));
}

#[test]
#[ignore = "a minute for each arm: make prove WHAT=state"]
fn subscribers_full() {
    let size = subscribers::Size {
        subscribers: setting("STATE_CLIENTS", 5000),
        channels: 50,
        seconds: setting("STATE_SECONDS", 60),
        rate: setting("STATE_RATE", 50.0),
        big: 8000,
    };
    Stage::each(Flavour::Redis82, &[], |stage| subscribers::play(stage, size));
}
