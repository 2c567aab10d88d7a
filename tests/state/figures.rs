//! Latencies, findings, and the one line of JSON in which a scenario says what it saw.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

/// How many findings are told in words.
const TOLD: usize = 20;

/// Durations of one kind.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that `share` of all are not above, in microseconds.
    pub(crate) fn quantile(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.0.get(at).map_or(0.0, |took| (took.as_secs_f64() * 1e7).round() / 10.0)
    }

    /// The usual figures, in microseconds.
    pub(crate) fn json(&mut self) -> Json {
        json!({
            "count": self.0.len(), "p50_us": self.quantile(0.5), "p99_us": self.quantile(0.99),
            "max_us": self.quantile(1.0),
        })
    }
}

/// What was wrong, by kind. There must be none.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    found: BTreeMap<&'static str, u64>,
    told: Vec<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        *self.found.entry(kind).or_default() += 1;
        if self.told.len() < TOLD {
            self.told.push(format!("{kind}: {}", what()));
        }
    }

    /// A finding unless `right`.
    pub(crate) fn check(&mut self, right: bool, kind: &'static str, what: impl FnOnce() -> String) {
        if !right {
            self.add(kind, what);
        }
    }

    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.found.get(kind).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> u64 {
        self.found.values().sum()
    }

    /// Adds the findings of another judge.
    pub(crate) fn merge(&mut self, other: Self) {
        for (kind, count) in other.found {
            *self.found.entry(kind).or_default() += count;
        }
        let room = TOLD.saturating_sub(self.told.len());
        self.told.extend(other.told.into_iter().take(room));
    }

    #[track_caller]
    pub(crate) fn assert_none(&self, of: &str) {
        assert!(self.found.is_empty(), "{of}: {:?}\n{}", self.found, self.told.join("\n"));
    }
}

/// Prints the line of a scenario: its figures, the findings and the seed.
pub(crate) fn print(scenario: &str, arm: &str, findings: &Findings, figures: Json) {
    let mut line = Map::new();
    line.insert("scenario".into(), scenario.into());
    line.insert("arm".into(), arm.into());
    line.insert("seed".into(), crate::settings::seed().into());
    line.insert("violations".into(), findings.total().into());
    line.insert("found".into(), json!(findings.found));
    if let Json::Object(figures) = figures {
        line.extend(figures);
    }
    println!("{}", Json::Object(line));
}

/// `value` to three digits behind the point.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[test]
fn quantiles_are_of_the_values_that_were_added() {
    let mut latencies = Latencies::default();
    assert_eq!(latencies.quantile(0.99), 0.0);
    (1..=101).rev().for_each(|micros| latencies.add(Duration::from_micros(micros)));
    assert_eq!((latencies.quantile(0.5), latencies.quantile(0.99), latencies.quantile(1.0)), (51.0, 100.0, 101.0));
}

#[test]
#[should_panic(expected = "lost")]
fn one_finding_is_enough_to_fail() {
    let mut findings = Findings::default();
    findings.check(true, "duplicate", || unreachable!("nothing is wrong"));
    findings.check(false, "lost", || "an element".into());
    assert_eq!((findings.total(), findings.count("lost")), (1, 1));
    findings.assert_none("test");
}
