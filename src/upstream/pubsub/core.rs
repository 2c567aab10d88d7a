//! The decisions of a hub: what goes upstream for a client's command, and what a frame from there means to whom. Pure:
//! commands and frames in, bytes and [`HubAction`]s out.
//!
//! Every SUBSCRIBE goes upstream whole, also when the connection is subscribed already: the confirmation is the place
//! in the stream from which the client hears (rule P1). An UNSUBSCRIBE of a name that others want becomes a marker, a
//! PING, for the same reason.

use std::hash::Hash;
use std::rc::Rc;

use bytes::BytesMut;

use super::expect::{Confirmed, Expectation, Expectations, Expected, OutOfStep, marker_text};
use super::registry::{Name, SubscriberEntry, SubscriberRegistry};
use crate::resp::encode;
use crate::session::{Family, Resp, Subscribed};

/// Names in one SUBSCRIBE of respmux's own.
const NAMES_AT_ONCE: usize = 256;

/// What must be done, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HubAction<K> {
    /// The upstream's count for the name is off by this much more.
    Count { family: Family, name: Name, by: i64 },
    /// Tell the client that it has joined or left; no name means that there was nothing to leave.
    Confirm { client: K, resp: Resp, joined: bool, family: Family, name: Option<Name>, counts: Subscribed },
    /// Give the client the error that was just read.
    Refuse { client: K },
    /// The client's command is answered.
    Done { client: K },
}

/// One command of a client.
pub(super) struct HubCommand<'a, K> {
    pub client: K,
    pub resp: Resp,
    pub family: Family,
    /// CLIENT REPLY: errors are not wanted.
    pub suppressed: bool,
    /// Nanoseconds of the worker's clock.
    pub now: u64,
    /// The whole request, canonical.
    pub raw: &'a [u8],
}

/// The state of one hub's connection.
pub(super) struct Core<K> {
    pub registry: SubscriberRegistry<K>,
    expect: Expectations<K>,
    /// Bytes for the upstream.
    pub out: BytesMut,
    pub actions: Vec<HubAction<K>>,
    nonce: u64,
    /// An UNSUBSCRIBE of our own was refused (the server was busy): look for names that nobody wants.
    stale: bool,
    /// A subscription could not be made again on another connection: its clients would hear nothing.
    pub lacks: bool,
}

impl<K> Default for Core<K> {
    fn default() -> Self {
        Self {
            registry: SubscriberRegistry::default(),
            expect: Expectations::default(),
            out: BytesMut::new(),
            actions: Vec::new(),
            nonce: 0,
            stale: false,
            lacks: false,
        }
    }
}

impl<K: Copy + Eq + Hash> Core<K> {
    /// A SUBSCRIBE of any family.
    pub(super) fn subscribe(&mut self, order: &HubCommand<'_, K>, names: &[&[u8]]) {
        let HubCommand { client, resp, family, suppressed, now, raw } = *order;
        self.registry.enter(client, resp);
        let names: Vec<Name> = names.iter().map(|name| self.registry.intern(family, name)).collect();
        for name in &names {
            self.registry.want(client, family, name);
        }
        self.out.extend_from_slice(raw);
        let what = Expectation::Join { family, names, done: 0 };
        self.expect.push(Expected { owner: Some(client), suppressed, last: true, at: now, what });
    }

    /// An UNSUBSCRIBE of any family; no names means all of the client's. Names in a row that need the same go together.
    pub(super) fn unsubscribe(&mut self, order: &HubCommand<'_, K>, names: &[&[u8]]) {
        let HubCommand { client, resp, family, suppressed, now, .. } = *order;
        self.registry.enter(client, resp);
        let names: Vec<Name> = if names.is_empty() {
            self.registry.heard(client, family)
        } else {
            names.iter().map(|name| self.registry.intern(family, name)).collect()
        };
        let mut runs: Vec<(bool, Vec<Name>)> = Vec::new();
        for name in names {
            let forward = self.registry.unwant(client, family, &name);
            match runs.last_mut().filter(|(kind, _)| *kind == forward) {
                Some((_, run)) => run.push(name),
                None => runs.push((forward, vec![name])),
            }
        }
        if runs.is_empty() {
            runs.push((false, Vec::new()));
        }
        let count = runs.len();
        for (position, (forward, names)) in runs.into_iter().enumerate() {
            let what = if forward { self.leave_run(family, names) } else { self.marker(family, names) };
            let last = position + 1 == count;
            self.expect.push(Expected { owner: Some(client), suppressed, last, at: now, what });
        }
    }

    /// The client is gone, or wants no subscriptions any more: silently (rule P10).
    pub(super) fn leave(&mut self, client: K, now: u64) {
        let left = self.registry.leave(client);
        for (family, name) in left.heard {
            self.actions.push(HubAction::Count { family, name, by: -1 });
        }
        self.unsubscribe_unwanted(left.orphaned, now);
    }

    /// UNSUBSCRIBE on our own account; the confirmations go to nobody.
    fn unsubscribe_unwanted(&mut self, unwanted: Vec<(Family, Name)>, now: u64) {
        for family in Family::ALL {
            let names: Vec<_> = unwanted.iter().filter(|(of, _)| *of == family).map(|(_, n)| Rc::clone(n)).collect();
            if !names.is_empty() {
                let what = self.leave_run(family, names);
                self.expect.push(Expected { owner: None, suppressed: true, last: true, at: now, what });
            }
        }
    }

    fn leave_run(&mut self, family: Family, names: Vec<Name>) -> Expectation {
        let words: Vec<&[u8]> =
            std::iter::once(family.leave_command().as_bytes()).chain(names.iter().map(|n| &n[..])).collect();
        encode::command(&mut self.out, &words);
        Expectation::Leave { family, names, done: 0 }
    }

    fn marker(&mut self, family: Family, names: Vec<Name>) -> Expectation {
        self.nonce += 1;
        encode::command(&mut self.out, &["PING", &marker_text(self.nonce)]);
        Expectation::Marker { nonce: self.nonce, family, names }
    }

    /// The connection is another one, to which nothing is subscribed yet: everything that somebody wants is
    /// subscribed to there, and nobody is told. Nothing is owed on the old one.
    pub(super) fn begin_again(&mut self, now: u64) {
        for (family, name) in self.registry.confirmed_names() {
            if self.registry.confirm(family, &name, false) {
                self.count(family, &name, 1);
            }
        }
        for family in Family::ALL {
            // Shard channels of one command must share a slot.
            let at_once = if family == Family::Shard { 1 } else { NAMES_AT_ONCE };
            for names in self.registry.wanted_names(family).chunks(at_once) {
                let words: Vec<&[u8]> =
                    std::iter::once(family.join_command().as_bytes()).chain(names.iter().map(|n| &n[..])).collect();
                encode::command(&mut self.out, &words);
                let what = Expectation::Join { family, names: names.to_vec(), done: 0 };
                self.expect.push(Expected { owner: None, suppressed: true, last: true, at: now, what });
            }
        }
    }

    /// Whether nothing is to be sent and the upstream owes nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.out.is_empty() && self.expect.is_empty()
    }

    /// A sign of life is due.
    pub(super) fn ping(&mut self, now: u64) {
        let what = self.marker(Family::Channel, Vec::new());
        self.expect.push(Expected { owner: None, suppressed: true, last: true, at: now, what });
    }

    /// What time alone makes happen: names that the server would not let go of are tried again.
    pub(super) fn on_tick(&mut self, now: u64) {
        if std::mem::take(&mut self.stale) {
            let unwanted = self.registry.confirmed_and_unwanted();
            self.unsubscribe_unwanted(unwanted, now);
        }
    }

    /// A push about a subscription: a confirmation, or the server's own end of one.
    pub(super) fn on_confirmation(&mut self, joined: bool, family: Family, name: &[u8]) -> Result<(), OutOfStep> {
        match self.expect.on_confirmation(joined, family, name)? {
            Confirmed::Owed { owner, complete, name } => {
                if self.registry.confirm(family, &name, joined) {
                    self.count(family, &name, if joined { -1 } else { 1 });
                }
                if let Some(client) = owner.filter(|client| self.registry.resp(*client).is_some()) {
                    self.move_listener(client, joined, family, Some(name));
                    if complete {
                        self.actions.push(HubAction::Done { client });
                    }
                }
            }
            Confirmed::Unasked => self.on_revoked(family, name),
        }
        Ok(())
    }

    /// The server has ended the subscription (a slot has moved): everybody who had it is told.
    fn on_revoked(&mut self, family: Family, name: &[u8]) {
        let name = self.registry.intern(family, name);
        if self.registry.confirm(family, &name, false) {
            self.count(family, &name, 1);
        }
        let listeners: Vec<SubscriberEntry<K>> = self.registry.listeners(family, &name).to_vec();
        for SubscriberEntry { key, .. } in listeners {
            self.registry.unwant(key, family, &name);
            self.move_listener(key, false, family, Some(Rc::clone(&name)));
        }
    }

    /// A reply: the end of a marker, or the refusal of a command.
    pub(super) fn on_reply(&mut self, is_error: bool, echo: &[u8], now: u64) -> Result<(), OutOfStep> {
        let Expected { owner, suppressed, last, what, .. } = self.expect.on_reply(is_error, echo)?;
        let owner = owner.filter(|client| self.registry.resp(*client).is_some());
        match (what, owner) {
            (Expectation::Marker { family, names, .. }, Some(client)) => {
                if names.is_empty() {
                    self.move_listener(client, false, family, None);
                }
                for name in names {
                    self.move_listener(client, false, family, Some(name));
                }
            }
            (Expectation::Join { family, names, .. }, Some(client)) => {
                let mut unwanted = Vec::new();
                for name in names {
                    if !self.registry.hears(client, family, &name) && self.registry.unwant(client, family, &name) {
                        unwanted.push((family, name));
                    }
                }
                // Somebody who wanted them may have left because this client wanted them too.
                self.unsubscribe_unwanted(unwanted, now);
                self.refuse(client, suppressed);
            }
            (Expectation::Leave { family, names, .. }, Some(client)) => {
                for name in &names {
                    if self.registry.hears(client, family, name) {
                        self.registry.want(client, family, name);
                    }
                }
                self.refuse(client, suppressed);
            }
            (Expectation::Leave { .. }, None) => self.stale = true,
            (Expectation::Join { .. }, None) => self.lacks = true,
            (Expectation::Marker { .. }, None) => {}
        }
        if let Some(client) = owner.filter(|_| last) {
            self.actions.push(HubAction::Done { client });
        }
        Ok(())
    }

    fn refuse(&mut self, client: K, suppressed: bool) {
        if !suppressed {
            self.actions.push(HubAction::Refuse { client });
        }
    }

    /// The client starts or stops hearing `name`, here in the stream, and is told.
    fn move_listener(&mut self, client: K, joined: bool, family: Family, name: Option<Name>) {
        if let Some(name) = &name {
            if joined && self.registry.hear(client, family, name) {
                self.count(family, name, 1);
            } else if !joined && self.registry.unhear(client, family, name) {
                self.count(family, name, -1);
            }
        }
        let Some(resp) = self.registry.resp(client) else { return };
        let counts = self.registry.counts(client);
        self.actions.push(HubAction::Confirm { client, resp, joined, family, name, counts });
    }

    fn count(&mut self, family: Family, name: &Name, by: i64) {
        self.actions.push(HubAction::Count { family, name: Rc::clone(name), by });
    }

    /// Whether the upstream owes nothing and nobody wants a subscription.
    pub(super) fn is_idle(&self) -> bool {
        self.expect.is_empty() && self.registry.wanted() == 0
    }

    /// When the oldest command without an answer was appended.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.expect.oldest()
    }

    /// The connection is gone: everybody concerned, and what the counts were off by.
    pub(super) fn take_all(&mut self) -> (Vec<K>, Vec<(Family, Name, i64)>) {
        let mut clients: Vec<K> = self.registry.members().chain(self.expect.owners()).collect();
        clients.dedup();
        self.expect = Expectations::default();
        self.out.clear();
        (clients, self.registry.take_differences())
    }
}
