//! The machine against a model of the server, in every order of events that chance finds.

use std::collections::{BTreeSet, HashMap};

use super::*;

/// A connection, as the server and the wires see it.
#[derive(Default)]
struct Wire {
    /// Commands that the server has not read: how many elements each may take, and whether it waits.
    inbound: VecDeque<(usize, bool)>,
    blocked: bool,
    /// Replies that the proxy has not read.
    outbound: VecDeque<Vec<u32>>,
}

struct World {
    rng: fastrand::Rng,
    queue: Queue<u32>,
    list: VecDeque<u32>,
    wires: HashMap<SourceId, Wire>,
    unblocks: VecDeque<SourceId>,
    outcomes: VecDeque<(SourceId, Outcome)>,
    retries: Vec<SourceId>,
    /// Questions on lanes: before the server, and replies behind it.
    polls: VecDeque<usize>,
    polled: VecDeque<(usize, Vec<u32>)>,
    leasing: usize,
    places: usize,
    waiting: BTreeSet<WaiterId>,
    next_waiter: WaiterId,
    next_source: SourceId,
    next_element: u32,
    delivered: BTreeSet<u32>,
    lost: BTreeSet<u32>,
    given_back: usize,
    someone_vanished: bool,
    complaint: Option<String>,
}

impl World {
    fn new(seed: u64, hasty: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let burst = [Burst::Never, Burst::Count, Burst::Copies][rng.usize(..3)];
        let mut queue = Queue::new(rng.usize(1..4), burst);
        queue.hasty = hasty;
        Self {
            places: rng.usize(0..4),
            rng,
            queue,
            list: VecDeque::new(),
            wires: HashMap::new(),
            unblocks: VecDeque::new(),
            outcomes: VecDeque::new(),
            retries: Vec::new(),
            polls: VecDeque::new(),
            polled: VecDeque::new(),
            leasing: 0,
            waiting: BTreeSet::new(),
            next_waiter: 0,
            next_source: 0,
            next_element: 0,
            delivered: BTreeSet::new(),
            lost: BTreeSet::new(),
            given_back: 0,
            someone_vanished: false,
            complaint: None,
        }
    }

    fn complain(&mut self, text: String) {
        self.complaint.get_or_insert(text);
    }

    fn obey(&mut self) {
        for action in self.queue.take_actions() {
            match action {
                QueueAction::Deliver(waiter, element, _) => {
                    if self.waiting.first() != Some(&waiter) {
                        self.complain(format!("{waiter} was served before {:?}", self.waiting.first()));
                    }
                    self.waiting.remove(&waiter);
                    if !self.delivered.insert(element) {
                        self.complain(format!("element {element} was delivered twice"));
                    }
                }
                QueueAction::Nil(waiter) | QueueAction::Error(waiter, ..) | QueueAction::Close(waiter) => {
                    if !self.waiting.remove(&waiter) {
                        self.complain(format!("{waiter} has left twice"));
                    }
                }
                QueueAction::GiveBack(elements) => {
                    self.given_back += elements.len();
                    if !self.someone_vanished {
                        self.complain(format!("{elements:?} came for nobody, and nobody had vanished"));
                    }
                    for element in elements.into_iter().rev() {
                        self.list.push_front(element);
                    }
                    self.serve();
                }
                QueueAction::Arm(source, burst) => {
                    let copies = self.queue.burst == Burst::Copies;
                    let wire = self.wires.get_mut(&source).expect("armed sources exist");
                    match (burst, copies) {
                        (0, _) => {}
                        (n, true) => wire.inbound.extend(vec![(1, false); n]),
                        (n, false) => wire.inbound.push_back((n, false)),
                    }
                    wire.inbound.push_back((1, true));
                }
                QueueAction::Unblock(source) => self.unblocks.push_back(source),
                QueueAction::UnblockLater(source) => self.retries.push(source),
                QueueAction::Release(source) => {
                    let wire = self.wires.remove(&source).expect("released sources exist");
                    if wire.blocked || !wire.inbound.is_empty() || !wire.outbound.is_empty() {
                        self.complain("a connection was released that is not silent".to_owned());
                    }
                    self.places += 1;
                }
                QueueAction::Want => {
                    if self.places > 0 {
                        self.places -= 1;
                        self.leasing += 1;
                        self.queue.opening();
                    }
                }
            }
        }
    }

    /// The server gives what is in the list to those who are blocked.
    fn serve(&mut self) {
        let mut blocked: Vec<SourceId> = self.wires.iter().filter(|(_, w)| w.blocked).map(|(id, _)| *id).collect();
        blocked.sort_unstable();
        for id in blocked {
            let Some(element) = self.list.pop_front() else { return };
            let wire = self.wires.get_mut(&id).expect("listed above");
            wire.blocked = false;
            wire.outbound.push_back(vec![element]);
        }
    }

    fn some_source(&mut self) -> Option<SourceId> {
        let mut all: Vec<_> = self.wires.keys().copied().collect();
        all.sort_unstable();
        self.rng.choice(all)
    }

    fn server_reads(&mut self, source: SourceId) {
        let Some(wire) = self.wires.get_mut(&source).filter(|wire| !wire.blocked) else { return };
        let Some((most, waits)) = wire.inbound.pop_front() else { return };
        let found: Vec<u32> = (0..most).map_while(|_| self.list.pop_front()).collect();
        if found.is_empty() && waits {
            wire.blocked = true;
        } else {
            wire.outbound.push_back(found);
        }
    }

    fn proxy_reads(&mut self, source: SourceId) {
        let Some(found) = self.wires.get_mut(&source).and_then(|wire| wire.outbound.pop_front()) else { return };
        let reply = if found.is_empty() { PopReply::Nil } else { PopReply::Elements(found) };
        if self.queue.on_reply(source, reply).is_err() {
            self.complain("a reply had no question".to_owned());
        }
        self.obey();
    }

    fn server_unblocks(&mut self) {
        let Some(source) = self.unblocks.pop_front() else { return };
        let blocked = self.wires.get_mut(&source).filter(|wire| wire.blocked);
        let outcome = match blocked {
            _ if self.rng.u8(..10) == 0 => Outcome::Failed,
            Some(wire) => {
                wire.blocked = false;
                wire.outbound.push_back(Vec::new());
                Outcome::Unblocked
            }
            None => Outcome::NotBlocked,
        };
        self.outcomes.push_back((source, outcome));
    }

    fn proxy_learns(&mut self) {
        let Some((source, outcome)) = self.outcomes.pop_front() else { return };
        self.queue.on_unblock(source, outcome);
        self.obey();
    }

    fn leased(&mut self) {
        if self.leasing == 0 {
            return;
        }
        self.leasing -= 1;
        self.next_source += 1;
        self.wires.insert(self.next_source, Wire::default());
        self.queue.leased(self.next_source, false);
        self.obey();
    }

    fn poll(&mut self) {
        match self.rng.u8(..3) {
            0 if self.queue.needs_polls() && self.polls.is_empty() && self.polled.is_empty() => {
                let most = self.queue.len();
                self.queue.poll_began(most);
                self.polls.push_back(most);
            }
            1 => {
                let Some(most) = self.polls.pop_front() else { return };
                let found = (0..most).map_while(|_| self.list.pop_front()).collect();
                self.polled.push_back((most, found));
            }
            _ => {
                let Some((most, found)) = self.polled.pop_front() else { return };
                let reply = if found.is_empty() { PopReply::Nil } else { PopReply::Elements(found) };
                self.queue.poll_ended(most, Via::Poll, Some(reply));
                self.obey();
            }
        }
    }

    fn push(&mut self) {
        for _ in 0..self.rng.usize(1..4) {
            self.list.push_back(self.next_element);
            self.next_element += 1;
        }
        self.serve();
    }

    fn lose(&mut self, source: SourceId) {
        let wire = self.wires.remove(&source).expect("chosen from those that exist");
        self.lost.extend(wire.outbound.into_iter().flatten());
        self.places += 1;
        self.queue.lost(source);
        self.someone_vanished = true; // its waiters are closed, the other connections still wait
        self.obey();
    }

    fn step(&mut self, vanish: bool) {
        let waiter = { self.rng.choice(self.waiting.iter().copied().collect::<Vec<_>>()) };
        match (self.rng.u8(..20), waiter) {
            (0..=2, _) => {
                self.next_waiter += 1;
                self.waiting.insert(self.next_waiter);
                self.queue.join(self.next_waiter);
                self.obey();
            }
            (3..=4, Some(waiter)) => {
                self.queue.leave(waiter);
                self.obey();
            }
            (5, Some(waiter)) if vanish => {
                self.someone_vanished = true;
                self.waiting.remove(&waiter);
                self.queue.gone(waiter);
                self.obey();
            }
            (6, _) => self.push(),
            (7, _) if vanish && self.rng.u8(..10) == 0 => {
                if let Some(source) = self.some_source() {
                    self.lose(source);
                }
            }
            (8, _) if self.rng.u8(..4) == 0 => {
                self.queue.give_way();
                self.obey();
            }
            (9, _) => {
                self.queue.offer();
                self.obey();
            }
            _ => self.pass_time(),
        }
    }

    /// Something that was on its way arrives.
    fn pass_time(&mut self) {
        let source = self.some_source();
        match (self.rng.u8(..8), source) {
            (0..=1, Some(source)) => self.server_reads(source),
            (2..=3, Some(source)) => self.proxy_reads(source),
            (4, _) => self.server_unblocks(),
            (5, _) => self.proxy_learns(),
            (6, _) => {
                self.leased();
                if let Some(source) = self.retries.pop() {
                    self.queue.retry(source);
                    self.obey();
                }
            }
            _ => self.poll(),
        }
    }

    /// Everybody leaves or is served, and every element is somewhere.
    fn finish(&mut self) {
        for waiter in self.waiting.clone() {
            self.queue.leave(waiter);
            self.obey();
        }
        for _ in 0..5000 {
            self.pass_time();
        }
        if !self.waiting.is_empty() {
            self.complain(format!("{:?} never left", self.waiting));
        }
        let there: BTreeSet<u32> = self.list.iter().copied().collect();
        let count = there.len() + self.delivered.len() + self.lost.len();
        let all: BTreeSet<u32> = there.union(&self.delivered).chain(&self.lost).copied().collect();
        if count != all.len() || all.len() != self.next_element as usize {
            self.complain(format!("{} of {} elements are accounted for", all.len(), self.next_element));
        }
        if !self.queue.is_over() {
            self.complain(format!("something is left of the fold: {:?}", self.queue));
        }
    }
}

fn play(seed: u64, vanish: bool, hasty: bool) -> Option<String> {
    let mut world = World::new(seed, hasty);
    for _ in 0..400 {
        world.step(vanish);
    }
    world.finish();
    world.complaint
}

#[test]
fn every_element_goes_to_the_oldest_waiter_or_back() {
    for seed in 0..500 {
        for vanish in [false, true] {
            let complaint = play(seed, vanish, false);
            assert_eq!(complaint, None, "seed {seed}, clients vanish: {vanish}");
        }
    }
}

/// A wait group that lets waiters go while their element may be on its way is found out.
#[test]
fn the_oracle_sees_a_hasty_nil() {
    let found = (0..200).filter(|seed| play(*seed, false, true).is_some()).count();
    assert!(found > 50, "found in {found} of 200");
}

fn armed(waiters: &[WaiterId]) -> Queue<u32> {
    let mut queue = Queue::new(1, Burst::Count);
    for waiter in waiters {
        queue.join(*waiter);
    }
    queue.opening();
    queue.leased(7, false);
    assert_eq!(queue.take_actions().last(), Some(&QueueAction::Arm(7, 0)));
    queue
}

#[test]
fn a_burst_follows_an_element() {
    let mut queue = armed(&[1, 2, 3, 4]);
    queue.on_reply(7, PopReply::Elements(vec![10])).unwrap();
    assert_eq!(queue.take_actions(), [QueueAction::Deliver(1, 10, Via::Armed), QueueAction::Arm(7, 2)]);
    queue.leave(3);
    assert_eq!(queue.take_actions(), [], "its element may be on its way");
    queue.on_reply(7, PopReply::Nil).unwrap();
    assert_eq!(queue.take_actions(), [QueueAction::Nil(3)]);
}

#[test]
fn an_operator_frees_one_waiter() {
    let mut queue = armed(&[1, 2]);
    queue.on_reply(7, PopReply::Nil).unwrap();
    assert_eq!(queue.take_actions(), [QueueAction::Nil(1), QueueAction::Arm(7, 0)]);
    queue.on_reply(7, PopReply::Unblocked(5)).unwrap();
    assert_eq!(queue.take_actions(), [QueueAction::Error(2, 5, false), QueueAction::Release(7)]);
}

#[test]
fn an_error_is_everybodys() {
    let mut queue = armed(&[1, 2]);
    queue.on_reply(7, PopReply::Error(5, true)).unwrap();
    assert_eq!(
        queue.take_actions(),
        [QueueAction::Error(1, 5, true), QueueAction::Error(2, 5, true), QueueAction::Release(7)]
    );
    assert!(queue.is_over());
}

#[test]
fn surprises_are_errors() {
    let mut queue = armed(&[1]);
    assert!(queue.on_reply(7, PopReply::Elements(vec![1, 2])).is_err());
    let mut queue = armed(&[1]);
    queue.on_reply(7, PopReply::Elements(vec![1])).unwrap();
    assert!(queue.on_reply(7, PopReply::Nil).is_err());
}

#[test]
fn slices_end_without_an_element_and_nobody_notices() {
    let mut queue: Queue<u32> = Queue::new(1, Burst::Count);
    queue.join(1);
    queue.opening();
    queue.leased(7, true);
    queue.leave(1);
    assert!(!queue.take_actions().iter().any(|action| matches!(action, QueueAction::Unblock(_) | QueueAction::Nil(_))));
    queue.on_reply(7, PopReply::Nil).unwrap();
    assert_eq!(queue.take_actions(), [QueueAction::Nil(1), QueueAction::Release(7)]);
}
