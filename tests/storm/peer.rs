//! Further connections of a storm client: one that writes, one that listens.

use std::collections::VecDeque;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::checker::is_refusal;
use crate::op::{Names, Op};
use crate::storm::Shared;
use crate::tally::Finding;
use crate::token::Token;
use kit::resp::Value;
use kit::wire::{NoFrame, Wire, request};

/// One command over a new connection of the same client.
pub(crate) async fn peer_call(shared: &Shared, names: &Names, op: &Op) -> Option<Value> {
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
    /// Still to come.
    messages: VecDeque<Token>,
    /// Left out by what came behind them, when nobody knew yet whether they were published.
    missed: Vec<Token>,
    heard: Vec<Token>,
    protocol: u8,
}

/// What became of the messages of a batch, as far as who published them has heard.
pub(crate) struct Published {
    /// Declared not executed.
    pub(crate) refused: Vec<Token>,
    /// Not answered before the connection ended.
    pub(crate) unanswered: Vec<Token>,
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
        let ears = Self { wire, channel, messages: messages.into(), missed: Vec::new(), heard: Vec::new(), protocol };
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
        let finding = if foreign { Finding::Misdelivered } else { Finding::Misordered };
        shared.tally.borrow_mut().found(finding, || format!("a subscriber wants {wanted:?}, got {got:?}"));
    }

    /// Joins and leaves another channel and a pattern that covers its own, and asks questions, while messages come.
    /// Whether everything was as it must be.
    pub(crate) async fn is_busy(&mut self, shared: &Shared, tokens: &[Token]) -> bool {
        let text = |token: &Token| token.text(shared.config.seed);
        let (own, other) = (text(&self.channel), text(&tokens[0]));
        let pattern = format!("{}*", own.replace('[', "\\["));
        let change = |ears: &Self, kind: &str, name: &str, count| {
            ears.frame(vec![Value::text(kind), Value::text(name), Value::Int(count)])
        };
        let question = |ears: &Self, token: &Token| match ears.protocol {
            3 => (vec!["ECHO".to_owned(), text(token)], Value::text(&text(token))),
            _ => (
                vec!["PING".to_owned(), text(token)],
                Value::Array(vec![Value::text("pong"), Value::text(&text(token))]),
            ),
        };
        let order = |command: &str, name: &str| vec![command.to_owned(), name.to_owned()];
        let steps = [
            (order("SUBSCRIBE", &other), change(self, "subscribe", &other, 2)),
            question(self, &tokens[1]),
            (order("PSUBSCRIBE", &pattern), change(self, "psubscribe", &pattern, 3)),
            question(self, &tokens[2]),
            (order("UNSUBSCRIBE", &other), change(self, "unsubscribe", &other, 2)),
            (order("PUNSUBSCRIBE", &pattern), change(self, "punsubscribe", &pattern, 1)),
        ];
        let mut all: VecDeque<Token> = self.messages.clone();
        for (words, answer) in steps {
            let mut bytes = Vec::new();
            request(&mut bytes, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
            // That the other side has closed shows in what is read.
            let _ = self.wire.writer.write_all(&bytes).await;
            if !self.answered(shared, &answer, &pattern, &mut all).await {
                return false;
            }
        }
        true
    }

    /// Reads messages up to `answer`. By its pattern (`by_pattern`: what may still come) it hears from some message on
    /// up to another, in order.
    async fn answered(
        &mut self,
        shared: &Shared,
        answer: &Value,
        pattern: &str,
        by_pattern: &mut VecDeque<Token>,
    ) -> bool {
        let seed = shared.config.seed;
        let name = Value::text(&self.channel.text(seed));
        loop {
            let got = match timeout(shared.config.patience, self.wire.reader.frame()).await {
                Ok(Ok(got)) => got,
                Ok(Err(NoFrame::End(_))) if !shared.certain.get() => return false,
                _ => {
                    let story = || format!("a subscriber waits for {answer:?}");
                    shared.tally.borrow_mut().found(Finding::Missing, story);
                    return false;
                }
            };
            if is_refusal(&got) {
                return false;
            }
            shared.tally.borrow_mut().replies += 1;
            if got == *answer {
                return true;
            }
            let message =
                |token: &Token| self.frame(vec![Value::text("message"), name.clone(), Value::text(&token.text(seed))]);
            if let Some(place) = self.messages.iter().position(|token| message(token) == got) {
                self.missed.extend(self.messages.drain(..place));
                self.heard.extend(self.messages.pop_front());
                continue;
            }
            let wanted = self.messages.front().map(message);
            let place = by_pattern.iter().position(|token| {
                let items =
                    [Value::text("pmessage"), Value::text(pattern), name.clone(), Value::text(&token.text(seed))];
                got == self.frame(items.to_vec())
            });
            let Some(place) = place else {
                self.found(shared, wanted.as_ref().unwrap_or(answer), &got);
                return false;
            };
            by_pattern.drain(..=place);
        }
    }

    /// What was left out had been refused, or its reply never came; what was heard had not been refused.
    pub(crate) fn compare(&self, published: &Published, shared: &Shared) {
        for token in &self.missed {
            if !published.refused.contains(token) && !published.unanswered.contains(token) {
                let story = || format!("a subscriber has not heard {token:?}, but a later message");
                shared.tally.borrow_mut().found(Finding::Misordered, story);
            }
        }
        for token in self.heard.iter().filter(|token| published.refused.contains(token)) {
            let story = || format!("a subscriber has heard {token:?}, which was refused");
            shared.tally.borrow_mut().found(Finding::Phantom, story);
        }
    }

    /// All messages but those that were refused, in order, then the way out of the subscription.
    pub(crate) async fn hear(mut self, shared: &Shared, refused: &[Token]) {
        let seed = shared.config.seed;
        let name = Value::text(&self.channel.text(seed));
        for token in std::mem::take(&mut self.messages) {
            if refused.contains(&token) {
                continue;
            }
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
            Ok(Err(NoFrame::End(_))) => Finding::Dropped,
            Ok(Err(NoFrame::Broken(_))) => Finding::Torn,
            Err(_) => Finding::Missing,
        };
        shared.tally.borrow_mut().found(finding, || format!("a subscriber waits for {wanted:?}"));
        false
    }
}
