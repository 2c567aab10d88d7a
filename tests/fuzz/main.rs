//! The fuzzer: arbitrary bytes and arbitrary histories against every parser and the router, and beside others who read
//! the same bytes: `redis-protocol`, models written here from the server's rules, and real servers.
//!
//! `cargo test --test fuzz` runs it for some seconds. The full size is `make prove WHAT=fuzz`. Each target prints one line of
//! JSON. Settings, all by environment: `FUZZ_EXECUTIONS` (over all targets), `FUZZ_FRAMES` (streams sent to each real
//! server), `FUZZ_SEED`, `FUZZ_TARGET` (only this one), and `FUZZ_INPUT` (one input as a finding prints it: replays it).
//!
//! Inputs are mutated from a corpus. What behaves as nothing did before joins it, so that the search goes deeper where
//! there is something to find; the measure is what the code answers, so that no instrumentation and no special compiler
//! is needed.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "tests report and pace themselves")]

mod address;
mod engine;
mod machine;
mod model;
mod mutate;
mod replies;
mod requests;
mod served;

use engine::{Report, Target};
use kit::{Flavour, setting};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Every target, with its share of the executions in percent.
fn targets() -> Vec<(u64, Box<dyn Target>)> {
    vec![
        (30, Box::new(requests::Requests::multibulk())),
        (15, Box::new(requests::Requests::inline())),
        (30, Box::new(replies::Replies)),
        (15, Box::new(machine::Machine::new())),
        (10, Box::new(address::Addresses)),
    ]
}

/// Runs the targets one after the other and prints their lines; the findings of all.
fn run_all(executions: u64) -> Vec<String> {
    let seed = setting("FUZZ_SEED", 1);
    let only: String = setting("FUZZ_TARGET", String::new());
    let mut findings = Vec::new();
    for (share, mut target) in targets() {
        if !only.is_empty() && only != target.name() {
            continue;
        }
        if let Ok(input) = std::env::var("FUZZ_INPUT") {
            findings.extend(engine::replay(&mut *target, &mutate::unescape(&input)));
            continue;
        }
        let report: Report = engine::run(&mut *target, seed, executions * share / 100);
        println!("{}", report.json(seed));
        findings.extend(report.findings);
    }
    findings
}

fn run_served(frames: u64) -> Vec<String> {
    let seed = setting("FUZZ_SEED", 1);
    let mut findings = Vec::new();
    for flavour in Flavour::ALL {
        let report = served::run(flavour, seed, frames);
        println!("{}", report.json(seed));
        findings.extend(report.findings);
    }
    findings
}

/// One test, as the allocations are counted for the whole process.
#[test]
fn a_short_run() {
    let mut findings = run_all(setting("FUZZ_EXECUTIONS", 100_000));
    findings.extend(run_served(setting("FUZZ_FRAMES", 1_000)));
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
#[ignore = "a quarter of an hour: make prove WHAT=fuzz"]
fn a_full_run() {
    let mut findings = run_all(setting("FUZZ_EXECUTIONS", 100_000_000));
    findings.extend(run_served(setting("FUZZ_FRAMES", 350_000)));
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// A checker that cannot fail proves nothing: each oracle is shown a wrong answer.
#[test]
fn the_oracles_can_fail() {
    let limits = respmux::internals::resp::RequestLimits::default();
    let right = b"*1\r\n$4\r\nPING\r\n";
    assert_eq!(model::requests(right, &limits), requests::feed(&[right], &limits).unwrap());
    assert_ne!(model::requests(b"*1\r\n$4\r\nPONG\r\n", &limits), requests::feed(&[right], &limits).unwrap());
    assert!(replies::compare(b"+OK\r\n", Ok(Some(4))).is_err());
    assert!(replies::compare(b"+OK\r\n", Ok(Some(5))).is_ok());
    assert!(machine::a_wrong_router_is_seen());
}
