//! What is told of one client, in values only, so that it can travel between workers.

use crate::command::CommandId;
use crate::link::ServerClient;
use crate::telemetry;

/// How a client reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    /// With the user and the process at the other end, as they were when it connected; 0 for a process that the
    /// kernel does not name.
    Unix {
        uid: u32,
        pid: i32,
    },
}

/// A client's line, made of values only, so that it can travel between workers.
#[derive(Clone, Debug)]
pub(crate) struct ClientLine {
    pub id: u64,
    pub addr: String,
    pub laddr: String,
    pub transport: Transport,
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    pub user: Vec<u8>,
    pub age: u64,
    pub idle: u64,
    pub db: u32,
    pub resp: u8,
    pub channels: u64,
    pub patterns: u64,
    pub shards: u64,
    pub multi: i64,
    pub monitor: bool,
    pub blocked: bool,
    pub no_evict: bool,
    pub no_touch: bool,
    pub readonly: bool,
    /// Bytes of the arguments of the command under way.
    pub arguments: u64,
    /// Bytes of the request that asks for this line, in the line of whoever asks.
    pub request: usize,
    /// The upstream's id of the connection that it holds; 0 for none.
    pub link: Option<ServerClient>,
    /// What the client is doing: one of `activity::STATES`.
    pub state: &'static str,
    pub command: CommandId,
    /// Why it holds a connection of its own, if it does.
    pub pin: Option<telemetry::PinReason>,
    /// What carries its commands now.
    pub route: &'static str,
    /// Bytes from it, and to it.
    pub received: u64,
    pub sent: u64,
    /// Bytes that it has not read yet.
    pub unsent: u64,
    /// Requests on a lane without an answer.
    pub pending: u32,
}

impl ClientLine {
    /// What CLIENT LIST TYPE calls this client.
    pub(crate) fn kind(&self) -> &'static str {
        if self.channels + self.patterns + self.shards > 0 { "pubsub" } else { "normal" }
    }

    /// The `flags=` field.
    pub(crate) fn flags(&self) -> String {
        let marks = [('O', self.monitor), ('P', self.kind() == "pubsub"), ('x', self.multi >= 0), ('b', self.blocked)];
        let flags: String = marks.iter().filter(|(_, set)| *set).map(|(mark, _)| *mark).collect();
        if flags.is_empty() { "N".into() } else { flags }
    }
}
