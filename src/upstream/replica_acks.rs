//! How far the replicas are: what WAIT is answered from (rule W6). While clients wait, one task of the worker asks
//! ROLE on the control connection, for all of them; nobody's connection is lent or held up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::{ClientKey, Node};
use crate::base::nanos;
use crate::link::decoded;
use crate::resp::{Value, encode};

/// Shortest and longest pause between two looks.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// Pause behind the first request for acknowledgements, doubled from one to the next up to the second: replicas tell by
/// themselves once a second, and one that does not answer makes the request take up to a tenth of a second.
const NUDGES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What ROLE said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleReply {
    /// The offset of its history, and how much of it each replica has acknowledged.
    Primary { offset: i64, acknowledged: Vec<i64> },
    /// The server is a replica now.
    Replica,
    /// An error line of the server's, with its dash.
    Refused(Vec<u8>),
    /// The server did not answer.
    Away,
}

impl RoleReply {
    /// Replicas that have acknowledged the history up to `offset`.
    #[must_use]
    pub fn count(&self, offset: i64) -> i64 {
        let Self::Primary { acknowledged, .. } = self else { return 0 };
        acknowledged.iter().filter(|reached| **reached >= offset).count().try_into().unwrap_or(i64::MAX)
    }

    fn of(reply: &[u8]) -> Self {
        let Ok(value) = decoded(reply) else { return Self::Away };
        if let Value::Error(line) = &value {
            return Self::Refused([b"-", line.as_ref()].concat());
        }
        let Some([kind, rest @ ..]) = value.as_list() else { return Self::Away };
        match (kind.as_text().map(AsRef::as_ref), rest) {
            (Some(b"master"), [Value::Int(offset), Value::List(replicas), ..]) => {
                let acknowledged = replicas.iter().filter_map(|replica| {
                    let text = replica.as_list()?.get(2)?.as_text()?;
                    std::str::from_utf8(text).ok()?.parse().ok()
                });
                Self::Primary { offset: *offset, acknowledged: acknowledged.collect() }
            }
            (Some(b"slave"), _) => Self::Replica,
            _ => Self::Away,
        }
    }
}

/// The looks of one worker.
#[derive(Default)]
pub struct ReplicaAcks {
    /// Number of the look that was begun last.
    begun: Cell<u64>,
    /// The last one that is over, with its number.
    latest: RefCell<Option<(u64, Rc<RoleReply>)>>,
    watchers: RefCell<Vec<ClientKey>>,
    running: Cell<bool>,
    /// Somebody waits for replicas that are behind: they are asked to acknowledge.
    behind: Cell<bool>,
    joined: Notify,
}

/// A client that wants to know. Looks go on for as long as there is one.
pub struct AcksWaiter {
    node: Rc<Node>,
    client: ClientKey,
    /// The first look that was begun after it came.
    from: Cell<u64>,
}

impl ReplicaAcks {
    /// Looks for `client`, which is woken by each. None of them was begun before: all that the server has done until
    /// now is in them.
    pub fn watch(node: &Rc<Node>, client: ClientKey) -> AcksWaiter {
        let acks = &node.replica_acks;
        acks.watchers.borrow_mut().push(client);
        acks.joined.notify_one();
        if !acks.running.replace(true) {
            spawn_local(run(Rc::clone(node)));
        }
        AcksWaiter { node: Rc::clone(node), client, from: Cell::new(acks.begun.get() + 1) }
    }
}

impl AcksWaiter {
    /// The newest look, once.
    #[must_use]
    pub fn take(&self) -> Option<Rc<RoleReply>> {
        let latest = self.node.replica_acks.latest.borrow();
        let (number, role) = latest.as_ref().filter(|(number, _)| *number >= self.from.get())?;
        self.from.set(number + 1);
        Some(Rc::clone(role))
    }

    /// What it waits for is not there yet.
    pub fn is_behind(&self) {
        if !self.node.replica_acks.behind.replace(true) {
            self.node.replica_acks.joined.notify_one();
        }
    }
}

impl Drop for AcksWaiter {
    fn drop(&mut self) {
        let mut watchers = self.node.replica_acks.watchers.borrow_mut();
        if let Some(place) = watchers.iter().position(|client| *client == self.client) {
            watchers.swap_remove(place);
        }
    }
}

/// Looks until nobody wants to know any more.
async fn run(node: Rc<Node>) {
    let acks = &node.replica_acks;
    let (mut backoff, mut nudge, mut nudge_at) = (BACKOFF.0, NUDGES.0, 0);
    loop {
        acks.begun.set(acks.begun.get() + 1);
        let mut batch = BytesMut::new();
        let asks = acks.behind.get() && node.rt.now() >= nudge_at;
        if asks {
            // Never satisfied: it only makes the server ask its replicas. Without the right to it they tell by
            // themselves.
            encode::command(&mut batch, &["WAIT", "1000000", "1"]);
        }
        encode::command(&mut batch, &["ROLE"]);
        let answer = node.control.ask_batch(batch, 1 + usize::from(asks), None, None).await;
        if asks {
            nudge_at = node.rt.now() + nanos(nudge);
            nudge = (nudge * 2).min(NUDGES.1);
        }
        let role =
            answer.ok().and_then(|mut replies| replies.pop()).map_or(RoleReply::Away, |reply| RoleReply::of(&reply));
        *acks.latest.borrow_mut() = Some((acks.begun.get(), Rc::new(role)));
        for client in acks.watchers.borrow().iter() {
            node.rt.outboxes.with(*client, |outbox| outbox.wake());
        }
        // A client that comes, or finds its replicas behind, does not wait for the end of the pause.
        if timeout(backoff, acks.joined.notified()).await.is_ok() {
            (backoff, nudge) = (BACKOFF.0, NUDGES.0);
        } else {
            backoff = (backoff * 3 / 2).min(BACKOFF.1);
        }
        if acks.watchers.borrow().is_empty() {
            break;
        }
    }
    acks.behind.set(false);
    *acks.latest.borrow_mut() = None;
    acks.running.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read() {
        let reply = b"*3\r\n$6\r\nmaster\r\n:77\r\n*2\r\n*3\r\n$1\r\na\r\n$1\r\n1\r\n$2\r\n77\r\n*3\r\n$1\r\nb\r\n$1\r\n2\r\n$2\r\n60\r\n";
        let role = RoleReply::of(reply);
        assert_eq!(role, RoleReply::Primary { offset: 77, acknowledged: vec![77, 60] });
        assert_eq!([60, 61, 77, 78].map(|offset| role.count(offset)), [2, 1, 1, 0]);
        let slave = b"*5\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n$9\r\nconnected\r\n:3\r\n";
        assert_eq!(RoleReply::of(slave), RoleReply::Replica);
        assert_eq!(RoleReply::of(b"-NOPERM no\r\n"), RoleReply::Refused(b"-NOPERM no".to_vec()));
        assert_eq!(RoleReply::of(b"*1\r\n$8\r\nsentinel\r\n"), RoleReply::Away);
    }
}
