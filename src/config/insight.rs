//! What respmux keeps for the people who operate it: slow requests and hot keys.

use std::time::Duration;

use super::key::{Key, count, key, time};
use super::value::Kind;
use super::values::Values;

pub(super) const SLOWLOG_THRESHOLD: Key = key(
    "slowlog.threshold",
    "10ms",
    time(0),
    "A request that took at least this long, from its arrival to its reply, is kept for PROXY SLOWLOG. Commands that \
     wait on purpose (BLPOP, WAIT) are not. 0s keeps none.",
);

pub(super) const SLOWLOG_SIZE: Key = key(
    "slowlog.size",
    "128",
    count(1, 10_000),
    "Slow requests that each worker keeps; the oldest gives way. One takes about 200 bytes.",
);

pub(super) const SLOWLOG_KEYS: Key = key(
    "slowlog.keys",
    "false",
    Kind::Switch,
    "Keep the key of slow requests on shared connections, too. Costs a copy of every request in flight. Values are never \
     kept.",
);

pub(super) const HOTKEYS_SAMPLE: Key = key(
    "hotkeys.sample",
    "0",
    count(0, 1_000_000),
    "One in so many commands on shared connections is looked at for PROXY HOTKEYS; 0 is none. Each worker remembers 64 \
     keys, so a key with less than about 2 % of the commands may be missing.",
);

/// Slow requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slowlog {
    /// From which on a request is slow; zero is never.
    pub threshold: Duration,
    /// How many each worker keeps; at least one.
    pub size: usize,
    /// With their key.
    pub keys: bool,
}

/// Keys that are used most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hotkeys {
    /// One command in so many is looked at; zero is none.
    pub sample: usize,
}

impl Values<'_> {
    pub(super) fn slowlog(&self) -> Slowlog {
        Slowlog {
            threshold: self.time("slowlog.threshold"),
            size: self.count("slowlog.size"),
            keys: self.switch("slowlog.keys"),
        }
    }

    pub(super) fn hotkeys(&self) -> Hotkeys {
        Hotkeys { sample: self.count("hotkeys.sample") }
    }
}
