//! What a lane looks like, as values that can travel between workers. For PROXY.

use std::time::Duration;

use super::{ClientKey, Lane};
use crate::link::ServerClient;
use crate::session::RouteKey;

/// One lane.
#[derive(Clone, Debug)]
pub(crate) struct LaneReport {
    pub worker: usize,
    /// Unique in the worker.
    pub id: u64,
    pub key: RouteKey,
    /// The lane is for long replies.
    pub for_long_replies: bool,
    pub phase: &'static str,
    /// The lane owes replies and has been silent for too long.
    pub suspect: bool,
    /// The lane takes no new requests.
    pub retired: bool,
    pub in_flight: usize,
    /// For how long the oldest request has waited.
    pub oldest: Duration,
    /// Bytes that wait to be written, and of replies that are not complete.
    pub queued: usize,
    /// Clients that wait for room on it.
    pub waiting: usize,
    /// Time since the lane was connected, or first wanted.
    pub age: Duration,
    /// CLIENT ID of its connection on the upstream; 0 when there is none.
    pub upstream_id: i64,
    /// Clients whose commands would go over it.
    pub clients: usize,
}

impl Lane {
    /// The lane now.
    pub(in crate::upstream) fn report(&self, worker: usize, for_long_replies: bool, now: u64) -> LaneReport {
        let state = self.state.borrow();
        let since = |at: u64| Duration::from_nanos(now.saturating_sub(at));
        LaneReport {
            worker,
            id: self.id,
            key: self.key.clone(),
            for_long_replies,
            phase: self.life.phase().label(),
            suspect: self.life.is_suspect(),
            retired: !self.life.accepting(),
            in_flight: state.in_flight.len(),
            oldest: state.in_flight.oldest().map_or(Duration::ZERO, since),
            queued: state.out.len() + state.carry.len(),
            waiting: state.crowd.len(),
            age: since(state.since),
            upstream_id: self.upstream_id.get(),
            clients: 0,
        }
    }

    /// A connection stands, or the lane is without one.
    pub(super) fn on_connection(&self, connection: Option<ServerClient>, now: u64) {
        self.upstream_id.set(connection.map_or(0, |client| client.id));
        let mut state = self.state.borrow_mut();
        state.since = now;
    }

    /// The client found no room: it is woken when there is some again.
    pub fn wait_for_room(&self, client: ClientKey) {
        let mut state = self.state.borrow_mut();
        if !state.crowd.contains(&client) {
            state.crowd.push(client);
        }
    }

    /// Clients that wait for room.
    pub(crate) fn crowd(&self) -> usize {
        self.state.borrow().crowd.len()
    }
}
