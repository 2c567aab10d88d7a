//! The core against a model of a server: one connection, commands carried out one by one, pushes in between.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::core::{Core, HubAction, HubCommand};
use super::expect::marker_text;
use crate::resp::{RequestLimits, RequestScanner, Scan, encode};
use crate::session::{Family, Resp};

type Client = u8;

/// A server with this one connection.
#[derive(Default)]
struct Server {
    input: Vec<u8>,
    subscribed: BTreeSet<(u8, Vec<u8>)>,
    /// What it has written and the hub has not read.
    output: VecDeque<Said>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Confirmed(bool, Family, Vec<u8>),
    Echo(Vec<u8>),
    Error,
    Message(Vec<u8>, u32),
}

impl Server {
    /// Carries out everything that has arrived; channel `x` is forbidden.
    fn run(&mut self) {
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        let mut scanner = RequestScanner::new();
        let limits = RequestLimits { max_bulk: 1 << 20, max_args: 1 << 20, authenticated: true };
        while at < input.len() {
            let rest = &input[at..];
            let Scan::Complete { len, .. } = scanner.scan(rest, &mut None, &limits) else { panic!("no whole command") };
            let words: Vec<Vec<u8>> = scanner.args(rest).map(<[u8]>::to_vec).collect();
            self.execute(&words);
            at += len;
        }
    }

    fn execute(&mut self, words: &[Vec<u8>]) {
        let name = String::from_utf8(words[0].clone()).unwrap();
        if name == "PING" {
            self.output.push_back(Said::Echo(words[1].clone()));
            return;
        }
        let (joins, family) = (!name.contains("UNSUB"), family(&name));
        if joins && words.iter().any(|word| word == b"x") {
            self.output.push_back(Said::Error);
            return;
        }
        assert!(words.len() > 1, "an UNSUBSCRIBE without names would end those of other clients");
        for word in &words[1..] {
            let entry = (family as u8, word.clone());
            if joins {
                self.subscribed.insert(entry)
            } else {
                self.subscribed.remove(&entry)
            };
            self.output.push_back(Said::Confirmed(joins, family, word.clone()));
        }
    }

    fn publish(&mut self, channel: &[u8], number: u32) {
        if self.subscribed.contains(&(Family::Channel as u8, channel.to_vec())) {
            self.output.push_back(Said::Message(channel.to_vec(), number));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(Client, Vec<u8>),
    Unsubscribe(Client, Vec<u8>),
    Leave(Client),
    Publish(u8),
    /// The server carries out what it has.
    Run,
    /// The hub reads this many of the server's frames.
    Read(u8),
    /// The hub goes on with a connection to another server, as soon as nothing is owed on this one.
    Move,
}

const CHANNELS: &[u8] = b"abcx";

fn step() -> impl Strategy<Value = Step> {
    let names = prop::collection::vec(prop::sample::select(CHANNELS), 1..4);
    let client = 0..4_u8;
    prop_oneof![
        4 => (client.clone(), names).prop_map(|(client, names)| Step::Subscribe(client, names)),
        3 => (client.clone(), prop::collection::vec(prop::sample::select(CHANNELS), 0..4))
            .prop_map(|(client, names)| Step::Unsubscribe(client, names)),
        1 => client.prop_map(Step::Leave),
        4 => prop::sample::select(&CHANNELS[..3]).prop_map(Step::Publish),
        4 => Just(Step::Run),
        6 => (1..6_u8).prop_map(Step::Read),
        1 => Just(Step::Move),
    ]
}

/// A hub with its clients and the server.
#[derive(Default)]
struct World {
    core: Core<Client>,
    server: Server,
    /// Commands that a client waits for: at most one each.
    waiting: BTreeSet<Client>,
    gone: BTreeSet<Client>,
    /// What each client believes to be subscribed to, from its confirmations alone.
    believes: [BTreeSet<Vec<u8>>; 4],
    heard: [Vec<(Vec<u8>, u32)>; 4],
    /// Over all names: clients that hear it, less one if the connection is subscribed.
    differences: std::collections::BTreeMap<Vec<u8>, i64>,
    published: u32,
}

impl World {
    fn take(&mut self, step: &Step) {
        match step {
            // A key is not used again after a client that left in the middle of a command (it has a generation).
            Step::Subscribe(client, _) | Step::Unsubscribe(client, _) if self.gone.contains(client) => {}
            Step::Subscribe(client, names) if self.waiting.insert(*client) => self.order(*client, names, true),
            Step::Unsubscribe(client, names) if self.waiting.insert(*client) => self.order(*client, names, false),
            Step::Subscribe(..) | Step::Unsubscribe(..) => {}
            Step::Leave(client) => {
                self.core.leave(*client, 0);
                if self.waiting.remove(client) {
                    self.gone.insert(*client);
                }
                self.believes[usize::from(*client)].clear();
            }
            Step::Publish(channel) => {
                self.published += 1;
                self.server.publish(&[*channel], self.published);
            }
            Step::Run => {
                self.server.input.extend_from_slice(&self.core.out.split());
                self.server.run();
            }
            Step::Read(frames) => (0..*frames).for_each(|_| self.read()),
            Step::Move if self.core.is_quiet() => {
                self.server = Server::default();
                self.core.begin_again(0);
            }
            Step::Move => {}
        }
        self.obey();
    }

    fn order(&mut self, client: Client, names: &[u8], joins: bool) {
        let names: Vec<[u8; 1]> = names.iter().map(|name| [*name]).collect();
        let names: Vec<&[u8]> = names.iter().map(|name| &name[..]).collect();
        let mut raw = bytes::BytesMut::new();
        let word: &[u8] = if joins { b"SUBSCRIBE" } else { b"UNSUBSCRIBE" };
        encode::command(&mut raw, &std::iter::once(word).chain(names.iter().copied()).collect::<Vec<_>>());
        let resp = if client.is_multiple_of(2) { Resp::Two } else { Resp::Three };
        let order = HubCommand { client, resp, family: Family::Channel, suppressed: false, now: 0, raw: &raw };
        if joins { self.core.subscribe(&order, &names) } else { self.core.unsubscribe(&order, &names) }
    }

    fn read(&mut self) {
        match self.server.output.pop_front() {
            None => {}
            Some(Said::Confirmed(joined, family, name)) => {
                self.core.on_confirmation(joined, family, &name).expect("in step");
            }
            Some(Said::Echo(text)) => self.core.on_reply(false, &text, 0).expect("in step"),
            Some(Said::Error) => self.core.on_reply(true, b"NOPERM", 0).expect("in step"),
            Some(Said::Message(channel, number)) => {
                let listeners = self.core.registry.listeners(Family::Channel, &channel);
                for client in 0..4 {
                    let hears = listeners.iter().filter(|listener| listener.key == client).count();
                    let believes = self.believes[usize::from(client)].contains(&channel);
                    assert_eq!(hears, usize::from(believes), "client {client}, channel {channel:?}");
                    self.heard[usize::from(client)].extend((0..hears).map(|_| (channel.clone(), number)));
                }
            }
        }
        self.obey();
    }

    /// Carries out the actions as the clients see them.
    fn obey(&mut self) {
        for action in std::mem::take(&mut self.core.actions) {
            match action {
                HubAction::Count { name, by, .. } => *self.differences.entry(name.to_vec()).or_default() += by,
                HubAction::Confirm { client, joined, name, counts, resp, .. } => {
                    assert_eq!(resp == Resp::Two, client.is_multiple_of(2));
                    let believes = &mut self.believes[usize::from(client)];
                    match name {
                        Some(name) if joined => drop(believes.insert(name.to_vec())),
                        Some(name) => drop(believes.remove(&name[..])),
                        None => assert!(!joined && believes.is_empty()),
                    }
                    assert_eq!(counts.told(Family::Channel), believes.len() as u64);
                }
                HubAction::Refuse { .. } => {}
                HubAction::Done { client } => {
                    assert!(self.waiting.remove(&client), "client {client} waits for nothing")
                }
            }
        }
    }

    /// Everything is carried out and read: both sides must agree.
    fn settle(&mut self) {
        while !self.core.out.is_empty() || !self.server.output.is_empty() {
            self.take(&Step::Run);
            self.take(&Step::Read(u8::MAX));
        }
        assert!(self.waiting.is_empty(), "{:?} were never answered", self.waiting);
        let wanted: BTreeSet<Vec<u8>> = self.believes.iter().flatten().cloned().collect();
        let subscribed: BTreeSet<Vec<u8>> = self.server.subscribed.iter().map(|(_, name)| name.clone()).collect();
        assert_eq!(subscribed, wanted);
        assert_eq!(self.core.registry.wanted(), wanted.len());
        for (name, by) in &self.differences {
            let hear = self.believes.iter().filter(|believes| believes.contains(name)).count();
            assert_eq!(*by, hear as i64 - i64::from(wanted.contains(name)), "{name:?}");
        }
        for heard in &self.heard {
            assert!(heard.is_sorted_by(|a, b| a.1 < b.1), "a message twice or out of order: {heard:?}");
        }
    }
}

proptest! {
    #[test]
    fn clients_and_server_agree_whatever_overlaps(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::default();
        for step in &steps {
            world.take(step);
        }
        world.settle();
        let World { mut core, differences, .. } = world;
        let (_, left) = core.take_all();
        for (_, name, by) in left {
            prop_assert_eq!(differences.get(&name[..]).copied().unwrap_or_default(), by);
        }
    }
}

#[test]
fn what_is_not_owed_is_out_of_step() {
    let mut core = Core::<Client>::default();
    assert!(core.on_reply(true, b"", 0).is_err());
    assert!(core.on_confirmation(true, Family::Channel, b"a").is_err());
    let order =
        HubCommand { client: 1, resp: Resp::Three, family: Family::Channel, suppressed: false, now: 0, raw: b"?" };
    core.subscribe(&order, &[b"a", b"b"]);
    assert!(core.on_reply(false, b"PONG", 0).is_err());
    assert!(core.on_confirmation(true, Family::Channel, b"b").is_err());
    assert!(core.on_confirmation(true, Family::Pattern, b"a").is_err());
    assert!(core.on_confirmation(true, Family::Channel, b"a").is_ok());
    assert!(core.on_reply(true, b"ERR", 0).is_err(), "an error after the first confirmation");
    assert!(core.on_confirmation(true, Family::Channel, b"b").is_ok());
    core.unsubscribe(&order, &[]);
    core.ping(0);
    assert!(core.on_confirmation(true, Family::Channel, b"a").is_err());
}

#[test]
fn a_marker_is_known_by_its_text() {
    let mut core = Core::<Client>::default();
    core.ping(0);
    core.ping(0);
    assert!(core.on_reply(false, marker_text(2).as_bytes(), 0).is_err());
    assert!(core.on_reply(false, marker_text(1).as_bytes(), 0).is_ok());
    assert!(core.on_reply(true, b"NOPERM", 0).is_ok());
}

/// The server itself ends a subscription: everybody who had it is told, with the own count.
#[test]
fn a_revoked_channel_goes_to_all_who_heard_it() {
    let mut core = Core::<Client>::default();
    for client in [1, 3] {
        let order =
            HubCommand { client, resp: Resp::Three, family: Family::Shard, suppressed: false, now: 0, raw: b"?" };
        core.subscribe(&order, &[b"s"]);
        core.on_confirmation(true, Family::Shard, b"s").unwrap();
    }
    core.actions.clear();
    core.on_confirmation(false, Family::Shard, b"s").unwrap();
    let told: Vec<_> = core
        .actions
        .iter()
        .filter_map(|action| match action {
            HubAction::Confirm { client, joined: false, counts, .. } => Some((*client, counts.told(Family::Shard))),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(1, 0), (3, 0)]);
    assert_eq!(core.registry.wanted(), 0);
}

/// A subscription that the new server refuses: its clients would hear nothing and not know it.
#[test]
fn what_cannot_be_made_again_is_noticed() {
    let mut core = Core::<Client>::default();
    let order =
        HubCommand { client: 1, resp: Resp::Three, family: Family::Channel, suppressed: false, now: 0, raw: b"?" };
    core.subscribe(&order, &[b"a"]);
    core.on_confirmation(true, Family::Channel, b"a").unwrap();
    core.out.clear();
    core.begin_again(0);
    assert_eq!(&core.out[..], b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n");
    core.on_reply(true, b"NOPERM", 0).unwrap();
    assert!(core.lacks);
}

/// What a SUBSCRIBE or its opposite names.
fn family(command: &str) -> Family {
    let is_its = |family: &Family| [family.join_command(), family.leave_command()].contains(&command);
    Family::ALL.into_iter().find(is_its).unwrap()
}
