//! A simulated subscriber. The server has one order of messages for each channel; what a subscriber gets must be a piece of
//! it without a gap, from its SUBSCRIBE to its UNSUBSCRIBE; only where connections are told to move there may be gaps.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use super::client::Wire;
use super::pause;
use super::server::{Server, bulk};
use crate::resp::{Value, decode, encode};

/// What it knows of one channel that it hears. Numbers are places in the channel's order.
struct Heard {
    /// Nothing before this was published after its SUBSCRIBE.
    from: usize,
    /// Everything from here on was published after the confirmation.
    sure: usize,
    /// The next message, once there was one.
    next: Option<usize>,
}

/// One life of a subscriber.
pub(super) struct Listener {
    wire: Wire,
    server: Rc<Server>,
    three: bool,
    heard: BTreeMap<Vec<u8>, Heard>,
}

impl Listener {
    pub(super) fn new(wire: Wire, server: Rc<Server>) -> Self {
        Self { wire, server, three: false, heard: BTreeMap::new() }
    }

    pub(super) async fn live(mut self, rounds: usize) {
        if fastrand::bool() {
            let Some(frame) = self.wire.ask(&[b"HELLO", b"3"]).await else { return self.wire.part() };
            self.three = frame.starts_with(b"%");
        }
        for _ in 0..rounds {
            pause(3000).await;
            let channel = format!("c{}", fastrand::u8(..3)).into_bytes();
            let alive = match fastrand::u8(..8) {
                0 if self.three || self.heard.is_empty() => self.echo().await,
                _ if self.heard.contains_key(&channel) => self.leave(channel).await,
                _ => self.join(channel).await,
            };
            if !alive || fastrand::u8(..16) == 0 {
                break;
            }
            let time = Duration::from_micros(fastrand::u64(..8000));
            if !self.heard.is_empty() && matches!(timeout(time, self.next_other()).await, Ok(None)) {
                break;
            }
        }
        self.wire.part();
    }

    /// The next frame that is no message; `None` at the end, also when a message was wrong.
    async fn next_other(&mut self) -> Option<Vec<u8>> {
        loop {
            let frame = self.wire.frame().await?;
            self.wire.count(&frame);
            let Some(message) = message(&frame) else { return Some(frame) };
            if !self.on_message(&message) {
                return None;
            }
        }
    }

    fn on_message(&mut self, (channel, text): &(Vec<u8>, Vec<u8>)) -> bool {
        let shown = || format!("{} on {}", text.escape_ascii(), channel.escape_ascii());
        let Some(heard) = self.heard.get_mut(channel) else {
            return self.wire.wrong(format!("{} without a subscription", shown()));
        };
        let Some(at) = self.server.position(channel, text) else {
            return self.wire.wrong(format!("{} was never published", shown()));
        };
        // While connections move, what others publish may be missed; nothing comes twice, or too early.
        let gaps = self.wire.ledger.moves.get();
        let right = match heard.next {
            Some(next) => at == next || (gaps && at > next),
            None => at >= heard.from && (gaps || at <= heard.sure),
        };
        if !right {
            let (from, sure, next) = (heard.from, heard.sure, heard.next);
            return self.wire.wrong(format!("{} is message {at}: from {from}, sure {sure}, next {next:?}", shown()));
        }
        heard.next = Some(at + 1);
        true
    }

    async fn join(&mut self, channel: Vec<u8>) -> bool {
        let from = self.server.published(&channel);
        if !self.wire.send(&[b"SUBSCRIBE", &channel]).await {
            return false;
        }
        let Some(frame) = self.next_other().await else { return false };
        if frame.starts_with(b"-") {
            return self.wire.refused(&frame);
        }
        if !is_confirmation(&frame, b"subscribe", &channel) {
            return self.wire.wrong(format!("no confirmation: {}", frame.escape_ascii()));
        }
        let sure = self.server.published(&channel);
        self.heard.insert(channel, Heard { from, sure, next: None });
        true
    }

    /// Everything that was published before the UNSUBSCRIBE comes before its confirmation.
    async fn leave(&mut self, channel: Vec<u8>) -> bool {
        let until = self.server.published(&channel);
        if !self.wire.send(&[b"UNSUBSCRIBE", &channel]).await {
            return false;
        }
        let Some(frame) = self.next_other().await else { return false };
        if frame.starts_with(b"-") {
            return self.wire.refused(&frame);
        }
        if !is_confirmation(&frame, b"unsubscribe", &channel) {
            return self.wire.wrong(format!("no confirmation: {}", frame.escape_ascii()));
        }
        let Some(heard) = self.heard.remove(&channel) else { return true };
        let missed = until > heard.sure && heard.next.is_none_or(|next| next < until);
        if missed && !self.wire.ledger.moves.get() {
            let (sure, next) = (heard.sure, heard.next);
            return self.wire.wrong(format!("left at {until}, was sure from {sure}, heard up to {next:?}"));
        }
        true
    }

    async fn echo(&mut self) -> bool {
        let token = format!("e{}", fastrand::u32(..)).into_bytes();
        if !self.wire.send(&[b"ECHO", &token]).await {
            return false;
        }
        match self.next_other().await {
            Some(frame) if frame.starts_with(b"-") => self.wire.refused(&frame),
            Some(frame) if frame == bulk(&token) => true,
            Some(frame) => self.wire.wrong(format!("ECHO: {}", frame.escape_ascii())),
            None => false,
        }
    }
}

/// Channel and text, if it is a message.
fn message(frame: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let value = decode(frame)?;
    let [kind, channel, text] = value.as_list()? else { return None };
    let bytes = |value: &Value| value.as_text().map(|text| text.to_vec());
    (bytes(kind)? == b"message").then_some(())?;
    Some((bytes(channel)?, bytes(text)?))
}

fn is_confirmation(frame: &[u8], kind: &[u8], channel: &[u8]) -> bool {
    let mut wanted = BytesMut::new();
    encode::bulk(&mut wanted, kind);
    encode::bulk(&mut wanted, channel);
    frame.get(4..).is_some_and(|rest| rest.starts_with(&wanted))
}
