//! Who wants and who hears which channel, pattern and shard channel of one upstream connection. Pure.
//!
//! A client *wants* a name from the moment its SUBSCRIBE is submitted and *hears* it from the confirmation on; it wants
//! it until its UNSUBSCRIBE is submitted and hears it until that is confirmed. What goes upstream is decided by who
//! wants: two clients that leave at the same time must not both think that the other stays.

use std::hash::Hash;
use std::rc::Rc;

use crate::base::{Map, Set};
use crate::session::{Family, Resp, Subscribed};

/// The name of a channel or pattern.
pub(super) type Name = Rc<[u8]>;

/// One client that hears a name, as the fan-out needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubscriberEntry<K> {
    pub key: K,
    pub resp: Resp,
}

/// What a client leaves behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// The names that the client heard.
    pub heard: Vec<(Family, Name)>,
    /// The names that nobody wants any more.
    pub orphaned: Vec<(Family, Name)>,
}

#[derive(Debug)]
struct Topic<K> {
    /// Clients that want it.
    wanted: usize,
    /// The upstream has confirmed that this connection is subscribed.
    confirmed: bool,
    listeners: Vec<SubscriberEntry<K>>,
}

#[derive(Debug)]
struct Member {
    resp: Resp,
    wants: [Set<Name>; 3],
    hears: [Set<Name>; 3],
}

/// All subscriptions through one upstream connection.
#[derive(Debug)]
pub(super) struct SubscriberRegistry<K> {
    topics: [Map<Name, Topic<K>>; 3],
    members: Map<K, Member>,
    wanted: usize,
}

impl<K> Default for SubscriberRegistry<K> {
    fn default() -> Self {
        Self { topics: Default::default(), members: Map::default(), wanted: 0 }
    }
}

impl<K: Copy + Eq + Hash> SubscriberRegistry<K> {
    /// A client that subscribes; its protocol counts also if it was here before.
    pub(super) fn enter(&mut self, key: K, resp: Resp) {
        let new = || Member { resp, wants: Default::default(), hears: Default::default() };
        self.members.entry(key).or_insert_with(new);
        self.speaks(key, resp);
    }

    /// The client has changed its protocol.
    pub(super) fn speaks(&mut self, key: K, resp: Resp) {
        let Some(member) = self.members.get_mut(&key) else { return };
        if std::mem::replace(&mut member.resp, resp) == resp {
            return;
        }
        for family in Family::ALL {
            for name in &member.hears[family as usize] {
                let Some(topic) = self.topics[family as usize].get_mut(name) else { continue };
                topic.listeners.iter_mut().filter(|l| l.key == key).for_each(|l| l.resp = resp);
            }
        }
    }

    /// Its protocol, if the client is here.
    pub(super) fn resp(&self, key: K) -> Option<Resp> {
        self.members.get(&key).map(|member| member.resp)
    }

    /// How many names of each family the client hears.
    pub(super) fn counts(&self, key: K) -> Subscribed {
        let count = |set: &Set<Name>| u32::try_from(set.len()).unwrap_or(u32::MAX);
        self.members.get(&key).map_or_else(Subscribed::default, |member| {
            Subscribed([count(&member.hears[0]), count(&member.hears[1]), count(&member.hears[2])])
        })
    }

    /// The names of one family that the client hears.
    pub(super) fn heard(&self, key: K, family: Family) -> Vec<Name> {
        self.members.get(&key).map(|m| m.hears[family as usize].iter().cloned().collect()).unwrap_or_default()
    }

    /// Who hears a message to `name`.
    pub(super) fn listeners(&self, family: Family, name: &[u8]) -> &[SubscriberEntry<K>] {
        self.topics[family as usize].get(name).map_or(&[], |topic| &topic.listeners)
    }

    /// The one copy of `name` that all entries share.
    pub(super) fn intern(&self, family: Family, name: &[u8]) -> Name {
        self.topics[family as usize].get_key_value(name).map_or_else(|| Name::from(name), |(known, _)| Rc::clone(known))
    }

    /// The client wants to hear `name`.
    pub(super) fn want(&mut self, key: K, family: Family, name: &Name) {
        let Some(member) = self.members.get_mut(&key) else { return };
        if !member.wants[family as usize].insert(Rc::clone(name)) {
            return;
        }
        let topic = self.topic(family, name);
        topic.wanted += 1;
        let first = topic.wanted == 1;
        self.wanted += usize::from(first);
    }

    /// The client does not want `name` any more. Whether nobody does now.
    pub(super) fn unwant(&mut self, key: K, family: Family, name: &Name) -> bool {
        let wanted = self.members.get_mut(&key).is_some_and(|m| m.wants[family as usize].remove(name));
        if wanted {
            let topic = self.topic(family, name);
            topic.wanted -= 1;
            let last = topic.wanted == 0;
            self.wanted -= usize::from(last);
        }
        let nobody = self.topics[family as usize].get(name).is_none_or(|topic| topic.wanted == 0);
        self.tidy(family, name);
        nobody
    }

    /// From here on the client hears `name`. Whether it did not before; `false` also when it has left.
    pub(super) fn hear(&mut self, key: K, family: Family, name: &Name) -> bool {
        let Some(member) = self.members.get_mut(&key) else { return false };
        if !member.hears[family as usize].insert(Rc::clone(name)) {
            return false;
        }
        let resp = member.resp;
        self.topic(family, name).listeners.push(SubscriberEntry { key, resp });
        true
    }

    /// From here on the client does not hear `name`. Whether it did before.
    pub(super) fn unhear(&mut self, key: K, family: Family, name: &Name) -> bool {
        let heard = self.members.get_mut(&key).is_some_and(|m| m.hears[family as usize].remove(name));
        if heard && let Some(topic) = self.topics[family as usize].get_mut(name) {
            topic.listeners.retain(|listener| listener.key != key);
        }
        self.tidy(family, name);
        heard
    }

    /// The client hears `name` now.
    pub(super) fn hears(&self, key: K, family: Family, name: &[u8]) -> bool {
        self.members.get(&key).is_some_and(|member| member.hears[family as usize].contains(name))
    }

    /// The upstream has said that this connection is, or is not, subscribed. Whether that is news.
    pub(super) fn confirm(&mut self, family: Family, name: &Name, subscribed: bool) -> bool {
        let topic = self.topic(family, name);
        let news = std::mem::replace(&mut topic.confirmed, subscribed) != subscribed;
        self.tidy(family, name);
        news
    }

    /// The client is gone.
    pub(super) fn leave(&mut self, key: K) -> Left {
        let mut left = Left::default();
        for family in Family::ALL {
            let Some(member) = self.members.get(&key) else { break };
            let wants: Vec<_> = member.wants[family as usize].iter().cloned().collect();
            for name in self.heard(key, family) {
                self.unhear(key, family, &name);
                left.heard.push((family, name));
            }
            for name in wants {
                if self.unwant(key, family, &name) {
                    left.orphaned.push((family, name));
                }
            }
        }
        self.members.remove(&key);
        left
    }

    /// The connection is gone: for every name how many clients heard it, less one if the connection was subscribed.
    /// Nothing is left.
    pub(super) fn take_differences(&mut self) -> Vec<(Family, Name, i64)> {
        let topics = std::mem::take(&mut self.topics);
        self.members.clear();
        self.wanted = 0;
        let differences = topics.into_iter().zip(Family::ALL).flat_map(|(topics, family)| {
            topics.into_iter().map(move |(name, topic)| {
                let heard = i64::try_from(topic.listeners.len()).unwrap_or(i64::MAX);
                (family, name, heard - i64::from(topic.confirmed))
            })
        });
        differences.collect()
    }

    /// Names of one family that somebody wants.
    pub(super) fn wanted_names(&self, family: Family) -> Vec<Name> {
        let wanted = self.topics[family as usize].iter().filter(|(_, topic)| topic.wanted > 0);
        wanted.map(|(name, _)| Rc::clone(name)).collect()
    }

    /// Names to which the connection is subscribed.
    pub(super) fn confirmed_names(&self) -> Vec<(Family, Name)> {
        let confirmed = Family::ALL.into_iter().flat_map(|family| {
            let topics = self.topics[family as usize].iter().filter(|(_, topic)| topic.confirmed);
            topics.map(move |(name, _)| (family, Rc::clone(name)))
        });
        confirmed.collect()
    }

    /// Names to which the connection is subscribed for nobody.
    pub(super) fn confirmed_and_unwanted(&self) -> Vec<(Family, Name)> {
        let unwanted = Family::ALL.into_iter().flat_map(|family| {
            let topics = self.topics[family as usize].iter().filter(|(_, topic)| topic.confirmed && topic.wanted == 0);
            topics.map(move |(name, _)| (family, Rc::clone(name)))
        });
        unwanted.collect()
    }

    /// Names that somebody wants.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Everybody with a subscription, or on the way to one.
    pub(super) fn members(&self) -> impl Iterator<Item = K> {
        self.members.keys().copied()
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    fn topic(&mut self, family: Family, name: &Name) -> &mut Topic<K> {
        let new = || Topic { wanted: 0, confirmed: false, listeners: Vec::new() };
        self.topics[family as usize].entry(Rc::clone(name)).or_insert_with(new)
    }

    /// Forgets a name that means nothing to anybody.
    fn tidy(&mut self, family: Family, name: &Name) {
        let topics = &mut self.topics[family as usize];
        if topics.get(name).is_some_and(|t| t.wanted == 0 && !t.confirmed && t.listeners.is_empty()) {
            topics.remove(name);
        }
    }
}
