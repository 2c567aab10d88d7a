//! `client.request_timeout` on a held connection.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use super::Pinned;
use super::expect::Expect;
use crate::client::connection::{Client, Closed};
use crate::telemetry::{CloseReason, Origin, RequestOutcome, UpstreamCloseReason};
use crate::upstream::TOO_LATE;

impl Pinned {
    /// Ready when the oldest command has waited for too long. What waits on the server may; and in the middle of a
    /// reply nothing else can be said.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.node.rt.rules_ref().config.client.request_timeout;
        let oldest = self.expect.front().filter(|expect| !expect.blocks()).map(|expect| expect.at);
        // No timer where nobody waits for one.
        let Some(since) = oldest.filter(|_| !patience.is_zero() && !self.streaming) else {
            self.late = None;
            return Poll::Pending;
        };
        loop {
            let waited = Duration::from_nanos(self.node.rt.now().saturating_sub(since));
            let left = patience.saturating_sub(waited);
            if left.is_zero() {
                return Poll::Ready(());
            }
            let timer = self.late.get_or_insert_with(|| Box::pin(sleep(left)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // It was set for an older command, or rings a little early.
            self.late = None;
        }
    }

    /// The oldest command is late. Its answer may still come, so that the connection is of no use to anybody: it is
    /// closed. A client of which nothing is kept there stays, and learns that nobody knows what became of its commands;
    /// any other is closed, as when the connection is lost.
    pub(in crate::client) fn give_up(mut self, client: &Client) -> Result<(), Closed> {
        let connection = self.lease.as_mut().and_then(|lease| lease.link().client()).map_or(0, |client| client.id);
        let command = self.node.rt.command_name(self.expect.front().map(|expect| expect.id));
        tracing::warn!(
            upstream = %self.node.address(),
            connection,
            command,
            "pinned connection given up: it has owed a reply for client.request_timeout"
        );
        self.node.rt.shard.request_timeouts[RequestOutcome::Unknown].add(self.expect.len() as u64);
        // Before anything is said: the late answer must reach nobody.
        self.spoil(UpstreamCloseReason::Timeout);
        if !self.sticky().is_empty() || !self.expect.iter().all(Expect::leaves_nothing) {
            return Err(Closed(CloseReason::UpstreamLost));
        }
        for expect in self.expect.drain(..) {
            if !expect.suppressed {
                self.node.rt.shard.error(Origin::Proxy, b"ERR");
                client.outbox().push(&self.node.rt.buffers, TOO_LATE);
            }
            if expect.own {
                client.outbox().on_own_publish(&self.node.rt.buffers, true);
            }
        }
        Ok(()) // dropping the lease closes the connection
    }
}
