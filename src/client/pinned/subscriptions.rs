//! How many subscriptions a connection has, from the counts in its confirmations. Pure.

use crate::command::Family;
use crate::resp::Value;

/// What a pub/sub frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Message,
    Confirmation,
    /// An invalidation or another push that is not about channels; in RESP2 an ordinary reply.
    Other,
}

/// Subscriptions of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscriptions {
    pub channels: u64,
    pub patterns: u64,
    pub shards: u64,
}

impl Subscriptions {
    /// Any at all.
    pub(super) fn any(self) -> bool {
        self.channels + self.patterns + self.shards > 0
    }

    /// How many confirmations an UNSUBSCRIBE of this family without arguments brings: one per subscription, at
    /// least one.
    pub(super) fn of_family(self, family: Family) -> u64 {
        let count = match family {
            Family::Channel => self.channels,
            Family::Pattern => self.patterns,
            Family::Shard => self.shards,
        };
        count.max(1)
    }

    /// Follows one frame and says what it was. SUBSCRIBE and PSUBSCRIBE share a count, shard channels have their own
    /// (docs/design/semantics.md 9.1).
    pub(super) fn on_frame(&mut self, frame: &Value) -> Frame {
        let Some(list) = frame.as_list() else { return Frame::Other };
        let kind = list.first().and_then(Value::as_text).map(|text| text.to_vec()).unwrap_or_default();
        let count = list.get(2).and_then(Value::as_int).and_then(|n| u64::try_from(n).ok());
        // The count in a confirmation is of both, so what changed is told from the count before.
        let both = self.channels + self.patterns;
        match (kind.as_slice(), count) {
            (b"message" | b"pmessage" | b"smessage", _) => return Frame::Message,
            (b"subscribe", Some(n)) if n > both => self.channels += 1,
            (b"psubscribe", Some(n)) if n > both => self.patterns += 1,
            (b"unsubscribe", Some(n)) if n < both => self.channels -= 1,
            (b"punsubscribe", Some(n)) if n < both => self.patterns -= 1,
            (b"ssubscribe" | b"sunsubscribe", Some(n)) => self.shards = n,
            (b"subscribe" | b"psubscribe" | b"unsubscribe" | b"punsubscribe", Some(_)) => {}
            _ => return Frame::Other,
        }
        Frame::Confirmation
    }
}
