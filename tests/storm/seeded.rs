//! The proof that a green storm means something: faults of the product, built in on purpose.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::storm::Config;
use crate::tally::{Tally, git, seeds};
use crate::{config, report};
use kit::{Flavour, Proxy, ProxyOptions, RealRedis, setting};

/// What the build with `--features seeded-bugs` can be told to do wrong, by `SEEDED_BUG`; it does so once in
/// `SEEDED_EVERY` chances. The six that count; `skip_select` (a lane of another database without its SELECT) is a
/// seventh, for `STORM_BUG=skip_select`.
const SEEDED: [&str; 6] = [
    // Two consecutive replies of a lane go to each other's slot.
    "swap_replies",
    // A client that goes away takes its slots with it instead of leaving tombstones.
    "drop_tombstone",
    // A command is written twice; the second reply is swallowed by an internal slot.
    "double_write",
    // A reply takes its slot and is not delivered.
    "drop_reply",
    // A reply is delivered twice to its client.
    "duplicate_reply",
    // A connection goes back to the pool as it is, with its MULTI or WATCH.
    "skip_hygiene",
];

/// One run of a build with `bug`, with this `integrity`, up to the first finding or alarm.
fn run(bug: &str, seed: u64, integrity: &str) -> Tally {
    let server = RealRedis::start_with_direct_address(Flavour::Redis70);
    let mut options = ProxyOptions::sized(2, setting("STORM_CONNECTIONS", 24));
    options.environment.push(("SEEDED_BUG".into(), bug.into()));
    // Tombstones, losses and returns are rare; replies are not.
    let rare = matches!(bug, "drop_tombstone" | "skip_select" | "skip_hygiene");
    let every = if rare { 2 } else { 500 };
    options.environment.push(("SEEDED_EVERY".into(), setting("SEEDED_EVERY", every).to_string()));
    options.settings.push(format!("integrity={integrity}"));
    let proxy = Proxy::start(&server, &options);
    let checks = integrity == "loose";
    let base = config(&server, proxy.tcp_address(), if bug == "none" { 6 } else { 40 });
    let mut config = Config { seed, clients: 100, patience: Duration::from_secs(10), stop_on_red: true, ..base };
    if !checks {
        // A client that is closed by an alarm has lost its connection, and that is no finding.
        config.chaos += std::mem::take(&mut config.calm);
        config.admin = Some(proxy.admin());
        config.stop_on_alarm = true;
    }
    report(&format!("seeded {bug}, {integrity}"), config)
}

/// What came first: a wrong reply at a client, or an alarm of respmux itself.
fn first(tally: &Tally) -> &'static str {
    match (tally.wrong_replies(), tally.counted.violations) {
        (0, 0) => "neither",
        (0, _) => "stopped",
        _ => "reached a client",
    }
}

/// The storm goes red on each bug that the product itself can have, with each seed: `make prove WHAT=seeded`. There the checks of
/// reply types are off, so that it is the storm that sees; beside it, how often respmux' own checks are first.
#[test]
fn seeded_bugs_are_found() {
    let chosen = std::env::var("STORM_BUG").unwrap_or_default();
    let all: Vec<&str> = match chosen.as_str() {
        "" => SEEDED.to_vec(),
        one => vec![one],
    };
    let seeds = seeds();
    // The control: the same build without a bug is green, so what is red below is red because of its bug.
    for seed in &seeds {
        assert_eq!(run("none", *seed, "loose").wrong(), 0, "the control with seed {seed}");
    }
    let (mut red, mut stopped, mut strict, mut each) = (0, 0, 0, serde_json::Map::new());
    for bug in &all {
        for seed in &seeds {
            let found = run(bug, *seed, "loose").wrong() > 0;
            let ways = ["normal", "strict"].map(|integrity| first(&run(bug, *seed, integrity)));
            red += u32::from(found);
            stopped += u32::from(ways[0] == "stopped");
            strict += u32::from(ways[1] == "stopped");
            let about: Json = json!({ "checker_red": found, "normal": ways[0], "strict": ways[1] });
            each.insert(format!("{bug} {seed}"), about);
        }
    }
    let of = all.len() * seeds.len();
    println!(
        "{}",
        json!({
            "seeded": of, "git": git(), "seeds": seeds, "checker_red": red,
            "stopped_before_any_wrong_reply_normal": stopped, "stopped_before_any_wrong_reply_strict": strict,
            "each": each,
        })
    );
    assert_eq!(red as usize, of, "the checker did not see every seeded bug");
}
