//! Lists of the simulated upstream, and connections that wait for their elements.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use tokio::time::Instant;

use super::server::{Item, Key, Server, Session, bulk, nil};
use crate::link::memory_socket::MemorySocket;

/// A connection that waits for an element.
pub(super) struct Blocked {
    pub connection: i64,
    wish: Wish,
}

/// What a pop asks for.
pub(super) struct Wish {
    keys: Vec<Key>,
    /// From the left end.
    left: bool,
    /// Up to so many elements, in an array of their own; else one.
    count: Option<usize>,
}

impl Wish {
    /// What BLMOVE and XREAD wait for; nobody gives it anything.
    pub(super) fn forever(db: u32, key: &[u8]) -> Self {
        Self { keys: vec![(db, key.to_vec())], left: true, count: None }
    }

    /// Of BLPOP and BRPOP (`numbered` false), or of what follows the timeout of BLMPOP and the name of LMPOP.
    pub(super) fn read(db: u32, words: &[Vec<u8>], numbered: bool) -> Self {
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

impl Server {
    pub(super) fn push(&self, key: &Key, front: bool, elements: &[Vec<u8>]) -> usize {
        let mut data = self.data.borrow_mut();
        let item = data.entry(key.clone()).or_insert_with(|| Item::List(VecDeque::new()));
        let Item::List(list) = item else { panic!("a list") };
        for element in elements {
            if front { list.push_front(element.clone()) } else { list.push_back(element.clone()) }
        }
        self.touch(key);
        list.len()
    }

    pub(super) fn pop(&self, key: &Key, left: bool) -> Option<Vec<u8>> {
        let mut data = self.data.borrow_mut();
        let Some(Item::List(list)) = data.get_mut(key) else { return None };
        let element = if left { list.pop_front() } else { list.pop_back() }?;
        if list.is_empty() {
            data.remove(key);
        }
        Some(element)
    }

    pub(super) fn unblock(&self, id: i64, reply: Vec<u8>) {
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
    pub(super) fn serve_blocked(&self) {
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
    pub(super) fn fulfil(&self, wish: &Wish) -> Option<Vec<u8>> {
        wish.keys.iter().find_map(|key| {
            let first = self.pop(key, wish.left)?;
            let Some(count) = wish.count else { return Some(popped(&key.1, &first)) };
            let more = (1..count).map_while(|_| self.pop(key, wish.left));
            let all: Vec<Vec<u8>> = std::iter::once(first).chain(more).map(|element| bulk(&element)).collect();
            Some([b"*2\r\n".to_vec(), bulk(&key.1), format!("*{}\r\n", all.len()).into_bytes(), all.concat()].concat())
        })
    }

    /// `None` when the connection ended while it waited.
    pub(super) async fn blocking_pop(
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

fn popped(key: &[u8], element: &[u8]) -> Vec<u8> {
    [b"*2\r\n".to_vec(), bulk(key), bulk(element)].concat()
}
