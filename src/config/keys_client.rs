//! Rows of [`KEYS`](super::keys::KEYS) about clients and their limits.

use super::key::{GIB, KIB, Key, MIB, key, optional};
use super::key::{count, size, time};
use super::keys_tls;
use super::value::Kind;

pub(super) const KEYS: &[Key] = &[
    key(
        "client.max_connections",
        "10000",
        count(1, 10_000_000),
        "Clients at one time; further ones get -ERR max number of clients reached.",
    ),
    keys_tls::ACCEPT_RATE,
    keys_tls::ACCEPT_BURST,
    keys_tls::BACKLOG,
    key(
        "client.inflight_commands",
        "128",
        count(1, 1_000_000),
        "Commands of one client without a reply; then it is not read until replies come.",
    ),
    key("client.inflight_bytes", "1MiB", size(KIB, GIB), "The same in bytes of commands."),
    key(
        "client.request_timeout",
        "0s",
        time(0),
        "A command that has no answer for this long gets an error that says whether it may have been executed; the \
         client stays. Precise to 0.1s. A connection that was lent to the client is closed then, and with it a client \
         that has a transaction, a WATCH, subscriptions or other state there. Commands that wait on the server (BLPOP, \
         WAIT) may. 0s is never.",
    ),
    key(
        "client.output_soft",
        "1MiB",
        size(KIB, GIB),
        "Replies waiting for one client above which its requests wait, as long as they are fewer bytes than the replies. They \
         are read all the same, so that a pipeline can be written whole before its replies are read.",
    ),
    key(
        "client.output_limit",
        "256MiB",
        size(KIB, 64 * GIB),
        "Replies waiting for one client above which it is closed. When those and its requests that wait are that much \
         together, it is not read, and it is closed if it takes nothing for 2s then.",
    ),
    key(
        "client.output_stall_time",
        "60s",
        time(0),
        "A client for which more than client.output_soft waits, and which takes not one byte for this long, nor sends 1 KiB \
         a second, is closed. 0s is never.",
    ),
    key("client.pubsub_output_limit", "32MiB", size(KIB, 64 * GIB), "The same for a client with subscriptions."),
    key(
        "client.query_buffer_limit",
        "1GiB",
        size(MIB, 64 * GIB),
        "Size of one unfinished request above which the client is closed.",
    ),
    key(
        "client.proxy_commands",
        "true",
        Kind::Switch,
        "Answer PROXY, of which PROXY HELP lists the subcommands. Clients that have not logged in where the \
         upstream wants a login get HELP, WHOAMI and EXPLAIN only; while the upstream cannot be asked, clients of this \
         machine may read the rest, too.",
    ),
    optional(
        "client.max_per_source",
        "1000",
        count(1, 10_000_000),
        "Clients of one IP address at one time; further ones get -ERR max number of clients reached. Not set is no \
         limit of its own: behind NAT, or in a pod, many applications have one address.",
    ),
    key(
        "client.partial_timeout",
        "30s",
        time(0),
        "A client that has sent the beginning of a request and not its end is closed after this long, unless it sent at \
         least 1 KiB a second in that time; then it gets as long again. 0s is never.",
    ),
    key(
        "client.max_age",
        "0s",
        time(0),
        "A client is sent away at a request boundary when it has been connected for this long, give or take 10%, so that \
         it comes back and may find another replica. Clients that asked for maintenance notifications are told before \
         (drain.endpoint). Never inside a transaction or a blocking command, and not while it has subscriptions. 0s is \
         never.",
    ),
    key("client.tcp_keepalive", "300s", time(0), "TCP keepalive towards clients. 0s is none."),
    key(
        "client.verify_privileged",
        "true",
        Kind::Switch,
        "Ask the upstream whether the user may, before CLIENT LIST, KILL, UNBLOCK, PAUSE and NO-EVICT \
         are answered here.",
    ),
    key(
        "client.exact_connection_commands",
        "false",
        Kind::Switch,
        "Has no effect any more and will be unknown in the next version: the upstream is always asked whether the user \
         may, once for each user and command.",
    ),
];
