//! What a worker answers when another one asks about its clients.

use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::peers::{PeerQuery, UnblockWith};
use super::record::ClientRecord;
use crate::client::shared::Shared;
use crate::session::RouteKey;
use crate::telemetry::CloseReason;
use crate::upstream::{LaneReport, Node, Unblocked};

/// Answers one question from this worker's clients.
pub(crate) fn answer(shared: &Shared, question: PeerQuery) {
    // Askers that have left need no answer.
    match question {
        PeerQuery::List(reply) => {
            let now = shared.rt.now();
            let _ = reply.send(shared.clients.all().iter().map(|record| record.line(now)).collect());
        }
        PeerQuery::Choose(selection, reply) => {
            let _ = reply.send(selection.of(&shared.clients, shared.rt.now()));
        }
        PeerQuery::Report(reply) => drop(reply.send(shared.node().report())),
        PeerQuery::Lanes(reply) => drop(reply.send(lanes(shared))),
        PeerQuery::SlowRequests(count, reply) => {
            let who = |id| shared.clients.find(id).map(|record| record.who());
            let _ = reply.send((shared.rt.slowlog.len(), shared.rt.slowlog.newest(count, who)));
        }
        PeerQuery::ForgetSlowRequests(reply) => {
            shared.rt.slowlog.clear();
            let _ = reply.send(());
        }
        PeerQuery::HotKeys(reply) => drop(reply.send(shared.rt.hotkeys.seen())),
        PeerQuery::ForgetHotKeys(reply) => {
            shared.rt.hotkeys.clear();
            let _ = reply.send(());
        }
        PeerQuery::Kill(ids, reply) => {
            // Ids of other workers' clients are among them: every worker is asked for all.
            let here: Vec<_> = ids.iter().filter_map(|id| shared.clients.find(*id)).collect();
            for record in &here {
                record.outbox.close(CloseReason::Killed);
            }
            let _ = reply.send(here.len() as u64);
        }
        PeerQuery::Quiesce(extent, ready) => shared.quiesce(extent, ready),
        PeerQuery::ServerPause(change, done) => {
            // In this step, before the answer: when all have answered, no worker begins what the server holds back.
            shared.node().on_server_pause(change);
            let _ = done.send(());
        }
        PeerQuery::Unblock(id, how, reply) => {
            // Elsewhere the sender is dropped, and that is the answer. The task is one of its own because the end of a
            // wait may take its time, and other questions must not stand behind it.
            if let Some(record) = shared.clients.find(id) {
                let node = Rc::clone(&shared.node());
                spawn_local(async move { reply.send(unblock(&node, &record, how).await) });
            }
        }
    }
}

/// CLIENT UNBLOCK of a client of this worker, wherever it waits.
async fn unblock(node: &Node, record: &ClientRecord, how: UnblockWith) -> Unblocked {
    // A client in a group of waiters is on no connection: the group lets it go.
    let wait = record.activity.wait();
    if let Some(wait) = wait {
        let (answer, left) = oneshot::channel();
        wait.ask_to_leave(how == UnblockWith::Error, answer);
        // 1 only if it has left without an element; an element that was faster makes it 0 (rule B9).
        return Unblocked::Reply(if left.await == Ok(true) { b":1\r\n" } else { b":0\r\n" }.to_vec());
    }
    let Some(blocked_on) = record.activity.blocked_on() else { return Unblocked::Reply(b":0\r\n".to_vec()) };
    let id = blocked_on.id.to_string();
    let unblock: &[&[u8]] = &[b"CLIENT", b"UNBLOCK", id.as_bytes(), how.word().as_bytes()];
    // Looked at again before it is sent: the connection may be somebody else's by then, and UNBLOCK would hit that
    // client.
    let still = || record.activity.blocked_on() == Some(blocked_on);
    node.unblock_for_another(blocked_on, unblock, still).await
}

/// The worker's lanes, with the clients whose commands would go over each.
fn lanes(shared: &Shared) -> Vec<LaneReport> {
    let mut lanes = shared.node().lane_reports();
    let mut clients: HashMap<RouteKey, usize> = HashMap::new();
    shared.clients.each(|record| {
        // Looked up by reference first: most clients are of few kinds.
        let session = record.session.borrow();
        match clients.get_mut(&session.key) {
            Some(count) => *count += 1,
            None => drop(clients.insert(session.key.clone(), 1)),
        }
    });
    for lane in lanes.iter_mut().filter(|lane| !lane.retired && !lane.for_long_replies) {
        lane.clients = clients.get(&lane.key).copied().unwrap_or(0);
    }
    lanes
}
