//! Further connections of a storm client: one that writes, one that listens.

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::judge::is_refusal;
use crate::op::{Names, Op};
use crate::resp::Value;
use crate::storm::Shared;
use crate::token::Token;
use crate::verdict::Verdict;
use crate::wire::{NoFrame, Wire};

/// One command over a new connection of the same client.
pub(crate) async fn mate_call(shared: &Shared, names: &Names, op: &Op) -> Option<Value> {
    let mut wire = Wire::connect(shared.config.target).await.ok()?;
    let mut bytes = Vec::new();
    if let Op::Set { key, .. } | Op::QueuePush { key, .. } = op {
        Op::Select(key.db).encode(names, &mut bytes);
    }
    if wire.exchange(&bytes).await.ok()? != Value::ok() {
        return None;
    }
    bytes.clear();
    op.encode(names, &mut bytes);
    wire.exchange(&bytes).await.ok()
}

/// A subscribed connection.
pub(crate) struct Ears {
    wire: Wire,
    channel: Token,
    messages: Vec<Token>,
    protocol: u8,
}

impl Ears {
    pub(crate) async fn open(shared: &Shared, channel: Token, messages: Vec<Token>, protocol: u8) -> Option<Self> {
        let mut wire = Wire::connect(shared.config.target).await.ok()?;
        if protocol == 3 {
            let greeting = wire.call(&["HELLO", "3"]).await.ok()?;
            if !matches!(greeting, Value::Map(_)) {
                return None;
            }
        }
        let name = channel.text(shared.config.seed);
        let confirmed = wire.call(&["SUBSCRIBE", &name]).await.ok()?;
        let ears = Self { wire, channel, messages, protocol };
        let wanted = ears.frame(vec![Value::text("subscribe"), Value::text(&name), Value::Int(1)]);
        if is_refusal(&confirmed) {
            return None;
        }
        if confirmed != wanted {
            ears.found(shared, &wanted, &confirmed);
            return None;
        }
        Some(ears)
    }

    fn frame(&self, items: Vec<Value>) -> Value {
        if self.protocol == 3 { Value::Push(items) } else { Value::Array(items) }
    }

    fn found(&self, shared: &Shared, wanted: &Value, got: &Value) {
        let mut foreign = false;
        got.each_text(&mut |text| {
            foreign |= Token::any_in(text, shared.config.seed, |token| token.who != self.channel.who)
        });
        let verdict = if foreign { Verdict::Misdelivered } else { Verdict::Misordered };
        shared.tally.borrow_mut().found(verdict, || format!("a subscriber wants {wanted:?}, got {got:?}"));
    }

    /// All messages, in order, then the way out of the subscription.
    pub(crate) async fn hear(mut self, shared: &Shared) {
        let seed = shared.config.seed;
        let name = Value::text(&self.channel.text(seed));
        for token in std::mem::take(&mut self.messages) {
            let items = vec![Value::text("message"), name.clone(), Value::text(&token.text(seed))];
            if !self.hears(shared, &self.frame(items)).await {
                return;
            }
        }
        let left = self.frame(vec![Value::text("unsubscribe"), name, Value::Int(0)]);
        let last: [(&[u8], Value); 2] = [(b"UNSUBSCRIBE\r\n", left), (b"PING\r\n", Value::Simple(b"PONG".to_vec()))];
        for (request, wanted) in last {
            // That the other side has closed shows in what is read.
            let _ = self.wire.writer.write_all(request).await;
            if !self.hears(shared, &wanted).await {
                return;
            }
        }
    }

    /// Whether the next frame is `wanted`. What else it is has been noted.
    async fn hears(&mut self, shared: &Shared, wanted: &Value) -> bool {
        let next = timeout(shared.config.patience, self.wire.reader.frame()).await;
        let finding = match next {
            Ok(Ok(got)) if got == *wanted => {
                shared.tally.borrow_mut().replies += 1;
                return true;
            }
            Ok(Ok(got)) if is_refusal(&got) => return false,
            Ok(Ok(got)) => {
                self.found(shared, wanted, &got);
                return false;
            }
            // The subscriber's upstream connection may have been killed.
            Ok(Err(NoFrame::End(_))) if !shared.certain.get() => return false,
            Ok(Err(NoFrame::End(_))) => Verdict::Dropped,
            Ok(Err(NoFrame::Broken(_))) => Verdict::Torn,
            Err(_) => Verdict::Missing,
        };
        shared.tally.borrow_mut().found(finding, || format!("a subscriber waits for {wanted:?}"));
        false
    }
}
