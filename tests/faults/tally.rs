//! What a run has counted.

use std::collections::BTreeMap;

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Finding {
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

const ALL: [Finding; 8] = [
    Finding::Misdelivered,
    Finding::Torn,
    Finding::Surplus,
    Finding::Missing,
    Finding::Lost,
    Finding::Duplicated,
    Finding::Phantom,
    Finding::Bystander,
];

#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) replies: u64,
    pub(crate) refused: u64,
    pub(crate) closed: u64,
    pub(crate) unknown: u64,
    pub(crate) bystander_replies: u64,
    found: BTreeMap<Finding, u64>,
    pub(crate) told: Vec<String>,
}

impl Tally {
    pub(crate) fn found(&mut self, finding: Finding, what: &str) {
        *self.found.entry(finding).or_default() += 1;
        if self.told.len() < 30 {
            self.told.push(format!("{finding:?}: {}", what.chars().take(300).collect::<String>()));
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.replies += other.replies;
        self.refused += other.refused;
        self.closed += other.closed;
        self.unknown += other.unknown;
        self.bystander_replies += other.bystander_replies;
        for (finding, count) in other.found {
            *self.found.entry(finding).or_default() += count;
        }
        self.told.extend(other.told);
    }

    pub(crate) fn wrong(&self) -> u64 {
        self.found.values().sum()
    }

    /// `"misdelivered":0,…`
    pub(crate) fn counts(&self) -> String {
        let pair = |finding: &Finding| {
            let name = format!("{finding:?}").to_lowercase();
            format!("\"{name}\":{}", self.found.get(finding).copied().unwrap_or(0))
        };
        ALL.iter().map(pair).collect::<Vec<_>>().join(",")
    }
}
