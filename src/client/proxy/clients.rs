//! PROXY CLIENTS and KILL.

use std::rc::Rc;

use bytes::BytesMut;

use super::selection::Selection;
use super::{Answer, Answered};
use crate::client::connection::{Client, Closed};
use crate::client::directory::{Line, Transport};
use crate::client::error_reply;
use crate::client::peers::Peers;
use crate::client::request::Request;
use crate::command::CommandTable;
use crate::resp::encode;
use crate::router::Args;

/// PROXY CLIENTS.
pub(super) async fn lines(peers: &Peers, table: &CommandTable, request: &Request) -> Answered {
    let selection = Selection::parse(request)?;
    let lines = selection.merge(peers.chosen(&selection).await);
    Ok(Answer::Lines(lines.iter().map(|line| client_line(table, line)).collect()))
}

impl Client {
    /// PROXY KILL: the number of clients that are closed.
    pub(super) async fn proxy_kill(&mut self, request: &Request) -> Result<(), Closed> {
        let shared = Rc::clone(&self.shared);
        let lines = shared.peers.chosen(&Selection::one(request.nth(2))).await;
        if lines.is_empty() {
            self.reply_error(error_reply::NO_SUCH_CLIENT);
            return Ok(());
        }
        let ids: Vec<u64> = lines.iter().map(|line| line.id).collect();
        for line in &lines {
            tracing::info!(id = line.id, addr = line.addr, by = self.outbox().id(), "client killed by PROXY KILL");
        }
        let mut frame = BytesMut::new();
        encode::integer(&mut frame, i64::try_from(ids.len()).unwrap_or(i64::MAX));
        // It may be this very client: the reply must be sent before.
        self.reply(&frame);
        self.drained().await?;
        shared.peers.kill(&ids).await;
        Ok(())
    }
}

/// In the names of CLIENT LIST where it has one for the same.
fn client_line(table: &CommandTable, line: &Line) -> String {
    let pin = line.pin.map_or("no", |reason| reason.label());
    format!(
        "id={} addr={} laddr={} {} name={} lib-name={} lib-ver={} user={} db={} resp={} age={} idle={} state={} pin={pin} \
         route={} cmd={} pending={} sub={} multi={} omem={} tot-net-in={} tot-net-out={}",
        line.id,
        line.addr,
        line.laddr,
        via(line.transport),
        lossy(&line.name),
        lossy(&line.lib_name),
        lossy(&line.lib_version),
        lossy(&line.user),
        line.db,
        line.resp,
        line.age,
        line.idle,
        line.state,
        line.route,
        table.spec(line.command).full_name(),
        line.pending,
        line.channels + line.patterns + line.shards,
        line.multi,
        line.unsent,
        line.received,
        line.sent,
    )
}

/// Names are without blanks and line ends: who gives one is refused.
fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// How a client is connected, and who is at the other end where the kernel says it.
fn via(transport: Transport) -> String {
    match transport {
        Transport::Tcp => "via=tcp".to_owned(),
        Transport::Tls => "via=tls".to_owned(),
        Transport::Unix { uid, pid } => format!("via=unix uid={uid} pid={pid}"),
    }
}
