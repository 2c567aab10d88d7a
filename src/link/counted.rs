//! A connection in the figures: it counts itself, from connect to its end.
//!
//! Nobody counts a connection out by hand: whoever ends it, or forgets it, drops its [`Counted`], and the gauge falls
//! in the same moment. So it cannot differ from what there is.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::Use;
use crate::base::{nanos, now, since};
use crate::telemetry::{Shard, UpstreamCloseReason, UpstreamKind, UpstreamState};

/// One upstream connection of the gauge. It lives for as long as the connection has its place: until the upstream has
/// closed its side as well.
pub(super) struct Counted {
    shard: Arc<Shard>,
    kind: UpstreamKind,
    state: UpstreamState,
    began: Instant,
}

impl Counted {
    /// A connection that is being opened.
    pub(super) fn new(shard: Arc<Shard>, purpose: Use) -> Self {
        let (kind, state) = (purpose.into(), UpstreamState::Connecting);
        shard.upstream_connections[kind][state].add(1);
        Self { shard, kind, state, began: now() }
    }

    /// Its handshake matched.
    pub(super) fn on_ready(&mut self) {
        self.enter(UpstreamState::Active);
        self.shard.upstream_opened[self.kind].inc();
        self.shard.upstream_connect_duration.record(nanos(since(self.began)));
    }

    /// The connection is back in the pool: nobody holds it.
    pub(super) fn on_returned(&mut self) {
        self.enter(UpstreamState::Idle);
    }

    /// Somebody holds it.
    pub(super) fn on_leased(&mut self) {
        self.enter(UpstreamState::Active);
    }

    /// Bytes went to the upstream in one write.
    #[inline]
    pub(super) fn on_sent(&self, bytes: usize) {
        self.shard.upstream_sent_bytes.add(bytes as u64);
    }

    /// Bytes came from the upstream in one read.
    #[inline]
    pub(super) fn on_received(&self, bytes: usize) {
        self.shard.upstream_received_bytes.add(bytes as u64);
    }

    /// The connection is being closed. The reason that is named first counts; a connection that was never ready has
    /// none.
    pub(super) fn on_closing(&mut self, reason: UpstreamCloseReason) {
        if matches!(self.state, UpstreamState::Active | UpstreamState::Idle) {
            self.shard.upstream_closed[reason].inc();
        }
        self.enter(UpstreamState::Closing);
    }

    fn enter(&mut self, state: UpstreamState) {
        let levels = &self.shard.upstream_connections[self.kind];
        levels[self.state].sub(1);
        levels[state].add(1);
        self.state = state;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shard.upstream_connections[self.kind][self.state].sub(1);
    }
}

/// What an error of a connection that stood says of its end.
impl From<&io::Error> for UpstreamCloseReason {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Upstream,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::InvalidData => Self::Anomaly,
            _ => Self::IoError,
        }
    }
}

impl From<Use> for UpstreamKind {
    fn from(purpose: Use) -> Self {
        match purpose {
            Use::Lane => Self::Lane,
            Use::Pool => Self::Pool,
            Use::Login => Self::Login,
            Use::Control => Self::Control,
            Use::Hub => Self::Hub,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_in_one_state_until_it_is_dropped() {
        let shard = Arc::new(Shard::new(0));
        let level = |state: UpstreamState| shard.upstream_connections[UpstreamKind::Pool][state].value();
        let levels = || UpstreamState::ALL.iter().map(|state| level(*state)).collect::<Vec<_>>();
        let mut one = Counted::new(Arc::clone(&shard), Use::Pool);
        let mut two = Counted::new(Arc::clone(&shard), Use::Pool);
        assert_eq!((level(UpstreamState::Connecting), levels().iter().sum::<u64>()), (2, 2));
        one.on_ready();
        one.on_returned();
        assert_eq!((level(UpstreamState::Idle), level(UpstreamState::Active)), (1, 0));
        one.on_leased();
        one.on_closing(UpstreamCloseReason::Moved);
        one.on_closing(UpstreamCloseReason::Client);
        two.on_closing(UpstreamCloseReason::Client); // it never was ready
        assert_eq!((level(UpstreamState::Closing), levels().iter().sum::<u64>()), (2, 2));
        drop((one, two));
        assert_eq!(levels().iter().sum::<u64>(), 0);
        assert_eq!(shard.upstream_opened[UpstreamKind::Pool].value(), 1);
        let closed = UpstreamCloseReason::ALL.iter().map(|reason| shard.upstream_closed[*reason].value());
        assert_eq!((closed.sum::<u64>(), shard.upstream_closed[UpstreamCloseReason::Moved].value()), (1, 1));
    }
}
