//! A simulated application: every request has one right answer, but where the rules allow another, and that is counted.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use super::server::{Item, Server};
use super::{Ledger, Log, Plan, pause, read, write};
use crate::link::memory_socket::MemorySocket;
use crate::resp::{Advance, ReplyScanner, encode};

/// What takes longer is never answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the answer to a command ends of which nobody knows what became of it.
const UNKNOWN: &[u8] = b"may have been executed\r\n";

/// Lists that elements are pushed to. More than there are connections for blocked clients, so that these share them.
pub(super) const QUEUES: u8 = 3;

/// The name of one of them.
pub(super) fn jobs(queue: u8) -> Vec<u8> {
    format!("jobs{queue}").into_bytes()
}

/// What an answer must be.
#[derive(Debug)]
enum Wanted {
    Exactly(Vec<u8>),
    /// The next value of the counter in this database, after an INCR.
    Next(u32),
    /// The last value set in this database.
    Value(u32),
    /// `+OK` to a SET of this value.
    Set(u32, Vec<u8>),
    /// `+OK` to a SELECT.
    Selected(u32),
    /// The end of a transaction with one INCR and one ECHO of this token.
    Executed(u32, Vec<u8>),
    Watched,
    Queued,
    Pushed(Vec<u8>),
    /// Nothing, or an element of this queue.
    Popped(u8),
    /// Of clients.
    Count,
    /// Whether this client was unblocked.
    Unblocked(u64),
}

/// What the client knows of its own keys.
#[derive(Default)]
struct Own {
    counter: BTreeMap<u32, i64>,
    value: BTreeMap<u32, Vec<u8>>,
    db: u32,
}

/// A client's end of its connection.
pub(super) struct Wire {
    pub(super) id: u64,
    pub(super) socket: MemorySocket,
    pub(super) log: Rc<Log>,
    pub(super) ledger: Rc<Ledger>,
    pub(super) input: Vec<u8>,
}

impl Wire {
    /// False when the connection has ended.
    pub(super) async fn send(&self, words: &[&[u8]]) -> bool {
        let mut out = BytesMut::new();
        encode::command(&mut out, words);
        write(&self.socket, &out).await
    }

    /// The reply to one command.
    pub(super) async fn ask(&mut self, words: &[&[u8]]) -> Option<Vec<u8>> {
        if !self.send(words).await {
            return None;
        }
        let frame = self.frame().await?;
        self.count(&frame);
        Some(frame)
    }

    /// The next frame; `None` at the end, and where nobody knows what became of a command.
    pub(super) async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            match ReplyScanner::new().advance(&self.input) {
                Advance::Complete { len, .. } => {
                    let frame: Vec<u8> = self.input.drain(..len).collect();
                    if frame.starts_with(b"-ERR ") && frame.ends_with(UNKNOWN) {
                        self.ledger.unknown.set(self.ledger.unknown.get() + 1);
                        return None;
                    }
                    return Some(frame);
                }
                Advance::Partial => {}
                Advance::Invalid(error) => {
                    self.wrong(format!("{error} in {}", self.input.escape_ascii()));
                    return None;
                }
            }
            let Ok(chunk) = timeout(PATIENCE, read(&self.socket)).await else {
                self.wrong("no answer".to_owned());
                return None;
            };
            let chunk = chunk?;
            self.input.extend_from_slice(&chunk);
        }
    }

    /// One frame more that somebody looks at.
    pub(super) fn count(&self, frame: &[u8]) {
        self.log.note("reply", self.id, frame);
        self.ledger.replies.set(self.ledger.replies.get() + 1);
    }

    /// Something that must not be; false.
    pub(super) fn wrong(&self, what: String) -> bool {
        self.ledger.wrong(format!("client {}: {what}", self.id));
        false
    }

    /// Whether this is how a command is refused of which nothing was executed.
    pub(super) fn refused(&self, frame: &[u8]) -> bool {
        let text = String::from_utf8_lossy(frame);
        self.ledger.refused.set(self.ledger.refused.get() + 1);
        ["was not executed", "try again", "EXECABORT", "without MULTI"].iter().any(|part| text.contains(part))
            || self.wrong(format!("refused with {text}"))
    }

    /// Leaves, in one way or the other.
    pub(super) fn part(&self) {
        if fastrand::bool() { self.socket.cut() } else { self.socket.end() }
    }
}

/// One life of one client.
pub(super) struct Life {
    wire: Wire,
    own: Own,
    /// The outcome of something it sent is not known.
    unsure: bool,
    /// A WATCH was refused: the next transaction must not be executed.
    unguarded: bool,
    /// A SELECT was refused: nothing behind it may be answered, or executed.
    astray: bool,
    serial: u32,
}

impl Life {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire, own: Own::default(), unsure: false, unguarded: false, astray: false, serial: 0 }
    }

    /// Sends batches of requests and checks the answers, until it has enough or is cut off.
    pub(super) async fn live(mut self, plan: Plan, server: Rc<Server>) {
        for _ in 0..plan.rounds {
            pause(3000).await;
            if plan.drains && self.wire.socket.peer_is_gone() {
                break;
            }
            let (batch, wanted) = self.batch();
            self.wire.log.note("sends", self.wire.id, &batch);
            if !write(&self.wire.socket, &batch).await {
                self.unsure = true;
                break;
            }
            if fastrand::u8(..12) == 0 {
                // It leaves and reads nothing more.
                self.unsure = true;
                break;
            }
            if !self.expect_all(wanted).await {
                if plan.drains && !self.astray {
                    self.wire.wrong("closed before it was answered".to_owned());
                }
                self.unsure = !self.astray;
                break;
            }
        }
        self.wire.part();
        if !self.unsure {
            self.check_state(&server);
        }
    }

    fn token(&mut self) -> Vec<u8> {
        self.serial += 1;
        let filler = "x".repeat(if fastrand::u8(..20) == 0 { 3000 } else { fastrand::usize(..20) });
        format!("t{}-{}{filler}", self.wire.id, self.serial).into_bytes()
    }

    fn key(&self, kind: &str) -> Vec<u8> {
        format!("{kind}{}", self.wire.id).into_bytes()
    }

    fn batch(&mut self) -> (Vec<u8>, Vec<Wanted>) {
        let (mut out, mut wanted) = (BytesMut::new(), Vec::new());
        let mut db = self.own.db;
        for _ in 0..1 + fastrand::usize(..6) {
            let token = self.token();
            let mut send = |words: &[&[u8]]| encode::command(&mut out, words);
            let (counter, value) = (self.key("n"), self.key("v"));
            let what = fastrand::u8(..14);
            if self.wire.ledger.pauses.get() && fastrand::u8(..8) == 0 {
                send_pause(send);
                wanted.push(Wanted::Exactly(b"+OK\r\n".to_vec()));
                continue;
            }
            match (what, if what == 11 { self.wire.ledger.somebody() } else { None }) {
                (0 | 1, _) | (11, None) => {
                    send(&[b"ECHO", &token]);
                    wanted.push(Wanted::Exactly(bulk(&token)));
                }
                (2, _) => {
                    send(&[b"SET", &value, &token]);
                    wanted.push(Wanted::Set(db, token));
                }
                (3 | 4, _) => {
                    send(&[b"GET", &value]);
                    wanted.push(Wanted::Value(db));
                }
                (5 | 6, _) => {
                    send(&[b"INCR", &counter]);
                    wanted.push(Wanted::Next(db));
                }
                (7, _) => {
                    db = fastrand::u32(..3);
                    send(&[b"SELECT", db.to_string().as_bytes()]);
                    wanted.push(Wanted::Selected(db));
                }
                (8, _) => {
                    send(&[b"RPUSH", &jobs(fastrand::u8(..QUEUES)), &token]);
                    self.wire.ledger.pushes.borrow_mut().insert(token.clone(), None);
                    wanted.push(Wanted::Pushed(token));
                }
                (9, _) => {
                    let queue = fastrand::u8(..QUEUES);
                    send(&[b"BLPOP", &jobs(queue), b"0.01"]);
                    wanted.push(Wanted::Popped(queue));
                }
                (10, _) => {
                    let channel = format!("c{}", fastrand::u8(..3));
                    send(&[b"PUBLISH", channel.as_bytes(), &token]);
                    wanted.push(Wanted::Count);
                }
                (11, Some(number)) => {
                    send(&[b"CLIENT", b"UNBLOCK", number.to_string().as_bytes(), b"ERROR"]);
                    wanted.push(Wanted::Unblocked(number));
                }
                _ => {
                    if fastrand::bool() {
                        send(&[b"WATCH", &counter]);
                        wanted.push(Wanted::Watched);
                    }
                    for words in
                        [vec![b"MULTI".as_slice()], vec![b"INCR", &counter], vec![b"ECHO", &token], vec![b"EXEC"]]
                    {
                        send(&words);
                    }
                    wanted.push(Wanted::Exactly(b"+OK\r\n".to_vec()));
                    wanted.extend([Wanted::Queued, Wanted::Queued, Wanted::Executed(db, token)]);
                }
            }
        }
        (out.to_vec(), wanted)
    }

    /// False when the connection ended, or nothing is known any more.
    async fn expect_all(&mut self, wanted: Vec<Wanted>) -> bool {
        for wanted in wanted {
            let Some(frame) = self.wire.frame().await else { return false };
            self.wire.count(&frame);
            if self.astray {
                return self.wire.wrong(format!("after a refused SELECT: {}", frame.escape_ascii()));
            }
            if !self.check(&wanted, &frame) {
                return self.wire.wrong(format!("wanted {wanted:?}, got {}", frame.escape_ascii()));
            }
        }
        if self.astray && self.wire.frame().await.is_some() {
            return self.wire.wrong("stays after a refused SELECT".to_owned());
        }
        !self.astray
    }

    fn check(&mut self, wanted: &Wanted, frame: &[u8]) -> bool {
        if frame[0] == b'-' {
            match wanted {
                Wanted::Pushed(token) => drop(self.wire.ledger.pushes.borrow_mut().insert(token.clone(), Some(false))),
                Wanted::Unblocked(number) => self.wire.ledger.on_unblock(*number, 0),
                Wanted::Watched => self.unguarded = true,
                Wanted::Selected(_) => self.astray = true,
                Wanted::Executed(..) => self.unguarded = false,
                _ => {}
            }
            return self.wire.refused(frame);
        }
        match wanted {
            Wanted::Exactly(bytes) => frame == &bytes[..],
            Wanted::Watched => frame == b"+OK\r\n",
            Wanted::Queued => frame == b"+QUEUED\r\n",
            Wanted::Next(db) => {
                let next = self.own.counter.entry(*db).or_default();
                *next += 1;
                frame == format!(":{next}\r\n").as_bytes()
            }
            Wanted::Value(db) => match self.own.value.get(db) {
                Some(value) => frame == &bulk(value)[..],
                None => frame == b"$-1\r\n",
            },
            Wanted::Set(db, value) => {
                self.own.value.insert(*db, value.clone());
                frame == b"+OK\r\n"
            }
            Wanted::Selected(db) => {
                self.own.db = *db;
                frame == b"+OK\r\n"
            }
            Wanted::Executed(..) if std::mem::take(&mut self.unguarded) => frame == b"*-1\r\n",
            Wanted::Executed(db, token) => {
                let next = self.own.counter.entry(*db).or_default();
                *next += 1;
                frame == [format!("*2\r\n:{next}\r\n").into_bytes(), bulk(token)].concat()
            }
            Wanted::Pushed(token) => {
                self.wire.ledger.pushes.borrow_mut().insert(token.clone(), Some(true));
                frame[0] == b':'
            }
            Wanted::Popped(queue) => self.check_popped(*queue, frame),
            Wanted::Count => frame[0] == b':',
            Wanted::Unblocked(number) => {
                let hit = frame == b":1\r\n";
                self.wire.ledger.on_unblock(*number, u32::from(hit));
                hit || frame == b":0\r\n"
            }
        }
    }

    fn check_popped(&self, queue: u8, frame: &[u8]) -> bool {
        if frame == b"*-1\r\n" {
            return true;
        }
        let head = [b"*2\r\n".as_slice(), &bulk(&jobs(queue))].concat();
        let Some(element) = frame.strip_prefix(&head[..]).and_then(|rest| rest.split(|byte| *byte == b'\n').nth(1))
        else {
            return false;
        };
        let element = element.strip_suffix(b"\r").unwrap_or(element).to_vec();
        let times = self
            .wire
            .ledger
            .pops
            .borrow_mut()
            .entry(element.clone())
            .and_modify(|times| *times += 1)
            .or_insert(1)
            .to_owned();
        times == 1 && self.wire.ledger.pushes.borrow().contains_key(&element)
    }

    /// The server has what the answers said.
    fn check_state(&self, server: &Server) {
        for db in 0..3 {
            let text = |kind: &str| match server.item(&(db, self.key(kind))) {
                Some(Item::Text(text)) => Some(text),
                _ => None,
            };
            let count =
                self.own.counter.get(&db).filter(|count| **count > 0).map(|count| count.to_string().into_bytes());
            if text("n") != count || text("v") != self.own.value.get(&db).cloned() {
                self.wire.ledger.wrong(format!("client {}: database {db} is not what was answered", self.wire.id));
            }
        }
    }
}

/// A pause of the server, short, or the end of one.
fn send_pause(mut send: impl FnMut(&[&[u8]])) {
    let millis = fastrand::u64(..400).to_string();
    match fastrand::u8(..3) {
        0 => send(&[b"CLIENT", b"PAUSE", millis.as_bytes(), b"WRITE"]),
        1 => send(&[b"CLIENT", b"PAUSE", millis.as_bytes(), b"ALL"]),
        _ => send(&[b"CLIENT", b"UNPAUSE"]),
    }
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::bulk(&mut out, bytes);
    out.to_vec()
}
