//! Asks in turns for the folds that have no connection (docs/design/semantics.md 7.3). One task a worker, while there
//! are any.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::fold::Reply;
use super::{Fold, Node};
use crate::command::{CommandId, PopKind, is_nil, popped_key};
use crate::resp::encode;
use crate::session::RouteKey;
use crate::upstream::Answer;

/// Keys in one question.
const MERGED: usize = 256;
/// Questions that are open at one time.
const AT_ONCE: usize = 64;
/// Questions a second, all together; a question for many keys counts for more.
const A_SECOND: usize = 4000;
/// Keys of one question that cost as much as a question.
const KEYS_A_QUESTION: usize = 32;
/// What clients of a server that has become a replica are told.
pub(super) const DEMOTED: &[u8] =
    b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";

/// The shortest pause after so many questions.
pub(super) fn pause_for(questions: usize) -> Duration {
    Duration::from_secs(1) * u32::try_from(questions).unwrap_or(u32::MAX) / u32::try_from(A_SECOND).unwrap_or(1)
}

/// Starts the task if it does not run.
pub(super) fn keep_running(node: &Rc<Node>) {
    if !node.folds.polling.replace(true) {
        spawn_local(run(Rc::clone(node)));
    }
}

async fn run(node: Rc<Node>) {
    let mut pause = node.rt.config().blocking.poll_min;
    loop {
        sleep(pause.max(pause_for(node.folds.alone.get()))).await;
        if node.holds() {
            continue; // nothing is taken for anybody
        }
        let settings = &node.rt.config().blocking;
        offer_places(&node);
        let folds = waiting(&node);
        if folds.is_empty() {
            node.folds.polling.set(false);
            return;
        }
        let questions = questions(folds);
        let cost = questions.iter().map(|folds| 1 + folds.len() / KEYS_A_QUESTION).sum();
        let hit = ask_all(&node, questions).await;
        pause = if hit { settings.poll_min } else { (pause * 3 / 2).clamp(settings.poll_min, settings.poll_max) };
        pause = pause.max(pause_for(cost));
    }
}

/// Folds without a connection, those that have waited longest first.
fn waiting(node: &Node) -> Vec<Rc<Fold>> {
    let mut folds = node.folds.all();
    folds.retain(|fold| fold.machine.borrow().needs_polls());
    folds.sort_by_key(|fold| fold.number);
    folds
}

fn offer_places(node: &Rc<Node>) {
    let free = node.rt.pool.places_for_blocked();
    if free > 0 {
        for fold in waiting(node).into_iter().filter(|fold| !fold.difficult.get()).take(free) {
            fold.act(node, super::fold::Fold::offer);
        }
    }
}

/// Puts folds together that one question can serve.
fn questions(folds: Vec<Rc<Fold>>) -> Vec<Vec<Rc<Fold>>> {
    let mut groups: crate::base::Map<(RouteKey, PopKind), Vec<Rc<Fold>>> = crate::base::Map::default();
    let mut questions = Vec::new();
    for fold in folds {
        if fold.pop.mergeable().is_some() && !fold.difficult.get() {
            groups.entry((fold.key.0.clone(), fold.pop.kind())).or_default().push(fold);
        } else {
            questions.push(vec![fold]);
        }
    }
    for group in groups.values() {
        questions.extend(group.chunks(MERGED).map(<[Rc<Fold>]>::to_vec));
    }
    questions
}

/// Whether any question brought something.
async fn ask_all(node: &Rc<Node>, mut questions: Vec<Vec<Rc<Fold>>>) -> bool {
    let mut hit = false;
    while !questions.is_empty() {
        let window = questions.split_off(questions.len().saturating_sub(AT_ONCE));
        let tasks: Vec<_> = window
            .into_iter()
            .map(|folds| {
                let node = Rc::clone(node);
                spawn_local(async move {
                    if folds.len() == 1 { ask_one(&node, &folds[0]).await } else { ask_merged(&node, folds).await }
                })
            })
            .collect();
        for task in tasks {
            hit |= task.await.unwrap_or(false);
        }
    }
    hit
}

/// What came of a question.
enum Said {
    Reply(Vec<u8>),
    /// The question was not carried out.
    Nothing,
    /// Nobody knows whether the question was carried out: its connection was lost.
    Unknown,
}

async fn ask(node: &Rc<Node>, key: &RouteKey, command: &[u8]) -> Said {
    let Ok(lane) = node.lanes.obtain(node, key) else { return Said::Nothing };
    if node.holds() {
        return Said::Nothing;
    }
    node.rt.shard.fold_polls.inc();
    match node.inquiries.ask(node, &lane, CommandId::OURS, command).await {
        Ok(Answer::Reply(frame)) => Said::Reply(frame),
        Ok(Answer::NotExecuted(_)) => Said::Nothing,
        Err(_) => Said::Unknown,
    }
}

/// One question for many keys, repeated while it brings something.
async fn ask_merged(node: &Rc<Node>, mut folds: Vec<Rc<Fold>>) -> bool {
    let mut hit = false;
    loop {
        folds.retain(|fold| fold.machine.borrow().needs_polls());
        let Some(first) = folds.first() else { return hit };
        let keys: Vec<&[u8]> = folds.iter().filter_map(|fold| fold.pop.mergeable()).collect();
        let question = first.pop.merged(&keys);
        for fold in &folds {
            fold.machine.borrow_mut().poll_began(1);
        }
        let frame = match ask(node, &first.key.0, &question).await {
            Said::Reply(frame) => frame,
            Said::Nothing => {
                end_all(node, &folds, Some(Reply::Nil));
                return hit;
            }
            Said::Unknown => {
                end_all(node, &folds, None);
                return hit;
            }
        };
        let elements = first.pop.elements(&frame).unwrap_or_default();
        let owner = elements.first().and_then(|element| popped_key(element)).map(<[u8]>::to_vec);
        let place = owner.and_then(|owner| folds.iter().position(|fold| fold.pop.mergeable() == Some(&owner)));
        let Some(place) = place else {
            let said = is_nil(&frame) || frame.starts_with(b"-") || frame.starts_with(b"!");
            // A reply that makes no sense is as good as a lost one.
            end_all(node, &folds, said.then_some(Reply::Nil));
            if said && !is_nil(&frame) && !passes(&frame) {
                // One of the keys, or a right that is missing for it: each is asked for by itself.
                for fold in &folds {
                    hit |= ask_one(node, fold).await;
                }
            }
            return hit;
        };
        hit = true;
        end_all(node, &folds[..place], Some(Reply::Nil));
        end_all(node, &folds[place + 1..], Some(Reply::Nil));
        folds[place].act(node, |machine| machine.poll_ended(1, Some(Reply::Elements(elements))));
        ask_one(node, &folds[place]).await;
        folds.drain(..=place);
    }
}

fn end_all(node: &Rc<Node>, folds: &[Rc<Fold>], reply: Option<Reply<Vec<u8>>>) {
    for fold in folds {
        fold.act(node, |machine| machine.poll_ended(1, reply.clone()));
    }
}

/// The question of one fold, repeated while it brings something.
async fn ask_one(node: &Rc<Node>, fold: &Rc<Fold>) -> bool {
    let mut hit = false;
    loop {
        let waiters = fold.machine.borrow().len();
        if !fold.machine.borrow().needs_polls() {
            return hit;
        }
        let counts = fold.pop.kind() != PopKind::Move;
        let (question, most) = match fold.pop.burst(waiters) {
            Some((question, sizes)) if counts && waiters > 1 => (question, sizes[0]),
            _ => (fold.pop.twin(), 1),
        };
        fold.machine.borrow_mut().poll_began(most);
        let reply = match ask(node, &fold.key.0, &question).await {
            Said::Nothing => Some(Reply::Nil),
            Said::Unknown => None,
            // A reply that makes no sense is as good as a lost one.
            Said::Reply(frame) => match fold.twin_reply(&frame) {
                Some(Reply::Error(error, _)) => Some(judge(node, fold, error).await),
                other => {
                    fold.difficult.set(false);
                    other
                }
            },
        };
        let more = matches!(reply, Some(Reply::Elements(_)));
        fold.act(node, |machine| machine.poll_ended(most, reply));
        hit |= more;
        if !more {
            return hit;
        }
    }
}

/// Errors that a blocked client would not notice.
fn passes(error: &[u8]) -> bool {
    [&b"-BUSY"[..], b"-LOADING", b"-MASTERDOWN", b"-TRYAGAIN", b"-CLUSTERDOWN"]
        .iter()
        .any(|code| error.starts_with(code))
}

/// What an error means to a client that is blocked already.
async fn judge(node: &Rc<Node>, fold: &Rc<Fold>, error: Vec<u8>) -> Reply<Vec<u8>> {
    if passes(&error) {
        return Reply::Nil;
    }
    if error.starts_with(b"-READONLY") {
        node.on_refusal(&error);
        return Reply::Error(DEMOTED.to_vec(), true);
    }
    if !error.starts_with(b"-WRONGTYPE") {
        return Reply::Error(error, false);
    }
    // A key that becomes one of another type leaves its clients blocked; a wrong destination does not.
    fold.difficult.set(true);
    if fold.pop.kind() != PopKind::Move {
        return Reply::Nil;
    }
    let mut question = bytes::BytesMut::new();
    encode::command(&mut question, &[b"LLEN", fold.pop.source()]);
    match ask(node, &fold.key.0, &question).await {
        // A list, or by now nothing: it was the destination.
        Said::Reply(length) if length.starts_with(b":") => Reply::Error(error, false),
        _ => Reply::Nil,
    }
}
