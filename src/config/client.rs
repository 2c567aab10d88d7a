//! `[client]`: clients and their limits. Pure.

use std::time::Duration;

use super::check::Check;
use super::key::{GIB, KIB, Key, MIB, count, optional, size, switch, table, time};
use super::kind::Kind;
use super::settings::Settings;

table! {
    /// Limits of clients.
    pub struct Client = "client." {
        /// Clients at one time; further ones get -ERR max number of clients reached.
        max_connections: usize = count("10000", 1, 10_000_000);
        /// Clients that may be accepted per second; further ones wait in the backlog, and a line in the log says so. 0
        /// is no limit: applications that connect for every request (php-fpm without persistent connections) are many
        /// per second.
        accept_rate: usize = count("0", 0, 1_000_000);
        /// Clients that may be accepted at once after a quiet time, before client.accept_rate applies.
        accept_burst: usize = count("2000", 1, 1_000_000);
        /// Clients that may wait to be accepted, for each address; the kernel caps it at net.core.somaxconn.
        backlog: usize = count("1024", 1, 65_535).restart();
        /// Commands of one client without a reply; at this number it is not read until replies come.
        inflight_commands: usize = count("128", 1, 1_000_000);
        /// Bytes of commands of one client without a reply; at this size it is not read until replies come.
        inflight_bytes: usize = size("1MiB", KIB, GIB);
        /// A command that has no answer for this long gets an error that says whether it may have been executed, and
        /// its client stays connected. Precise to 0.1s. A pinned connection is closed then, and with it a client that
        /// has a transaction, a WATCH, subscriptions or other state there. Commands that wait on the server (BLPOP,
        /// WAIT) may take longer. 0s is never.
        request_timeout: Duration = time("0s", 0);
        /// Bytes of replies waiting for one client above which its requests wait, as long as they are fewer bytes than
        /// the replies. They are read all the same, so that a pipeline can be written whole before its replies are
        /// read.
        output_soft: usize = size("1MiB", KIB, GIB);
        /// Bytes of replies waiting for one client above which it is closed. When these and its waiting requests reach
        /// the limit together, it is not read, and is closed if it takes nothing for 2s.
        output_limit: usize = size("256MiB", KIB, 64 * GIB);
        /// A client with more than client.output_soft waiting that takes not a single byte for this long, nor sends 1
        /// KiB a second, is closed. 0s is never.
        output_stall_time: Duration = time("60s", 0);
        /// client.output_limit for a client with subscriptions.
        pubsub_output_limit: usize = size("32MiB", KIB, 64 * GIB);
        /// Size of one unfinished request above which its client is closed.
        query_buffer_limit: usize = size("1GiB", MIB, 64 * GIB);
        /// Answer PROXY; PROXY HELP lists its subcommands. Where the upstream wants a login, clients without one get
        /// HELP, WHOAMI and EXPLAIN only. While the upstream cannot be asked, clients of this machine may read the
        /// rest, too.
        proxy_commands: bool = switch("true");
        /// Clients of one IP address at one time; further ones get -ERR max number of clients reached. Unset is no
        /// limit: behind NAT, or in a pod, many applications have one address.
        max_per_source: Option<usize> = optional("1000", Kind::Count { min: 1, max: 10_000_000 });
        /// A client that has sent the beginning of a request and not its end is closed after this long, unless it sent
        /// at least 1 KiB a second meanwhile; then it gets as long again. 0s is never.
        partial_timeout: Duration = time("30s", 0);
        /// A client that has been connected for this long, give or take 10%, is sent away between two requests, so that
        /// it comes back and may find another replica. Clients that asked for maintenance notifications are told before
        /// (drain.endpoint). Never inside a transaction or a blocking command, and not while it has subscriptions. 0s
        /// is never.
        max_age: Duration = time("0s", 0);
        /// TCP keepalive towards clients. 0s is none.
        tcp_keepalive: Duration = time("300s", 0);
        /// Before respmux answers CLIENT LIST, KILL, UNBLOCK, PAUSE and NO-EVICT itself, ask the upstream whether the
        /// user may run them.
        verify_privileged: bool = switch("true");
        /// Has no effect any more and will be unknown in the next version: the upstream is always asked whether the
        /// user may, once for each user and command.
        exact_connection_commands = switch("false");
    }
}

impl Client {
    pub(super) const ORDERED: &[(&str, &str)] = &[("client.output_soft", "client.output_limit")];

    pub(super) fn check(check: &mut Check<'_>) {
        if check.settings.get("client.exact_connection_commands") {
            let origin = check.settings.origin("client.exact_connection_commands");
            check.warn(format!(
                "{origin}: client.exact_connection_commands has no effect any more and will be unknown in the next \
                 version; the upstream is always asked whether the user may"
            ));
        }
    }
}
