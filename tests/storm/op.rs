//! What a storm client can send, and its bytes.

use crate::token::Token;
use kit::wire::request;

/// A key of one client's private space. The database is part of the name, so that a command which ran in the wrong
/// database is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) db: u8,
    pub(crate) kind: Kind,
    pub(crate) number: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Value,
    Counter,
    /// Filled and emptied by blocking pops.
    Queue,
    /// Filled for many waiters at once.
    Waiters,
    /// Only ever pushed to; compared with the ledger at the end.
    Ledger,
}

/// Whose names: every life of a client has keys of its own, so that what an unanswered command did later can not
/// disturb the next life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) seed: u64,
    pub(crate) who: u32,
    pub(crate) life: u32,
}

impl Names {
    pub(crate) fn key(&self, key: Key) -> String {
        let kind = match key.kind {
            Kind::Value => 'v',
            Kind::Counter => 'c',
            Kind::Queue => 'q',
            Kind::Waiters => 'w',
            Kind::Ledger => 'l',
        };
        format!("storm:{}.{}:{}:{kind}{}", self.who, self.life, key.db, key.number)
    }
}

/// Who a connection is logged in as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Default,
    Stormy,
}

impl User {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Stormy => "stormy",
        }
    }
}

/// The password of [`User::Stormy`]; the default user accepts any.
pub(crate) const PASSWORD: &str = "storm-password";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyMode {
    On,
    Off,
    Skip,
}

/// The forms a script gives its token back in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Status,
    Error,
    /// An error line without a space: a line that is all one word has been mis-framed by proxies before.
    OneWordError,
    Nested,
    Map,
    Set,
    BigNumber,
    Verbatim,
    Scalars,
}

impl Shape {
    pub(crate) const ALL: [Self; 9] = [
        Self::Status,
        Self::Error,
        Self::OneWordError,
        Self::Nested,
        Self::Map,
        Self::Set,
        Self::BigNumber,
        Self::Verbatim,
        Self::Scalars,
    ];

    fn script(self) -> &'static str {
        match self {
            Self::Status => "return {ok=ARGV[1]}",
            Self::Error => "return {err='STORM '..ARGV[1]}",
            Self::OneWordError => "return {err=ARGV[1]}",
            Self::Nested => "return {ARGV[1],{1,{ARGV[1],false,{}}},ARGV[1]}",
            Self::Map => "redis.setresp(3); return {map={[ARGV[1]]={double=0.5}}}",
            Self::Set => "redis.setresp(3); return {set={[ARGV[1]]=true}}",
            Self::BigNumber => "return {big_number=ARGV[1]}",
            Self::Verbatim => "return {verbatim_string={format='txt',string=ARGV[1]}}",
            Self::Scalars => "redis.setresp(3); return {ARGV[1],true,{double=0.5}}",
        }
    }
}

/// Where an entry of the ledger stands: the list and the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRef {
    pub(crate) list: usize,
    pub(crate) entry: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Echo {
        token: Token,
        size: usize,
        inline: bool,
    },
    Ping(Token),
    Set {
        key: Key,
        token: Token,
        size: usize,
    },
    Get(Key),
    Mget(Vec<Key>),
    Del(Key),
    Strlen(Key),
    /// A list command on a key that, if it is there, is a string.
    WrongType(Key),
    /// Puts a counter at this client's own start, if it is not there.
    CounterStart(Key),
    Incr(Key),
    /// One write of the ledger, plain or from a script.
    Push {
        key: Key,
        token: Token,
        at: EntryRef,
        scripted: bool,
    },
    QueuePush {
        key: Key,
        token: Token,
    },
    /// A blocking pop; `peer` is what another connection of this client pushes meanwhile.
    Pop {
        key: Key,
        seconds: &'static str,
        peer: Option<Token>,
    },
    Script(Shape, Token),
    Unknown(Token),
    /// To the subscribers of `channel`; so many are told.
    Publish {
        channel: Token,
        token: Token,
        least: i64,
        most: i64,
    },
    /// Elements for waiters of this client; the list never holds more than `most`.
    Feed {
        key: Key,
        tokens: Vec<Token>,
        most: i64,
    },
    Multi,
    Exec,
    Discard,
    Watch(Key),
    Unwatch,
    Select(u8),
    Hello(u8),
    Login(User),
    Whoami,
    Reply(ReplyMode),
    Reset,
    ClientId,
    ClientInfo,
    SetName(Token),
    GetName,
    /// An empty inline line: no reply, no effect.
    Blank,
}

impl Op {
    /// Data commands, which may also stand in a transaction.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(
            self,
            Self::Echo { .. }
                | Self::Ping(_)
                | Self::Set { .. }
                | Self::Get(_)
                | Self::Mget(_)
                | Self::Del(_)
                | Self::Strlen(_)
                | Self::WrongType(_)
                | Self::CounterStart(_)
                | Self::Incr(_)
                | Self::Push { .. }
                | Self::QueuePush { .. }
                | Self::Pop { .. }
                | Self::Script(..)
        )
    }

    /// If it is refused, what stands behind it runs elsewhere than planned.
    pub(crate) fn moves_what_follows(&self) -> bool {
        matches!(self, Self::Select(_) | Self::Reset | Self::Login(_))
    }

    /// Appends the request.
    pub(crate) fn encode(&self, names: &Names, out: &mut Vec<u8>) {
        let token = |token: &Token| token.text(names.seed);
        let key = |key: &Key| names.key(*key);
        match self {
            Self::Blank => out.extend_from_slice(b"\r\n"),
            Self::Echo { token, inline: true, .. } => {
                out.extend_from_slice(format!("ECHO {}\r\n", token.text(names.seed)).as_bytes());
            }
            Self::Echo { token, size, .. } => request(out, &[b"ECHO", &token.payload(names.seed, *size)]),
            Self::Set { key: at, token, size } => {
                request(out, &[b"SET", key(at).as_bytes(), &token.payload(names.seed, *size)]);
            }
            Self::Ping(t) => words(out, &["PING", &token(t)]),
            Self::Get(at) => words(out, &["GET", &key(at)]),
            Self::Del(at) => words(out, &["DEL", &key(at)]),
            Self::Strlen(at) => words(out, &["strlen", &key(at)]),
            Self::WrongType(at) => words(out, &["LLEN", &key(at)]),
            Self::Mget(keys) => {
                let keys: Vec<_> = std::iter::once("MGET".to_owned()).chain(keys.iter().map(key)).collect();
                words(out, &keys.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Self::Incr(at) => words(out, &["INCR", &key(at)]),
            Self::CounterStart(at) => {
                words(out, &["SET", &key(at), &(names.counter_start() - 1).to_string(), "NX"]);
            }
            Self::Push { key: at, token: t, scripted: false, .. } => words(out, &["RPUSH", &key(at), &token(t)]),
            Self::Push { key: at, token: t, .. } => {
                words(out, &["EVAL", "return redis.call('RPUSH',KEYS[1],ARGV[1])", "1", &key(at), &token(t)]);
            }
            Self::QueuePush { key: at, token: t } => words(out, &["RPUSH", &key(at), &token(t)]),
            Self::Pop { key: at, seconds, .. } => words(out, &["BLPOP", &key(at), seconds]),
            Self::Script(Shape::BigNumber, t) => {
                words(out, &["EVAL", Shape::BigNumber.script(), "0", &names.big_number(*t)]);
            }
            Self::Script(shape, t) => words(out, &["EVAL", shape.script(), "0", &token(t)]),
            Self::Unknown(t) => words(out, &["NOSUCH", &token(t)]),
            Self::Publish { channel, token: t, .. } => words(out, &["PUBLISH", &token(channel), &token(t)]),
            Self::Feed { key: at, tokens, .. } => {
                let mut all = vec!["RPUSH".to_owned(), key(at)];
                all.extend(tokens.iter().map(token));
                words(out, &all.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Self::Login(user) => words(out, &["AUTH", user.name(), PASSWORD]),
            Self::Select(db) => words(out, &["SELECT", &db.to_string()]),
            Self::Hello(version) => words(out, &["HELLO", &version.to_string()]),
            Self::Watch(at) => words(out, &["WATCH", &key(at)]),
            Self::SetName(t) => words(out, &["CLIENT", "SETNAME", &token(t)]),
            fixed => words(out, fixed.fixed_words()),
        }
    }

    fn fixed_words(&self) -> &'static [&'static str] {
        match self {
            Self::Multi => &["MULTI"],
            Self::Exec => &["EXEC"],
            Self::Discard => &["DISCARD"],
            Self::Unwatch => &["UNWATCH"],
            Self::Whoami => &["ACL", "WHOAMI"],
            Self::Reset => &["RESET"],
            Self::ClientId => &["CLIENT", "ID"],
            Self::ClientInfo => &["CLIENT", "INFO"],
            Self::GetName => &["CLIENT", "GETNAME"],
            Self::Reply(ReplyMode::On) => &["CLIENT", "REPLY", "ON"],
            Self::Reply(ReplyMode::Off) => &["CLIENT", "REPLY", "OFF"],
            Self::Reply(ReplyMode::Skip) => &["CLIENT", "REPLY", "SKIP"],
            other => unreachable!("{other:?} has arguments"),
        }
    }
}

impl Names {
    /// Where this client's counters start.
    pub(crate) fn counter_start(&self) -> i64 {
        crate::token::COUNTER_STRIDE * (i64::from(self.who) + 1)
    }

    /// A number of this token's own.
    pub(crate) fn big_number(&self, token: Token) -> String {
        format!("{}{:09}", self.counter_start(), token.sequence)
    }
}

fn words(out: &mut Vec<u8>, arguments: &[&str]) {
    request(out, &arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
}
