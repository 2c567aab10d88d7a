//! Channels of the simulated upstream: one order of messages for each, and who hears them.

use std::future::poll_fn;
use std::task::Poll;

use tokio::io::ReadBuf;

use super::server::{Connection, Server, Session, bulk};
use crate::link::memory_socket::MemorySocket;

/// What a connection has to deal with next.
pub(super) enum Heard {
    Input(Vec<u8>),
    Messages(Vec<u8>),
}

impl Server {
    /// Waits for input or messages; `None` at the end of the input.
    pub(super) async fn next(&self, id: i64, socket: &MemorySocket) -> Option<Heard> {
        let mut memory = [0; 1024];
        let mut buf = ReadBuf::new(&mut memory);
        let messages = poll_fn(|cx| {
            let messages = self.messages(id);
            if !messages.is_empty() {
                return Poll::Ready(Some(messages));
            }
            self.change(id, |connection| connection.waker = Some(cx.waker().clone()));
            socket.poll_read(cx, &mut buf).map(|_| None)
        })
        .await;
        match messages {
            Some(messages) => Some(Heard::Messages(messages)),
            None => (!buf.filled().is_empty()).then(|| Heard::Input(buf.filled().to_vec())),
        }
    }

    /// Takes the messages that wait for a connection.
    pub(super) fn messages(&self, id: i64) -> Vec<u8> {
        let mut connections = self.connections.borrow_mut();
        connections.get_mut(&id).map(|connection| connection.pushes.drain(..).flatten().collect()).unwrap_or_default()
    }

    pub(super) fn change(&self, id: i64, change: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.connections.borrow_mut().get_mut(&id) {
            change(connection);
        }
    }

    pub(super) fn subscribe(&self, session: &Session, names: &[Vec<u8>], joins: bool) -> Vec<u8> {
        let mut confirmations = Vec::new();
        self.change(session.id, |connection| {
            for name in names {
                if joins {
                    connection.channels.insert(name.clone());
                } else {
                    connection.channels.remove(name);
                }
                confirmations.extend(head(session.three, if joins { "subscribe" } else { "unsubscribe" }, name));
                confirmations.extend(format!(":{}\r\n", connection.channels.len()).into_bytes());
            }
        });
        confirmations
    }

    pub(super) fn publish(&self, channel: &[u8], message: &[u8]) -> Vec<u8> {
        self.published.borrow_mut().entry(channel.to_vec()).or_default().push(message.to_vec());
        let mut heard = 0;
        for connection in self.connections.borrow_mut().values_mut() {
            if !connection.channels.contains(channel) {
                continue;
            }
            heard += 1;
            connection.pushes.push_back([head(connection.three, "message", channel), bulk(message)].concat());
            if let Some(waker) = connection.waker.take() {
                waker.wake();
            }
        }
        format!(":{heard}\r\n").into_bytes()
    }

    /// How many messages were published on a channel.
    pub(super) fn published(&self, channel: &[u8]) -> usize {
        self.published.borrow().get(channel).map_or(0, Vec::len)
    }

    /// Which message of its channel this is; no two are the same.
    pub(super) fn position(&self, channel: &[u8], message: &[u8]) -> Option<usize> {
        self.published.borrow().get(channel)?.iter().position(|published| published == message)
    }
}

/// The beginning of a frame of three about a channel.
fn head(three: bool, kind: &str, channel: &[u8]) -> Vec<u8> {
    let mark = if three { ">3\r\n" } else { "*3\r\n" };
    [mark.as_bytes(), &bulk(kind.as_bytes()), &bulk(channel)].concat()
}
