//! Label values: each is one that the program can set. What alerts, dashboard and rules ask for is checked against them by
//! `deploy/check_names.py`.

use std::path::Path;

use crate::architecture::{Source, sources};

/// Where label values are read, not set.
const READERS: &[&str] = &[
    "telemetry/reasons",
    "telemetry/counter_events.rs",
    "telemetry/catalogue.rs",
    "telemetry/rates.rs",
    "telemetry/counters.rs",
    "upstream/report.rs",
    "client/proxy/counters.rs",
    "client/proxy/info.rs",
    "client/proxy/servers.rs",
    "admin",
    "tools",
];

/// Sets whose values are not named one by one, and what gives them.
const COMPUTED: &[(&str, &str)] = &[("ErrorCode", "ErrorCode::of(")];

/// The sets and their values, as they are declared.
fn declared(sources: &[Source]) -> Vec<(String, Vec<String>)> {
    let mut sets = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("telemetry/reasons")) {
        for block in source.code.split("\nlabels! {\n").skip(1) {
            let block = block.split("\n}\n").next().unwrap_or_default();
            let (name, rest) = block.trim().split_once(" {").expect("a set has a name");
            let values =
                rest.lines().filter_map(|line| line.trim().split_once(" = \"")).map(|(value, _)| value.to_owned());
            sets.push((name.trim().to_owned(), values.collect()));
        }
    }
    sets
}

/// Whether `line` makes the value at `at`, and does not only ask whether something is it.
fn makes(line: &str, at: usize) -> bool {
    let (before, after) = line.split_at(at);
    let pattern = after.contains("=>") || line.trim_start().starts_with('|') || before.contains("matches!(");
    let compared = before.ends_with("== ") || before.ends_with("!= ");
    !pattern && !compared
}

/// Whether `code` makes this value.
fn sets(code: &str, set: &str, value: &str) -> bool {
    let ends = |line: &str, at: usize| line[at..].bytes().next().is_none_or(|next| !next.is_ascii_alphanumeric());
    let starts = |line: &str, at: usize| at == 0 || !line[..at].ends_with(|last: char| last.is_alphanumeric());
    let name = format!("{set}::{value}");
    let named = code.lines().any(|line| {
        let mut places = line.match_indices(&name);
        places.any(|(at, _)| starts(line, at) && ends(line, at + name.len()) && makes(line, at))
    });
    // Made of a value of another set.
    let header = format!(" for {set} {{");
    let of_another = code.split(&header).skip(1).map(|rest| rest.split("\n}\n").next().unwrap_or(rest));
    let own = format!("Self::{value}");
    named
        || of_another.into_iter().flat_map(str::lines).any(|line| {
            line.match_indices(&own).any(|(at, _)| line[..at].contains("=> ") && ends(line, at + own.len()))
        })
}

#[test]
fn each_label_value_is_one_that_the_program_can_set() {
    let all = sources();
    let setters: Vec<_> =
        all.iter().filter(|source| !READERS.iter().any(|reader| source.path.starts_with(Path::new(reader)))).collect();
    let declared = declared(&all);
    let values: usize = declared.iter().map(|(_, values)| values.len()).sum();
    assert!(declared.len() >= 30 && values >= 150, "{} sets, {values} values", declared.len());
    let mut dead = Vec::new();
    for (set, values) in &declared {
        if let Some((_, how)) = COMPUTED.iter().find(|(name, _)| name == set) {
            assert!(all.iter().any(|source| source.code.contains(how)), "{set} is not computed any more");
            continue;
        }
        let unset = values.iter().filter(|value| !setters.iter().any(|source| sets(&source.code, set, value)));
        dead.extend(unset.map(|value| format!("{set}::{value}")));
    }
    assert!(dead.is_empty(), "no code sets {dead:?}");
}

#[test]
fn asking_for_a_value_is_not_setting_it() {
    for (code, wanted) in [
        ("shard.closed[Reason::Gone].inc();", true),
        ("Event::Lost => Reason::Gone,", true),
        ("Reason::Gone => 1,", false),
        ("if reason == Reason::Gone {", false),
        ("matches!(reason, Reason::Gone)", false),
        ("    | Reason::Gone => 1,", false),
        ("let x = Reason::GoneLong;", false),
        ("impl From<A> for Reason {\n    A::B => Self::Gone,\n}\n", true),
        ("impl From<A> for Other {\n    A::B => Self::Gone,\n}\n", false),
    ] {
        assert_eq!(sets(code, "Reason", "Gone"), wanted, "{code}");
    }
}
