//! What a person on call wants to hear of when it happens: counters whose growth is an event, each with its words.
//!
//! They are looked at once a second from the main thread, so that no worker has to tell anybody.

use super::facts::ProcessFacts;
use super::reasons::{
    AcceptError, AnomalyReason, CloseReason, HandshakeResult, LogLevel, LoginResult, LossVerdict, RefuseReason,
    RejectReason, ReloadResult, ShedStep, StallReason, TlsSide, UpstreamKind,
};
use super::shard::Shard;

type OfShards = Box<dyn Fn(&Shard) -> u64 + Send + Sync>;
type OfFacts = Box<dyn Fn(&ProcessFacts) -> u64 + Send + Sync>;

/// One event that is counted anyway and shown as "limits hit and failures".
pub(super) struct CounterEvent {
    pub level: LogLevel,
    /// Says what happened and which setting decides it.
    pub text: String,
    /// No other line of the log tells of this event, so a line is written for it.
    pub is_to_be_logged: bool,
    read: Read,
}

enum Read {
    Shards(OfShards),
    Facts(OfFacts),
}

impl CounterEvent {
    /// How often the event has happened since the start.
    pub(super) fn total<'a>(&self, shards: impl Iterator<Item = &'a Shard>, facts: &ProcessFacts) -> u64 {
        match &self.read {
            Read::Shards(read) => shards.map(read).sum(),
            Read::Facts(read) => read(facts),
        }
    }

    /// Whether the event is a limit or a failure, rather than something that somebody asked for.
    pub(super) fn is_bad(&self) -> bool {
        matches!(self.level, LogLevel::Warn | LogLevel::Error)
    }

    /// Time between two lines of log about it, milliseconds: what costs nobody anything is said once in a while.
    pub(super) fn log_every(&self) -> u64 {
        if self.is_bad() { 60_000 } else { 3_600_000 }
    }
}

/// All watched events, in the order in which they are shown.
pub(super) fn all() -> Vec<CounterEvent> {
    let mut all = Vec::new();
    refusals(&mut all);
    ends(&mut all);
    waits(&mut all);
    failures(&mut all);
    upstream(&mut all);
    files(&mut all);
    all
}

/// Something that no other line of log says.
fn limit(
    all: &mut Vec<CounterEvent>,
    level: LogLevel,
    text: impl Into<String>,
    read: impl Fn(&Shard) -> u64 + Send + Sync + 'static,
) {
    all.push(CounterEvent { level, text: text.into(), is_to_be_logged: true, read: Read::Shards(Box::new(read)) });
}

/// Something that has its own line of log, with more in it.
fn shards(
    all: &mut Vec<CounterEvent>,
    level: LogLevel,
    text: impl Into<String>,
    read: impl Fn(&Shard) -> u64 + Send + Sync + 'static,
) {
    all.push(CounterEvent { level, text: text.into(), is_to_be_logged: false, read: Read::Shards(Box::new(read)) });
}

/// Limits at which clients, logins and commands are turned away.
fn refusals(all: &mut Vec<CounterEvent>) {
    use LogLevel::Warn;
    for (reason, why) in [
        (RejectReason::Limit, "client.max_connections"),
        (RejectReason::Source, "client.max_per_source"),
        (RejectReason::Memory, "memory.limit"),
        (RejectReason::User, "unix.allow_uids"),
        (RejectReason::Handshakes, "tls.max_handshakes"),
        (RejectReason::Internal, "their sockets could not be watched"),
    ] {
        limit(all, Warn, format!("clients refused: {why}"), move |s| s.client_rejected[reason].value());
    }
    limit(all, Warn, "logins refused unseen (auth.max_failures, auth.failure_window)", |s| {
        s.logins[LoginResult::Throttled].value()
    });
    limit(all, Warn, "logins that nobody could judge: the upstream could not be asked", |s| {
        s.logins[LoginResult::Unavailable].value()
    });
    limit(all, Warn, "commands denied (commands.deny)", |s| s.commands_rejected[RefuseReason::Denied].value());
    limit(all, Warn, "PROXY refused: the user has no right to it", |s| {
        s.commands_rejected[RefuseReason::ProxyRight].value()
    });
    limit(all, Warn, "commands given up (client.request_timeout)", |s| {
        s.request_timeouts.as_slice().iter().map(super::cells::Count::value).sum()
    });
    limit(all, Warn, "clients that waited in vain for a pinned connection (pool.wait_timeout)", |s| {
        s.pool_limits.timeouts.value()
    });
    limit(all, Warn, "clients for which the line for a pinned connection was full (pool.max_waiters)", |s| {
        s.pool_limits.line_full.value()
    });
}

/// Limits at which clients are closed, or lose something.
fn ends(all: &mut Vec<CounterEvent>) {
    use LogLevel::Warn;
    for (reason, why) in [
        (
            CloseReason::OutputLimit,
            "replies left unread (client.output_limit, client.output_stall_time; with subscriptions \
             client.pubsub_output_limit, pubsub.output_soft, pubsub.output_soft_time; without a login auth.max_output)",
        ),
        (CloseReason::QueryBuffer, "a request too large (client.query_buffer_limit)"),
        (CloseReason::PartialRequest, "a request that did not end (client.partial_timeout)"),
        (CloseReason::AuthTimeout, "no login (auth.timeout)"),
        (CloseReason::AuthCommands, "too many commands without a login (auth.max_commands)"),
        (CloseReason::AuthInput, "too much input without a login (auth.max_input)"),
    ] {
        limit(all, Warn, format!("clients closed: {why}"), move |s| s.client_closed[reason].value());
    }
    limit(all, Warn, "TLS handshakes of clients timed out (tls.handshake_timeout)", |s| {
        s.handshakes[HandshakeResult::Timeout].value()
    });
    limit(all, Warn, "transactions given up: their clients were silent (pool.idle_transaction_timeout)", |s| {
        s.pool_limits.idle_transactions.value()
    });
    shards(all, Warn, "clients closed: the drain took too long (drain.timeout)", |s| {
        s.client_closed[CloseReason::DrainTimeout].value()
    });
    shards(all, Warn, "clients closed: buffers were full (memory.limit)", |s| s.shed[ShedStep::Close].value());
}

/// Limits at which somebody has to wait.
fn waits(all: &mut Vec<CounterEvent>) {
    use LogLevel::{Info, Warn};
    limit(all, Warn, "clients left waiting to be accepted (client.accept_rate, client.accept_burst)", |s| {
        s.accept_stalls.value()
    });
    limit(all, Warn, "clients not read for a while: buffers were full (memory.limit)", |s| {
        s.shed[ShedStep::Pause].value()
    });
    limit(all, Info, "logins delayed after a failure (auth.failure_delay, auth.failure_delay_max)", |s| {
        s.logins_delayed.value()
    });
    limit(all, Info, "clients whose requests wait until they read (client.output_soft)", |s| {
        s.client_stalls[StallReason::Output].value()
    });
    for (reason, text) in [
        (StallReason::Inflight, "they had replies (client.inflight_commands, client.inflight_bytes)"),
        (
            StallReason::LaneFull,
            "their shared connection had room (lane.max_inflight_commands, lane.max_inflight_bytes)",
        ),
    ] {
        limit(all, Info, format!("clients not read until {text}"), move |s| s.client_stalls[reason].value());
    }
    limit(all, Info, "commands on pinned connections for want of a shared one (upstream.max_connections)", |s| {
        s.lane_overflow.value()
    });
}

/// What kept the process from serving clients.
fn failures(all: &mut Vec<CounterEvent>) {
    shards(all, LogLevel::Error, "clients not accepted: no file descriptor", |s| {
        s.accept_errors[AcceptError::Descriptors].value()
    });
}

/// Connections to the upstream that were lost or killed.
fn upstream(all: &mut Vec<CounterEvent>) {
    use LogLevel::{Error, Warn};
    for reason in AnomalyReason::ALL {
        let text = format!("an upstream connection was killed because it could not be trusted: {reason}");
        let sum = move |s: &Shard| UpstreamKind::ALL.iter().map(|k| s.integrity_violations[*k][*reason].value()).sum();
        shards(all, Error, text, sum);
    }
    shards(all, Warn, "a shared connection was lost", |s| s.lane_losses[LossVerdict::Dead].value());
    shards(all, Warn, "a shared connection was given up: it owed replies and was silent", |s| {
        s.lane_losses[LossVerdict::Hung].value() + s.lane_losses[LossVerdict::Abandoned].value()
    });
    shards(all, Error, "a worker's circuit opened: commands are answered without waiting", |s| {
        s.circuit_opened.value()
    });
    shards(all, Warn, "commands answered without the upstream: it is not there", |s| {
        s.commands_rejected[RefuseReason::UpstreamDown].value()
    });
}

/// What was read again.
fn files(all: &mut Vec<CounterEvent>) {
    for (side, whose) in [(TlsSide::Client, "shown to clients"), (TlsSide::Upstream, "for the upstream")] {
        for (result, level, what) in [
            (ReloadResult::Success, LogLevel::Info, "was read again and is in use"),
            (ReloadResult::Failure, LogLevel::Error, "changed and cannot be used: the old one stays"),
        ] {
            let read = move |facts: &ProcessFacts| facts.reloads(side as usize, result as usize);
            all.push(CounterEvent {
                level,
                text: format!("the certificate {whose} {what}"),
                is_to_be_logged: false,
                read: Read::Facts(Box::new(read)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;

    /// Keys of the tables with limits that none is reached of: switches, files, and times after which nobody loses
    /// anything. Everything else is a limit.
    const NO_LIMITS: &[&str] = &[
        // The kernel keeps the backlog, and tells nobody when it is full.
        "client.backlog",
        "client.max_age",
        "client.proxy_commands",
        "client.tcp_keepalive",
        "client.verify_privileged",
        "client.exact_connection_commands",
        "auth.mode",
        "auth.users",
        "auth.proxy_read",
        "auth.proxy_write",
        "tls.cert_file",
        "tls.key_file",
        "tls.client_ca_file",
        "tls.client_auth",
        "tls.min_version",
        "tls.reload_interval",
        "unix.mode",
        // Sizes and times by which the way of a command is chosen.
        "lane.max_command_bytes",
        "lane.canary_commands",
        "lane.canary_interval",
        "lane.busy_threshold",
        "pubsub.mode",
        "pubsub.resp3",
    ];
    const TABLES: &[&str] = &["client", "auth", "tls", "unix", "pool", "memory", "lane", "pubsub"];

    #[test]
    fn every_limit_is_watched_and_logged() {
        let (watched, mut limits) = (all(), 0);
        for key in KEYS.iter().filter(|key| TABLES.contains(&key.table_and_name().0)) {
            let says = |w: &&CounterEvent| w.text.split([' ', '(', ')', ',', ':', ';']).any(|word| word == key.path);
            let found: Vec<_> = watched.iter().filter(says).collect();
            if NO_LIMITS.contains(&key.path) {
                assert!(found.is_empty(), "{} is a limit after all", key.path);
                continue;
            }
            limits += 1;
            assert!(found.iter().any(|w| w.is_to_be_logged), "{}: nobody hears that it was reached", key.path);
        }
        assert!(limits > 30, "{limits}");
    }

    #[test]
    fn every_text_says_one_thing() {
        let mut texts: Vec<_> = all().into_iter().map(|watched| watched.text).collect();
        let count = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count);
    }
}
