//! State under load: blocking pops, subscribers, transactions and their races, directly and through respmux.
//!
//! `cargo test --test state` runs each scenario for about a second. The full size:
//! `cargo test --release --test state -- --ignored --nocapture --test-threads 1` (`make state`). Each scenario prints
//! one line of JSON per arm. Settings, all by environment: `STATE_SEED`, `STATE_SECONDS`, `STATE_CLIENTS`,
//! `STATE_ROUNDS`, `STATE_CAP` (upstream connections), `STATE_SET` (`key=value …` for the proxy), `STATE_ARM`
//! (`direct` or `respmux`), `STATE_BARS=0` (report the bars on CPU and latency without asserting them).
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests report and pace themselves")]

mod blocked;
mod delivery;
mod figures;
mod keys;
#[path = "../storm/resp.rs"]
#[allow(dead_code, reason = "shared with the storm")]
mod resp;
mod settings;
mod stage;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests")]
mod support;
mod wakeup;
#[path = "../storm/wire.rs"]
#[allow(dead_code, reason = "shared with the storm")]
mod wire;

use settings::setting;
use stage::Stage;
use support::Flavour;

#[test]
fn blocked_short() {
    let size = blocked::Size { consumers: 100, producers: 10, queues: 5, seconds: 1, rate: 500.0, timeout: 1 };
    Stage::each(Flavour::Redis70, &[], |stage| blocked::play(stage, size));
}

#[test]
#[ignore = "a minute for each arm: make state"]
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
#[ignore = "ten thousand clients: make state"]
fn keys_full() {
    let settings = ["blocking.max_connections=16", "client.max_connections=12000"];
    Stage::each(Flavour::Redis82, &settings, |stage| keys::play(stage, setting("STATE_CLIENTS", 10_000)));
}

#[test]
fn wakeup_short() {
    wakeup::play(&Stage::proxied(Flavour::Redis70, &[]), 50, false);
}

#[test]
#[ignore = "sizes of make state"]
fn wakeup_full() {
    wakeup::play(&Stage::proxied(Flavour::Redis82, &[]), setting("STATE_ROUNDS", 2000), true);
}
