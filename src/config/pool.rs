//! `[pool]`: connections lent to one client at a time. Pure.

use std::time::Duration;

use super::key::{Key, count, table, time};
use super::settings::Settings;

table! {
    /// Connections lent to one client at a time.
    pub struct Pool = "pool." {
        /// How long a client waits for a connection to be pinned to (transactions, blocking commands).
        wait_timeout: Duration = time("5s", 0);
        /// Clients that may wait in line for one; further ones are answered with an error at once.
        max_waiters: usize = count("16384", 0, 1_000_000);
        /// A client that sends nothing inside MULTI or after WATCH for this long loses its pinned connection, and its
        /// transaction does not run: EXEC is nil or an error. 0s is never.
        idle_transaction_timeout: Duration = time("60s", 0);
    }
}
