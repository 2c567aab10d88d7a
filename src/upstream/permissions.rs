//! Whether the upstream lets somebody do something. Asked by tasks of their own, so that whoever wants to know may stop
//! waiting while the question goes on; those who want to know the same wait for one answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::{Answer, LoginRequirement, Node};
use crate::resp::encode;
use crate::session::{Identity, RouteKey};

/// A command that needs the right in question and changes nothing.
pub type PermissionProbe = &'static [&'static str];

/// What is known of a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    Granted,
    /// The upstream says no, in these words.
    Refused(Vec<u8>),
    /// The upstream cannot be asked now, or has not answered in time.
    Unknown,
}

/// Questions of a worker that have no answer yet: at most one for each identity and right.
#[derive(Default)]
pub struct PermissionChecks {
    rights: SingleFlight<(RouteKey, PermissionProbe), Permission>,
    login_requirement: SingleFlight<(), Option<LoginRequirement>>,
}

/// Callers that wait for the same answer, by the question.
struct SingleFlight<K, V>(RefCell<HashMap<K, Vec<oneshot::Sender<V>>>>);

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Eq + Hash, V: Clone> SingleFlight<K, V> {
    /// Where the answer will come, and whether nobody has asked yet.
    fn join(&self, what: K) -> (oneshot::Receiver<V>, bool) {
        let (sender, answer) = oneshot::channel();
        let mut open = self.0.borrow_mut();
        let first = !open.contains_key(&what);
        let waiting = open.entry(what).or_default();
        // Those who have given up would add up while the upstream hangs.
        waiting.retain(|one| !one.is_closed());
        waiting.push(sender);
        (answer, first)
    }

    fn answer(&self, what: &K, value: &V) {
        for waiting in self.0.borrow_mut().remove(what).into_iter().flatten() {
            // It has given up.
            let _ = waiting.send(value.clone());
        }
    }
}

impl Node {
    /// Whether whoever is served by connections in the state `key` may run `probe`; asked for no longer than `patience`.
    pub async fn permission(self: &Rc<Self>, key: &RouteKey, probe: PermissionProbe, patience: Duration) -> Permission {
        // Joined before it is asked, and asked in a task of its own: the first who wants to know may lose patience, and the
        // others still get the answer.
        let (answer, first) = self.permission_checks.rights.join((key.clone(), probe));
        if first {
            let (node, key) = (Rc::clone(self), key.clone());
            spawn_local(async move {
                let permission = node.ask_permission(&key, probe).await;
                node.permission_checks.rights.answer(&(key, probe), &permission);
            });
        }
        timeout(patience, answer).await.ok().and_then(Result::ok).unwrap_or(Permission::Unknown)
    }

    /// What a client is that has sent nothing yet; nothing if that is not known after `patience`.
    pub async fn login_requirement_within(self: &Rc<Self>, patience: Duration) -> Option<LoginRequirement> {
        let (answer, first) = self.permission_checks.login_requirement.join(());
        if first {
            let node = Rc::clone(self);
            spawn_local(async move {
                let login_requirement = node.login_connection.login_requirement(&node).await.ok();
                node.permission_checks.login_requirement.answer(&(), &login_requirement);
            });
        }
        timeout(patience, answer).await.ok()?.ok()?
    }

    async fn ask_permission(self: &Rc<Self>, key: &RouteKey, probe: PermissionProbe) -> Permission {
        let mut command = BytesMut::new();
        encode::command(&mut command, probe);
        match self.ask(key, &command).await {
            Ok(Answer::Reply(reply)) => of_reply(&reply),
            // No connection could be opened for this identity: that is the answer, in the server's words.
            Ok(Answer::NotExecuted(line)) if is_about(key, &line) => of_error(&line),
            Ok(Answer::NotExecuted(_)) | Err(_) => Permission::Unknown,
        }
    }
}

/// No connection could be made, and that is about whoever asks: clients that do not log in are not to blame for the
/// login of the configuration.
fn is_about(key: &RouteKey, line: &[u8]) -> bool {
    key.identity != Identity::Implicit || line.starts_with(b"NOAUTH")
}

fn of_reply(frame: &[u8]) -> Permission {
    match frame.strip_prefix(b"-") {
        None => Permission::Granted,
        Some(error) => of_error(error.strip_suffix(b"\r\n").unwrap_or(error)),
    }
}

/// An error that says nothing about the right leaves it unknown.
fn of_error(line: &[u8]) -> Permission {
    const BUSY_WITH_OTHERS: [&[u8]; 4] = [b"LOADING", b"BUSY ", b"MASTERDOWN", b"TRYAGAIN"];
    match BUSY_WITH_OTHERS.iter().any(|word| line.starts_with(word)) {
        true => Permission::Unknown,
        false => Permission::Refused(line.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_the_same_share_one_answer_and_those_who_left_go() {
        let joint = SingleFlight::<u8, u8>::default();
        let (one, first) = joint.join(1);
        assert!(first);
        drop(one);
        let (mut two, again) = joint.join(1);
        assert!(!again && joint.0.borrow()[&1].len() == 1, "the first has left");
        assert!(joint.join(2).1, "another question");
        joint.answer(&1, &7);
        assert_eq!(two.try_recv(), Ok(7));
        assert!(joint.join(1).1, "asked anew");
    }

    #[test]
    fn only_a_refusal_is_a_refusal() {
        assert_eq!(of_reply(b"+OK\r\n"), Permission::Granted);
        assert_eq!(of_reply(b"$1\r\na\r\n"), Permission::Granted);
        assert_eq!(of_reply(b"-NOPERM no\r\n"), Permission::Refused(b"NOPERM no".to_vec()));
        for error in ["LOADING x", "BUSY x", "MASTERDOWN x"] {
            assert_eq!(of_error(error.as_bytes()), Permission::Unknown, "{error}");
        }
    }
}
