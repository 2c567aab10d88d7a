//! What a run has counted.

use std::collections::BTreeMap;

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// A reply that is not that of the request.
    Misdelivered,
    /// A part of a reply.
    Torn,
    /// A reply more than there were requests.
    Surplus,
    /// Neither a reply nor an end.
    Missing,
    /// A reply that nothing could have cost did not come; or an acknowledged write is not there.
    Lost,
    /// A write is there twice.
    Duplicated,
    /// A write is there that was declared not executed.
    Phantom,
    /// A client of another connection was harmed.
    Bystander,
}

const ALL: [Verdict; 8] = [
    Verdict::Misdelivered,
    Verdict::Torn,
    Verdict::Surplus,
    Verdict::Missing,
    Verdict::Lost,
    Verdict::Duplicated,
    Verdict::Phantom,
    Verdict::Bystander,
];

#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) replies: u64,
    pub(crate) refused: u64,
    pub(crate) closed: u64,
    pub(crate) unknown: u64,
    pub(crate) bystander_replies: u64,
    found: BTreeMap<Verdict, u64>,
    pub(crate) told: Vec<String>,
}

impl Tally {
    pub(crate) fn found(&mut self, verdict: Verdict, what: &str) {
        *self.found.entry(verdict).or_default() += 1;
        if self.told.len() < 30 {
            self.told.push(format!("{verdict:?}: {}", what.chars().take(300).collect::<String>()));
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.replies += other.replies;
        self.refused += other.refused;
        self.closed += other.closed;
        self.unknown += other.unknown;
        self.bystander_replies += other.bystander_replies;
        for (verdict, count) in other.found {
            *self.found.entry(verdict).or_default() += count;
        }
        self.told.extend(other.told);
    }

    pub(crate) fn wrong(&self) -> u64 {
        self.found.values().sum()
    }

    /// `"misdelivered":0,…`
    pub(crate) fn verdicts(&self) -> String {
        let pair = |verdict: &Verdict| {
            let name = format!("{verdict:?}").to_lowercase();
            format!("\"{name}\":{}", self.found.get(verdict).copied().unwrap_or(0))
        };
        ALL.iter().map(pair).collect::<Vec<_>>().join(",")
    }
}
