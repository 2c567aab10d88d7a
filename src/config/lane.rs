//! `[lane]`: shared connections. Pure.

use std::time::Duration;

use super::check::Check;
use super::key::{GIB, KIB, Key, MIB, count, size, table, time};
use super::settings::Settings;

table! {
    /// Limits and checks of one shared connection.
    pub struct Lane = "lane." {
        /// A larger command is not sent on a shared connection, where others would wait behind it, but on a pinned one.
        max_command_bytes: usize = size("256KiB", KIB, 512 * MIB);
        /// Commands without a reply on one shared connection; at this number its clients are not read.
        max_inflight_commands: usize = count("16384", 1, 1_000_000);
        /// Bytes of commands queued on one shared connection; at this size its clients are not read.
        max_inflight_bytes: usize = size("8MiB", KIB, GIB);
        /// Commands between two checks that replies on a shared connection still match commands.
        canary_commands: usize = count("1024", 1, 1_000_000);
        /// Longest time between two such checks while there is traffic.
        canary_interval: Duration = time("1s", 1);
        /// A shared connection that owes a reply for this long gets no further clients.
        busy_threshold: Duration = time("5s", 1);
    }
}

impl Lane {
    pub(super) const ORDERED: &[(&str, &str)] = &[("lane.max_command_bytes", "lane.max_inflight_bytes")];

    pub(super) fn check(&self, progress_timeout: Duration, check: &mut Check<'_>) {
        if progress_timeout <= self.busy_threshold {
            check.warn(
                "upstream.progress_timeout is not above lane.busy_threshold: connections are closed before they count \
                 as busy",
            );
        }
    }
}
