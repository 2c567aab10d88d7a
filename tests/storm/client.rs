//! One storm client: draws batches, sends them, and has every reply judged.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::checker::{Checker, End};
use crate::op::{Names, Op, User};
use crate::peer::{Ears, peer_call};
use crate::plan::{Batch, Peer, Planner, Style};
use crate::storm::{Retired, Shared};
use crate::tally::Finding;
use crate::waiters::Waiters;
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
    checker: Checker,
    half_closed: bool,
}

impl Session {
    fn new(shared: Rc<Shared>, wire: Wire, who: u32, life: u32) -> Self {
        let config = &shared.config;
        let names = Names { seed: config.seed, who, life };
        let planner = Planner::new(config.mix, config.seed, who, life);
        let checker = Checker::new(shared.clone(), names, wire.writer.local_addr().ok());
        shared.tally.borrow_mut().lives += 1;
        Self { shared, wire: Some(wire), planner, checker, half_closed: false }
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
            let batch = self.planner.next(&self.checker.model, &mut self.checker.ledger);
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
        let Batch { ops, style, peer } = batch;
        match (style, peer) {
            (Style::Cut { reset }, _) => self.cut(ops, reset).await,
            (_, Some(Peer::Feeds(push))) => self.fed(ops, push).await,
            (_, Some(Peer::Listens { channel, messages, protocols, busy })) => {
                let mut ears = Vec::new();
                for protocol in protocols {
                    let one = Ears::open(&self.shared, channel, messages.clone(), protocol).await;
                    ears.push(one.ok_or(End::Unclear)?);
                }
                let shared = self.shared.clone();
                let talk = async {
                    match ears.first_mut() {
                        Some(first) if !busy.is_empty() => first.is_busy(&shared, &busy).await,
                        _ => true,
                    }
                };
                let (outcome, talked) = tokio::join!(self.exchange(ops, style), talk);
                let published = self.checker.published();
                ears.iter().for_each(|one| one.compare(&published, &self.shared));
                outcome?;
                for one in ears.into_iter().skip(usize::from(!talked)) {
                    one.hear(&self.shared, &published.refused).await;
                }
                Ok(())
            }
            (_, Some(Peer::Waits { key, tokens, way })) => {
                let names = self.checker.names;
                let waiters = Waiters::open(&self.shared, &names, key, tokens, way).await.ok_or(End::Unclear)?;
                let refused = self.checker.refusals;
                self.exchange(ops, style).await?;
                if self.checker.refusals == refused {
                    waiters.served(&self.shared).await;
                }
                Ok(())
            }
            (_, Some(Peer::Writes { after, key, token })) => {
                let (before, behind) = ops.split_at(after);
                self.exchange(before.to_vec(), Style::OneByOne).await?;
                let write = Op::Set { key, token, size: 30 };
                if self.by_mate(&write).await != Some(Value::ok()) {
                    return Err(End::Unclear);
                }
                self.checker.model.written_by_mate(key, token, 30);
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
        ops.iter().for_each(|op| op.encode(&self.checker.names, &mut bytes));
        let pieces = if style == Style::Pieces { pieces(&bytes, &mut self.planner.rng) } else { [&bytes[..]].into() };
        self.checker.pending.extend(ops);
        let wire = self.wire.as_mut().ok_or(End::Own)?;
        let writing = async {
            write_pieces(&mut wire.writer, pieces).await;
            if style == Style::HalfClose {
                let _ = wire.writer.shutdown().await;
                self.half_closed = true;
            }
        };
        // The patience is for each reply: of a long pipeline every command may stand in line. Whoever waits in vain for
        // one need not write the rest.
        tokio::pin!(writing);
        let reading = self.checker.read(&mut wire.reader);
        tokio::pin!(reading);
        tokio::select! {
            biased;
            outcome = &mut reading => outcome?,
            () = &mut writing => return reading.await,
        }
        writing.await;
        Ok(())
    }

    /// After the last reply of a half-closed connection: its end, and nothing before it.
    async fn ended(&mut self) -> Result<(), End> {
        let wire = self.wire.as_mut().ok_or(End::Own)?;
        match timeout(self.shared.config.patience, wire.reader.rest()).await {
            Ok(rest) if rest.is_empty() => Err(End::Own),
            Ok(rest) => Err(self.checker.surplus(&rest)),
            Err(_) => {
                self.checker.found(Finding::Missing, || "the end of a half-closed connection".into());
                Err(End::Wrong)
            }
        }
    }

    fn nothing_left(&mut self) -> Result<(), End> {
        let left = self.wire.as_mut().map(|wire| wire.reader.left_over()).unwrap_or_default();
        if left.is_empty() { Ok(()) } else { Err(self.checker.surplus(&left)) }
    }

    /// Sends a part, reads perhaps a little, and is gone.
    async fn cut(&mut self, ops: Vec<Op>, reset: bool) -> Result<(), End> {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for op in &ops {
            op.encode(&self.checker.names, &mut bytes);
            ends.push(bytes.len());
        }
        let upto = self.planner.rng.usize(..=bytes.len());
        let whole = ends.iter().filter(|&&end| end <= upto).count();
        let unsent = ops[whole..].iter();
        self.checker.refuse_unsent(unsent);
        self.checker.pending.extend(ops[..whole].iter().cloned());
        let mut wire = self.wire.take().ok_or(End::Own)?;
        let linger = Duration::from_micros(self.planner.rng.u64(..20_000));
        let read = self.planner.rng.bool();
        let talking = async {
            tokio::join!(write_pieces(&mut wire.writer, [&bytes[..upto]].into()), async {
                if read { self.checker.read(&mut wire.reader).await } else { Ok(()) }
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
        let names = self.checker.names;
        let shared = self.shared.clone();
        let pause = Duration::from_micros(self.planner.rng.u64(..4000));
        let feed = async move {
            sleep(pause).await;
            peer_call(&shared, &names, &push).await == Some(Value::Int(1))
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
        peer_call(&self.shared, &self.checker.names, op).await
    }

    /// Hands the ledger to the audit.
    fn retire(mut self, end: &End) {
        if *end == End::Lost {
            // A real server leaves a half-closed connection with what the socket does not take at once; the proxy
            // must not (rule F7).
            let servers_right = self.half_closed && self.shared.config.direct_arm;
            if self.shared.certain.get() && !servers_right {
                let count = self.checker.pending.len();
                self.checker
                    .found(Finding::Dropped, || format!("{count} unanswered, half closed: {}", self.half_closed));
            } else {
                self.shared.tally.borrow_mut().disconnects += 1;
            }
        }
        let unanswered = self.checker.pending.len();
        let pending = self.checker.pending.make_contiguous();
        let unclear = *end == End::Unclear || pending.iter().any(Op::moves_what_follows);
        // A server itself refuses nothing.
        if *end != End::Lost && !self.shared.config.direct_arm {
            self.checker.leave_unread();
        }
        let pending = self.checker.pending.make_contiguous();
        self.checker.model.abandon(pending);
        self.checker.take_effects(false);
        let Checker { names, ledger, refusals, local, .. } = self.checker;
        if unclear {
            self.shared.unclear.borrow_mut().insert((names.who, names.life));
        }
        let story = format!("{:?} ended by {end:?}, {} unanswered, {refusals} refusals read", local, unanswered);
        self.shared.retired.borrow_mut().push_back(Retired::new(names, story, ledger));
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
