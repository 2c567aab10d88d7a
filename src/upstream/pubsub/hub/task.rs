//! The life of a hub's connection: opened, replaced when connections move, and ended for a reason.

use std::future::poll_fn;
use std::rc::Rc;

use super::{Hub, HubEnd, HubFailure};
use crate::link::{DialError, Link, Patience, Permit, Start, Use, Wanted};
use crate::session::{Resp, RouteKey};
use crate::telemetry::{CloseReason, UpstreamCloseReason};
use crate::upstream::Node;

/// Runs a hub to its end.
pub(in crate::upstream::pubsub) async fn run(hub: Rc<Hub>, node: Rc<Node>, permit: Permit) {
    let link = match open(&hub, &node, permit).await {
        Ok(link) => link,
        Err(failure) => {
            hub.close(Some(failure));
            node.hubs.on_closed(&hub);
            return;
        }
    };
    hub.on_connected();
    let (end, link, failure) = match serve(&hub, &node, link).await {
        Ok((end, link)) => (end, Some(link), None),
        Err(failure) => {
            let away = "the new upstream is not available".to_owned();
            (HubEnd::Lost(UpstreamCloseReason::Moved, away), None, Some(failure))
        }
    };
    // Before the clients are closed: none of them may be given this hub again while they go.
    hub.close(failure);
    let reason = match end {
        HubEnd::Moved => UpstreamCloseReason::Moved, // gone on with already
        HubEnd::Done(reason) => {
            hub.on_lost(&node, CloseReason::UpstreamLost); // nobody; the counts go
            reason
        }
        HubEnd::Lost(verdict, reason) => {
            tracing::warn!(upstream = %node.address(), hub = hub.id, reason, "subscriber connection lost");
            hub.on_lost(&node, CloseReason::UpstreamLost);
            verdict
        }
        HubEnd::Anomaly(reason) => {
            tracing::error!(upstream = %node.address(), hub = hub.id, %reason, "subscriber connection killed: it cannot be trusted");
            node.rt.shard.anomaly(Use::Hub, reason);
            hub.on_lost(&node, CloseReason::UpstreamAnomaly);
            UpstreamCloseReason::Anomaly
        }
    };
    if let Some(link) = link {
        drop(link.close(reason).await);
    }
    // Last of all: whoever waits for the place of this hub finds it free.
    node.hubs.on_closed(&hub);
}

/// Runs a hub for as long as it has a connection, which may be one after the other. An error says why the next one could
/// not be made.
async fn serve(hub: &Hub, node: &Rc<Node>, first: Link) -> Result<(HubEnd, Link), HubFailure> {
    let mut link = first;
    loop {
        match poll_fn(|cx| hub.poll_turn(node, &mut link, cx)).await {
            HubEnd::Moved => {}
            end => return Ok((end, link)),
        }
        // What clients ask for from here on is sent on the new connection, behind the subscriptions that are made again.
        hub.begin_again(node);
        // First closed, then opened: the cap leaves a hub one place, and nothing may be heard twice.
        let permit = link.close(UpstreamCloseReason::Moved).await;
        link = open(hub, node, permit).await?;
        tracing::info!(upstream = %node.address(), hub = hub.id, names = hub.wanted(), "subscriptions are made again on a new connection");
    }
}

/// Waits for the upstream, for at most `upstream.connect_wait`.
async fn open(hub: &Hub, node: &Rc<Node>, permit: Permit) -> Result<Link, HubFailure> {
    let deadline = crate::base::now() + node.rt.config().upstream.connect_wait;
    // Messages come as pushes, whatever the clients speak.
    let key = RouteKey { resp: Resp::Three, ..RouteKey::fresh(hub.identity.clone(), 0) };
    match node.dialer.acquire(Start::New(permit), Wanted::Ready(key), Patience::Until(deadline)).await {
        Ok(link) => Ok(link),
        Err((DialError::Unavailable { .. }, _)) => Err(HubFailure::Unavailable),
        Err((DialError::Identity(_) | DialError::State(_), _)) => {
            node.hubs.on_refused(&hub.identity, node.rt.now());
            Err(HubFailure::Refused)
        }
    }
}
