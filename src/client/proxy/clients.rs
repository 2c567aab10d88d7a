//! PROXY CLIENTS and KILL.

use std::rc::Rc;

use bytes::BytesMut;
use serde_json::{Value, json};

use super::{Answered, ProxyAnswer};
use crate::client::connection::{Client, Closed};
use crate::client::directory::line::{ClientLine, Transport};
use crate::client::directory::peers::Peers;
use crate::client::directory::selection::Selection;
use crate::client::error_reply;
use crate::client::request::Request;
use crate::command::CommandTable;
use crate::resp::encode;
use crate::router::Args;

/// PROXY CLIENTS.
pub(super) async fn lines(peers: &Peers, table: &CommandTable, request: &Request) -> Answered {
    let selection = Selection::parse(request)?;
    let lines = selection.merge(peers.chosen(&selection).await);
    Ok(ProxyAnswer::Lines(lines.iter().map(|line| client_line(table, line)).collect()))
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
        // By id from here on: an address may be somebody else's in a moment.
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

/// Values are bare: none has a blank in it.
fn client_line(table: &CommandTable, line: &ClientLine) -> String {
    let pair = |(name, value): (&str, Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    line.fields(table).into_iter().map(pair).collect::<Vec<_>>().join(" ")
}

impl ClientLine {
    /// What is told of a client, as a line and as JSON, in the names of CLIENT LIST where it has one for the same.
    pub(crate) fn fields(&self, table: &CommandTable) -> Vec<(&'static str, Value)> {
        let mut fields = vec![("id", json!(self.id)), ("addr", json!(self.addr)), ("laddr", json!(self.laddr))];
        // Who is at the other end is said where the kernel says it.
        fields.extend(match self.transport {
            Transport::Tcp => vec![("via", json!("tcp"))],
            Transport::Tls => vec![("via", json!("tls"))],
            Transport::Unix { uid, pid } => vec![("via", json!("unix")), ("uid", json!(uid)), ("pid", json!(pid))],
        });
        fields.extend([
            ("name", lossy(&self.name)),
            ("lib-name", lossy(&self.lib_name)),
            ("lib-ver", lossy(&self.lib_version)),
            ("user", lossy(&self.user)),
            ("db", json!(self.db)),
            ("resp", json!(self.resp)),
            ("age", json!(self.age)),
            ("idle", json!(self.idle)),
            ("flags", json!(self.flags())),
            ("state", json!(self.state)),
            ("pin", json!(self.pin.map_or("no", |reason| reason.label()))),
            ("route", json!(self.route)),
            ("cmd", json!(table.spec(self.command).full_name())),
            ("pending", json!(self.pending)),
            ("sub", json!(self.channels + self.patterns + self.shards)),
            ("multi", json!(self.multi)),
            ("omem", json!(self.unsent)),
            ("tot-net-in", json!(self.received)),
            ("tot-net-out", json!(self.sent)),
        ]);
        fields
    }
}

/// Names are without blanks and line ends: who gives one is refused.
fn lossy(bytes: &[u8]) -> Value {
    json!(String::from_utf8_lossy(bytes))
}
