//! Who is sent away, and when: all clients of a worker in a drain, those that are too old at any time.

use std::time::Duration;

use super::departure::{Departure, Schedule};
use crate::client::directory::record::ClientRecord;
use crate::client::shared::Shared;
use crate::session::MaintNotifications;
use crate::telemetry::CloseReason;

impl Shared {
    /// The process drains: every client gets its turn, those who can move by themselves first, subscribers last.
    pub(crate) fn drain(&self) {
        if self.draining() {
            return;
        }
        // A drain ends PROXY PAUSE: what is held back could never be finished.
        self.upstream.set_paused(false);
        let mut clients = self.clients.all();
        // Not in the order in which they came: clients of one application connect together, and are not to leave together.
        fastrand::shuffle(&mut clients);
        clients.sort_by_key(|record| {
            (record.subscribes(), record.session.borrow().notices == MaintNotifications::Off) // stable
        });
        // Counted once: who subscribes meanwhile keeps its place.
        let subscribers = clients.iter().filter(|record| record.subscribes()).count();
        let schedule = Schedule::new(&self.rt.config(), self.rt.now(), clients.len() - subscribers, subscribers);
        self.schedule.set(Some(schedule));
        for (place, record) in clients.iter().enumerate() {
            let departure = schedule.departure_of(place as u64);
            record.departure.set(Some(match record.departure.get() {
                // A client that is on its way out for its age keeps what it was promised.
                Some(before) => departure.after(before),
                None => departure,
            }));
            // Its task looks at the departure in its next turn, and sets its own timer.
            record.outbox.wake();
        }
    }

    /// Whether [`Shared::drain`] was called.
    pub(crate) fn draining(&self) -> bool {
        self.schedule.get().is_some()
    }

    /// The turn of a client that connects now: none, unless the process drains. Then it is behind all others'.
    pub(in crate::client) fn departure_of_newcomer(&self) -> Option<Departure> {
        self.schedule.get().map(|schedule| schedule.departure_of_newcomer())
    }

    /// The time of the drain is over.
    pub(crate) fn cut(&self) {
        for client in self.rt.outboxes.all() {
            client.close(CloseReason::DrainTimeout);
        }
    }

    /// Sends clients away that have been connected for `client.max_age`.
    pub(in crate::client) fn close_the_aged(&self) {
        let most = self.rt.config().client.max_age;
        if most.is_zero() {
            return;
        }
        let now = self.rt.now();
        self.clients.each(|record| {
            let age = crate::base::since(record.connected);
            if record.departure.get().is_none() && !record.subscribes() && age >= limit_of(most, record) {
                record.departure.set(Some(Departure::too_old(now)));
                record.outbox.wake();
            }
        });
    }
}

/// The age limit of one client: clients that came at once do not leave at once.
fn limit_of(most: Duration, record: &ClientRecord) -> Duration {
    let drawn = record.outbox.id().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54; // 0 to 1023
    most / 10 * 9 + most / 5 * u32::try_from(drawn).unwrap_or_default() / 1024
}
