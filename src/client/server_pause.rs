//! Clients while the server is paused (CLIENT PAUSE, a failover): what it would hold is held here, or travels on a
//! connection of its own where the server holds it and only its client waits. A held client that leaves takes its
//! command with it, as on a server.

use std::future::poll_fn;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::connection::{Client, Closed};
use super::directory::peers::PeerQuery;
use super::pinned::Pinned;
use super::request::Request;
use super::shared::Shared;
use crate::command::{CommandId, Lookup};
use crate::resp::encode;
use crate::router::{Args, Extent, FreeRoute, Passage, PauseChange, PinReason, Relay, passage, pause_change};
use crate::upstream::Answer;

/// How long a pause waits for the answers to what was sent before it. What is not answered then may be held back in a
/// lane, which is left.
const SETTLE: Duration = Duration::from_millis(500);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Client {
    /// Whether a request leaves the way of all others because the server is paused.
    #[cold]
    pub(super) fn steps_aside(&self, route: FreeRoute, lookup: Lookup, args: &impl Args) -> bool {
        let Some(extent) = self.node().server_pause.extent() else { return false };
        // The parts of a transaction are judged by the server, on a connection where nobody waits for its EXEC.
        route == FreeRoute::Pin(PinReason::Transaction)
            || passage(extent, &self.rt().table, lookup, route, args) != Passage::Free
    }

    /// Waits until the server takes the command; or says why it travels on a connection of its own.
    pub(super) async fn pass_pause(
        &mut self,
        request: &Request,
        route: FreeRoute,
    ) -> Result<Option<PinReason>, Closed> {
        let node = self.node();
        // A loop, as one pause may follow the other, and PROXY PAUSE may be on as well.
        while let Some(extent) = node.server_pause.extent() {
            match passage(extent, &node.rt.table, request.lookup(), route, request) {
                Passage::Free => return Ok(None),
                Passage::Apart if !node.server_pause.is_quiesced() && node.rt.pool.has_place_for_blocked() => {
                    return Ok(Some(PinReason::Paused));
                }
                Passage::Apart | Passage::Wait => {
                    self.record.activity.stands_in_line();
                    let changed = self.pause_changed().await;
                    self.record.activity.goes_on();
                    changed?;
                }
            }
            if node.rt.is_paused() && route.waits_for_resume() {
                self.resumed().await?;
            }
        }
        Ok(None)
    }

    /// Waits until what is held back is not the same any more. Ends with the client.
    async fn pause_changed(&mut self) -> Result<(), Closed> {
        let node = self.node();
        let seen = node.server_pause.changes();
        poll_fn(|cx| {
            if node.server_pause.changes() != seen {
                return std::task::Poll::Ready(Ok(()));
            }
            self.poll_presence(cx).map(Err)
        })
        .await
    }

    /// While everything is held back nobody can be asked who a client is.
    pub(super) async fn wait_to_be_asked(&mut self) -> Result<(), Closed> {
        while self.node().server_pause.is_all() {
            self.pause_changed().await?;
        }
        Ok(())
    }

    /// CLIENT PAUSE. First every worker stops beginning what it would hold, and what was begun is answered: so nothing
    /// is held back in a lane, in front of others.
    pub(super) async fn client_pause(&mut self, request: &Request) -> Result<(), Closed> {
        let peers = self.shared.peers.clone();
        // What is no pause that a server would accept is asked like any other command, and nobody has to be ready for
        // it.
        let change = pause_change(&request.args_from(1).collect::<Vec<_>>());
        if let Some(PauseChange::Begun(extent, _)) = change {
            // Asked first: otherwise anybody could make all clients wait for a command that is refused.
            if !self.may_pause().await? {
                return Ok(());
            }
            // All workers, this one included: each answers when its lanes owe nothing that is older, or after `SETTLE`.
            peers.quiesce(Some(extent)).await;
        }
        let key = self.record.session.borrow().key.clone();
        let answer = self.confirm_on(&key, request).await?; // closed meanwhile: nobody is braced for long
        match change {
            // All workers learn the truth of it, in either case: who braces and hears nothing lets go by itself.
            Some(change) if is_ok(&answer) => peers.on_server_pause(change).await,
            // Refused, so what was held back for it goes on.
            Some(_) => peers.quiesce(None).await,
            None => {}
        }
        self.pass_on(answer);
        Ok(())
    }

    /// Asks the server by a pause without a time, which it refuses to all: who may not pause must not make anybody
    /// wait. The client gets the answer if it is another.
    async fn may_pause(&mut self) -> Result<bool, Closed> {
        let mut probe = BytesMut::new();
        encode::command(&mut probe, &["CLIENT", "PAUSE", "x"]);
        let key = self.record.session.borrow().key.clone();
        let answer = self.confirm_bytes_on(&key, CommandId::OTHER, &probe).await?;
        let may = matches!(&answer, Answer::Reply(frame) if frame.starts_with(b"-ERR timeout is not an integer"));
        if !may {
            self.pass_on(answer);
        }
        Ok(may)
    }

    /// A pause on the connection that the client holds, by itself or at the end of a transaction.
    pub(super) async fn pause_while_pinned(
        &mut self,
        pinned: &mut Pinned,
        request: Request,
        relay: Relay,
    ) -> Result<(), Closed> {
        let extent = match pause_change(&request.args_from(1).collect::<Vec<_>>()) {
            Some(PauseChange::Begun(extent, _)) if relay == Relay::Pause => Some(extent),
            _ => pinned.queued_pause(),
        };
        // In a transaction the server has judged it already.
        if extent.is_some() && (relay == Relay::Exec || self.may_pause().await?) {
            self.shared.peers.quiesce(extent).await;
        } else if relay == Relay::Pause {
            return Ok(()); // answered
        }
        pinned.send_pause(self, request, relay);
        Ok(())
    }

    /// CLIENT UNPAUSE: on a connection of its own, so that it gets through whatever waits on the lane. Where there is
    /// none it rides: nothing that is held back is on a lane while respmux knows of the pause.
    pub(super) async fn client_unpause(&mut self, request: Request) -> Result<(), Closed> {
        if self.rt().pool.has_place() {
            return self.pin(request, PinReason::OutOfBand).await;
        }
        let key = self.record.session.borrow().key.clone();
        let answer = self.confirm_on(&key, &request).await?;
        if is_ok(&answer) {
            self.shared.peers.on_server_pause(PauseChange::Ended).await;
        }
        self.pass_on(answer);
        Ok(())
    }

    /// The server has accepted a CLIENT PAUSE or UNPAUSE of this client, on the connection that it holds.
    pub(super) fn on_pause_accepted(&self, change: PauseChange) {
        // On this worker in the same step: the client's next request may follow at once. The others learn it by
        // message.
        self.node().on_server_pause(change);
        let peers = self.shared.peers.clone();
        spawn_local(async move { peers.on_server_pause(change).await });
    }
}

impl Shared {
    /// A pause is about to be sent, or was refused. Answers when nothing that it would hold is on a lane.
    pub(super) fn quiesce(&self, extent: Option<Extent>, ready: oneshot::Sender<()>) {
        self.node().quiesce_for_pause(extent);
        // Nothing to wait for: whoever was held back for it has been let go in the line above.
        if extent.is_none() {
            let _ = ready.send(());
            return;
        }
        let node = self.node();
        let (now, deadline) = (node.rt.now(), Instant::now() + SETTLE);
        spawn_local(async move {
            // Only what was sent before the brace: what comes later has been judged by it.
            let owes = || node.lanes.all().iter().any(|lane| lane.oldest().is_some_and(|at| at < now));
            while owes() && Instant::now() < deadline && !ready.is_closed() {
                sleep(LOOK_EVERY).await;
            }
            let _ = ready.send(());
        });
    }
}

impl super::Peers {
    async fn quiesce(&self, extent: Option<Extent>) {
        self.ask(|ready| PeerQuery::Quiesce(extent, ready)).await;
    }

    async fn on_server_pause(&self, change: PauseChange) {
        self.ask(|done| PeerQuery::ServerPause(change, done)).await;
    }
}

fn is_ok(answer: &Answer) -> bool {
    matches!(answer, Answer::Reply(frame) if frame == b"+OK\r\n")
}
