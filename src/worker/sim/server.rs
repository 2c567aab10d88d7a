//! The simulated upstream: a small Redis in memory, with lists, counters, transactions, blocking pops, channels and databases.
//!
//! It is two servers of the same data, as a primary and what takes its place are: both count their connections from 1, so
//! they give out equal ids, and an id means only a connection of the server that is asked. New connections lead to one of
//! them; [`Server::take_over`] makes it the other.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::channels::Heard;
use super::lists::{Blocked, Wish};
use super::{Log, pause, write};
use crate::link::memory_socket::{MemorySocket, pair};
use crate::resp::{RequestLimits, RequestScanner, Scan, encode};

/// The end of a wait by CLIENT UNBLOCK … ERROR.
pub(super) const UNBLOCKED: &[u8] = b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";

type Words = Vec<Vec<u8>>;
pub(super) type Key = (u32, Vec<u8>);

#[derive(Clone, Debug)]
pub(super) enum Item {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
}

#[derive(Default)]
pub(super) struct Connection {
    pub(super) socket: Option<MemorySocket>,
    pub(super) waker: Option<Waker>,
    /// What ended the wait: the reply.
    pub(super) unblocked: Option<Vec<u8>>,
    /// Speaks RESP3.
    pub(super) three: bool,
    pub(super) channels: BTreeSet<Vec<u8>>,
    /// Messages for it.
    pub(super) pushes: VecDeque<Vec<u8>>,
    /// Was reset: there is none any more, though its task has not noticed yet.
    killed: bool,
}

/// What all connections share.
pub(super) struct Server {
    log: Rc<Log>,
    pub(super) data: RefCell<BTreeMap<Key, Item>>,
    versions: RefCell<BTreeMap<Key, u64>>,
    pub(super) connections: RefCell<BTreeMap<i64, Connection>>,
    pub(super) blocked: RefCell<VecDeque<Blocked>>,
    /// Everything that was published, by channel, in order.
    pub(super) published: RefCell<BTreeMap<Vec<u8>, Vec<Vec<u8>>>>,
    /// The last id that each of the two servers gave out.
    last_ids: [Cell<i64>; 2],
    /// To which of them new connections lead.
    site: Cell<usize>,
    pub(super) most: Cell<usize>,
    /// Answers to elements taken by connections that were cut before they were told.
    pub(super) lost: RefCell<Vec<Vec<u8>>>,
    pub(super) commands: Cell<u64>,
    pub(super) refuses: Cell<bool>,
    /// Takes no writes any more.
    pub(super) demoted: Cell<bool>,
    /// CLIENT PAUSE: of all commands, or of writes; until then.
    paused: Cell<Option<(bool, Instant)>>,
}

/// What a connection has of its own.
#[derive(Default)]
pub(super) struct Session {
    /// Of the connection, unique over both servers: see [`told`].
    pub(super) id: i64,
    db: u32,
    pub(super) three: bool,
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
            published: RefCell::default(),
            last_ids: Default::default(),
            site: Cell::new(0),
            most: Cell::new(0),
            lost: RefCell::default(),
            commands: Cell::new(0),
            refuses: Cell::new(false),
            demoted: Cell::new(false),
            paused: Cell::new(None),
        })
    }

    /// A new connection: the proxy's end.
    pub(super) fn accept(self: &Rc<Self>) -> std::io::Result<MemorySocket> {
        if self.refuses.get() {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (theirs, ours) = pair();
        let site = self.site.get();
        let last = &self.last_ids[site];
        last.set(last.get() + 1);
        let id = of_site(last.get(), site as i64);
        let mut connections = self.connections.borrow_mut();
        connections.insert(id, Connection { socket: Some(ours.clone()), ..Connection::default() });
        drop(connections);
        self.most.set(self.most.get().max(self.connected()));
        spawn_local(Rc::clone(self).serve(id, ours));
        Ok(theirs)
    }

    /// How many connections there were so far.
    pub(super) fn accepted(&self) -> i64 {
        self.last_ids.iter().map(Cell::get).sum()
    }

    /// The last id that the server gave out to which new connections lead.
    pub(super) fn last_told(&self) -> i64 {
        self.last_ids[self.site.get()].get()
    }

    /// The ids of the connections that wait, each as its server knows it.
    pub(super) fn blocked_ids(&self) -> Vec<i64> {
        self.blocked.borrow().iter().map(|blocked| told(blocked.connection)).collect()
    }

    /// From now on new connections lead to the other server. Those that stand stay where they are.
    pub(super) fn take_over(&self) {
        self.site.set(1 - self.site.get());
    }

    pub(super) fn connected(&self) -> usize {
        self.connections.borrow().values().filter(|connection| !connection.killed).count()
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
            connection.killed = true;
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
        'connection: while let Some(heard) = self.next(id, &socket).await {
            let chunk = match heard {
                Heard::Input(chunk) => chunk,
                Heard::Messages(frames) if write(&socket, &frames).await => continue,
                Heard::Messages(_) => break,
            };
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
                // What was published before this was run comes before its reply.
                let mut frames = self.messages(id);
                frames.extend(reply.unwrap_or_default());
                if !write(&socket, &frames).await {
                    break 'connection;
                }
            }
        }
        self.connections.borrow_mut().remove(&id);
    }

    async fn on_request(&self, session: &mut Session, words: Words, socket: &MemorySocket) -> Option<Vec<u8>> {
        let name = String::from_utf8_lossy(&words[0]).to_ascii_uppercase();
        if name == "ECHO" && words.len() == 1 {
            return Some(b"-ERR wrong number of arguments for 'echo' command\r\n".to_vec());
        }
        if !self.pause_is_over(session, &name, socket).await {
            return None;
        }
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
            "BLMOVE" => {
                let wish = Wish::forever(session.db, &words[1]);
                return self.blocking_pop(session, &words[5], wish, socket).await;
            }
            // XREAD BLOCK milliseconds STREAMS key id
            "XREAD" if words[1].eq_ignore_ascii_case(b"BLOCK") => {
                let millis: f64 = String::from_utf8_lossy(&words[2]).parse().expect("a time");
                let seconds = (millis / 1000.0).to_string();
                let wish = Wish::forever(session.db, &words[4]);
                return self.blocking_pop(session, seconds.as_bytes(), wish, socket).await;
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

    /// As servers do: of two pauses the stricter kind and the later end count.
    pub(super) fn pause(&self, all: bool, time: Duration) {
        let now = Instant::now();
        let before = self.paused.get().filter(|(_, end)| *end > now);
        let (before, end) = before.unwrap_or((false, now));
        self.paused.set(Some((all || before, end.max(now + time))));
    }

    /// Waits while the command is held back; false when its connection ends before.
    async fn pause_is_over(&self, session: &Session, name: &str, socket: &MemorySocket) -> bool {
        let writes = |name: &str| {
            !matches!(
                name,
                "GET"
                    | "PING"
                    | "ECHO"
                    | "SELECT"
                    | "HELLO"
                    | "RESET"
                    | "CLIENT"
                    | "CONFIG"
                    | "INFO"
                    | "MULTI"
                    | "DISCARD"
                    | "WATCH"
                    | "UNWATCH"
                    | "XREAD"
                    | "SUBSCRIBE"
                    | "UNSUBSCRIBE"
            )
        };
        let held = match (&session.queue, name) {
            (Some(queue), "EXEC") => {
                queue.iter().any(|words| writes(&String::from_utf8_lossy(&words[0]).to_ascii_uppercase()))
            }
            (Some(_), _) | (None, "EXEC") => false,
            (None, name) => writes(name),
        };
        while let Some((all, end)) = self.paused.get()
            && end > Instant::now()
            && (all || held)
        {
            // Servers read on while they hold a command back, and forget it with its connection.
            if socket.peer_has_ended() {
                return false;
            }
            sleep(Duration::from_micros(200)).await;
        }
        true
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

    pub(super) fn touch(&self, key: &Key) {
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
                self.change(session.id, |connection| {
                    connection.three = false;
                    connection.channels.clear();
                });
                b"+RESET\r\n".to_vec()
            }
            "CLIENT" if words[1] == b"PAUSE" => {
                let Ok(millis) = String::from_utf8_lossy(&words[2]).parse() else {
                    return b"-ERR timeout is not an integer or out of range\r\n".to_vec();
                };
                self.pause(words[3] == b"ALL", Duration::from_millis(millis));
                b"+OK\r\n".to_vec()
            }
            "CLIENT" if words[1] == b"UNPAUSE" => {
                self.paused.set(None);
                b"+OK\r\n".to_vec()
            }
            "CLIENT" => self.client(session, words),
            // The one script: see CLIENT UNBLOCK.
            "EVAL" => b":0\r\n".to_vec(),
            // Of what has nothing.
            "LMOVE" if !session.three => b"$-1\r\n".to_vec(),
            "LMOVE" | "XREAD" => nil(session),
            "SUBSCRIBE" => self.subscribe(session, &words[1..], true),
            "UNSUBSCRIBE" => self.subscribe(session, &words[1..], false),
            "PUBLISH" => self.publish(&words[1], &words[2]),
            "CONFIG" => b"*0\r\n".to_vec(),
            "INFO" => bulk(format!("redis_version:7.0.15\r\nrun_id:run{}\r\n", site_of(session.id)).as_bytes()),
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
            "SET" | "INCR" | "RPUSH" | "LPUSH" | "LPOP" | "RPOP" if self.demoted.get() => {
                b"-READONLY You can't write against a read only replica.\r\n".to_vec()
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

    fn hello(&self, session: &mut Session, version: &[u8]) -> Vec<u8> {
        session.three = version == b"3";
        self.change(session.id, |connection| connection.three = session.three);
        let head = if session.three { "%2" } else { "*4" };
        let proto = if session.three { 3 } else { 2 };
        format!("{head}\r\n$5\r\nproto\r\n:{proto}\r\n$2\r\nid\r\n:{}\r\n", told(session.id)).into_bytes()
    }

    fn client(&self, session: &Session, words: &[Vec<u8>]) -> Vec<u8> {
        match words[1].to_ascii_uppercase().as_slice() {
            b"ID" => format!(":{}\r\n", told(session.id)).into_bytes(),
            b"INFO" => {
                let (db, resp) = (session.db, if session.three { 3 } else { 2 });
                let text =
                    format!("id={} db={db} sub=0 psub=0 ssub=0 multi=-1 watch=0 resp={resp}\n", told(session.id));
                bulk(text.as_bytes())
            }
            b"UNBLOCK" => {
                let id: i64 = String::from_utf8_lossy(&words[2]).parse().unwrap_or(0);
                let id = of_site(id, site_of(session.id));
                let before = self.blocked.borrow().len();
                self.blocked.borrow_mut().retain(|blocked| blocked.connection != id);
                let found = before > self.blocked.borrow().len();
                if found {
                    let three = self.connections.borrow().get(&id).is_some_and(|connection| connection.three);
                    let reply: &[u8] = match words.get(3) {
                        Some(how) if how.eq_ignore_ascii_case(b"ERROR") => UNBLOCKED,
                        _ if three => b"_\r\n",
                        _ => b"*-1\r\n",
                    };
                    self.unblock(id, reply.to_vec());
                }
                format!(":{}\r\n", u8::from(found)).into_bytes()
            }
            _ => b"+OK\r\n".to_vec(),
        }
    }
}

/// The connection to which the server `site` gave the id `told`.
fn of_site(told: i64, site: i64) -> i64 {
    told.saturating_mul(2).saturating_add(site)
}

fn site_of(id: i64) -> i64 {
    id % 2
}

/// The id under which the connection's server knows it.
fn told(id: i64) -> i64 {
    id / 2
}

pub(super) fn nil(session: &Session) -> Vec<u8> {
    if session.three { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() }
}

pub(super) fn bulk(bytes: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::bulk(&mut out, bytes);
    out.to_vec()
}
