//! What the storm found, counted by kind, and its one line of JSON.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

/// What can be wrong. Each of these must be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
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

impl Verdict {
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
    found: [u64; Verdict::ALL.len()],
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
    /// Upstream connections killed.
    pub(crate) kills: u64,
    /// The most upstream connections of the proxy that were seen at once.
    pub(crate) max_upstream: u64,
}

impl Tally {
    pub(crate) fn found(&mut self, verdict: Verdict, what: impl FnOnce() -> String) {
        self.found[verdict as usize] += 1;
        if self.told.len() < TOLD {
            self.told.push(format!("{verdict:?}: {}", what()));
        }
    }

    pub(crate) fn count(&self, verdict: Verdict) -> u64 {
        self.found[verdict as usize]
    }

    /// All findings together; a storm is green only at 0.
    pub(crate) fn wrong(&self) -> u64 {
        self.found.iter().sum()
    }

    /// The line for the record.
    pub(crate) fn json(&self, arm: &str, seed: u64, clients: usize, took: Duration) -> Json {
        let mut line = Map::new();
        line.insert("arm".into(), json!(arm));
        line.insert("seed".into(), json!(seed));
        line.insert("clients".into(), json!(clients));
        line.insert("replies".into(), json!(self.replies));
        for verdict in Verdict::ALL {
            line.insert(format!("{verdict:?}").to_lowercase(), json!(self.count(verdict)));
        }
        let rest = json!({
            "ledger_writes": self.ledger_writes,
            "unknown_present": self.unknown_present,
            "unknown_absent": self.unknown_absent,
            "refused": self.refused,
            "disconnects": self.disconnects,
            "aborted": self.aborted,
            "connections": self.lives,
            "kills": self.kills,
            "max_upstream_connections": self.max_upstream,
            "seconds": (took.as_secs_f64() * 100.0).round() / 100.0,
            "replies_per_second": (self.replies as f64 / took.as_secs_f64()).round(),
        });
        line.extend(rest.as_object().expect("an object literal").clone());
        Json::Object(line)
    }
}
