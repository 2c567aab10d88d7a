//! CLIENT UNBLOCK by another client, for one that waits on a lent connection. Until it is answered it would hit whoever
//! waits there, so nobody else is lent that connection meanwhile.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::Node;
use crate::link::{Link, ServerClient};

/// How soon it is tried again while the server is paused.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Unblocked {
    /// The server's answer.
    Reply(Vec<u8>),
    NotExecuted,
    /// The UNBLOCK was sent, and nobody knows whether it hit.
    Unknown,
}

/// The connections to one server at which one is aimed.
#[derive(Default)]
pub(super) struct UnblockGuard {
    under_way: RefCell<Vec<ServerClient>>,
    /// Clients of the server at which an UNBLOCK was sent that may still arrive. Their connections serve nobody else
    /// any more; there are at most as many as are connected.
    quarantined: RefCell<Vec<ServerClient>>,
}

impl UnblockGuard {
    /// Whether an UNBLOCK is on its way to this connection: nobody else may be lent it now.
    pub(super) fn is_at(&self, link: &Link) -> bool {
        link.client().is_some_and(|client| self.under_way.borrow().contains(&client)) || self.is_quarantined(link)
    }

    /// Whether an UNBLOCK may still hit this connection: nobody else may ever be lent it.
    pub(super) fn is_quarantined(&self, link: &Link) -> bool {
        link.client().is_some_and(|client| self.quarantined.borrow().contains(&client))
    }

    fn end(&self, client: ServerClient) {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(position) = under_way.iter().position(|other| *other == client) {
            under_way.swap_remove(position);
        }
    }
}

impl Node {
    /// Runs `unblock`, a CLIENT UNBLOCK of `client`, one of the server's. It is aimed from the first poll on, when
    /// the client that it is meant for must be waiting there.
    ///
    /// Where it would crash a server that is paused, it waits for the end of the pause, or until nobody waits there any
    /// more by `still`.
    pub async fn unblock_for_another(
        &self,
        client: ServerClient,
        unblock: &[&[u8]],
        still: impl Fn() -> bool,
    ) -> Unblocked {
        let unblock_guard = &self.idle.unblock_guard;
        unblock_guard.under_way.borrow_mut().push(client);
        let spares = self.control.known_flavour().await.unblock_spares_paused();
        let outcome = loop {
            match self.control.run_unblock(unblock, client.server).await {
                Ok(reply) => break Unblocked::Reply(reply),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => break Unblocked::NotExecuted,
                // Held back, so not carried out; nor will it be, when the connection that carried it is closed.
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !spares => {
                    if !still() {
                        self.quarantine(client);
                        break Unblocked::Reply(b":0\r\n".to_vec());
                    }
                    sleep(ASK_AGAIN).await;
                }
                Err(_) => {
                    self.quarantine(client);
                    break Unblocked::Unknown;
                }
            }
        };
        unblock_guard.end(client);
        self.idle.again.notify_waiters();
        outcome
    }

    /// The UNBLOCK for `client` was not answered and may still arrive.
    fn quarantine(&self, client: ServerClient) {
        let mut quarantined = self.idle.unblock_guard.quarantined.borrow_mut();
        quarantined.retain(|other| self.rt.owned.contains(other.server.node(), other.id));
        quarantined.push(client);
    }
}
