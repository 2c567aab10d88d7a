//! What a storm client does next: a batch of commands and the way they are sent.

use fastrand::Rng;

use crate::ledger::Ledger;
use crate::model::Model;
use crate::op::{Key, Kind, Op, ReplyMode, Shape, User};
use crate::token::Token;

/// How a batch goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// In one write.
    Together,
    /// Each command waits for the reply of the one before.
    OneByOne,
    /// Cut into pieces anywhere.
    Pieces,
    /// All of it, then no more requests: everything is answered, then the connection ends.
    HalfClose,
    /// Up to a random byte, then closed without reading on; with a reset or an orderly end.
    Cut { reset: bool },
}

/// What another connection of the same client does meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Peer {
    /// Feeds the blocking pop, once it has been sent.
    Feeds(Op),
    /// Writes a watched key between the `n`th command's reply and the next one.
    Writes { after: usize, key: Key, token: Token },
    /// Subscribe before the batch, which publishes to them, and must get all of it. The first of them has something to
    /// say meanwhile, if there are tokens for it.
    Listens { channel: Token, messages: Vec<Token>, protocols: Vec<u8>, busy: Vec<Token> },
    /// Wait for the elements that the batch pushes, one each.
    Waits { key: Key, tokens: Vec<Token>, way: u8 },
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) ops: Vec<Op>,
    pub(crate) style: Style,
    pub(crate) peer: Option<Peer>,
}

/// Which batches a storm has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    Everything,
    /// One plain command at a time: for the self-tests, where each fault must have one name.
    Simple,
}

const DATABASES: u8 = 3;
const VALUES: u16 = 8;
/// A ledger list is left for a new one after so many entries, so that audits stay short.
const LIST_ENTRIES: u64 = 200;

/// Draws batches for one connection.
pub(crate) struct Planner {
    pub(crate) rng: Rng,
    mix: Mix,
    who: u32,
    life: u32,
    sequence: u64,
    unit: u32,
    db: u8,
    counters_started: Vec<Key>,
}

impl Planner {
    pub(crate) fn new(mix: Mix, seed: u64, who: u32, life: u32) -> Self {
        let own = seed ^ (u64::from(who) << 32) ^ (u64::from(life) << 1);
        Self {
            rng: Rng::with_seed(own.wrapping_mul(0xD6E8_FEB8_6659_FD93)),
            mix,
            who,
            life,
            sequence: 0,
            unit: 0,
            db: 0,
            counters_started: Vec::new(),
        }
    }

    fn token(&mut self) -> Token {
        self.sequence += 1;
        Token { who: self.who, life: self.life, sequence: self.sequence }
    }

    /// How a connection begins.
    pub(crate) fn greeting(&mut self) -> Batch {
        let mut ops = Vec::new();
        if self.mix == Mix::Everything {
            if self.rng.bool() {
                ops.push(Op::Hello(3));
            }
            if self.rng.u8(..8) == 0 {
                ops.push(Op::Login(User::Stormy));
                ops.push(Op::Whoami);
            }
            if self.rng.u8(..4) == 0 {
                ops.push(Op::Select(self.rng.u8(..DATABASES)));
            }
            if self.rng.u8(..4) == 0 {
                let token = self.token();
                ops.push(Op::SetName(token));
            }
        }
        ops.push(Op::ClientId);
        Batch { ops, style: self.style(), peer: None }
    }

    /// The next batch.
    pub(crate) fn next(&mut self, model: &Model, ledger: &mut Ledger) -> Batch {
        self.db = model.db;
        if self.mix == Mix::Simple {
            return self.batch(|plan, ops| ops.push(plan.simple(ledger)), Style::Together);
        }
        match self.rng.u16(..1000) {
            0..300 => self.one(ledger),
            300..640 => self.pipeline(ledger),
            640..700 => self.transaction(ledger, Style::Together),
            700..730 => self.transaction(ledger, Style::OneByOne),
            730..760 => self.watch(ledger),
            760..800 => self.pop(),
            800..830 => self.silence(ledger),
            830..855 => self.state(ledger),
            855..870 => self.waiters(),
            870..890 => self.big(),
            890..920 => self.identity(),
            920..940 => self.listen(),
            940..970 => self.pipeline(ledger).with(|rng| Style::Cut { reset: rng.bool() }, &mut self.rng),
            970..980 => {
                self.transaction(ledger, Style::Together).with(|rng| Style::Cut { reset: rng.bool() }, &mut self.rng)
            }
            980..985 => self.pop_and_leave(ledger),
            _ => self.pipeline(ledger).with(|_| Style::HalfClose, &mut self.rng),
        }
    }

    /// The last words of a connection that has lived its time: everything is answered, and nothing follows.
    pub(crate) fn farewell(&mut self) -> Batch {
        let token = self.token();
        Batch { ops: vec![Op::Echo { token, size: 40, inline: false }], style: Style::HalfClose, peer: None }
    }

    fn batch(&mut self, fill: impl FnOnce(&mut Self, &mut Vec<Op>), style: Style) -> Batch {
        let mut ops = Vec::new();
        fill(self, &mut ops);
        Batch { ops, style, peer: None }
    }

    fn style(&mut self) -> Style {
        match self.rng.u8(..10) {
            0 => Style::OneByOne,
            1 => Style::Pieces,
            _ => Style::Together,
        }
    }

    fn size(&mut self) -> usize {
        match self.rng.u8(..100) {
            0..3 => self.rng.usize(..3),
            3..90 => self.rng.usize(1..200),
            90..97 => self.rng.usize(200..4000),
            97 | 98 => 16_384 - 2 + self.rng.usize(..5),
            _ => 65_536 - 2 + self.rng.usize(..5),
        }
    }

    fn key(&mut self, kind: Kind) -> Key {
        let number = if kind == Kind::Value { self.rng.u16(..VALUES) } else { self.rng.u16(..2) };
        Key { db: self.db, kind, number }
    }

    /// The list that is written at the moment, in the current database.
    fn push(&mut self, ledger: &mut Ledger, unit: u32) -> Op {
        let number = (self.sequence / LIST_ENTRIES) as u16;
        self.push_to(ledger, unit, Key { db: self.db, kind: Kind::Ledger, number })
    }

    fn push_to(&mut self, ledger: &mut Ledger, unit: u32, key: Key) -> Op {
        let token = self.token();
        let at = ledger.intend(key, token, unit);
        Op::Push { key, token, at, scripted: self.rng.u8(..5) == 0 }
    }

    fn simple(&mut self, ledger: &mut Ledger) -> Op {
        match self.rng.u8(..4) {
            0 => self.push(ledger, 0),
            1 => Op::Set { key: self.key(Kind::Value), token: self.token(), size: 60 },
            2 => Op::Get(self.key(Kind::Value)),
            _ => Op::Echo { token: self.token(), size: 60, inline: false },
        }
    }

    /// A data command, in front of it what it needs.
    fn plain(&mut self, ops: &mut Vec<Op>, ledger: &mut Ledger, unit: u32) {
        let op = match self.rng.u8(..100) {
            0..18 => Op::Echo { token: self.token(), size: self.size(), inline: false },
            18..36 => Op::Set { key: self.key(Kind::Value), token: self.token(), size: self.size() },
            36..56 => Op::Get(self.key(Kind::Value)),
            56..60 => Op::Mget((0..self.rng.u8(1..6)).map(|_| self.key(Kind::Value)).collect()),
            60..63 => Op::Del(self.key(Kind::Value)),
            63..65 => Op::Strlen(self.key(Kind::Value)),
            65..67 => Op::WrongType(self.key(Kind::Value)),
            67..70 => Op::Ping(self.token()),
            70..80 => {
                let key = self.key(Kind::Counter);
                if !self.counters_started.contains(&key) {
                    self.counters_started.push(key);
                    ops.push(Op::CounterStart(key));
                }
                Op::Incr(key)
            }
            80..94 => self.push(ledger, unit),
            _ => Op::Script(Shape::ALL[self.rng.usize(..Shape::ALL.len())], self.token()),
        };
        ops.push(op);
    }

    /// As [`Self::plain`], and what no transaction may hold.
    fn any(&mut self, ops: &mut Vec<Op>, ledger: &mut Ledger) {
        let op = match self.rng.u8(..100) {
            0 => Op::Echo { token: self.token(), size: 0, inline: true },
            1 => Op::Unknown(self.token()),
            2 => Op::ClientId,
            3 => Op::GetName,
            4 => Op::Blank,
            _ => return self.plain(ops, ledger, 0),
        };
        ops.push(op);
    }

    fn one(&mut self, ledger: &mut Ledger) -> Batch {
        let style = self.style();
        self.batch(|plan, ops| plan.any(ops, ledger), style)
    }

    fn pipeline(&mut self, ledger: &mut Ledger) -> Batch {
        let style = match self.style() {
            Style::OneByOne => Style::Together,
            style => style,
        };
        let length = match self.rng.u8(..20) {
            0..12 => self.rng.usize(1..6),
            12..19 => self.rng.usize(6..40),
            _ => self.rng.usize(40..=200),
        };
        self.batch(|plan, ops| (0..length).for_each(|_| plan.any(ops, ledger)), style)
    }

    fn transaction(&mut self, ledger: &mut Ledger, style: Style) -> Batch {
        self.unit += 1;
        let unit = self.unit;
        let mut ops = vec![Op::Multi];
        for _ in 0..self.rng.u8(..8) {
            self.plain(&mut ops, ledger, unit);
        }
        match self.rng.u8(..20) {
            0 => ops.push(Op::Unknown(self.token())),
            1 => {
                // Another database from here on: only if the transaction runs, so nothing follows in this batch.
                self.db = self.rng.u8(..DATABASES);
                ops.push(Op::Select(self.db));
                self.plain(&mut ops, ledger, unit);
                ops.push(Op::Exec);
                return Batch { ops, style, peer: None };
            }
            2 => {
                let (key, token) = (self.key(Kind::Queue), self.token());
                ops.push(Op::QueuePush { key, token });
                ops.push(Op::Pop { key, seconds: "0", peer: None });
                ops.push(Op::Pop { key, seconds: "0", peer: None });
            }
            _ => {}
        }
        ops.push(if self.rng.u8(..8) == 0 { Op::Discard } else { Op::Exec });
        self.plain(&mut ops, ledger, 0);
        Batch { ops, style, peer: None }
    }

    /// Optimistic locking: undisturbed, disturbed by the client itself, or by another connection of it.
    fn watch(&mut self, ledger: &mut Ledger) -> Batch {
        self.unit += 1;
        let unit = self.unit;
        let key = self.key(Kind::Value);
        let mut ops = vec![Op::Watch(key), Op::Get(key)];
        let mut peer = None;
        let mut style = self.style();
        match self.rng.u8(..6) {
            0 => ops.push(Op::Set { key, token: self.token(), size: 50 }),
            1 => ops.push(Op::Unwatch),
            2 => {
                peer = Some(Peer::Writes { after: ops.len(), key, token: self.token() });
                style = Style::OneByOne;
            }
            3 => ops.extend([Op::Exec, Op::Discard]),
            _ => {}
        }
        ops.push(Op::Multi);
        ops.push(Op::Set { key, token: self.token(), size: 50 });
        ops.push(self.push(ledger, unit));
        ops.push(Op::Get(key));
        ops.push(Op::Exec);
        ops.push(Op::Get(key));
        if self.rng.u8(..8) == 0 {
            ops.push(Op::Watch(key)); // left watching: a later transaction, or the end of the connection
        }
        Batch { ops, style, peer }
    }

    fn pop(&mut self) -> Batch {
        let (key, token) = (self.key(Kind::Queue), self.token());
        let before = Op::Echo { token: self.token(), size: 30, inline: false };
        let after = Op::Set { key: self.key(Kind::Value), token: self.token(), size: 30 };
        let mut peer = None;
        let mut ops = match self.rng.u8(..4) {
            0 => vec![Op::Pop { key, seconds: "0.05", peer: None }],
            1 => vec![Op::QueuePush { key, token }, Op::Pop { key, seconds: "10", peer: None }],
            _ => {
                peer = Some(Peer::Feeds(Op::QueuePush { key, token }));
                vec![Op::Pop { key, seconds: "0", peer: Some(token) }]
            }
        };
        ops.insert(0, before);
        ops.push(after);
        Batch { ops, style: Style::Together, peer }
    }

    /// Leaves while blocked: what stands behind the blocked command must not run.
    fn pop_and_leave(&mut self, ledger: &mut Ledger) -> Batch {
        let key = Key { db: self.db, kind: Kind::Queue, number: 9 };
        let mut ops = vec![self.push(ledger, 0), Op::Pop { key, seconds: "0", peer: None }];
        ops.push(self.push_to(ledger, 0, Key { db: self.db, kind: Kind::Ledger, number: u16::MAX }));
        Batch { ops, style: Style::Cut { reset: self.rng.bool() }, peer: None }
    }

    /// CLIENT REPLY: commands that run without an answer.
    fn silence(&mut self, ledger: &mut Ledger) -> Batch {
        let style = self.style();
        // The length of this list is never asked for: whether a silent write ran is known only at the end.
        let quiet = Key { db: self.db, kind: Kind::Ledger, number: u16::MAX - 1 };
        let mut ops = Vec::new();
        if self.rng.bool() {
            ops.push(Op::Reply(ReplyMode::Off));
            for _ in 0..self.rng.u8(..6) {
                ops.push(match self.rng.u8(..3) {
                    0 => Op::Echo { token: self.token(), size: 50, inline: false },
                    1 => Op::Get(self.key(Kind::Value)),
                    _ => self.push_to(ledger, 0, quiet),
                });
            }
            if self.rng.u8(..4) == 0 {
                ops.push(Op::Reply(ReplyMode::Skip));
            }
            ops.push(Op::Reply(ReplyMode::On));
        } else {
            for _ in 0..self.rng.u8(1..4) {
                (0..self.rng.u8(1..3)).for_each(|_| ops.push(Op::Reply(ReplyMode::Skip)));
                ops.push(self.push_to(ledger, 0, quiet));
                self.plain(&mut ops, ledger, 0);
            }
        }
        self.plain(&mut ops, ledger, 0);
        Batch { ops, style, peer: None }
    }

    /// Changes of the connection's state, with data commands before and after each.
    fn state(&mut self, ledger: &mut Ledger) -> Batch {
        let style = self.style();
        let mut ops = Vec::new();
        for _ in 0..self.rng.u8(1..4) {
            self.any(&mut ops, ledger);
            let change = match self.rng.u8(..10) {
                0..4 => {
                    self.db = self.rng.u8(..DATABASES);
                    Op::Select(self.db)
                }
                4..7 => Op::Hello(2 + self.rng.u8(..2)),
                7 => {
                    self.db = 0;
                    Op::Reset
                }
                8 => Op::Login(if self.rng.bool() { User::Stormy } else { User::Default }),
                _ => Op::SetName(self.token()),
            };
            ops.push(change);
            ops.push(match self.rng.u8(..4) {
                0 => Op::Whoami,
                1 => Op::GetName,
                2 => Op::ClientInfo,
                _ => Op::ClientId,
            });
            self.any(&mut ops, ledger);
        }
        Batch { ops, style, peer: None }
    }

    fn big(&mut self) -> Batch {
        let size = match self.rng.u8(..4) {
            0 => 16_384 - 1 + self.rng.usize(..3),
            1 => 65_536 - 1 + self.rng.usize(..3),
            2 => 262_144 - 1 + self.rng.usize(..3),
            _ => 1_048_576 - 1 + self.rng.usize(..3),
        };
        let (key, token) = (Key { db: self.db, kind: Kind::Value, number: 0 }, self.token());
        let small = Op::Set { key, token: self.token(), size: 20 };
        let ops = vec![Op::Set { key, token, size }, Op::Get(key), Op::Strlen(key), small, Op::Get(key)];
        Batch { ops, style: self.style(), peer: None }
    }

    fn identity(&mut self) -> Batch {
        let style = self.style();
        let name = self.token();
        Batch { ops: vec![Op::SetName(name), Op::GetName, Op::ClientInfo, Op::Whoami, Op::ClientId], style, peer: None }
    }

    /// Many wait for one key, and are fed in one to three writes.
    fn waiters(&mut self) -> Batch {
        let tokens: Vec<_> = (0..self.rng.usize(2..7)).map(|_| self.token()).collect();
        let key = Key { db: self.db, kind: Kind::Waiters, number: self.sequence as u16 };
        let most = tokens.len() as i64;
        let mut ops = Vec::new();
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(if ops.len() > 3 { rest.len() } else { self.rng.usize(1..=rest.len()) });
            ops.push(Op::Feed { key, tokens: now.to_vec(), most });
            ops.push(Op::Echo { token: self.token(), size: 30, inline: false });
            rest = later;
        }
        let peer = Peer::Waits { key, tokens, way: self.rng.u8(..3) };
        Batch { ops, style: self.style(), peer: Some(peer) }
    }

    fn listen(&mut self) -> Batch {
        let channel = self.token();
        let messages: Vec<_> = (0..self.rng.u8(1..20)).map(|_| self.token()).collect();
        let protocols: Vec<u8> = (0..self.rng.u8(1..4)).map(|_| 2 + self.rng.u8(..2)).collect();
        let busy: Vec<_> = if self.rng.bool() { (0..3).map(|_| self.token()).collect() } else { Vec::new() };
        // One that joins and leaves a pattern meanwhile counts or not.
        let (count, doubt) = (protocols.len() as i64, i64::from(!busy.is_empty()));
        let mut ops = Vec::new();
        for token in &messages {
            ops.push(Op::Publish { channel, token: *token, least: count - doubt, most: count + doubt });
            if self.rng.u8(..3) == 0 {
                ops.push(Op::Echo { token: self.token(), size: 20, inline: false });
            }
        }
        let peer = Peer::Listens { channel, messages, protocols, busy };
        Batch { ops, style: self.style(), peer: Some(peer) }
    }
}

impl Batch {
    fn with(mut self, style: impl FnOnce(&mut Rng) -> Style, rng: &mut Rng) -> Self {
        self.style = style(rng);
        self
    }
}
