//! One storm client: draws batches, sends them, and has every reply judged.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::crowd::Crowd;
use crate::judge::{End, Judge};
use crate::mate::{Ears, mate_call};
use crate::op::{Names, Op, User};
use crate::plan::{Batch, Mate, Planner, Style};
use crate::storm::{Retired, Shared};
use crate::verdict::Verdict;
use kit::resp::Value;
use kit::wire::{Wire, write_pieces};

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
    half_closed: bool,
}

impl Session {
    fn new(shared: Rc<Shared>, wire: Wire, who: u32, life: u32) -> Self {
        let config = &shared.config;
        let names = Names { seed: config.seed, who, life };
        let planner = Planner::new(config.mix, config.seed, who, life);
        let judge = Judge::new(shared.clone(), names);
        shared.tally.borrow_mut().lives += 1;
        Self { shared, wire: Some(wire), planner, judge, half_closed: false }
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
            (_, Some(Mate::Listens { channel, messages, protocols, busy })) => {
                let mut ears = Vec::new();
                for protocol in protocols {
                    let one = Ears::open(&self.shared, channel, messages.clone(), protocol).await;
                    ears.push(one.ok_or(End::Unclear)?);
                }
                let refused = self.judge.refusals;
                let shared = self.shared.clone();
                let talk = async {
                    match ears.first_mut() {
                        Some(first) if !busy.is_empty() => first.is_busy(&shared, &busy).await,
                        _ => true,
                    }
                };
                let (outcome, talked) = tokio::join!(self.exchange(ops, style), talk);
                outcome?;
                // Which of the messages were refused does not matter: the next storm has others.
                if self.judge.refusals != refused {
                    return self.nothing_left();
                }
                for one in ears.into_iter().skip(usize::from(!talked)) {
                    one.hear(&self.shared).await;
                }
                Ok(())
            }
            (_, Some(Mate::Waits { key, tokens, way })) => {
                let names = self.judge.names;
                let crowd = Crowd::open(&self.shared, &names, key, tokens, way).await.ok_or(End::Unclear)?;
                let refused = self.judge.refusals;
                self.exchange(ops, style).await?;
                if self.judge.refusals == refused {
                    crowd.served(&self.shared).await;
                }
                Ok(())
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
                self.half_closed = true;
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
            // A real server leaves a half-closed connection with what the socket does not take at once; the proxy
            // must not (rule F7).
            let servers_right = self.half_closed && self.shared.config.direct_arm;
            if self.shared.certain.get() && !servers_right {
                let count = self.judge.pending.len();
                self.judge.found(Verdict::Dropped, || format!("{count} unanswered, half closed: {}", self.half_closed));
            } else {
                self.shared.tally.borrow_mut().disconnects += 1;
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

/// Both users of the storm exist, whatever ran on this server before.
pub(crate) async fn prepare_users(direct: &mut Wire) {
    let name = User::Stormy.name();
    let password = format!(">{}", crate::op::PASSWORD);
    let reply = direct.call(&["ACL", "SETUSER", name, "reset", "on", &password, "~*", "&*", "+@all"]).await;
    assert_eq!(reply.expect("the server answers"), Value::ok());
}
