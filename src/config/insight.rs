//! `[slowlog]` and `[hotkeys]`: what is kept for the people who operate respmux. Pure.

use std::time::Duration;

use super::key::{Key, count, switch, table, time};
use super::settings::Settings;

table! {
    /// Slow requests.
    pub struct Slowlog = "slowlog." {
        /// A request that took at least this long, from its arrival to its reply, is kept for PROXY SLOWLOG. Commands
        /// that wait on purpose (BLPOP, WAIT) are not. 0s keeps none.
        threshold: Duration = time("10ms", 0);
        /// Slow requests that each worker keeps; the oldest is dropped for a new one. One takes about 200 bytes.
        size: usize = count("128", 1, 10_000);
        /// Also keep the key of slow requests on shared connections. Costs a copy of every request in flight. Values
        /// are never kept.
        keys: bool = switch("false");
    }
}

table! {
    /// Keys that are used most.
    pub struct Hotkeys = "hotkeys." {
        /// One in this many commands on shared connections is sampled for PROXY HOTKEYS; 0 is none. Each worker
        /// remembers 64 keys, so a key with less than about 2 % of the commands may be missing.
        sample: usize = count("0", 0, 1_000_000);
    }
}
