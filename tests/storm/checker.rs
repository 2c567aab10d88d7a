//! Judges the replies of one connection: each against the model, the writes for the ledger.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::timeout;

use crate::ledger::{Fate, Ledger};
use crate::model::{Effects, Expected, Model};
use crate::op::{Names, Op};
use crate::peer::Published;
use crate::storm::Shared;
use crate::tally::Finding;
use crate::token::{COUNTER_STRIDE, Token};
use kit::resp::Value;
use kit::wire::{NoFrame, Reader};

/// Why a connection is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By this client's own will.
    Own,
    /// The other side closed it.
    Lost,
    /// A finding: nothing more can be said about this connection.
    Wrong,
    /// A change of state was refused, or a helping connection failed: what follows is not known.
    Unclear,
}

/// What is known about the connection, and what was sent and not yet answered.
pub(crate) struct Checker {
    shared: Rc<Shared>,
    pub(crate) names: Names,
    pub(crate) model: Model,
    pub(crate) ledger: Ledger,
    pub(crate) pending: VecDeque<Op>,
    pub(crate) refusals: u64,
    /// Since the last reply there was a command that turns replies off.
    silenced: bool,
    /// Messages that were declared not published.
    pub(crate) unpublished: Vec<Token>,
    /// The last commands that were answered, for the story of a finding; whether it was a refusal.
    answered: VecDeque<(Op, bool)>,
    /// The client's own end of the connection, for the same.
    pub(crate) local: Option<SocketAddr>,
}

/// How many commands before a finding are told.
const STORY: usize = 12;

impl Checker {
    pub(crate) fn new(shared: Rc<Shared>, names: Names, local: Option<SocketAddr>) -> Self {
        Self {
            shared,
            names,
            model: Model::new(names),
            ledger: Ledger::default(),
            pending: VecDeque::new(),
            refusals: 0,
            silenced: false,
            unpublished: Vec::new(),
            answered: VecDeque::with_capacity(STORY + 1),
            local,
        }
    }

    fn remember(&mut self, op: Op, refused: bool) {
        if self.answered.len() == STORY {
            self.answered.pop_front();
        }
        self.answered.push_back((op, refused));
    }

    pub(crate) fn found(&self, finding: Finding, what: impl FnOnce() -> String) {
        let (names, answered, pending) = (&self.names, &self.answered, self.pending.iter().take(STORY));
        let story = || {
            let (local, pending) = (self.local, pending.collect::<Vec<_>>());
            format!("{names:?} at {local:?}: {}\n    after {answered:?}\n    pending {pending:?}", what())
        };
        self.shared.tally.borrow_mut().found(finding, story);
    }

    /// Reads until nothing is pending.
    pub(crate) async fn read(&mut self, reader: &mut Reader) -> Result<(), End> {
        loop {
            while self.pending.front().is_some_and(|op| self.model.runs_silently(op)) {
                self.silenced |= matches!(self.pending.pop_front(), Some(Op::Reply(_)));
            }
            let Some(op) = self.pending.front() else { return Ok(()) };
            let Ok(frame) = timeout(self.shared.config.patience, reader.frame()).await else {
                return Err(self.missing(&reader.left_over()));
            };
            match frame {
                Ok(reply) => {
                    let op = op.clone();
                    self.checker(&op, &reply)?;
                    self.pending.pop_front();
                    self.remember(op, is_refusal(&reply));
                }
                Err(NoFrame::Broken(broken)) => {
                    self.found(Finding::Torn, || format!("{broken:?} in the reply of {op:?}"));
                    return Err(End::Wrong);
                }
                Err(NoFrame::End(partial)) => return Err(self.ended_in(&partial)),
            }
        }
    }

    /// The connection ended; what came of the next reply must be the beginning of it.
    fn ended_in(&mut self, partial: &[u8]) -> End {
        let Some(op) = self.pending.front().filter(|_| !partial.is_empty()).cloned() else { return End::Lost };
        let mut whole = Vec::new();
        match self.model.execute(&op) {
            Expected::Exact(value) => value.encode(&mut whole),
            _ => return End::Lost,
        }
        self.model.effects = Effects::default();
        let refusal = partial.starts_with(b"-");
        if whole.starts_with(partial) || refusal {
            return End::Lost;
        }
        self.found(Finding::Torn, || format!("{} instead of {op:?}", partial[..partial.len().min(200)].escape_ascii()));
        End::Wrong
    }

    fn checker(&mut self, op: &Op, reply: &Value) -> Result<(), End> {
        self.shared.tally.borrow_mut().replies += 1;
        if is_refusal(reply) {
            self.shared.tally.borrow_mut().refused += 1;
            self.refusals += 1;
            if let Op::Publish { token, .. } = op {
                self.unpublished.push(*token);
            }
            // A CLIENT REPLY that was refused shows here, and closes the connection.
            let clear = self.model.refuse(op) && !self.silenced;
            self.take_effects(true);
            return if clear { Ok(()) } else { Err(End::Unclear) };
        }
        self.silenced = false;
        let expected = self.model.execute(op);
        if !self.fits(&expected, reply) {
            let finding = self.classify(&expected, reply);
            self.found(finding, || format!("{op:?} wants {expected:?}, got {reply:?}"));
            self.model.effects = Effects::default();
            return Err(End::Wrong);
        }
        self.take_effects(true);
        Ok(())
    }

    fn fits(&mut self, expected: &Expected, reply: &Value) -> bool {
        match expected {
            Expected::Exact(value) => value == reply,
            Expected::Between(least, most) => {
                let least = if self.shared.certain.get() { *least } else { 0 };
                matches!(reply, Value::Int(count) if (least..=*most).contains(count))
            }
            Expected::AnyError => matches!(reply, Value::Error(_)),
            Expected::ClientId => {
                if let Value::Int(id) = reply {
                    self.is_my_id(*id)
                } else {
                    false
                }
            }
            Expected::Hello(version) => match (reply, version) {
                (Value::Array(items), 2) | (Value::Map(items), 3) => {
                    let field = |name: &str| {
                        items.chunks(2).find(|pair| pair[0] == Value::text(name)).map(|pair| pair[1].clone())
                    };
                    let Some(Value::Int(id)) = field("id") else { return false };
                    field("proto") == Some(Value::Int(i64::from(*version))) && self.is_my_id(id)
                }
                _ => false,
            },
            Expected::ClientInfo => match (reply, self.model.protocol) {
                (Value::Bulk(text), 2) | (Value::Verbatim(text), 3) => self.is_my_info(text),
                _ => false,
            },
        }
    }

    /// The same id on each question, and one that no other connection ever had.
    fn is_my_id(&mut self, id: i64) -> bool {
        let known = *self.model.id.get_or_insert(id);
        let mine = (self.names.who, self.names.life);
        known == id && *self.shared.ids.borrow_mut().entry(id).or_insert(mine) == mine
    }

    fn is_my_info(&self, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix("txt:").unwrap_or(&text);
        let field = |name: &str| {
            text.split_whitespace()
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, v)| v)
        };
        let name = self.model.name.map(|name| name.text(self.names.seed)).unwrap_or_default();
        let id = self.model.id.is_none_or(|id| field("id") == Some(&id.to_string()));
        id && field("name") == Some(&name)
            && field("db") == Some(&self.model.db.to_string())
            && field("resp") == Some(&self.model.protocol.to_string())
            && field("user") == Some(self.model.user.name())
    }

    /// Which kind of wrong a reply is: by whose tokens are in it.
    fn classify(&self, expected: &Expected, reply: &Value) -> Finding {
        let seed = self.names.seed;
        let (mut foreign, mut own) = (false, false);
        reply.each_text(&mut |text| {
            foreign |= Token::any_in(text, seed, |token| token.who != self.names.who);
            own |= Token::any_in(text, seed, |token| token.who == self.names.who);
        });
        let stranger =
            |number: i64| number >= COUNTER_STRIDE && number / COUNTER_STRIDE != i64::from(self.names.who) + 1;
        match (reply, expected) {
            _ if foreign => Finding::Misdelivered,
            (Value::Int(number), Expected::Exact(Value::Int(_) | Value::Bulk(_))) if stranger(*number) => {
                Finding::Misdelivered
            }
            (Value::Int(_), Expected::ClientId) => Finding::Misdelivered,
            (Value::Bulk(got), Expected::Exact(Value::Bulk(wanted)))
                if own && got.len() >= 40 && wanted.starts_with(&got[..40]) =>
            {
                Finding::Torn
            }
            (Value::Push(_), _) => Finding::Surplus,
            _ => Finding::Misordered,
        }
    }

    pub(crate) fn surplus(&self, bytes: &[u8]) -> End {
        self.found(Finding::Surplus, || bytes[..bytes.len().min(200)].escape_ascii().to_string());
        End::Wrong
    }

    /// The deadline has passed; `partial` is what came of the reply.
    pub(crate) fn missing(&self, partial: &[u8]) -> End {
        let finding = if partial.is_empty() { Finding::Missing } else { Finding::Torn };
        self.found(finding, || format!("{} bytes of the reply to {:?}", partial.len(), self.pending.front()));
        End::Wrong
    }

    /// What became of the messages of the last batch.
    pub(crate) fn published(&mut self) -> Published {
        let message = |op: &Op| if let Op::Publish { token, .. } = op { Some(*token) } else { None };
        Published {
            refused: std::mem::take(&mut self.unpublished),
            unanswered: self.pending.iter().filter_map(message).collect(),
        }
    }

    /// The client leaves and reads no more, at a time of its own choice.
    pub(crate) fn leave_unread(&mut self) {
        for op in &self.pending {
            if let Op::Push { at, .. } = op {
                self.ledger.leave_unread(*at);
            }
        }
    }

    /// Writes that were never sent whole must not be there.
    pub(crate) fn refuse_unsent<'a>(&mut self, ops: impl Iterator<Item = &'a Op>) {
        for op in ops {
            if let Op::Push { at, .. } = op {
                self.ledger.set(*at, Fate::Refused);
            }
        }
    }

    /// Notes in the ledger what the last reply told. `answered`: there was one.
    pub(crate) fn take_effects(&mut self, answered: bool) {
        let effects = std::mem::take(&mut self.model.effects);
        effects.executed.into_iter().for_each(|at| self.ledger.set(at, Fate::Executed));
        effects.refused.into_iter().for_each(|at| self.ledger.set(at, Fate::Refused));
        if answered {
            // A refusal is suppressed like any other reply, so only a server that never refuses must have it.
            let must = self.shared.config.direct_arm && self.shared.certain.get();
            let fate = if must { Fate::Executed } else { Fate::Silent };
            effects.silent.into_iter().for_each(|at| self.ledger.set(at, fate));
        }
    }
}

/// What the proxy answers when it did not execute a command (docs/design/semantics.md 10.2).
pub(crate) fn is_refusal(reply: &Value) -> bool {
    const TEXTS: [&[u8]; 5] = [
        b"LOADING upstream is not available, command was not executed",
        b"LOADING no transaction connection available, command was not executed, try again",
        b"LOADING no blocking connection available, command was not executed, try again",
        b"LOADING no dedicated connection available, command was not executed, try again",
        b"ERR respmux could not log in to the upstream, command was not executed",
    ];
    matches!(reply, Value::Error(text) if TEXTS.contains(&text.as_slice()))
}
