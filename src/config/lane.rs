//! `[lane]`: shared connections. Pure.

use std::time::Duration;

use super::check::Check;
use super::key::{GIB, KIB, Key, MIB, count, size, table, time};
use super::settings::Settings;

table! {
    /// Limits and checks of one shared connection.
    pub struct Lane = "lane." {
        /// A larger command does not go over a shared connection, where others would wait behind it.
        max_command_bytes: usize = size("256KiB", KIB, 512 * MIB);
        /// Commands on one shared connection whose replies are outstanding; then its clients are not read.
        max_inflight_commands: usize = count("16384", 1, 1_000_000);
        /// Bytes of commands queued on one shared connection; then its clients are not read.
        max_inflight_bytes: usize = size("8MiB", KIB, GIB);
        /// Commands between two checks that replies still match commands.
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
