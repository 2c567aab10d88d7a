//! What respmux answers itself, the upstream must allow (rule C1): a server would ask its rules before it answers, too.

use bytes::BytesMut;

use crate::client::connection::{Client, Closed};
use crate::client::request::Request;
use crate::command::CommandId;
use crate::resp::encode;
use crate::router::Local;
use crate::upstream::{Answer, Known};

/// A text that can be no client name and no fact of a library: servers refuse it after they have looked at the rights.
const NO_NAME: &str = "a b";

impl Client {
    /// Whether the client may have its own answer to `request`; if not, it has the upstream's. The upstream is asked
    /// once for each identity and command, and again when rights may have changed.
    pub(in crate::client) async fn may_have_answer(&mut self, request: &Request, local: Local) -> Result<bool, Closed> {
        // The same command in a form that changes nothing, and can be sent on a lane.
        let mut probe = BytesMut::new();
        match local {
            Local::Id | Local::GetName | Local::GetRedir | Local::TrackingInfo | Local::Caching => {
                probe.extend_from_slice(request.raw());
            }
            Local::SetName => encode::command(&mut probe, &["CLIENT", "SETNAME", NO_NAME]),
            Local::SetInfo => encode::command(&mut probe, &["CLIENT", "SETINFO", "LIB-NAME", NO_NAME]),
            Local::Reply => encode::command(&mut probe, &["CLIENT", "REPLY", NO_NAME]),
            // SCRIPT DEBUG NO
            Local::Ok => encode::command(&mut probe, &["SCRIPT", "DEBUG", NO_NAME]),
            _ => return Ok(true),
        }
        match self.ask_right(request.id(), &probe).await? {
            None => Ok(true),
            // Whoever sends it expects no reply: an error would be taken for that of the next command, and every
            // reply from there on for the wrong one.
            Some(Answer::NotExecuted(line)) if local == Local::Reply => Err(self.refuse_switch(&line)),
            Some(refusal) => {
                self.pass_on(refusal);
                Ok(false)
            }
        }
    }

    /// What forbids the client this command, if anything does.
    async fn ask_right(&mut self, id: CommandId, probe: &[u8]) -> Result<Option<Answer>, Closed> {
        // By identity, not by client: a fleet of clients of one user asks once.
        let key = self.record.session.borrow().key.clone();
        let rules = self.rt().process.rights_changes();
        let known = self.node().permission_cache.knows(&key.identity, id, rules, self.rt().now());
        // The usual case, without a round trip.
        if known == Known::Now {
            return Ok(None);
        }
        match self.confirm_bytes_on(&key, CommandId::OURS, probe).await? {
            Answer::Reply(frame) if frame.starts_with(b"-NOPERM") || frame.starts_with(b"-NOAUTH") => {
                Ok(Some(Answer::Reply(frame)))
            }
            // Any other error is about the probe.
            Answer::Reply(_) => {
                let node = self.node();
                node.permission_cache.on_permission(key.identity, id, rules, node.rt.now());
                Ok(None)
            }
            // During an outage the last answer is better than none: nothing of it reaches the server.
            Answer::NotExecuted(_) if known == Known::Once => Ok(None),
            answer @ Answer::NotExecuted(_) => Ok(Some(answer)),
        }
    }
}
