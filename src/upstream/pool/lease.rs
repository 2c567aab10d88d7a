//! One connection, lent to one client: how it comes back, and what is done when it cannot.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::PoolPlace;
use crate::base::bug;
use crate::link::Link;
use crate::resp::encode;
use crate::session::RouteKey;
use crate::telemetry::UpstreamCloseReason;
use crate::upstream::Node;

/// How long making a connection clean may take before it is closed instead.
const CLEAN_WAIT: Duration = Duration::from_secs(3);

/// How a lent connection comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// Proved clean by the replies.
    Clean,
    /// In MULTI: one DISCARD proves it clean.
    Queueing,
    /// Watches are set: one UNWATCH proves it clean.
    Watching,
    /// Anything else: RESET at once, so that it is silent, and a new handshake when somebody needs it.
    Unknown,
}

/// One connection, lent.
pub struct Lease {
    /// Both are there until the lease is given back, cancelled or dropped, and leave together: a place without its
    /// connection would let one connection more be opened than the budget has.
    link: Option<Link>,
    place: Option<PoolPlace>,
    node: Rc<Node>,
    /// Why the connection is closed when the lease is dropped.
    end: UpstreamCloseReason,
}

impl Lease {
    pub(super) fn new(link: Link, place: PoolPlace, node: &Rc<Node>) -> Self {
        Self { link: Some(link), place: Some(place), node: Rc::clone(node), end: UpstreamCloseReason::Client }
    }

    /// The connection is of no use to anybody: it is closed, for this reason, when the lease is dropped.
    pub fn spoil(&mut self, reason: UpstreamCloseReason) {
        self.end = reason;
    }

    /// The connection.
    pub fn link(&mut self) -> &mut Link {
        self.link.as_mut().expect("a lease owns its link until it is given back")
    }

    /// The state that the connection is in.
    #[must_use]
    pub fn key(&self) -> &RouteKey {
        self.link.as_ref().expect("a lease owns its link until it is given back").key()
    }

    /// Asks `question`, which changes nothing of the connection's state, and gives the connection back.
    ///
    /// # Errors
    /// The connection is lost, and closed; nobody knows whether the question was carried out.
    pub async fn ask(mut self, question: &[u8]) -> io::Result<Vec<u8>> {
        let mut replies = self.link().call(question, 1).await?;
        self.give_back(Return::Clean);
        Ok(replies.swap_remove(0))
    }

    /// The client left while the connection waits for the server: UNBLOCK it there, read what it still says, and
    /// keep it. Closing instead would churn connections (rule B15).
    pub fn cancel(mut self) {
        let (Some(link), Some(place)) = (self.link.take(), self.place.take()) else { return };
        let node = Rc::clone(&self.node);
        spawn_local(async move {
            let mut link = link;
            let unblocked = match link.client() {
                Some(client) => matches!(node.control.unblock(client).await, Ok(reply) if reply.starts_with(b":")),
                None => false,
            };
            let silenced = unblocked && matches!(timeout(CLEAN_WAIT, link.silence()).await, Ok(Ok(())));
            if silenced {
                node.idle.put(&node, link, true).await;
            } else {
                discard(&node, link, UpstreamCloseReason::Client).await
            }
            drop(place);
        });
    }

    /// Gives the connection back. What is needed to make it clean happens behind the client's back; the place is
    /// free only afterwards.
    pub fn give_back(mut self, state: Return) {
        let (Some(link), Some(place)) = (self.link.take(), self.place.take()) else { return };
        let node = Rc::clone(&self.node);
        match state {
            _ if !node.dialer.is_current(&link) => {
                spawn_local(async move {
                    drop(link.close(UpstreamCloseReason::Moved).await);
                    drop(place);
                });
            }
            // From here on it is current; what the client left on it decides.
            _ if state != Return::Clean && bug("skip_hygiene") => node.idle.keep(link, false),
            Return::Clean => node.idle.keep(link, false),
            Return::Unknown => {
                spawn_local(async move {
                    let mut link = link;
                    let silenced = matches!(timeout(CLEAN_WAIT, link.silence()).await, Ok(Ok(())));
                    if silenced {
                        node.idle.put(&node, link, true).await;
                    } else {
                        discard(&node, link, UpstreamCloseReason::Dirty).await
                    }
                    drop(place);
                });
            }
            Return::Queueing | Return::Watching => {
                let word = if state == Return::Queueing { "DISCARD" } else { "UNWATCH" };
                spawn_local(async move {
                    let mut link = link;
                    let proved = prove_clean(&mut link, word).await;
                    if proved {
                        node.idle.put(&node, link, false).await;
                    } else {
                        discard(&node, link, UpstreamCloseReason::Dirty).await
                    }
                    drop(place);
                });
            }
        }
    }
}

/// One command whose `+OK` says that nothing of the client is left: cheaper than RESET, behind which the connection has to
/// log in again.
async fn prove_clean(link: &mut Link, word: &str) -> bool {
    let mut batch = BytesMut::new();
    encode::command(&mut batch, &[word]);
    matches!(timeout(CLEAN_WAIT, link.call(&batch, 1)).await, Ok(Ok(replies)) if replies[0] == b"+OK\r\n")
}

/// Closes a connection that cannot go back to the others, for this reason if it was not to move anyway.
async fn discard(node: &Node, link: Link, reason: UpstreamCloseReason) {
    let reason = if node.dialer.is_current(&link) { reason } else { UpstreamCloseReason::Moved };
    drop(link.close(reason).await);
}

/// Nobody knows in which state the connection is: it is closed, behind the back of whoever dropped it.
impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(link), Some(place)) = (self.link.take(), self.place.take()) else { return };
        let (node, reason) = (Rc::clone(&self.node), self.end);
        spawn_local(async move {
            discard(&node, link, reason).await;
            drop(place);
        });
    }
}
