//! Who waits, whose turn it is, and how many elements may be on their way: the decisions of one wait group. Pure.
//!
//! ```text
//!            add              element, waiters left
//!  lent ───────────▶ Armed ─────────────────────────▶ burst + armed ──┐
//!                      ▲  ◀───────────────────────────────────────────┘
//!                      │ element or nil, waiters joined meanwhile
//!  more armed than wanted ──▶ UNBLOCK asked ──▶ element or nil ──▶ released
//! ```
//!
//! One rule keeps nil truthful (rule I10): a waiter leaves with nil only while there are more waiters than elements
//! that may be on their way, so that each of those has somebody else to go to.

mod source;

use std::collections::{BTreeMap, VecDeque};

use source::{Ask, QueueSource, Unblock};

/// A waiter, unique in the worker; older ones have lower numbers.
pub(super) type WaiterId = u64;
/// A lent connection of the wait group, unique in the worker.
pub(super) type SourceId = u64;

/// How the wait group's command asks for several elements at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Burst {
    Never,
    /// One command with a COUNT of at most 512.
    Count,
    /// By at most eight copies of the form that does not wait.
    Copies,
}

/// How an element came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Probe,
    Armed,
    Burst,
    Poll,
}

/// What a reply to a question of the wait group was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PopReply<E> {
    Elements(Vec<E>),
    Nil,
    /// `CLIENT UNBLOCK … ERROR` by an operator.
    Unblocked(E),
    /// Any other error; with `true` the server closes the connection behind it.
    Error(E, bool),
    /// A key has become one of another type. Clients that are blocked already do not notice that.
    Difficult,
}

/// What an UNBLOCK was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// `:1`: a nil follows.
    Unblocked,
    /// `:0`: an element is on its way, or the command had not arrived yet.
    NotBlocked,
    /// Nobody knows: the server could not be asked.
    Failed,
}

/// What must be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum QueueAction<E> {
    Deliver(WaiterId, E, Via),
    /// The waiter leaves without an element.
    Nil(WaiterId),
    /// The waiter gets this error, and is closed if so said.
    Error(WaiterId, E, bool),
    /// Its element may be lost: the waiter is closed.
    Close(WaiterId),
    /// Give these elements back, for which nobody is there; in the order in which they were popped.
    GiveBack(Vec<E>),
    /// Send a question for so many elements (none: 0), then the waiting command.
    Arm(SourceId, usize),
    Unblock(SourceId),
    /// Report [`Queue::retry`] after a moment.
    UnblockLater(SourceId),
    /// The connection is silent and not needed.
    Release(SourceId),
    /// One more connection would be of use.
    Want,
}

/// The wait group. `E` is an element.
#[derive(Debug)]
pub(super) struct Queue<E> {
    /// Oldest first; `true` wants to leave.
    waiters: VecDeque<(WaiterId, bool)>,
    sources: BTreeMap<SourceId, QueueSource>,
    /// Connections that are being lent.
    opening: usize,
    /// Elements that questions on lanes may bring.
    polled: usize,
    width: usize,
    burst: Burst,
    /// Somebody who cannot be asked in turns needs the connection.
    yielding: bool,
    actions: Vec<QueueAction<E>>,
    /// Only for the proof that the oracle sees it.
    #[cfg(test)]
    pub(super) hasty: bool,
}

impl<E> Queue<E> {
    pub(super) fn new(width: usize, burst: Burst) -> Self {
        Self {
            waiters: VecDeque::new(),
            sources: BTreeMap::new(),
            opening: 0,
            polled: 0,
            width,
            burst,
            yielding: false,
            actions: Vec::new(),
            #[cfg(test)]
            hasty: false,
        }
    }

    /// What must be done since the last call.
    pub(super) fn take_actions(&mut self) -> Vec<QueueAction<E>> {
        std::mem::take(&mut self.actions)
    }

    /// Clients that wait.
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Clients wait, and no connection does so for them.
    pub(super) fn needs_polls(&self) -> bool {
        !self.waiters.is_empty() && self.sources.is_empty() && self.opening == 0
    }

    /// A connection waits for its clients, or soon will.
    pub(super) fn is_armed(&self) -> bool {
        !self.sources.is_empty() || self.opening > 0
    }

    /// Somebody wants to leave who cannot yet, or nobody is left: what may bring an element should end.
    pub(super) fn is_held(&self) -> bool {
        self.waiters.is_empty() || self.waiters.iter().any(|(_, leaving)| *leaving)
    }

    /// Whether nobody waits and no connection is left.
    pub(super) fn is_over(&self) -> bool {
        self.waiters.is_empty() && self.sources.is_empty() && self.opening == 0 && self.polled == 0
    }

    /// Whether the next reply of `source` is that of the waiting command; `None` when it owes none.
    pub(super) fn awaits_armed(&self, source: SourceId) -> Option<bool> {
        self.sources.get(&source)?.asks.front().map(|ask| ask.armed)
    }

    /// A client that was answered nil begins to wait.
    pub(super) fn join(&mut self, waiter: WaiterId) {
        self.waiters.push_back((waiter, false));
        self.settle();
    }

    /// A newcomer won `element` while older waiters were there: theirs first.
    pub(super) fn probed(&mut self, newcomer: WaiterId, elements: Vec<E>) {
        self.waiters.push_back((newcomer, false));
        self.hand_out(elements, Via::Probe);
        self.settle();
    }

    /// The waiter's time is over: it leaves as soon as that is certain.
    pub(super) fn leave(&mut self, waiter: WaiterId) {
        if let Some(entry) = self.waiters.iter_mut().find(|(id, _)| *id == waiter) {
            entry.1 = true;
        }
        self.settle();
    }

    /// The waiter's client is gone.
    pub(super) fn gone(&mut self, waiter: WaiterId) {
        self.waiters.retain(|(id, _)| *id != waiter);
        self.settle();
    }

    /// An element whose client did not take it.
    pub(super) fn returned(&mut self, element: E, way: Via) {
        self.hand_out(vec![element], way);
        self.settle();
    }

    /// A connection is being lent.
    pub(super) fn opening(&mut self) {
        self.opening += 1;
    }

    /// The connection that was asked for could not be lent.
    pub(super) fn not_leased(&mut self) {
        self.opening -= 1;
    }

    /// The connection that was asked for is here: arm it, or release it if nobody wants it any more.
    pub(super) fn leased(&mut self, source: SourceId, sliced: bool) {
        self.opening -= 1;
        self.sources.insert(source, QueueSource { asks: VecDeque::new(), unblock: Unblock::No, sliced, hot: false });
        self.settle();
    }

    /// A place for one more connection is free.
    pub(super) fn offer(&mut self) {
        self.yielding = false;
        self.settle();
    }

    /// The wait group's connections are needed elsewhere.
    pub(super) fn give_way(&mut self) {
        self.yielding = true;
        self.settle();
    }

    /// Whether it is giving way already.
    pub(super) fn gives_way(&self) -> bool {
        self.yielding
    }

    /// The reply to the oldest question on `source`.
    ///
    /// # Errors
    /// Nothing was asked, or not for so much.
    pub(super) fn on_reply(&mut self, source: SourceId, reply: PopReply<E>) -> Result<(), ()>
    where
        E: Clone,
    {
        let Some(state) = self.sources.get_mut(&source) else { return Err(()) };
        let Some(ask) = state.asks.pop_front() else { return Err(()) };
        if matches!(&reply, PopReply::Elements(elements) if elements.len() > ask.most) {
            return Err(());
        }
        state.hot = matches!(reply, PopReply::Elements(_));
        let expected_nil = state.unblock != Unblock::No || state.sliced;
        if ask.armed && state.unblock != Unblock::Asked {
            state.unblock = Unblock::No;
        }
        match reply {
            PopReply::Elements(elements) => self.hand_out(elements, if ask.armed { Via::Armed } else { Via::Burst }),
            PopReply::Nil if ask.armed && !expected_nil => {
                // An operator unblocked our connection: one of our clients is meant.
                if let Some((waiter, _)) = self.waiters.pop_front() {
                    self.actions.push(QueueAction::Nil(waiter));
                }
            }
            PopReply::Unblocked(error) if ask.armed => {
                if let Some((waiter, _)) = self.waiters.pop_front() {
                    self.actions.push(QueueAction::Error(waiter, error, false));
                }
            }
            PopReply::Error(error, closes) if ask.armed => self.fail(&error, closes),
            PopReply::Difficult if ask.armed => self.yielding = true,
            // The waiting command behind a burst says the same, if it still holds.
            PopReply::Nil | PopReply::Unblocked(_) | PopReply::Error(..) | PopReply::Difficult => {}
        }
        self.settle();
        Ok(())
    }

    /// What the UNBLOCK of `source` was answered.
    pub(super) fn on_unblock(&mut self, source: SourceId, outcome: Outcome) {
        let Some(state) = self.sources.get_mut(&source) else { return };
        state.unblock = match outcome {
            _ if !state.armed() => Unblock::No,
            Outcome::Unblocked => Unblock::Ended,
            Outcome::NotBlocked | Outcome::Failed => {
                self.actions.push(QueueAction::UnblockLater(source));
                Unblock::Later
            }
        };
        self.settle();
    }

    /// The moment after [`QueueAction::UnblockLater`] has passed.
    pub(super) fn retry(&mut self, source: SourceId) {
        let Some(state) = self.sources.get_mut(&source) else { return };
        if state.unblock == Unblock::Later {
            state.unblock = Unblock::No;
        }
        self.settle();
    }

    /// The connection broke, or cannot be trusted. What it brought may be anybody's.
    pub(super) fn lost(&mut self, source: SourceId) {
        self.sources.remove(&source);
        self.close_all();
        self.settle();
    }

    /// A question for up to `most` elements goes out, on a lane or for many wait groups at once.
    pub(super) fn poll_began(&mut self, most: usize) {
        self.polled += most;
    }

    /// Its reply. `None`: nobody knows whether it was carried out.
    pub(super) fn poll_ended(&mut self, most: usize, via: Via, reply: Option<PopReply<E>>)
    where
        E: Clone,
    {
        self.polled -= most;
        match reply {
            Some(PopReply::Elements(elements)) => self.hand_out(elements, via),
            Some(PopReply::Error(error, closes)) => self.fail(&error, closes),
            Some(PopReply::Nil | PopReply::Unblocked(_) | PopReply::Difficult) => {}
            None => self.close_all(),
        }
        self.settle();
    }

    fn close_all(&mut self) {
        self.actions.extend(self.waiters.drain(..).map(|(waiter, _)| QueueAction::Close(waiter)));
    }

    fn fail(&mut self, error: &E, closes: bool)
    where
        E: Clone,
    {
        let all = self.waiters.drain(..);
        self.actions.extend(all.map(|(waiter, _)| QueueAction::Error(waiter, error.clone(), closes)));
    }

    /// First come, first served; also those who want to leave, as long as they have not.
    fn hand_out(&mut self, elements: Vec<E>, way: Via) {
        let mut left = Vec::new();
        for element in elements {
            match self.waiters.pop_front() {
                Some((waiter, _)) => self.actions.push(QueueAction::Deliver(waiter, element, way)),
                None => left.push(element),
            }
        }
        if !left.is_empty() {
            self.actions.push(QueueAction::GiveBack(left));
        }
    }

    /// Elements that may be on their way.
    fn outstanding(&self) -> usize {
        self.sources.values().flat_map(|source| &source.asks).map(|ask| ask.most).sum::<usize>() + self.polled
    }

    /// How many waiters want an element; none while the connections are being given up.
    fn wanted(&self) -> usize {
        if self.yielding { 0 } else { self.waiters.iter().filter(|(_, leaving)| !leaving).count() }
    }

    fn settle(&mut self) {
        self.let_leave();
        self.disarm();
        self.arm_idle();
        if self.sources.len() + self.opening < self.wanted().min(self.width) {
            self.actions.push(QueueAction::Want);
        }
    }

    fn let_leave(&mut self) {
        #[cfg(test)]
        let hasty = self.hasty;
        #[cfg(not(test))]
        let hasty = false;
        let mut outstanding = None;
        while let Some(place) = self.waiters.iter().position(|(_, leaving)| *leaving) {
            if !hasty && self.waiters.len() <= *outstanding.get_or_insert_with(|| self.outstanding()) {
                return;
            }
            if let Some((waiter, _)) = self.waiters.remove(place) {
                self.actions.push(QueueAction::Nil(waiter));
            }
        }
    }

    /// Unblocks connections that wait for more elements than are wanted. Behind a burst it is too early to say.
    fn disarm(&mut self) {
        let wanted = self.wanted();
        let held = self.sources.values().filter(|source| source.armed() && source.unblock == Unblock::No).count();
        let idle = self.sources.iter_mut().filter(|(_, source)| {
            source.armed() && source.asks.len() == 1 && source.unblock == Unblock::No && !source.sliced
        });
        for (id, source) in idle.take(held.saturating_sub(wanted)) {
            source.unblock = Unblock::Asked;
            self.actions.push(QueueAction::Unblock(*id));
        }
    }

    /// Connections without a question get one if there is somebody to ask for, or go.
    fn arm_idle(&mut self) {
        let ready = |source: &QueueSource| source.asks.is_empty() && source.unblock != Unblock::Asked;
        let idle: Vec<SourceId> = self.sources.iter().filter(|(_, s)| ready(s)).map(|(id, _)| *id).collect();
        for id in idle {
            let spare = self.wanted().saturating_sub(self.outstanding());
            let burst = self.burst;
            let Some(source) = self.sources.get_mut(&id) else { continue };
            if spare == 0 {
                self.sources.remove(&id);
                self.actions.push(QueueAction::Release(id));
                continue;
            }
            source.unblock = Unblock::No;
            let more = if source.hot { spare - 1 } else { 0 };
            let asks: Vec<usize> = match burst {
                Burst::Count if more > 0 => vec![more.min(512)],
                Burst::Copies => vec![1; more.min(8)],
                Burst::Count | Burst::Never => Vec::new(),
            };
            let asked = asks.iter().sum();
            source.asks.extend(asks.into_iter().map(|most| Ask { most, armed: false }));
            source.asks.push_back(Ask { most: 1, armed: true });
            self.actions.push(QueueAction::Arm(id, asked));
        }
    }
}

#[cfg(test)]
mod tests;
