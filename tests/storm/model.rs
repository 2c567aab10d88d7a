//! The oracle: what Redis must answer to one client whose keys nobody else touches.

use std::collections::{HashMap, VecDeque};

use crate::op::{EntryRef, Key, Names, Op, ReplyMode, Shape, User};
use crate::token::Token;
use kit::resp::Value;

/// What a reply must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expected {
    /// This very frame.
    Exact(Value),
    /// The greeting of HELLO with this protocol version.
    Hello(u8),
    /// The id of the connection: the same one each time, and nobody else's.
    ClientId,
    /// `CLIENT INFO` with this connection's id, name, database, protocol version and user.
    ClientInfo,
    /// A count from the first to the second; also less once upstream connections, and with them subscribers, may have
    /// been killed.
    Between(i64, i64),
    /// Any error: the body of a transaction whose MULTI was refused.
    AnyError,
}

#[derive(Clone, Debug, PartialEq)]
enum Transaction {
    None,
    Open {
        queued: Vec<Op>,
        aborted: bool,
    },
    /// MULTI was refused: nothing runs until EXEC, which says so.
    Poisoned,
}

/// What the ledger learns from the replies.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Executed, and the reply says so.
    pub(crate) executed: Vec<EntryRef>,
    /// Executed if anything after it was, but its own reply was suppressed.
    pub(crate) silent: Vec<EntryRef>,
    /// Declared not executed.
    pub(crate) refused: Vec<EntryRef>,
}

/// State of one connection and of the keys of one life.
pub(crate) struct Model {
    pub(crate) names: Names,
    pub(crate) protocol: u8,
    pub(crate) db: u8,
    pub(crate) user: User,
    pub(crate) name: Option<Token>,
    pub(crate) id: Option<i64>,
    pub(crate) effects: Effects,
    reply: ReplyMode,
    transaction: Transaction,
    watched: Vec<Key>,
    watch_dirty: bool,
    watch_refused: bool,
    values: HashMap<Key, (Token, usize)>,
    counters: HashMap<Key, i64>,
    queues: HashMap<Key, VecDeque<Token>>,
    lengths: HashMap<Key, i64>,
}

impl Model {
    pub(crate) fn new(names: Names) -> Self {
        Self {
            names,
            protocol: 2,
            db: 0,
            user: User::Default,
            name: None,
            id: None,
            effects: Effects::default(),
            reply: ReplyMode::On,
            transaction: Transaction::None,
            watched: Vec::new(),
            watch_dirty: false,
            watch_refused: false,
            values: HashMap::new(),
            counters: HashMap::new(),
            queues: HashMap::new(),
            lengths: HashMap::new(),
        }
    }

    /// If `op` gets no reply, its effect is taken now.
    pub(crate) fn runs_silently(&mut self, op: &Op) -> bool {
        match (op, self.reply) {
            (Op::Blank, _) => true,
            (Op::Reply(ReplyMode::On) | Op::Reset, _) => false,
            (Op::Reply(ReplyMode::Skip), ReplyMode::Off) => true,
            (Op::Reply(mode), _) => {
                self.reply = *mode;
                true
            }
            (_, ReplyMode::On) => false,
            (_, mode) => {
                if mode == ReplyMode::Skip {
                    self.reply = ReplyMode::On;
                }
                let executed = self.effects.executed.len();
                self.execute(op);
                let silent = self.effects.executed.split_off(executed);
                self.effects.silent.extend(silent);
                true
            }
        }
    }

    /// Runs `op` and says what its reply must be.
    pub(crate) fn execute(&mut self, op: &Op) -> Expected {
        match op {
            Op::Exec => return self.exec(),
            Op::Discard => return self.discard(),
            Op::Reset => return self.reset(),
            _ => {}
        }
        match &mut self.transaction {
            Transaction::None => self.run(op),
            Transaction::Poisoned => {
                self.refuse_entries(op);
                Expected::AnyError
            }
            Transaction::Open { queued, .. } if op.is_plain() || matches!(op, Op::Select(_)) => {
                queued.push(op.clone());
                Expected::Exact(Value::Simple(b"QUEUED".to_vec()))
            }
            Transaction::Open { aborted, .. } => {
                *aborted = true;
                self.run(op)
            }
        }
    }

    /// The reply declared that `op` was not executed. False if nothing can be said about what follows.
    pub(crate) fn refuse(&mut self, op: &Op) -> bool {
        self.refuse_entries(op);
        match (&mut self.transaction, op) {
            (Transaction::None, Op::Multi) => self.transaction = Transaction::Poisoned,
            (Transaction::None, Op::Watch(_)) => self.watch_refused = true,
            (Transaction::None, Op::Pop { key, peer, .. }) => {
                let queue = self.queues.entry(*key).or_default();
                queue.extend(peer.iter());
            }
            (Transaction::Poisoned, Op::Exec | Op::Discard) => self.transaction = Transaction::None,
            (Transaction::Open { .. }, Op::Exec | Op::Discard) => {
                self.drop_transaction();
                self.forget_watches();
            }
            (Transaction::Open { aborted, .. }, _) => *aborted = true,
            (_, op) => {
                return op.is_plain()
                    || matches!(
                        op,
                        Op::Unknown(_)
                            | Op::GetName
                            | Op::ClientId
                            | Op::ClientInfo
                            | Op::Whoami
                            | Op::Publish { .. }
                            | Op::Feed { .. }
                    );
            }
        }
        true
    }

    /// Another connection of this client has written `key`.
    pub(crate) fn written_by_mate(&mut self, key: Key, token: Token, size: usize) {
        self.values.insert(key, (token, size));
        self.touch(key);
    }

    /// The connection is gone; of `sent`, all commands that reached it whole and have no reply, those that stand in
    /// a transaction without its EXEC have certainly not run.
    pub(crate) fn abandon(&mut self, sent: &[Op]) {
        let open = match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::Open { queued, .. } => Some(queued),
            _ => None,
        };
        let mut queued = open;
        for op in sent {
            match (op, &mut queued) {
                (Op::Multi, None) => queued = Some(Vec::new()),
                (Op::Exec | Op::Discard | Op::Reset, Some(_)) => queued = None,
                (op, Some(queued)) => queued.push(op.clone()),
                _ => {}
            }
        }
        for op in queued.iter().flatten() {
            self.refuse_entries(op);
        }
    }

    fn run(&mut self, op: &Op) -> Expected {
        let expected = match op {
            Op::Multi => {
                self.transaction = Transaction::Open { queued: Vec::new(), aborted: false };
                Value::ok()
            }
            Op::Watch(key) => {
                self.watched.push(*key);
                Value::ok()
            }
            Op::Unwatch => {
                self.forget_watches();
                Value::ok()
            }
            Op::Hello(version) => {
                self.protocol = *version;
                return Expected::Hello(*version);
            }
            Op::ClientId => return Expected::ClientId,
            Op::Publish { least, most, .. } => return Expected::Between(*least, *most),
            Op::Feed { most, .. } => return Expected::Between(1, *most),
            Op::ClientInfo => return Expected::ClientInfo,
            Op::Login(user) => {
                self.user = *user;
                Value::ok()
            }
            Op::Whoami => Value::text(self.user.name()),
            Op::Reply(_) => {
                self.reply = ReplyMode::On;
                Value::ok()
            }
            Op::SetName(token) => {
                self.name = Some(*token);
                Value::ok()
            }
            Op::GetName => self.name.map_or_else(|| self.null(), |name| Value::text(&name.text(self.names.seed))),
            Op::Unknown(token) => Value::Error(
                format!("ERR unknown command 'NOSUCH', with args beginning with: '{}' ", token.text(self.names.seed))
                    .into_bytes(),
            ),
            plain => self.plain(plain),
        };
        Expected::Exact(expected)
    }

    /// Data commands: those that may also stand in a transaction.
    fn plain(&mut self, op: &Op) -> Value {
        let seed = self.names.seed;
        match op {
            Op::Echo { token, inline: true, .. } | Op::Ping(token) => Value::text(&token.text(seed)),
            Op::Echo { token, size, .. } => Value::Bulk(token.payload(seed, *size)),
            Op::Set { key, token, size } => {
                self.values.insert(*key, (*token, *size));
                self.touch(*key);
                Value::ok()
            }
            Op::Get(key) => self.value(*key),
            Op::Mget(keys) => Value::Array(keys.iter().map(|key| self.value(*key)).collect()),
            Op::Del(key) => {
                let there = self.values.remove(key).is_some();
                if there {
                    self.touch(*key);
                }
                Value::Int(i64::from(there))
            }
            Op::Strlen(key) => Value::Int(self.values.get(key).map_or(0, |(_, size)| *size as i64)),
            Op::WrongType(key) if self.values.contains_key(key) => {
                Value::Error(b"WRONGTYPE Operation against a key holding the wrong kind of value".to_vec())
            }
            Op::WrongType(_) => Value::Int(0),
            Op::CounterStart(key) if self.counters.contains_key(key) => self.null(),
            Op::CounterStart(key) => {
                self.counters.insert(*key, self.names.counter_start() - 1);
                Value::ok()
            }
            Op::Incr(key) => {
                let counter = self.counters.entry(*key).or_default();
                *counter += 1;
                Value::Int(*counter)
            }
            Op::Push { key, at, .. } => {
                self.effects.executed.push(*at);
                let length = self.lengths.entry(*key).or_default();
                *length += 1;
                Value::Int(*length)
            }
            Op::QueuePush { key, token } => {
                let queue = self.queues.entry(*key).or_default();
                queue.push_back(*token);
                Value::Int(queue.len() as i64)
            }
            Op::Pop { key, peer, .. } => {
                let queue = self.queues.entry(*key).or_default();
                queue.extend(peer.iter());
                match queue.pop_front() {
                    Some(token) => {
                        Value::Array(vec![Value::text(&self.names.key(*key)), Value::text(&token.text(seed))])
                    }
                    None => self.null_array(),
                }
            }
            Op::Script(shape, token) => self.script(*shape, *token),
            Op::Select(db) => {
                self.db = *db;
                Value::ok()
            }
            other => unreachable!("{other:?} is no data command"),
        }
    }

    fn script(&self, shape: Shape, token: Token) -> Value {
        let text = Value::text(&token.text(self.names.seed));
        let three = self.protocol == 3;
        let line = token.text(self.names.seed);
        let half = || if three { Value::Double(b"0.5".to_vec()) } else { Value::text("0.5") };
        match shape {
            Shape::Status => Value::Simple(line.into_bytes()),
            Shape::Error => Value::Error(format!("STORM {line}").into_bytes()),
            Shape::OneWordError => Value::Error(line.into_bytes()),
            Shape::Nested => {
                let innermost = Value::Array(vec![text.clone(), self.null(), Value::Array(Vec::new())]);
                Value::Array(vec![text.clone(), Value::Array(vec![Value::Int(1), innermost]), text])
            }
            Shape::Map if three => Value::Map(vec![text, half()]),
            Shape::Map => Value::Array(vec![text, half()]),
            Shape::Set if three => Value::Set(vec![text]),
            Shape::Set => Value::Array(vec![text]),
            Shape::BigNumber if three => Value::BigNumber(self.names.big_number(token).into_bytes()),
            Shape::BigNumber => Value::text(&self.names.big_number(token)),
            Shape::Verbatim if three => Value::Verbatim(format!("txt:{line}").into_bytes()),
            Shape::Verbatim => text,
            Shape::Scalars if three => Value::Array(vec![text, Value::Bool(true), half()]),
            Shape::Scalars => Value::Array(vec![text, Value::Int(1), half()]),
        }
    }

    fn exec(&mut self) -> Expected {
        match &self.transaction {
            Transaction::None => return Expected::Exact(Value::Error(b"ERR EXEC without MULTI".to_vec())),
            Transaction::Poisoned => {
                self.transaction = Transaction::None;
                self.forget_watches();
                return Expected::AnyError;
            }
            Transaction::Open { .. } => {}
        }
        let stale = self.watch_dirty || self.watch_refused;
        self.forget_watches();
        let aborted = matches!(self.transaction, Transaction::Open { aborted: true, .. });
        if aborted || stale {
            self.drop_transaction();
            return Expected::Exact(if aborted {
                Value::Error(b"EXECABORT Transaction discarded because of previous errors.".to_vec())
            } else {
                self.null_array()
            });
        }
        let Transaction::Open { queued, .. } = std::mem::replace(&mut self.transaction, Transaction::None) else {
            unreachable!("the other states returned above");
        };
        Expected::Exact(Value::Array(queued.iter().map(|op| self.plain(op)).collect()))
    }

    fn discard(&mut self) -> Expected {
        let open = self.transaction != Transaction::None;
        self.drop_transaction();
        if open {
            self.forget_watches();
            return Expected::Exact(Value::ok());
        }
        Expected::Exact(Value::Error(b"ERR DISCARD without MULTI".to_vec()))
    }

    fn reset(&mut self) -> Expected {
        self.drop_transaction();
        self.forget_watches();
        self.protocol = 2;
        self.db = 0;
        self.user = User::Default;
        self.name = None;
        self.reply = ReplyMode::On;
        Expected::Exact(Value::Simple(b"RESET".to_vec()))
    }

    fn drop_transaction(&mut self) {
        if let Transaction::Open { queued, .. } = std::mem::replace(&mut self.transaction, Transaction::None) {
            queued.iter().for_each(|op| self.refuse_entries(op));
        }
    }

    fn refuse_entries(&mut self, op: &Op) {
        if let Op::Push { at, .. } = op {
            self.effects.refused.push(*at);
        }
    }

    fn forget_watches(&mut self) {
        self.watched.clear();
        self.watch_dirty = false;
        self.watch_refused = false;
    }

    fn touch(&mut self, key: Key) {
        self.watch_dirty |= self.watched.contains(&key);
    }

    fn value(&self, key: Key) -> Value {
        match self.values.get(&key) {
            Some((token, size)) => Value::Bulk(token.payload(self.names.seed, *size)),
            None => self.null(),
        }
    }

    fn null(&self) -> Value {
        if self.protocol == 3 { Value::Null } else { Value::NullBulk }
    }

    fn null_array(&self) -> Value {
        if self.protocol == 3 { Value::Null } else { Value::NullArray }
    }
}
