//! What a person on call wants to hear of when it happens: counters whose growth is an event, each with its words.
//!
//! They are looked at once a second from the main thread, so that no worker has to tell anybody.

use super::facts::ProcessFacts;
use super::reasons::{
    AcceptError, AnomalyReason, CloseReason, HandshakeResult, LogLevel, LoginResult, LossVerdict, RefuseReason,
    RejectReason, ReloadResult, ShedStep, TlsSide, UpstreamKind,
};
use super::shard::Shard;

type OfShards = Box<dyn Fn(&Shard) -> u64 + Send + Sync>;
type OfFacts = Box<dyn Fn(&ProcessFacts) -> u64 + Send + Sync>;

/// One of them.
pub(super) struct Watched {
    pub level: LogLevel,
    /// Says what happened and which setting decides it.
    pub text: String,
    read: Read,
}

enum Read {
    Shards(OfShards),
    Facts(OfFacts),
}

impl Watched {
    /// How often up to now.
    pub(super) fn total<'a>(&self, shards: impl Iterator<Item = &'a Shard>, facts: &ProcessFacts) -> u64 {
        match &self.read {
            Read::Shards(read) => shards.map(read).sum(),
            Read::Facts(read) => read(facts),
        }
    }

    /// It has been a limit, or a failure, rather than something that was asked for.
    pub(super) fn is_bad(&self) -> bool {
        matches!(self.level, LogLevel::Warn | LogLevel::Error)
    }
}

/// All of them.
pub(super) fn all() -> Vec<Watched> {
    let mut all = Vec::new();
    limits(&mut all);
    upstream(&mut all);
    files(&mut all);
    all
}

fn shards(
    all: &mut Vec<Watched>,
    level: LogLevel,
    text: impl Into<String>,
    read: impl Fn(&Shard) -> u64 + Send + Sync + 'static,
) {
    all.push(Watched { level, text: text.into(), read: Read::Shards(Box::new(read)) });
}

/// Clients and commands that were turned away.
fn limits(all: &mut Vec<Watched>) {
    use LogLevel::{Error, Warn};
    for (reason, why) in [
        (RejectReason::Limit, "client.max_connections"),
        (RejectReason::Source, "client.max_per_source"),
        (RejectReason::Memory, "memory.limit"),
        (RejectReason::User, "unix.allow_uids"),
        (RejectReason::Handshakes, "tls.max_handshakes"),
        (RejectReason::Upstream, "the upstream takes no connections"),
    ] {
        shards(all, Warn, format!("clients refused: {why}"), move |s| s.client_rejected[reason].value());
    }
    for (reason, why) in [
        (CloseReason::OutputLimit, "replies left unread (client.output_limit)"),
        (CloseReason::QueryBuffer, "a request too large (client.query_buffer_limit)"),
        (CloseReason::PartialRequest, "a request that did not end (client.partial_timeout)"),
        (CloseReason::AuthTimeout, "no login (auth.timeout)"),
        (CloseReason::DrainTimeout, "the drain took too long (drain.timeout)"),
    ] {
        shards(all, Warn, format!("clients closed: {why}"), move |s| s.client_closed[reason].value());
    }
    shards(all, Warn, "clients closed: buffers were full (memory.limit)", |s| s.shed[ShedStep::Close].value());
    shards(all, Warn, "clients not read for a while: buffers were full (memory.limit)", |s| {
        s.shed[ShedStep::Pause].value()
    });
    shards(all, Warn, "waits in vain for a connection of one's own (pool.wait_timeout)", |s| s.pool_timeouts.value());
    shards(all, Warn, "logins refused unseen (auth.max_failures)", |s| s.logins[LoginResult::Throttled].value());
    shards(all, Warn, "commands denied (commands.deny)", |s| s.commands_rejected[RefuseReason::Denied].value());
    shards(all, Warn, "commands given up (client.request_timeout)", |s| {
        s.request_timeouts.as_slice().iter().map(super::cells::Count::value).sum()
    });
    shards(all, Error, "clients not accepted: no file descriptor", |s| {
        s.accept_errors[AcceptError::Descriptors].value()
    });
    shards(all, Warn, "TLS handshakes of clients timed out", |s| s.handshakes[HandshakeResult::Timeout].value());
}

/// Connections to the upstream that were lost or killed.
fn upstream(all: &mut Vec<Watched>) {
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
fn files(all: &mut Vec<Watched>) {
    for (side, whose) in [(TlsSide::Client, "shown to clients"), (TlsSide::Upstream, "for the upstream")] {
        for (result, level, what) in [
            (ReloadResult::Success, LogLevel::Info, "was read again and is in use"),
            (ReloadResult::Failure, LogLevel::Error, "changed and cannot be used: the old one stays"),
        ] {
            let read = move |facts: &ProcessFacts| facts.reloads(side as usize, result as usize);
            all.push(Watched {
                level,
                text: format!("the certificate {whose} {what}"),
                read: Read::Facts(Box::new(read)),
            });
        }
    }
}
