//! Races of blocking pops: the push at the moment of the timeout, of the half-close, of CLIENT UNBLOCK.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;
use tokio::time::{sleep, sleep_until, timeout};

use crate::figures::{Findings, print};
use crate::settings;
use crate::stage::{self, Stage, connect, version};
use kit::Progress;
use kit::resp::Value;
use kit::wire::{Wire, request};

/// What races against the push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Race {
    /// The timeout of BLPOP.
    Deadline,
    /// The client's half-close; it reads on.
    HalfClose,
    /// The client's reset: what was written to the dead socket is lost, with a server alone as well.
    Reset,
    /// CLIENT UNBLOCK by another client.
    Unblock,
}

/// What the client got, and what the others saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    /// The element reached the client; `None` if nobody can know.
    element: Option<bool>,
    /// The client got a nil.
    nil: bool,
    /// Reply of CLIENT UNBLOCK.
    unblocked: Option<bool>,
    /// How often the element was found afterwards.
    left: i64,
}

impl Outcome {
    fn name(&self) -> &'static str {
        match (self.element, self.nil, self.left) {
            (Some(true), ..) => "element",
            (_, true, _) => "nil",
            (Some(false), ..) => "end",
            (None, _, 0) => "gone",
            (None, ..) => "kept",
        }
    }
}

/// What is wrong with an outcome, if anything. A lost element after a reset is counted elsewhere.
fn judge(race: Race, outcome: Outcome) -> Option<&'static str> {
    let copies = i64::from(outcome.element == Some(true)) + outcome.left;
    let ends = i64::from(outcome.element == Some(true)) + i64::from(outcome.nil);
    match race {
        _ if copies > 1 => Some("duplicate"),
        Race::Reset => None,
        _ if copies < 1 => Some("lost"),
        Race::HalfClose => None,
        _ if ends != 1 => Some("unanswered"),
        Race::Unblock if outcome.unblocked != Some(outcome.nil) => Some("wrong answer"),
        _ => None,
    }
}

/// All rounds of one run.
struct Shared {
    race: Race,
    rounds: usize,
    begun: Cell<usize>,
    progress: Progress,
    /// When the push goes out, in microseconds from the start of the round: kept where both outcomes are likely.
    balance: Cell<i64>,
    outcomes: RefCell<BTreeMap<&'static str, u64>>,
    findings: RefCell<Findings>,
}

/// The time-out of BLPOP where it races.
const LIMIT: Duration = Duration::from_millis(20);

/// `rounds` rounds of `race`, by few clients at once and then by many; how many elements were lost (after a reset).
pub(crate) fn play(stage: &Stage, race: Race, rounds: usize) -> u64 {
    stage::run(async {
        let few = batch(stage, race, rounds / 2, 8).await;
        few + batch(stage, race, rounds - rounds / 2, 50).await
    })
}

async fn batch(stage: &Stage, race: Race, rounds: usize, clients: usize) -> u64 {
    let shared = Rc::new(Shared {
        race,
        rounds,
        begun: Cell::new(0),
        progress: Progress::new(&format!("race {race:?}: rounds")).of(rounds as u64),
        balance: Cell::new(if race == Race::Deadline { LIMIT.as_micros() as i64 } else { 1000 }),
        outcomes: RefCell::default(),
        findings: RefCell::default(),
    });
    let tasks = (0..clients.min(rounds)).map(|who| {
        let (target, origin) = (stage.target(), stage.origin());
        spawn_local(Player::live(shared.clone(), who, target, origin))
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a player does not panic");
    }
    let mut direct = connect(stage.origin()).await;
    let outcomes = shared.outcomes.take();
    let findings = shared.findings.take();
    let figures = json!({
        "server": version(&mut direct).await, "rounds": rounds, "clients": clients, "outcomes": outcomes,
        "push_after_us": shared.balance.get(),
    });
    print(&format!("race {race:?}"), stage.arm(), &findings, figures);
    // A server alone may free a half-closed client before it writes to it.
    if stage.proxy.is_some() || race != Race::HalfClose {
        findings.assert_none(&format!("race {race:?}"));
    }
    outcomes.get("gone").copied().unwrap_or(0)
}

/// One client's rounds, on a key of its own.
struct Player {
    shared: Rc<Shared>,
    key: String,
    target: std::net::SocketAddr,
    client: Wire,
    other: Wire,
    direct: Wire,
    rng: Rng,
}

impl Player {
    async fn live(shared: Rc<Shared>, who: usize, target: std::net::SocketAddr, origin: std::net::SocketAddr) {
        let rng = Rng::with_seed(settings::seed() ^ (who as u64) << 20);
        let (client, other, direct) = (connect(target).await, connect(target).await, connect(origin).await);
        let key = format!("race:{who}");
        let mut player = Self { shared, key, target, client, other, direct, rng };
        while player.shared.begun.get() < player.shared.rounds {
            let number = player.shared.begun.get();
            player.shared.begun.set(number + 1);
            player.shared.progress.reach(number as u64);
            match player.round(number).await {
                Ok(outcome) => player.note(number, outcome),
                Err(what) => {
                    player.shared.findings.borrow_mut().add("broken", || format!("round {number}: {what}"));
                    return;
                }
            }
        }
    }

    fn note(&self, number: usize, outcome: Outcome) {
        *self.shared.outcomes.borrow_mut().entry(outcome.name()).or_default() += 1;
        if let Some(wrong) = judge(self.shared.race, outcome) {
            self.shared.findings.borrow_mut().add(wrong, || format!("round {number}: {outcome:?}"));
        }
        if outcome.element.is_none() {
            // After a reset nobody can tell who came first: both stay at the same moment.
            return;
        }
        let step = if outcome.element == Some(true) { 50 } else { -50 };
        self.shared.balance.set((self.shared.balance.get() + step).clamp(0, 200_000));
    }

    async fn round(&mut self, number: usize) -> Result<Outcome, String> {
        let closes = matches!(self.shared.race, Race::HalfClose | Race::Reset);
        if closes {
            self.client = connect(self.target).await;
        }
        let id = match self.client.call(&["CLIENT", "ID"]).await {
            Ok(Value::Int(id)) => id.to_string(),
            other => return Err(format!("CLIENT ID: {other:?}")),
        };
        let limit = if self.shared.race == Race::Deadline { "0.02" } else { "0" };
        let mut bytes = Vec::new();
        request(&mut bytes, &[b"BLPOP", self.key.as_bytes(), limit.as_bytes()]);
        self.client.writer.write_all(&bytes).await.map_err(|error| error.to_string())?;
        let start = Instant::now();
        let base = self.shared.balance.get() + self.rng.i64(-1000..=1000);
        let rival_at = start + Duration::from_micros(1000 + self.rng.u64(0..500));
        let push_at = start + Duration::from_micros(u64::try_from(base).unwrap_or(0));
        let element = format!("{number}:{}", settings::seed());
        let outcome = self.race(&id, &element, rival_at, push_at).await?;
        self.afterwards(outcome, &element).await
    }

    /// The two events, and what the client reads.
    async fn race(&mut self, id: &str, element: &str, rival: Instant, push: Instant) -> Result<Outcome, String> {
        if self.shared.race == Race::Reset {
            return self.reset(rival, push, element).await;
        }
        let Self { shared, key, client, other, direct, .. } = self;
        let race = shared.race;
        let pushing = async {
            sleep_until(push.into()).await;
            direct.call(&["RPUSH", key, element]).await
        };
        let Wire { reader, writer } = client;
        let rivalling = async {
            if race != Race::Deadline {
                sleep_until(rival.into()).await;
            }
            match race {
                Race::HalfClose => writer.shutdown().await.map(|()| None).map_err(|error| error.to_string()),
                Race::Unblock => match other.call(&["CLIENT", "UNBLOCK", id]).await {
                    Ok(Value::Int(done)) => Ok(Some(done == 1)),
                    wrong => Err(format!("CLIENT UNBLOCK: {wrong:?}")),
                },
                Race::Deadline | Race::Reset => Ok(None),
            }
        };
        let all = async { tokio::join!(pushing, rivalling, reader.frame()) };
        let (pushed, unblocked, read) = timeout(Duration::from_secs(20), all).await.map_err(|_| "no end in 20 s")?;
        if !matches!(pushed, Ok(Value::Int(1))) {
            return Err(format!("RPUSH: {pushed:?}"));
        }
        let mut outcome = Outcome { element: Some(false), nil: false, unblocked: unblocked?, left: 0 };
        match read {
            Ok(Value::NullArray) => outcome.nil = true,
            Ok(Value::Array(items)) if items.last() == Some(&Value::text(element)) => {
                outcome.element = Some(true);
            }
            Err(_) if race == Race::HalfClose => {}
            other => return Err(format!("BLPOP: {other:?}")),
        }
        Ok(outcome)
    }

    /// Push and reset at about the same time.
    async fn reset(&mut self, rival: Instant, push: Instant, element: &str) -> Result<Outcome, String> {
        let fresh = connect(self.target).await;
        let gone = std::mem::replace(&mut self.client, fresh);
        let resetting = async {
            sleep_until(rival.into()).await;
            gone.reset();
        };
        let pushing = async {
            sleep_until(push.into()).await;
            self.direct.call(&["RPUSH", &self.key, element]).await
        };
        let ((), pushed) = tokio::join!(resetting, pushing);
        match pushed {
            Ok(Value::Int(1)) => Ok(Outcome { element: None, nil: false, unblocked: None, left: 0 }),
            other => Err(format!("RPUSH: {other:?}")),
        }
    }

    /// Where the element is now: a later BLPOP finds it, exactly if the client did not get it.
    async fn afterwards(&mut self, mut outcome: Outcome, element: &str) -> Result<Outcome, String> {
        let closes = matches!(self.shared.race, Race::HalfClose | Race::Reset);
        if closes && outcome.element != Some(true) {
            // What a dead client had taken comes back a moment later.
            match self.other.call(&["BLPOP", &self.key, "1"]).await {
                Ok(Value::Array(items)) if items.last() == Some(&Value::text(element)) => outcome.left += 1,
                Ok(Value::NullArray) => {}
                other => return Err(format!("the later BLPOP: {other:?}")),
            }
        }
        if closes && outcome.element == Some(true) {
            // A second copy would come back just as late.
            sleep(Duration::from_millis(2)).await;
        }
        match self.direct.call(&["LLEN", &self.key]).await {
            Ok(Value::Int(more)) => outcome.left += more,
            other => return Err(format!("LLEN: {other:?}")),
        }
        let deleted = self.direct.call(&["DEL", &self.key]).await;
        deleted.map(|_| outcome).map_err(|error| format!("DEL: {error:?}"))
    }
}

#[cfg(test)]
fn outcome(element: Option<bool>, nil: bool, unblocked: Option<bool>, left: i64) -> Outcome {
    Outcome { element, nil, unblocked, left }
}

#[test]
fn the_judge_of_races_lets_right_outcomes_pass() {
    for race in [Race::Deadline, Race::HalfClose] {
        assert_eq!(judge(race, outcome(Some(true), false, None, 0)), None);
    }
    assert_eq!(judge(Race::Deadline, outcome(Some(false), true, None, 1)), None);
    assert_eq!(judge(Race::HalfClose, outcome(Some(false), false, None, 1)), None);
    assert_eq!(judge(Race::Unblock, outcome(Some(false), true, Some(true), 1)), None);
    assert_eq!(judge(Race::Unblock, outcome(Some(true), false, Some(false), 0)), None);
    assert_eq!(judge(Race::Reset, outcome(None, false, None, 0)), None);
}

#[test]
fn the_judge_of_races_finds_each_wrong_outcome() {
    let wrong = [
        (Race::Deadline, outcome(Some(true), false, None, 1), "duplicate"),
        (Race::Deadline, outcome(Some(false), true, None, 0), "lost"),
        (Race::Deadline, outcome(Some(false), true, None, 2), "duplicate"),
        (Race::Deadline, outcome(Some(false), false, None, 1), "unanswered"),
        (Race::HalfClose, outcome(Some(false), false, None, 0), "lost"),
        (Race::HalfClose, outcome(Some(true), false, None, 1), "duplicate"),
        (Race::Reset, outcome(None, false, None, 2), "duplicate"),
        (Race::Unblock, outcome(Some(false), true, Some(false), 1), "wrong answer"),
        (Race::Unblock, outcome(Some(true), false, Some(true), 0), "wrong answer"),
    ];
    for (race, outcome, kind) in wrong {
        assert_eq!(judge(race, outcome), Some(kind), "{race:?} {outcome:?}");
    }
}
