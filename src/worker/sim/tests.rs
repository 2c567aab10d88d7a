//! The seeds.

use super::*;
use crate::telemetry::CloseReason;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs seeds and prints the line; the violations.
fn run_seeds(first: u64, seeds: u64) -> Vec<String> {
    let began = std::time::Instant::now();
    let (mut sum, mut hash) = (Outcome::default(), DefaultHasher::new());
    for seed in first..first + seeds {
        let outcome = run(Plan::of(seed));
        if seed % 64 == first % 64 && run(Plan::of(seed)) != outcome {
            sum.violations.push(format!("SIM_SEED={seed}: two runs differ"));
        }
        outcome.hash.hash(&mut hash);
        sum.polls += outcome.polls;
        sum.cancelled += outcome.cancelled;
        sum.commands += outcome.commands;
        sum.replies += outcome.replies;
        sum.refused += outcome.refused;
        sum.millis += outcome.millis;
        sum.violations.extend(outcome.violations.into_iter().map(|what| format!("SIM_SEED={seed}: {what}")));
    }
    println!(
        "{{\"sim\":\"worker\",\"first_seed\":{first},\"seeds\":{seeds},\"seconds\":{:.1},\"simulated_hours\":{:.2},\
         \"polls\":{},\"polls_cancelled\":{},\"commands\":{},\"replies\":{},\"refused\":{},\"violations\":{},\"hash\":\"{:016x}\"}}",
        began.elapsed().as_secs_f64(),
        sum.millis as f64 / 3_600_000.0,
        sum.polls,
        sum.cancelled,
        sum.commands,
        sum.replies,
        sum.refused,
        sum.violations.len(),
        hash.finish()
    );
    sum.violations.truncate(10);
    sum.violations
}

#[test]
fn some_seeds() {
    let violations = match std::env::var("SIM_SEED") {
        Ok(_) => run_seeds(setting("SIM_SEED", 0), 1),
        Err(_) => run_seeds(1, setting("SIM_SEEDS", 200)),
    };
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
#[ignore = "a hundred thousand seeds: make sim"]
fn many_seeds() {
    let violations = run_seeds(setting("SIM_FIRST", 1), setting("SIM_SEEDS", 100_000));
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// Every poll of one client's task is once the one at which its connection is cut, and once the one at which the task
/// is dropped.
#[test]
fn every_await_point_is_cancelled_once() {
    let mut points = 0;
    for seed in 1..=setting("SIM_SWEEPS", 3) {
        let plan = |victim| Plan {
            seed,
            clients: 3,
            rounds: 8,
            kills: false,
            moves: false,
            drains: false,
            victim: Some(victim),
        };
        for at in 1.. {
            let mut reached = 0;
            for cancel in [Cancel::Cut(at), Cancel::Drop(at)] {
                let outcome = run(plan(cancel));
                assert!(outcome.violations.is_empty(), "seed {seed}, {cancel:?}: {}", outcome.violations.join("\n"));
                reached += outcome.cancelled;
            }
            if reached == 0 {
                break;
            }
            points += 1;
        }
    }
    println!("{{\"sim\":\"sweep\",\"await_points\":{points},\"cancelled\":{}}}", points * 2);
    assert!(points > 30, "only {points} polls");
}

/// Clients are sent away between two requests, never with one unanswered or half sent.
#[test]
fn a_drain_loses_no_request() {
    let closed = || TABLE.with(|(_, telemetry, _)| telemetry.shards[0].client_closed[CloseReason::Drain].value());
    let mut violations = Vec::new();
    for seed in 1..=setting("SIM_SEEDS", 100) {
        let outcome = run(Plan { kills: false, drains: true, rounds: 12, ..Plan::of(seed) });
        violations.extend(outcome.violations.into_iter().map(|what| format!("seed {seed}: {what}")));
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    assert!(closed() > 100, "only {} clients were sent away", closed());
}

/// The oracle sees each bug that is seeded in the path of replies and connections.
#[cfg(feature = "seeded-bugs")]
#[test]
fn seeded_bugs_are_seen() {
    let program = std::env::current_exe().expect("the test's own program");
    for bug in ["drop_tombstone", "drop_reply", "duplicate_reply", "swap_replies", "double_write", "skip_select"] {
        let seen = std::process::Command::new(&program)
            .args(["worker::sim::some_seeds", "--exact"])
            .env("SEEDED_BUG", bug)
            .env("SEEDED_EVERY", if bug == "drop_tombstone" { "1" } else { "20" })
            .env("SIM_SEEDS", "300")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| !status.success());
        println!("{{\"sim\":\"seeded\",\"bug\":\"{bug}\",\"seen\":{seen}}}");
        assert!(seen, "{bug} is not seen");
    }
}
