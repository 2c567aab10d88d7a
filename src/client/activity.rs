//! What a client is doing. The client's own task moves it, by verbs that are named for what happened; CLIENT LIST, PROXY
//! CLIENTS, PROXY PAUSE, the idle timeout and the drain read it, from the same thread, between two turns of that task.
//!
//! ```text
//!            begins()              stands_in_line()
//!   Riding ───────────▶ Acting ◀──────────────────▶ Waiting
//!     ▲                 │    ▲      goes_on()
//!     └──── ends() ─────┤    │ is_released()
//!                       ▼    │
//!         blocks() ─▶ Blocked ◀─▶ its poll is under way: asks()
//! ```
//!
//! Beside that a client may be pinned: then what it does happens on a connection of its own, of which `shows` tells after
//! each turn. A pinned client can be blocked without that connection as well (WAIT), so the two are not one enum.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::link::ServerClient;
use crate::router::PinReason;
use crate::upstream::Wait;

/// What a client is doing, in one word: all there are.
pub(super) const STATES: [&str; 5] = ["open", "blocked", "transaction", "subscribed", "monitor"];

/// What a client's pinned connection adds to what is told of the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct PinnedFacts {
    pub channels: u32,
    pub patterns: u32,
    pub shards: u32,
    /// Commands queued in MULTI, -1 outside.
    pub multi: i32,
    pub monitor: bool,
    /// Why the client is pinned.
    pub reason: PinReason,
    /// A command is under way on the connection, and will end by itself.
    pub under_way: bool,
    /// The connection, while the client is blocked on it and the server can be asked to unblock it.
    pub blocked_on: Option<ServerClient>,
    /// The connection.
    pub link: Option<ServerClient>,
}

#[derive(Default)]
enum Doing {
    /// At rest, or with requests on its lane: its outbox counts those.
    #[default]
    Riding,
    /// A command is carried out aside from the lane, and may reach the upstream: PROXY PAUSE waits for its end.
    Acting,
    /// A command was taken out of the input, and nothing is under way for it: it stands in line for a connection, is
    /// held back by a pause, or needs no server. That may take as long as others like.
    Waiting,
    /// Waits without a connection of its own, together with others or asking in turns.
    Blocked {
        wait: Rc<Wait>,
        /// A question of that wait is under way.
        asks: bool,
    },
}

/// What a client is doing. Small, because every idle client has one: what only a pinned client needs is boxed.
#[derive(Default)]
pub(super) struct Activity {
    doing: RefCell<Doing>,
    pinned: RefCell<Option<Box<PinnedFacts>>>,
    /// Bytes of the arguments of the command that is carried out aside from the lane.
    arguments: Cell<u32>,
}

impl Activity {
    /// A command is carried out aside from the lane. One that cannot reach the upstream keeps no pause waiting.
    pub(super) fn begins(&self, reaches_upstream: bool, arguments: u32) {
        self.arguments.set(arguments);
        self.doing.replace(if reaches_upstream { Doing::Acting } else { Doing::Waiting });
    }

    /// That command is done with.
    pub(super) fn ends(&self) {
        self.arguments.set(0);
        self.doing.replace(Doing::Riding);
    }

    /// Nothing is begun before others are done: with a connection, or with a pause.
    pub(super) fn stands_in_line(&self) {
        self.doing.replace(Doing::Waiting);
    }

    /// The client's turn has come.
    pub(super) fn goes_on(&self) {
        self.doing.replace(Doing::Acting);
    }

    /// The client waits, it may be for ever. CLIENT UNBLOCK finds it by `wait`.
    pub(super) fn blocks(&self, wait: &Rc<Wait>) {
        self.doing.replace(Doing::Blocked { wait: Rc::clone(wait), asks: false });
    }

    /// A blocked client asks the server whether there is something; it stays blocked while it does.
    pub(super) fn asks(&self) {
        if let Doing::Blocked { asks, .. } = &mut *self.doing.borrow_mut() {
            *asks = true;
        }
    }

    /// The wait is over; the client gets its answer.
    pub(super) fn is_released(&self) {
        self.doing.replace(Doing::Acting);
    }

    /// The client is gone. Its wait, if it was blocked: somebody may have asked for the end of it.
    pub(super) fn leaves(&self) -> Option<Rc<Wait>> {
        match self.doing.take() {
            Doing::Blocked { wait, .. } => Some(wait),
            Doing::Riding | Doing::Acting | Doing::Waiting => None,
        }
    }

    /// A turn on the client's pinned connection has ended like this.
    pub(super) fn shows(&self, facts: PinnedFacts) {
        match &mut *self.pinned.borrow_mut() {
            Some(shown) => **shown = facts,
            none => *none = Some(Box::new(facts)),
        }
    }

    /// The pinned connection is given back or gone.
    pub(super) fn is_unpinned(&self) {
        self.pinned.take();
    }

    /// What the pinned connection adds, if the client has one.
    pub(super) fn pinned(&self) -> Option<PinnedFacts> {
        self.pinned.borrow().as_deref().copied()
    }

    /// Something is under way for the client, aside from its lane, that will end by itself: what PROXY PAUSE waits for.
    pub(super) fn is_under_way(&self) -> bool {
        match &*self.doing.borrow() {
            Doing::Riding | Doing::Waiting => false,
            Doing::Acting => self.pinned.borrow().as_ref().is_none_or(|pinned| pinned.under_way),
            Doing::Blocked { asks, .. } => *asks,
        }
    }

    /// The wait of a client that is blocked without a connection of its own.
    pub(super) fn wait(&self) -> Option<Rc<Wait>> {
        match &*self.doing.borrow() {
            Doing::Blocked { wait, .. } => Some(Rc::clone(wait)),
            Doing::Riding | Doing::Acting | Doing::Waiting => None,
        }
    }

    /// The connection on which the client is blocked.
    pub(super) fn blocked_on(&self) -> Option<ServerClient> {
        self.pinned().and_then(|pinned| pinned.blocked_on)
    }

    /// Blocked, with a connection of its own or without.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_on().is_some() || self.is_blocked_together()
    }

    /// Blocked without a connection of its own.
    pub(super) fn is_blocked_together(&self) -> bool {
        matches!(&*self.doing.borrow(), Doing::Blocked { .. })
    }

    /// Bytes of arguments that CLIENT LIST shows: those of a command that waits here. What waits on a connection, the
    /// server shows.
    pub(super) fn arguments(&self) -> u32 {
        if self.is_blocked() && self.pinned().is_none_or(|pinned| pinned.link.is_none()) {
            self.arguments.get()
        } else {
            0
        }
    }

    /// One word of [`STATES`], for a client that has subscriptions on a hub or has not.
    pub(super) fn state(&self, on_hub: bool) -> &'static str {
        let pinned = self.pinned();
        match pinned {
            Some(pinned) if pinned.monitor => "monitor",
            _ if self.is_blocked() => "blocked",
            Some(pinned) if pinned.multi >= 0 => "transaction",
            Some(pinned) if pinned.has_subscriptions() => "subscribed",
            _ if on_hub => "subscribed",
            _ => "open",
        }
    }
}

impl PinnedFacts {
    /// Subscriptions were made on this connection.
    pub(super) fn has_subscriptions(&self) -> bool {
        self.channels > 0 || self.patterns > 0 || self.shards > 0
    }

    /// Messages may come from this connection at any time.
    pub(super) fn is_stream(&self) -> bool {
        self.has_subscriptions() || self.monitor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> PinnedFacts {
        PinnedFacts {
            channels: 0,
            patterns: 0,
            shards: 0,
            multi: -1,
            monitor: false,
            reason: PinReason::Transaction,
            under_way: false,
            blocked_on: None,
            link: None,
        }
    }

    #[test]
    fn an_idle_clients_activity_is_small() {
        assert!(size_of::<Activity>() <= 48, "{}", size_of::<Activity>());
    }

    #[test]
    fn a_pause_waits_for_what_is_begun_and_not_for_who_stands_in_line() {
        let activity = Activity::default();
        assert!(!activity.is_under_way());
        activity.begins(false, 3);
        assert!(!activity.is_under_way(), "it does not reach the upstream");
        activity.begins(true, 3);
        assert!(activity.is_under_way());
        activity.stands_in_line();
        assert!(!activity.is_under_way());
        activity.goes_on();
        activity.shows(facts());
        assert!(!activity.is_under_way(), "the pinned connection is at rest");
        activity.shows(PinnedFacts { under_way: true, ..facts() });
        assert!(activity.is_under_way());
        activity.is_unpinned();
        activity.ends();
        assert!(!activity.is_under_way());
    }

    #[test]
    fn one_word_says_what_a_client_does() {
        let activity = Activity::default();
        assert_eq!((activity.state(false), activity.state(true)), ("open", "subscribed"));
        for (shown, word) in [
            (facts(), "open"),
            (PinnedFacts { multi: 0, ..facts() }, "transaction"),
            (PinnedFacts { channels: 1, ..facts() }, "subscribed"),
            (PinnedFacts { monitor: true, channels: 1, ..facts() }, "monitor"),
        ] {
            activity.shows(shown);
            assert_eq!(activity.state(false), word);
        }
    }
}
