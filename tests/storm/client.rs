//! One storm client: draws batches, sends them, and judges every reply against its model.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::ledger::{Fate, Ledger};
use crate::model::{Expected, Model};
use crate::op::{Names, Op, User};
use crate::plan::{Batch, Mate, Planner, Style};
use crate::resp::Value;
use crate::storm::{Retired, Shared};
use crate::token::{COUNTER_STRIDE, Token};
use crate::verdict::Verdict;
use crate::wire::{NoFrame, PATIENCE, Wire, write_pieces};

/// Why a connection is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// By this client's own will.
    Own,
    /// The other side closed it.
    Lost,
    /// A finding: nothing more can be said about this connection.
    Wrong,
    /// A change of state was refused, or a helping connection failed: what follows is not known.
    Unclear,
}

/// Batches in one life, at most.
const BATCHES: u32 = 300;

/// Lives one life after the other until the storm is over.
pub(crate) async fn run(shared: Rc<Shared>, who: u32) {
    let mut life = 0;
    while !shared.stop.get() {
        let mut session = match Wire::connect(shared.config.target).await {
            Ok(wire) => Session::new(shared.clone(), wire, who, life),
            Err(error) => {
                shared.not_connected(&error);
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let end = session.live().await;
        session.retire(&end);
        life += 1;
    }
}

struct Session {
    shared: Rc<Shared>,
    wire: Option<Wire>,
    planner: Planner,
    judge: Judge,
}

/// What is known about the connection, and what was sent and not yet answered.
struct Judge {
    shared: Rc<Shared>,
    names: Names,
    model: Model,
    ledger: Ledger,
    pending: VecDeque<Op>,
    refusals: u64,
    /// The last commands that were answered, for the story of a finding.
    answered: VecDeque<Op>,
}

/// How many commands before a finding are told.
const STORY: usize = 12;

impl Session {
    fn new(shared: Rc<Shared>, wire: Wire, who: u32, life: u32) -> Self {
        let config = &shared.config;
        let names = Names { seed: config.seed, who, life };
        let planner = Planner::new(config.mix, config.seed, who, life);
        let judge = Judge {
            shared: shared.clone(),
            names,
            model: Model::new(names),
            ledger: Ledger::default(),
            pending: VecDeque::new(),
            refusals: 0,
            answered: VecDeque::with_capacity(STORY + 1),
        };
        shared.tally.borrow_mut().lives += 1;
        Self { shared, wire: Some(wire), planner, judge }
    }

    async fn live(&mut self) -> End {
        let greeting = self.planner.greeting();
        if let Err(end) = self.send(greeting).await {
            return end;
        }
        for _ in 0..BATCHES {
            if self.shared.stop.get() {
                break;
            }
            let batch = self.planner.next(&self.judge.model, &mut self.judge.ledger);
            if let Err(end) = self.send(batch).await {
                return end;
            }
            tokio::task::yield_now().await;
        }
        let farewell = self.planner.farewell();
        self.send(farewell).await.err().unwrap_or(End::Own)
    }

    /// Sends a batch in its style and judges the replies.
    async fn send(&mut self, batch: Batch) -> Result<(), End> {
        let Batch { ops, style, mate } = batch;
        match (style, mate) {
            (Style::Cut { reset }, _) => self.cut(ops, reset).await,
            (_, Some(Mate::Feeds(push))) => self.fed(ops, push).await,
            (_, Some(Mate::Listens { channel, messages, protocol })) => {
                let mut ears = Ears::open(&self.shared, channel, messages, protocol).await.ok_or(End::Unclear)?;
                let refused = self.judge.refusals;
                self.exchange(ops, style).await?;
                // Which of the messages were refused does not matter: the next storm has others.
                if self.judge.refusals != refused {
                    return self.nothing_left();
                }
                ears.hear(&self.shared, self.judge.names.seed).await
            }
            (_, Some(Mate::Writes { after, key, token })) => {
                let (before, behind) = ops.split_at(after);
                self.exchange(before.to_vec(), Style::OneByOne).await?;
                let write = Op::Set { key, token, size: 30 };
                if self.by_mate(&write).await != Some(Value::ok()) {
                    return Err(End::Unclear);
                }
                self.judge.model.written_by_mate(key, token, 30);
                self.exchange(behind.to_vec(), Style::OneByOne).await
            }
            (_, None) => self.exchange(ops, style).await,
        }?;
        self.nothing_left()
    }

    async fn exchange(&mut self, ops: Vec<Op>, style: Style) -> Result<(), End> {
        if style == Style::OneByOne {
            for op in ops {
                self.round(vec![op], Style::Together).await?;
                self.nothing_left()?;
            }
            return Ok(());
        }
        self.round(ops, style).await?;
        if style == Style::HalfClose { self.ended().await } else { Ok(()) }
    }

    /// One write and its replies.
    async fn round(&mut self, ops: Vec<Op>, style: Style) -> Result<(), End> {
        let mut bytes = Vec::new();
        ops.iter().for_each(|op| op.encode(&self.judge.names, &mut bytes));
        let pieces = if style == Style::Pieces { pieces(&bytes, &mut self.planner.rng) } else { [&bytes[..]].into() };
        self.judge.pending.extend(ops);
        let wire = self.wire.as_mut().ok_or(End::Own)?;
        let writing = async {
            write_pieces(&mut wire.writer, pieces).await;
            if style == Style::HalfClose {
                let _ = wire.writer.shutdown().await;
            }
        };
        let both = async { tokio::join!(writing, self.judge.read(&mut wire.reader)).1 };
        match timeout(self.shared.config.patience, both).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.judge.missing(&wire.reader.left_over())),
        }
    }

    /// After the last reply of a half-closed connection: its end, and nothing before it.
    async fn ended(&mut self) -> Result<(), End> {
        let wire = self.wire.as_mut().ok_or(End::Own)?;
        match timeout(self.shared.config.patience, wire.reader.rest()).await {
            Ok(rest) if rest.is_empty() => Err(End::Own),
            Ok(rest) => Err(self.judge.surplus(&rest)),
            Err(_) => {
                self.judge.found(Verdict::Missing, || "the end of a half-closed connection".into());
                Err(End::Wrong)
            }
        }
    }

    fn nothing_left(&mut self) -> Result<(), End> {
        let left = self.wire.as_mut().map(|wire| wire.reader.left_over()).unwrap_or_default();
        if left.is_empty() { Ok(()) } else { Err(self.judge.surplus(&left)) }
    }

    /// Sends a part, reads perhaps a little, and is gone.
    async fn cut(&mut self, ops: Vec<Op>, reset: bool) -> Result<(), End> {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for op in &ops {
            op.encode(&self.judge.names, &mut bytes);
            ends.push(bytes.len());
        }
        let upto = self.planner.rng.usize(..=bytes.len());
        let whole = ends.iter().filter(|&&end| end <= upto).count();
        let unsent = ops[whole..].iter();
        self.judge.refuse_unsent(unsent);
        self.judge.pending.extend(ops[..whole].iter().cloned());
        let mut wire = self.wire.take().ok_or(End::Own)?;
        let linger = Duration::from_micros(self.planner.rng.u64(..20_000));
        let read = self.planner.rng.bool();
        let talking = async {
            tokio::join!(write_pieces(&mut wire.writer, [&bytes[..upto]].into()), async {
                if read { self.judge.read(&mut wire.reader).await } else { Ok(()) }
            })
            .1
        };
        // Out of time is the point here, not a finding.
        let outcome = timeout(linger, talking).await.unwrap_or(Ok(()));
        if reset {
            wire.reset();
        }
        self.shared.tally.borrow_mut().aborted += 1;
        outcome.and(Err(End::Own))
    }

    /// A blocking pop that another connection feeds.
    async fn fed(&mut self, ops: Vec<Op>, push: Op) -> Result<(), End> {
        let names = self.judge.names;
        let shared = self.shared.clone();
        let pause = Duration::from_micros(self.planner.rng.u64(..4000));
        let feed = async move {
            sleep(pause).await;
            mate_call(&shared, &names, &push).await == Some(Value::Int(1))
        };
        let exchange = self.exchange(ops, Style::Together);
        tokio::pin!(feed, exchange);
        tokio::select! {
            outcome = &mut exchange => {
                outcome?;
                if feed.await { Ok(()) } else { Err(End::Unclear) }
            }
            fed = &mut feed => if fed { exchange.await } else { Err(End::Unclear) },
        }
    }

    async fn by_mate(&self, op: &Op) -> Option<Value> {
        mate_call(&self.shared, &self.judge.names, op).await
    }

    /// Hands the ledger to the audit.
    fn retire(mut self, end: &End) {
        if *end == End::Lost {
            let mut tally = self.shared.tally.borrow_mut();
            if self.shared.certain.get() {
                let waiting = self.judge.pending.front().cloned();
                tally.found(Verdict::Dropped, || format!("{:?}, waiting for {waiting:?}", self.judge.names));
            } else {
                tally.disconnects += 1;
            }
        }
        let pending = self.judge.pending.make_contiguous();
        let unclear = *end == End::Unclear || pending.iter().any(Op::moves_what_follows);
        self.judge.model.abandon(pending);
        self.judge.take_effects(false);
        let Judge { names, ledger, .. } = self.judge;
        if unclear {
            self.shared.unclear.borrow_mut().insert((names.who, names.life));
        }
        self.shared.retired.borrow_mut().push_back(Retired::new(names, ledger));
    }
}

impl Judge {
    fn remember(&mut self, op: Op) {
        if self.answered.len() == STORY {
            self.answered.pop_front();
        }
        self.answered.push_back(op);
    }

    fn found(&self, verdict: Verdict, what: impl FnOnce() -> String) {
        let (names, answered, pending) = (&self.names, &self.answered, self.pending.iter().take(STORY));
        let story = || format!("{names:?}: {}\n    after {answered:?}\n    pending {:?}", what(), pending.collect::<Vec<_>>());
        self.shared.tally.borrow_mut().found(verdict, story);
    }

    /// Reads until nothing is pending.
    async fn read(&mut self, reader: &mut crate::wire::Reader) -> Result<(), End> {
        loop {
            while self.pending.front().is_some_and(|op| self.model.runs_silently(op)) {
                self.pending.pop_front();
            }
            let Some(op) = self.pending.front() else { return Ok(()) };
            match reader.frame().await {
                Ok(reply) => {
                    let op = op.clone();
                    self.judge(&op, &reply)?;
                    self.pending.pop_front();
                    self.remember(op);
                }
                Err(NoFrame::Broken(broken)) => {
                    self.found(Verdict::Torn, || format!("{broken:?} in the reply of {op:?}"));
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
        self.model.effects = Default::default();
        let refusal = partial.starts_with(b"-");
        if whole.starts_with(partial) || refusal {
            return End::Lost;
        }
        self.found(Verdict::Torn, || format!("{} instead of {op:?}", partial[..partial.len().min(200)].escape_ascii()));
        End::Wrong
    }

    fn judge(&mut self, op: &Op, reply: &Value) -> Result<(), End> {
        self.shared.tally.borrow_mut().replies += 1;
        if is_refusal(reply) {
            self.shared.tally.borrow_mut().refused += 1;
            self.refusals += 1;
            let clear = self.model.refuse(op);
            self.take_effects(true);
            return if clear { Ok(()) } else { Err(End::Unclear) };
        }
        let expected = self.model.execute(op);
        if !self.fits(&expected, reply) {
            let verdict = self.classify(&expected, reply);
            self.found(verdict, || format!("{op:?} wants {expected:?}, got {reply:?}"));
            self.model.effects = Default::default();
            return Err(End::Wrong);
        }
        self.take_effects(true);
        Ok(())
    }

    fn fits(&mut self, expected: &Expected, reply: &Value) -> bool {
        match expected {
            Expected::Exact(value) => value == reply,
            Expected::OneReceiver => {
                *reply == Value::Int(1) || (*reply == Value::Int(0) && !self.shared.certain.get())
            }
            Expected::AnyError => matches!(reply, Value::Error(_)),
            Expected::ClientId => if let Value::Int(id) = reply { self.is_my_id(*id) } else { false },
            Expected::Hello(version) => match (reply, version) {
                (Value::Array(items), 2) | (Value::Map(items), 3) => {
                    let field = |name: &str| {
                        items.chunks(2).find(|pair| pair[0] == Value::text(name)).map(|pair| pair[1].clone())
                    };
                    let id = if let Some(Value::Int(id)) = field("id") { id } else { return false };
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
            text.split_whitespace().filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
        };
        let name = self.model.name.map(|name| name.text(self.names.seed)).unwrap_or_default();
        let id = self.model.id.is_none_or(|id| field("id") == Some(&id.to_string()));
        id && field("name") == Some(&name)
            && field("db") == Some(&self.model.db.to_string())
            && field("resp") == Some(&self.model.protocol.to_string())
            && field("user") == Some(self.model.user.name())
    }

    /// Which kind of wrong a reply is: by whose tokens are in it.
    fn classify(&self, expected: &Expected, reply: &Value) -> Verdict {
        let seed = self.names.seed;
        let (mut foreign, mut own) = (false, false);
        reply.each_text(&mut |text| {
            foreign |= Token::any_in(text, seed, |token| token.who != self.names.who);
            own |= Token::any_in(text, seed, |token| token.who == self.names.who);
        });
        let stranger = |number: i64| number >= COUNTER_STRIDE && number / COUNTER_STRIDE != i64::from(self.names.who) + 1;
        match (reply, expected) {
            _ if foreign => Verdict::Misdelivered,
            (Value::Int(number), Expected::Exact(Value::Int(_) | Value::Bulk(_))) if stranger(*number) => Verdict::Misdelivered,
            (Value::Int(_), Expected::ClientId) => Verdict::Misdelivered,
            (Value::Bulk(got), Expected::Exact(Value::Bulk(wanted)))
                if own && got.len() >= 40 && wanted.starts_with(&got[..40]) =>
            {
                Verdict::Torn
            }
            (Value::Push(_), _) => Verdict::Surplus,
            _ => Verdict::Misordered,
        }
    }

    fn surplus(&self, bytes: &[u8]) -> End {
        self.found(Verdict::Surplus, || bytes[..bytes.len().min(200)].escape_ascii().to_string());
        End::Wrong
    }

    /// The deadline has passed; `partial` is what came of the reply.
    fn missing(&self, partial: &[u8]) -> End {
        let verdict = if partial.is_empty() { Verdict::Missing } else { Verdict::Torn };
        self.found(verdict, || format!("{} bytes of the reply to {:?}", partial.len(), self.pending.front()));
        End::Wrong
    }

    /// Writes that were never sent whole must not be there.
    fn refuse_unsent<'a>(&mut self, ops: impl Iterator<Item = &'a Op>) {
        for op in ops {
            if let Op::Push { at, .. } = op {
                self.ledger.set(*at, Fate::Refused);
            }
        }
    }

    /// Notes in the ledger what the last reply told. `answered`: there was one.
    fn take_effects(&mut self, answered: bool) {
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

/// What the proxy answers when it did not execute a command (semantics 10.2).
fn is_refusal(reply: &Value) -> bool {
    const TEXTS: [&[u8]; 5] = [
        b"LOADING upstream is not available, command was not executed",
        b"ERR no transaction connection available, try again",
        b"ERR no blocking connection available, try again",
        b"ERR no dedicated connection available, try again",
        b"ERR respmux could not log in to the upstream, command was not executed",
    ];
    matches!(reply, Value::Error(text) if TEXTS.contains(&text.as_slice()))
}

/// Cuts `bytes` anywhere.
fn pieces<'a>(bytes: &'a [u8], rng: &mut fastrand::Rng) -> VecDeque<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = VecDeque::new();
    while rest.len() > 1 && pieces.len() < 50 {
        let (piece, behind) = rest.split_at(rng.usize(1..rest.len()).min(1 + rng.usize(..4000)));
        pieces.push_back(piece);
        rest = behind;
    }
    pieces.push_back(rest);
    pieces
}

/// One command over a new connection of the same client.
async fn mate_call(shared: &Shared, names: &Names, op: &Op) -> Option<Value> {
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
struct Ears {
    wire: Wire,
    channel: Token,
    messages: Vec<Token>,
    protocol: u8,
}

impl Ears {
    async fn open(shared: &Shared, channel: Token, messages: Vec<Token>, protocol: u8) -> Option<Self> {
        let mut wire = Wire::connect(shared.config.target).await.ok()?;
        if protocol == 3 {
            let greeting = wire.call(&["HELLO", "3"]).await.ok()?;
            if !matches!(greeting, Value::Map(_)) {
                return None;
            }
        }
        let name = channel.text(shared.config.seed);
        let confirmed = wire.call(&["SUBSCRIBE", &name]).await.ok()?;
        let mut ears = Self { wire, channel, messages, protocol };
        let wanted = ears.frame(vec![Value::text("subscribe"), Value::text(&name), Value::Int(1)]);
        if is_refusal(&confirmed) {
            return None;
        }
        if confirmed != wanted {
            ears.found(shared, &wanted, &confirmed);
            return None;
        }
        ears.messages.reverse();
        Some(ears)
    }

    fn frame(&self, items: Vec<Value>) -> Value {
        if self.protocol == 3 { Value::Push(items) } else { Value::Array(items) }
    }

    fn found(&self, shared: &Shared, wanted: &Value, got: &Value) {
        let mut foreign = false;
        got.each_text(&mut |text| foreign |= Token::any_in(text, shared.config.seed, |token| token.who != self.channel.who));
        let verdict = if foreign { Verdict::Misdelivered } else { Verdict::Misordered };
        shared.tally.borrow_mut().found(verdict, || format!("a subscriber wants {wanted:?}, got {got:?}"));
    }

    /// All messages, in order, then the way out of the subscription.
    async fn hear(&mut self, shared: &Shared, seed: u64) -> Result<(), End> {
        let name = Value::text(&self.channel.text(seed));
        let mut wanted: Vec<_> = std::mem::take(&mut self.messages)
            .into_iter()
            .rev()
            .map(|token| self.frame(vec![Value::text("message"), name.clone(), Value::text(&token.text(seed))]))
            .collect();
        wanted.push(self.frame(vec![Value::text("unsubscribe"), name, Value::Int(0)]));
        wanted.push(Value::Simple(b"PONG".to_vec()));
        let last = wanted.len() - 2;
        for (at, wanted) in wanted.iter().enumerate() {
            if at >= last {
                let request: &[u8] = if at == last { b"UNSUBSCRIBE\r\n" } else { b"PING\r\n" };
                let _ = self.wire.writer.write_all(request).await;
            }
            match timeout(PATIENCE, self.wire.reader.frame()).await {
                Ok(Ok(got)) if got == *wanted => shared.tally.borrow_mut().replies += 1,
                Ok(Ok(got)) if is_refusal(&got) => return Ok(()),
                Ok(Ok(got)) => {
                    self.found(shared, wanted, &got);
                    return Ok(());
                }
                Ok(Err(NoFrame::Broken(broken))) => {
                    shared.tally.borrow_mut().found(Verdict::Torn, || format!("a subscriber: {broken:?}"));
                    return Ok(());
                }
                Ok(Err(NoFrame::End(_))) if !shared.certain.get() => return Ok(()),
                Ok(Err(NoFrame::End(_))) => {
                    shared.tally.borrow_mut().found(Verdict::Dropped, || format!("a subscriber waiting for {wanted:?}"));
                    return Ok(());
                }
                Err(_) => {
                    shared.tally.borrow_mut().found(Verdict::Missing, || format!("a subscriber waits for {wanted:?}"));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Both users of the storm exist, whatever ran on this server before.
pub(crate) async fn prepare_users(direct: &mut Wire) {
    let name = User::Stormy.name();
    let password = format!(">{}", crate::op::PASSWORD);
    let reply = direct.call(&["ACL", "SETUSER", name, "reset", "on", &password, "~*", "&*", "+@all"]).await;
    assert_eq!(reply.expect("the server answers"), Value::ok());
}
