//! Several connections of one storm client that wait for elements of the same key, which is what respmux folds.

use std::collections::HashSet;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::checker::is_refusal;
use crate::op::{Key, Names};
use crate::storm::Shared;
use crate::tally::Finding;
use crate::token::Token;
use kit::resp::Value;
use kit::wire::{NoFrame, Wire, request};

/// Once connections may have been killed, a waiter may wait for an element that another took to its grave.
const UNCERTAIN: Duration = Duration::from_millis(300);

/// As many waiters as there will be elements.
pub(crate) struct Waiters {
    waiters: Vec<Wire>,
    key: String,
    tokens: Vec<Token>,
}

impl Waiters {
    /// Connects every waiter and sends its blocking command; `None` when one could not be prepared.
    pub(crate) async fn open(shared: &Shared, names: &Names, key: Key, tokens: Vec<Token>, way: u8) -> Option<Self> {
        let name = names.key(key);
        let mut waiters = Vec::new();
        for number in 0..tokens.len() {
            let mut wire = Wire::connect(shared.config.target).await.ok()?;
            if number % 2 == 1 {
                let greeting = wire.call(&["HELLO", "3"]).await.ok()?;
                if !matches!(greeting, Value::Map(_)) {
                    return None;
                }
            }
            if wire.call(&["SELECT", &key.db.to_string()]).await.ok()? != Value::ok() {
                return None;
            }
            let words: &[&[u8]] = match way {
                0 => &[b"BLPOP", name.as_bytes(), b"0"],
                1 => &[b"BRPOP", name.as_bytes(), b"0"],
                _ => &[b"BLMPOP", b"0", b"1", name.as_bytes(), b"LEFT"],
            };
            let mut bytes = Vec::new();
            request(&mut bytes, words);
            wire.writer.write_all(&bytes).await.ok()?;
            waiters.push(wire);
        }
        Some(Self { waiters, key: name, tokens })
    }

    /// Everything has been pushed: each waiter has one element, and no element goes twice.
    pub(crate) async fn served(self, shared: &Shared) {
        let seed = shared.config.seed;
        let mut left: HashSet<String> = self.tokens.iter().map(|token| token.text(seed)).collect();
        let me = self.tokens[0].who;
        for mut wire in self.waiters {
            let patience = if shared.certain.get() { shared.config.patience } else { UNCERTAIN };
            let finding = match timeout(patience, wire.reader.frame()).await {
                Ok(Ok(reply)) if is_refusal(&reply) => continue,
                Ok(Ok(reply)) => {
                    shared.tally.borrow_mut().replies += 1;
                    if element(&reply, &self.key).is_some_and(|token| left.remove(&token)) {
                        continue;
                    }
                    let mut foreign = false;
                    reply.each_text(&mut |text| foreign |= Token::any_in(text, seed, |token| token.who != me));
                    let finding = if foreign { Finding::Misdelivered } else { Finding::Misordered };
                    let story = || format!("a waiter on {} wants one of {left:?}, got {reply:?}", self.key);
                    shared.tally.borrow_mut().found(finding, story);
                    return;
                }
                Ok(Err(NoFrame::Broken(_))) => Finding::Torn,
                _ if !shared.certain.get() => continue,
                Ok(Err(NoFrame::End(_))) => Finding::Dropped,
                Err(_) => Finding::Missing,
            };
            let story = || format!("a waiter on {}, with {left:?} not yet seen", self.key);
            shared.tally.borrow_mut().found(finding, story);
        }
    }
}

/// The element in a reply of BLPOP or BLMPOP from `key`.
fn element(reply: &Value, key: &str) -> Option<String> {
    let Value::Array(parts) = reply else { return None };
    let (of, element) = match &parts[..] {
        [of, Value::Array(elements)] if elements.len() == 1 => (of, &elements[0]),
        [of, element] => (of, element),
        _ => return None,
    };
    match element {
        Value::Bulk(text) if *of == Value::text(key) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}
