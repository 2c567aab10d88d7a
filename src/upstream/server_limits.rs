//! The server's limits on connections (docs/design/semantics.md 3.4): asked for, and what follows from them here. A
//! lane is one connection to the server and many to us, so what the server would do to one client, respmux does; see
//! deploy/server-parameters.md for every parameter.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use super::{Control, Node, Outbox};
use crate::config;
use crate::link::{Link, decoded};
use crate::resp::encode;
use crate::telemetry::{BufferKind, CloseReason, OutputLimit, ServerLimits};

/// What is asked for. By one name each: several in one question came with 7.0 only.
const ASKED: [&str; 9] = [
    "busy-reply-threshold",
    "proto-max-bulk-len",
    "client-output-buffer-limit",
    "timeout",
    "client-query-buffer-limit",
    "maxmemory-clients",
    "maxmemory",
    "maxclients",
    "enable-debug-command",
];
/// The server takes no smaller `maxmemory-clients` seriously, bytes.
const LEAST_CLIENTS_MEMORY: u64 = 128 << 10;
/// A client that holds less is not evicted: it would free nothing, bytes.
const SMALL: usize = 4 << 10;

/// Asks the server for its limits.
///
/// # Errors
/// No answer in time, or none at all: it may still come, and must not be taken for that of the next question.
pub(super) async fn learn(node: &Node, link: &mut Link) -> io::Result<()> {
    let mut command = BytesMut::new();
    for name in ASKED {
        encode::command(&mut command, &["CONFIG", "GET", name]);
    }
    let replies = timeout(node.rt.config().upstream.handshake_timeout, link.call(&command, ASKED.len())).await??;
    if node.control.on_replies(&replies) {
        node.control.ask_limits_again(); // not told: asked again at the next turn
        return Ok(());
    }
    let texts: Vec<Option<String>> = ASKED.iter().zip(&replies).map(|(name, reply)| value_of(reply, name)).collect();
    let number = |at: usize| texts[at].as_ref().and_then(|text| text.parse().ok());
    node.facts.on_limits(number(0), number(1));
    node.control.learn_debug(&replies[8]);
    if texts.iter().all(Option::is_none) {
        // Once, not at every turn.
        if !node.control.limits_refused() {
            let words = String::from_utf8_lossy(&replies[0]).trim_end().to_owned();
            tracing::warn!(
                worker = node.rt.worker, upstream = %node.address(),
                words,
                "the upstream does not tell its limits on connections (CONFIG GET): respmux assumes that none are set"
            );
        }
        return Ok(());
    }
    let limits = parsed(&texts);
    if node.facts.on_server_limits(limits) {
        tell(node, &limits);
    }
    node.notice_limits();
    Ok(())
}

fn value_of(reply: &[u8], name: &str) -> Option<String> {
    let value = decoded(reply).ok()?;
    String::from_utf8(value.field(name)?.as_text()?.to_vec()).ok()
}

/// From the values of [`ASKED`], in its order.
fn parsed(texts: &[Option<String>]) -> ServerLimits {
    let text = |at: usize| texts.get(at).and_then(Option::as_deref).unwrap_or_default();
    // What cannot be read counts as no limit: respmux carries out only what the server has said.
    let number = |at: usize| text(at).parse().unwrap_or(0);
    ServerLimits {
        normal: output_limit(text(2), "normal"),
        pubsub: output_limit(text(2), "pubsub"),
        timeout: number(3),
        query_buffer: number(4),
        clients_memory: clients_memory(text(5), number(6)),
        max_clients: number(7),
    }
}

/// Of a class in `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`.
fn output_limit(text: &str, class: &str) -> OutputLimit {
    let mut words = text.split(' ').skip_while(|word| *word != class).skip(1).map(|word| word.parse().unwrap_or(0));
    let mut next = || words.next().unwrap_or(0);
    OutputLimit { hard: next(), soft: next(), soft_seconds: next() }
}

/// `maxmemory-clients` in bytes; a share of `maxmemory` is written `5%`.
fn clients_memory(text: &str, maxmemory: u64) -> u64 {
    let bytes = match text.strip_suffix('%') {
        Some(percent) => maxmemory / 100 * percent.parse::<u64>().unwrap_or(0),
        None => text.parse().unwrap_or(0),
    };
    if bytes == 0 { 0 } else { bytes.max(LEAST_CLIENTS_MEMORY) }
}

/// Says to the operator what the limits mean here; once for each change.
fn tell(node: &Node, limits: &ServerLimits) {
    let config = node.rt.config();
    let (most, cap) = (limits.max_clients, config.upstream.max_connections as u64);
    if most > 0 && most < cap {
        tracing::warn!(
            upstream = %node.address(),
            maxclients = most,
            cap,
            "the upstream accepts fewer connections than upstream.max_connections: it refuses those beyond"
        );
    }
    let (replies, needed) = (limits.normal.least(), config.lane.max_command_bytes as u64);
    if replies > 0 {
        tracing::info!(
            upstream = %node.address(),
            hard = limits.normal.hard,
            soft = limits.normal.soft,
            seconds = limits.normal.soft_seconds,
            "the upstream limits the output of normal clients: reads are sent apart from writes, a few at a time"
        );
    }
    if replies > 0 && replies < needed {
        tracing::warn!(
            upstream = %node.address(),
            limit = replies,
            needed,
            "client-output-buffer-limit normal is smaller than lane.max_command_bytes: shared connections may be lost"
        );
    }
}

impl Node {
    /// Takes over what another worker, or this one, has heard. Called at every tick.
    pub(super) fn notice_limits(&self) {
        let changes = self.facts.server_limit_changes();
        if self.server_heard.replace(changes) == changes {
            return;
        }
        let (now, before) = (self.facts.server_limits(), self.server.get());
        self.server.set(now);
        self.on_output_limits();
        self.long_replies.guard(usize::try_from(now.normal.least()).unwrap_or(usize::MAX));
        let of_lanes =
            |limits: &ServerLimits| (limits.normal.least(), requests_on_a_lane(&self.rt.config().lane, limits));
        if of_lanes(&now) != of_lanes(&before) {
            self.lanes.rotate(self); // a lane keeps the guard it was made with
        }
    }

    /// How often an open, silent connection is sent a PING: before the server's `timeout` closes it.
    #[must_use]
    pub(super) fn keepalive(&self) -> Duration {
        let (own, server) = (self.rt.config().upstream.keepalive, self.server.get().timeout);
        match (own.is_zero(), quarter(server)) {
            (_, None) => own,
            (true, Some(quarter)) => quarter,
            (false, Some(quarter)) => own.min(quarter),
        }
    }

    /// For how long a connection may be kept that nobody uses and that is sent nothing.
    #[must_use]
    pub(super) fn idle_limit(&self) -> Duration {
        let own = self.rt.config().upstream.idle_timeout;
        quarter(self.server.get().timeout).map_or(own, |quarter| own.min(quarter))
    }

    /// `maxmemory-clients`: while the buffers of all clients together are at it, those that hold most are closed, but
    /// not who said CLIENT NO-EVICT. Called at every tick.
    pub(super) fn evict(&self) {
        let limit = self.server.get().clients_memory;
        if limit == 0 {
            return;
        }
        let own = self.rt.memory.buffered(BufferKind::Input) + self.rt.memory.buffered(BufferKind::Output);
        let all = self.rt.process.memory().sum();
        if all < limit || own == 0 {
            return;
        }
        // Each worker gives its part of what is too much.
        let share = u128::from(all - limit + 1) * own as u128 / u128::from(all.max(1));
        let mut left = u64::try_from(share).unwrap_or(u64::MAX).max(1);
        for client in self.rt.outboxes.by_size(Outbox::buffered, SMALL) {
            if left == 0 {
                break;
            }
            if client.no_evict() {
                continue;
            }
            let buffered = client.buffered();
            left = left.saturating_sub(buffered as u64);
            tracing::warn!(
                client = client.id(),
                buffered,
                limit,
                "maxmemory-clients: the client with the largest buffers is closed"
            );
            client.shed(&self.rt.buffers, CloseReason::Evicted);
        }
    }
}

/// Bytes of requests that may be under way on a lane: the server closes it when more wait there than
/// `client-query-buffer-limit`.
pub(super) fn requests_on_a_lane(lane: &config::Lane, limits: &ServerLimits) -> usize {
    let half = usize::try_from(limits.query_buffer / 2).unwrap_or(usize::MAX);
    if half == 0 { lane.max_inflight_bytes } else { lane.max_inflight_bytes.min(half) }
}

/// A quarter of the server's `timeout`, which is in seconds; nothing when it has none. Early, because a worker may be
/// late.
fn quarter(timeout: u64) -> Option<Duration> {
    (timeout > 0).then(|| Duration::from_millis(timeout.min(1 << 40) * 250))
}

impl Control {
    /// Whether it was known already that the server does not tell its limits.
    fn limits_refused(&self) -> bool {
        self.limits_refused.replace(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_server_writes_them() {
        let texts = [
            "5000",
            "536870912",
            "normal 1048576 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
            "7",
            "1073741824",
            "5%",
            "100000000",
            "10000",
        ];
        let limits = parsed(&texts.map(|text| Some(text.to_owned())));
        assert_eq!(limits.normal, OutputLimit { hard: 1 << 20, soft: 0, soft_seconds: 0 });
        assert_eq!(limits.pubsub, OutputLimit { hard: 32 << 20, soft: 8 << 20, soft_seconds: 60 });
        assert_eq!((limits.timeout, limits.query_buffer), (7, 1 << 30));
        assert_eq!((limits.clients_memory, limits.max_clients), (5_000_000, 10_000));
        assert_eq!(parsed(&[]), ServerLimits::default(), "what is not told is no limit");
        assert_eq!([clients_memory("0", 0), clients_memory("5%", 0), clients_memory("1", 0)], [0, 0, 128 << 10]);
    }
}
