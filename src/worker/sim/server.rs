//! The simulated upstream: a small Redis in memory, with lists, counters, transactions, blocking pops and databases.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::{Log, pause, read, write};
use crate::link::memory::{MemorySocket, pair};
use crate::resp::{RequestLimits, RequestScanner, Scan, encode};

type Words = Vec<Vec<u8>>;
type Key = (u32, Vec<u8>);

#[derive(Clone, Debug)]
pub(super) enum Item {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
}

/// A connection that waits for an element.
struct Blocked {
    connection: i64,
    wish: Wish,
}

/// What a pop asks for.
struct Wish {
    keys: Vec<Key>,
    /// From the left end.
    left: bool,
    /// Up to so many elements, in an array of their own; else one.
    count: Option<usize>,
}

impl Wish {
    /// Of BLPOP and BRPOP (`numbered` false), or of what follows the timeout of BLMPOP and the name of LMPOP.
    fn read(db: u32, words: &[Vec<u8>], numbered: bool) -> Self {
        let number = |word: &[u8]| String::from_utf8_lossy(word).parse::<usize>().expect("a number");
        let key = |word: &Vec<u8>| (db, word.clone());
        if !numbered {
            let left = words[0].eq_ignore_ascii_case(b"BLPOP");
            return Self { keys: words[1..words.len() - 1].iter().map(key).collect(), left, count: None };
        }
        let side = 1 + number(&words[0]);
        let left = words[side].eq_ignore_ascii_case(b"LEFT");
        let count = words.get(side + 2).map_or(1, |word| number(word));
        Self { keys: words[1..side].iter().map(key).collect(), left, count: Some(count) }
    }
}

#[derive(Default)]
struct Connection {
    socket: Option<MemorySocket>,
    waker: Option<Waker>,
    /// What ended the wait: the reply.
    unblocked: Option<Vec<u8>>,
}

/// What all connections share.
pub(super) struct Server {
    log: Rc<Log>,
    data: RefCell<BTreeMap<Key, Item>>,
    versions: RefCell<BTreeMap<Key, u64>>,
    connections: RefCell<BTreeMap<i64, Connection>>,
    blocked: RefCell<VecDeque<Blocked>>,
    last_id: Cell<i64>,
    pub(super) most: Cell<usize>,
    /// Answers to elements taken by connections that were cut before they were told.
    pub(super) lost: RefCell<Vec<Vec<u8>>>,
    pub(super) commands: Cell<u64>,
    pub(super) refuses: Cell<bool>,
}

/// What a connection has of its own.
#[derive(Default)]
struct Session {
    id: i64,
    db: u32,
    three: bool,
    queue: Option<Vec<Words>>,
    watched: Vec<(Key, u64)>,
}

impl Server {
    pub(super) fn new(log: Rc<Log>) -> Rc<Self> {
        Rc::new(Self {
            log,
            data: RefCell::default(),
            versions: RefCell::default(),
            connections: RefCell::default(),
            blocked: RefCell::default(),
            last_id: Cell::new(0),
            most: Cell::new(0),
            lost: RefCell::default(),
            commands: Cell::new(0),
            refuses: Cell::new(false),
        })
    }

    /// A new connection: the proxy's end.
    pub(super) fn accept(self: &Rc<Self>) -> std::io::Result<MemorySocket> {
        if self.refuses.get() {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (theirs, ours) = pair();
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let mut connections = self.connections.borrow_mut();
        connections.insert(id, Connection { socket: Some(ours.clone()), ..Connection::default() });
        self.most.set(self.most.get().max(connections.len()));
        spawn_local(Rc::clone(self).serve(id, ours));
        Ok(theirs)
    }

    pub(super) fn connected(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Resets one connection, or all.
    pub(super) fn kill(&self, all: bool) {
        let ids: Vec<i64> = self.connections.borrow().keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let chosen = ids[fastrand::usize(..ids.len())];
        for id in ids.into_iter().filter(|id| all || *id == chosen) {
            self.log.note("kill", id as u64, b"");
            let mut connections = self.connections.borrow_mut();
            let Some(connection) = connections.get_mut(&id) else { continue };
            if let Some(socket) = &connection.socket {
                socket.cut();
            }
            if let Some(waker) = connection.waker.take() {
                waker.wake();
            }
        }
    }

    pub(super) fn item(&self, key: &Key) -> Option<Item> {
        self.data.borrow().get(key).cloned()
    }

    async fn serve(self: Rc<Self>, id: i64, socket: MemorySocket) {
        let mut session = Session { id, ..Session::default() };
        let (mut scanner, mut input, mut resume) = (RequestScanner::new(), BytesMut::new(), None);
        'connection: while let Some(chunk) = read(&socket).await {
            pause(300).await;
            input.extend_from_slice(&chunk);
            loop {
                let scan = scanner.scan(&input, &mut resume, &RequestLimits::default());
                let Scan::Complete { len, .. } = scan else {
                    assert_eq!(scan, Scan::Incomplete, "the proxy sends requests only");
                    break;
                };
                let words: Words = scanner.args(&input).map(<[u8]>::to_vec).collect();
                let _ = input.split_to(len);
                self.log.note("run", id as u64, &words.join(&b' '));
                self.commands.set(self.commands.get() + 1);
                let reply = self.on_request(&mut session, words, &socket).await;
                if !write(&socket, &reply.unwrap_or_default()).await {
                    break 'connection;
                }
            }
        }
        self.connections.borrow_mut().remove(&id);
    }

    async fn on_request(&self, session: &mut Session, words: Words, socket: &MemorySocket) -> Option<Vec<u8>> {
        let name = String::from_utf8_lossy(&words[0]).to_ascii_uppercase();
        if let Some(queue) = &mut session.queue
            && !matches!(name.as_str(), "EXEC" | "DISCARD" | "MULTI" | "WATCH" | "RESET")
        {
            queue.push(words);
            return Some(b"+QUEUED\r\n".to_vec());
        }
        match name.as_str() {
            "BLPOP" | "BRPOP" => {
                let wish = Wish::read(session.db, &words, false);
                return self.blocking_pop(session, &words[words.len() - 1], wish, socket).await;
            }
            "BLMPOP" => {
                let wish = Wish::read(session.db, &words[2..], true);
                return self.blocking_pop(session, &words[1], wish, socket).await;
            }
            "LMPOP" => {
                let wish = Wish::read(session.db, &words[1..], true);
                return Some(self.fulfil(&wish).unwrap_or_else(|| nil(session)));
            }
            "EXEC" => return Some(self.exec(session)),
            _ => {}
        }
        Some(self.run(session, &name, &words))
    }

    fn exec(&self, session: &mut Session) -> Vec<u8> {
        let Some(queue) = session.queue.take() else { return b"-ERR EXEC without MULTI\r\n".to_vec() };
        let changed = std::mem::take(&mut session.watched).iter().any(|(key, version)| self.version(key) != *version);
        if changed {
            return nil(session);
        }
        let mut out = format!("*{}\r\n", queue.len()).into_bytes();
        for words in queue {
            let name = String::from_utf8_lossy(&words[0]).to_ascii_uppercase();
            out.extend(self.run(session, &name, &words));
        }
        out
    }

    fn version(&self, key: &Key) -> u64 {
        self.versions.borrow().get(key).copied().unwrap_or(0)
    }

    fn touch(&self, key: &Key) {
        *self.versions.borrow_mut().entry(key.clone()).or_default() += 1;
    }

    fn run(&self, session: &mut Session, name: &str, words: &[Vec<u8>]) -> Vec<u8> {
        let word = |at: usize| words.get(at).cloned().unwrap_or_default();
        let key = (session.db, word(1));
        match name {
            "PING" if words.len() > 1 => bulk(&words[1]),
            "PING" => b"+PONG\r\n".to_vec(),
            "ECHO" => bulk(&words[1]),
            "SELECT" => {
                session.db = String::from_utf8_lossy(&words[1]).parse().expect("a database");
                b"+OK\r\n".to_vec()
            }
            "HELLO" => self.hello(session, &word(1)),
            "RESET" => {
                *session = Session { id: session.id, ..Session::default() };
                b"+RESET\r\n".to_vec()
            }
            "CLIENT" => self.client(session, words),
            "CONFIG" => b"*0\r\n".to_vec(),
            "INFO" => bulk(b"redis_version:7.0.15\r\nrun_id:aaaa\r\n"),
            "MULTI" => {
                session.queue = Some(Vec::new());
                b"+OK\r\n".to_vec()
            }
            "DISCARD" => {
                let was = session.queue.take().is_some();
                session.watched.clear();
                if was { b"+OK\r\n".to_vec() } else { b"-ERR DISCARD without MULTI\r\n".to_vec() }
            }
            "WATCH" => {
                let version = self.version(&key);
                session.watched.push((key, version));
                b"+OK\r\n".to_vec()
            }
            "UNWATCH" => {
                session.watched.clear();
                b"+OK\r\n".to_vec()
            }
            _ => self.on_data(&key, name, words),
        }
    }

    fn on_data(&self, key: &Key, name: &str, words: &[Vec<u8>]) -> Vec<u8> {
        match name {
            "GET" => match self.item(key) {
                Some(Item::Text(text)) => bulk(&text),
                _ => b"$-1\r\n".to_vec(),
            },
            "SET" => {
                self.data.borrow_mut().insert(key.clone(), Item::Text(words[2].clone()));
                self.touch(key);
                b"+OK\r\n".to_vec()
            }
            "INCR" => {
                let before = match self.item(key) {
                    Some(Item::Text(text)) => String::from_utf8_lossy(&text).parse::<i64>().expect("a number"),
                    _ => 0,
                };
                self.data.borrow_mut().insert(key.clone(), Item::Text((before + 1).to_string().into_bytes()));
                self.touch(key);
                format!(":{}\r\n", before + 1).into_bytes()
            }
            "RPUSH" | "LPUSH" => {
                let len = self.push(key, name == "LPUSH", &words[2..]);
                self.serve_blocked();
                format!(":{len}\r\n").into_bytes()
            }
            "LPOP" | "RPOP" => match self.pop(key, name == "LPOP") {
                Some(element) if words.len() > 2 => [b"*1\r\n".to_vec(), bulk(&element)].concat(),
                Some(element) => bulk(&element),
                None if words.len() > 2 => b"*-1\r\n".to_vec(),
                None => b"$-1\r\n".to_vec(),
            },
            // The only script is the one that goes with CLIENT UNBLOCK.
            "EVAL" => b":0\r\n".to_vec(),
            _ => panic!("the simulated server does not know {name}"),
        }
    }

    fn push(&self, key: &Key, front: bool, elements: &[Vec<u8>]) -> usize {
        let mut data = self.data.borrow_mut();
        let item = data.entry(key.clone()).or_insert_with(|| Item::List(VecDeque::new()));
        let Item::List(list) = item else { panic!("a list") };
        for element in elements {
            if front { list.push_front(element.clone()) } else { list.push_back(element.clone()) }
        }
        self.touch(key);
        list.len()
    }

    fn pop(&self, key: &Key, left: bool) -> Option<Vec<u8>> {
        let mut data = self.data.borrow_mut();
        let Some(Item::List(list)) = data.get_mut(key) else { return None };
        let element = if left { list.pop_front() } else { list.pop_back() }?;
        if list.is_empty() {
            data.remove(key);
        }
        Some(element)
    }

    fn hello(&self, session: &mut Session, version: &[u8]) -> Vec<u8> {
        session.three = version == b"3";
        let head = if session.three { "%2" } else { "*4" };
        let proto = if session.three { 3 } else { 2 };
        format!("{head}\r\n$5\r\nproto\r\n:{proto}\r\n$2\r\nid\r\n:{}\r\n", session.id).into_bytes()
    }

    fn client(&self, session: &Session, words: &[Vec<u8>]) -> Vec<u8> {
        match words[1].to_ascii_uppercase().as_slice() {
            b"ID" => format!(":{}\r\n", session.id).into_bytes(),
            b"UNBLOCK" => {
                let id: i64 = String::from_utf8_lossy(&words[2]).parse().unwrap_or(0);
                let before = self.blocked.borrow().len();
                self.blocked.borrow_mut().retain(|blocked| blocked.connection != id);
                let found = before > self.blocked.borrow().len();
                if found {
                    self.unblock(id, b"*-1\r\n".to_vec());
                }
                format!(":{}\r\n", u8::from(found)).into_bytes()
            }
            _ => b"+OK\r\n".to_vec(),
        }
    }

    fn unblock(&self, id: i64, reply: Vec<u8>) {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.get_mut(&id) else {
            self.lost.borrow_mut().push(reply);
            return;
        };
        connection.unblocked = Some(reply);
        if let Some(waker) = connection.waker.take() {
            waker.wake();
        }
    }

    /// Elements go to those who wait, oldest first.
    fn serve_blocked(&self) {
        loop {
            let blocked = self.blocked.borrow();
            let found = blocked.iter().position(|waits| waits.wish.keys.iter().any(|key| self.item(key).is_some()));
            drop(blocked);
            let Some(waits) = found.and_then(|at| self.blocked.borrow_mut().remove(at)) else { return };
            if let Some(reply) = self.fulfil(&waits.wish) {
                self.unblock(waits.connection, reply);
            }
        }
    }

    /// Takes what is wished for from the first list that has something.
    fn fulfil(&self, wish: &Wish) -> Option<Vec<u8>> {
        wish.keys.iter().find_map(|key| {
            let first = self.pop(key, wish.left)?;
            let Some(count) = wish.count else { return Some(popped(&key.1, &first)) };
            let more = (1..count).map_while(|_| self.pop(key, wish.left));
            let all: Vec<Vec<u8>> = std::iter::once(first).chain(more).map(|element| bulk(&element)).collect();
            Some([b"*2\r\n".to_vec(), bulk(&key.1), format!("*{}\r\n", all.len()).into_bytes(), all.concat()].concat())
        })
    }

    /// `None` when the connection ended while it waited.
    async fn blocking_pop(
        &self,
        session: &Session,
        timeout: &[u8],
        wish: Wish,
        socket: &MemorySocket,
    ) -> Option<Vec<u8>> {
        if let Some(reply) = self.fulfil(&wish) {
            return Some(reply);
        }
        let seconds: f64 = String::from_utf8_lossy(timeout).parse().expect("a timeout");
        self.blocked.borrow_mut().push_back(Blocked { connection: session.id, wish });
        let far = Duration::from_secs(3600);
        let until = Instant::now() + if seconds == 0.0 { far } else { Duration::from_secs_f64(seconds) };
        let mut timer = Box::pin(tokio::time::sleep_until(until));
        let reply = poll_fn(|cx| {
            use std::task::Poll;
            let mut connections = self.connections.borrow_mut();
            let connection = connections.get_mut(&session.id).expect("entered at accept");
            if let Some(reply) = connection.unblocked.take() {
                return Poll::Ready(Some(reply));
            }
            if socket.peer_is_gone() {
                return Poll::Ready(None);
            }
            connection.waker = Some(cx.waker().clone());
            socket.watch(cx);
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(nil(session)));
            }
            Poll::Pending
        })
        .await;
        self.blocked.borrow_mut().retain(|blocked| blocked.connection != session.id);
        reply
    }
}

fn nil(session: &Session) -> Vec<u8> {
    if session.three { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() }
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::bulk(&mut out, bytes);
    out.to_vec()
}

fn popped(key: &[u8], element: &[u8]) -> Vec<u8> {
    [b"*2\r\n".to_vec(), bulk(key), bulk(element)].concat()
}
