//! What the storm found, counted by kind, and its one line of JSON.

use std::time::Duration;

use crate::metrics::Counted;
use serde_json::{Map, Value as Json, json};

/// What can be wrong. Each of these must be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A reply with another client's token (or id).
    Misdelivered,
    /// A reply that is not the one of this place: an own token in the wrong slot, a wrong count, a wrong kind.
    Misordered,
    /// Bytes that are no RESP, or a payload with a hole in it.
    Torn,
    /// A reply nobody asked for.
    Surplus,
    /// No reply within the deadline, on a connection that stays open.
    Missing,
    /// Closed by the other side although no upstream connection was lost.
    Dropped,
    /// A write that was acknowledged and is not there.
    Lost,
    /// A write that is there more than once.
    Duplicated,
    /// A write that was declared not executed (or never sent whole) and is there.
    Phantom,
    /// Something in a list or database that nobody wrote there.
    Stray,
    /// An unanswered write that is not there although a later one of the same connection is.
    Gap,
    /// A transaction of which only a part is there.
    Split,
}

impl Finding {
    pub(crate) const ALL: [Self; 12] = [
        Self::Misdelivered,
        Self::Misordered,
        Self::Torn,
        Self::Surplus,
        Self::Missing,
        Self::Dropped,
        Self::Lost,
        Self::Duplicated,
        Self::Phantom,
        Self::Stray,
        Self::Gap,
        Self::Split,
    ];
}

/// How many findings are told in full.
const TOLD: usize = 40;

/// Counts of one storm.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    found: [u64; Finding::ALL.len()],
    /// The first findings, in words.
    pub(crate) told: Vec<String>,
    pub(crate) replies: u64,
    /// Declared not executed.
    pub(crate) refused: u64,
    /// Connections that the other side closed while upstream connections were being killed.
    pub(crate) disconnects: u64,
    /// Connections that the clients cut on purpose.
    pub(crate) aborted: u64,
    pub(crate) lives: u64,
    pub(crate) ledger_writes: u64,
    pub(crate) unknown_present: u64,
    pub(crate) unknown_absent: u64,
    /// Of these, from clients that left without reading on, with a later write there: the refusals that nobody read.
    pub(crate) unread_gaps: u64,
    /// Upstream connections killed.
    pub(crate) kills: u64,
    /// The most upstream connections of the proxy that were seen at once.
    pub(crate) max_upstream: u64,
    /// What respmux says of itself.
    pub(crate) counted: Counted,
}

impl Tally {
    pub(crate) fn found(&mut self, finding: Finding, what: impl FnOnce() -> String) {
        self.found[finding as usize] += 1;
        if self.told.len() < TOLD {
            self.told.push(format!("{finding:?}: {}", what()));
        }
    }

    pub(crate) fn count(&self, finding: Finding) -> u64 {
        self.found[finding as usize]
    }

    /// All findings together; a storm is green only at 0.
    pub(crate) fn wrong(&self) -> u64 {
        self.found.iter().sum()
    }

    /// Wrong bytes that a client has got, or bytes that it has not.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn wrong_replies(&self) -> u64 {
        use Finding::{Misdelivered, Misordered, Missing, Surplus, Torn};
        [Misdelivered, Misordered, Torn, Surplus, Missing].iter().map(|finding| self.count(*finding)).sum()
    }

    /// One more arm in the sum.
    pub(crate) fn add(&mut self, arm: &Self) {
        self.found.iter_mut().zip(arm.found).for_each(|(sum, count)| *sum += count);
        self.replies += arm.replies;
        self.refused += arm.refused;
        self.disconnects += arm.disconnects;
        self.aborted += arm.aborted;
        self.lives += arm.lives;
        self.ledger_writes += arm.ledger_writes;
        self.unknown_present += arm.unknown_present;
        self.unknown_absent += arm.unknown_absent;
        self.unread_gaps += arm.unread_gaps;
        self.kills += arm.kills;
        self.max_upstream = self.max_upstream.max(arm.max_upstream);
        self.counted.violations += arm.counted.violations;
        self.counted.units += arm.counted.units;
        self.counted.fold_elements += arm.counted.fold_elements;
        self.counted.hub_messages += arm.counted.hub_messages;
    }

    /// The line for the record.
    pub(crate) fn json(&self, arm: &str, seed: u64, clients: usize, took: Duration) -> Json {
        let mut line = Map::new();
        line.insert("arm".into(), json!(arm));
        line.insert("git".into(), json!(git()));
        line.insert("seed".into(), json!(seed));
        line.insert("clients".into(), json!(clients));
        line.insert("replies".into(), json!(self.replies));
        for finding in Finding::ALL {
            line.insert(format!("{finding:?}").to_lowercase(), json!(self.count(finding)));
        }
        let rest = json!({
            "ledger_writes": self.ledger_writes,
            "unknown_present": self.unknown_present,
            "unknown_absent": self.unknown_absent,
            "unread_gaps": self.unread_gaps,
            "refused": self.refused,
            "disconnects": self.disconnects,
            "aborted": self.aborted,
            "connections": self.lives,
            "kills": self.kills,
            "max_upstream_connections": self.max_upstream,
            "integrity_violations": self.counted.violations,
            "lane_transactions": self.counted.units,
            "fold_elements": self.counted.fold_elements,
            "hub_messages": self.counted.hub_messages,
            "seconds": (took.as_secs_f64() * 100.0).round() / 100.0,
            "replies_per_second": (self.replies as f64 / took.as_secs_f64()).round(),
        });
        line.extend(rest.as_object().expect("an object literal").clone());
        Json::Object(line)
    }
}

/// Which commit this is, with `+` when files differ from it; `unknown` outside a clone.
pub(crate) fn git() -> String {
    let ask = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let Some(commit) = ask(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let changed = ask(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    if changed { commit + "+" } else { commit }
}

/// `STORM_SEEDS`, separated by commas.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn seeds() -> Vec<u64> {
    let given = std::env::var("STORM_SEEDS").unwrap_or_else(|_| "20240611,7,4242".to_owned());
    given.split(',').map(|seed| seed.trim().parse().expect("STORM_SEEDS: numbers")).collect()
}
