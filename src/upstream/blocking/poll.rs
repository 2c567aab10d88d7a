//! Asks in turns for the wait groups that have no connection (docs/design/semantics.md 7.3). One task a worker, while there
//! are any.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::places::{offer_places, waiting};
use super::queue::{PopReply, Via};
use super::task::DEMOTED;
use super::{Node, WaitGroup, bundle};
use crate::command::{PopKind, is_nil, popped_key};
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

/// The shortest pause after so many questions.
pub(super) fn backoff_for(questions: usize) -> Duration {
    Duration::from_secs(1) * u32::try_from(questions).unwrap_or(u32::MAX) / u32::try_from(A_SECOND).unwrap_or(1)
}

/// Starts the task if it does not run.
pub(super) fn keep_running(node: &Rc<Node>) {
    if !node.wait_groups.polling.replace(true) {
        spawn_local(run(Rc::clone(node)));
    }
}

async fn run(node: Rc<Node>) {
    let mut backoff = node.rt.config().blocking.poll_min;
    loop {
        sleep(backoff.max(backoff_for(node.wait_groups.alone.get()))).await;
        if node.is_any_pause() {
            continue; // nothing is taken for anybody
        }
        let settings = &node.rt.config().blocking;
        // Before anybody is asked for: a group that gets a place, or a part of one, needs no question.
        bundle::enroll(&node).await;
        offer_places(&node);
        let wait_groups = waiting(&node);
        if wait_groups.is_empty() {
            // In one step with the look that has found nobody: whoever joins after it starts the task anew.
            node.wait_groups.polling.set(false);
            return;
        }
        let questions = questions(wait_groups);
        let cost = questions.iter().map(|wait_groups| 1 + wait_groups.len() / KEYS_A_QUESTION).sum();
        let hit = ask_all(&node, questions).await;
        backoff = if hit { settings.poll_min } else { (backoff * 3 / 2).clamp(settings.poll_min, settings.poll_max) };
        backoff = backoff.max(backoff_for(cost));
    }
}

/// Puts wait groups together that one question can serve.
fn questions(wait_groups: Vec<Rc<WaitGroup>>) -> Vec<Vec<Rc<WaitGroup>>> {
    let mut groups: crate::base::Map<(RouteKey, PopKind), Vec<Rc<WaitGroup>>> = crate::base::Map::default();
    let mut questions = Vec::new();
    for group in wait_groups {
        // A key of another type would make the question fail for all of them.
        if group.pop.mergeable().is_some() && !group.difficult.get() {
            groups.entry((group.key.0.clone(), group.pop.kind())).or_default().push(group);
        } else {
            questions.push(vec![group]);
        }
    }
    for group in groups.values() {
        questions.extend(group.chunks(MERGED).map(<[Rc<WaitGroup>]>::to_vec));
    }
    questions
}

/// Whether any question brought something.
async fn ask_all(node: &Rc<Node>, mut questions: Vec<Vec<Rc<WaitGroup>>>) -> bool {
    let mut hit = false;
    while !questions.is_empty() {
        let window = questions.split_off(questions.len().saturating_sub(AT_ONCE));
        let tasks: Vec<_> = window
            .into_iter()
            .filter_map(|wait_groups| {
                let node = Rc::clone(node);
                // Whoever has a lane must not wait for those who stand in line for a connection.
                if wait_groups.first().is_some_and(|group| node.lanes.obtain(&node, &group.key.0).is_err()) {
                    spawn_local(ask_aside(node, wait_groups));
                    return None;
                }
                Some(spawn_local(async move { ask_for(&node, wait_groups).await }))
            })
            .collect();
        for task in tasks {
            hit |= task.await.unwrap_or(false);
        }
    }
    hit
}

async fn ask_for(node: &Rc<Node>, wait_groups: Vec<Rc<WaitGroup>>) -> bool {
    match &wait_groups[..] {
        [group] => ask_one(node, group).await,
        _ => ask_merged(node, wait_groups).await,
    }
}

/// The question of wait groups for whose key no lane is to be had, beside the rounds of the others.
async fn ask_aside(node: Rc<Node>, wait_groups: Vec<Rc<WaitGroup>>) {
    wait_groups.iter().for_each(|group| group.asked_aside.set(true));
    if !ask_for(&node, wait_groups.clone()).await {
        // Those who wait for a connection with something to do come first.
        sleep(node.rt.config().blocking.poll_max).await;
    }
    wait_groups.iter().for_each(|group| group.asked_aside.set(false));
    keep_running(&node);
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
    // A pause may have begun since the round has: the question would wait on the lane, in front of clients.
    if node.is_any_pause() {
        return Said::Nothing;
    }
    node.rt.shard.group_polls.inc();
    match node.ask_if(key, command, |node| !node.is_any_pause()).await {
        Ok(Answer::Reply(frame)) => Said::Reply(frame),
        Ok(Answer::NotExecuted(_)) => Said::Nothing,
        Err(_) => Said::Unknown,
    }
}

/// One question for many keys, repeated while it brings something.
async fn ask_merged(node: &Rc<Node>, mut wait_groups: Vec<Rc<WaitGroup>>) -> bool {
    let mut hit = false;
    loop {
        wait_groups.retain(|group| group.machine.borrow().needs_polls());
        let Some(first) = wait_groups.first() else { return hit };
        let keys: Vec<&[u8]> = wait_groups.iter().filter_map(|group| group.pop.mergeable()).collect();
        let question = first.pop.merged(&keys);
        for group in &wait_groups {
            // Every one of them may get the element, so one waiter of each must stay until the answer (rule B4).
            group.machine.borrow_mut().poll_began(1);
        }
        let frame = match ask(node, &first.key.0, &question).await {
            Said::Reply(frame) => frame,
            Said::Nothing => {
                end_all(node, &wait_groups, Some(PopReply::Nil));
                return hit;
            }
            Said::Unknown => {
                end_all(node, &wait_groups, None);
                return hit;
            }
        };
        let elements = first.pop.elements(&frame).unwrap_or_default();
        let owner = elements.first().and_then(|element| popped_key(element)).map(<[u8]>::to_vec);
        let place = owner.and_then(|owner| wait_groups.iter().position(|group| group.pop.mergeable() == Some(&owner)));
        let Some(place) = place else {
            let said = is_nil(&frame) || frame.starts_with(b"-") || frame.starts_with(b"!");
            // A reply that makes no sense is as good as a lost one.
            end_all(node, &wait_groups, said.then_some(PopReply::Nil));
            if said && !is_nil(&frame) && !passes(&frame) {
                // One of the keys, or a right that is missing for it: each is asked for by itself.
                for group in &wait_groups {
                    hit |= ask_one(node, group).await;
                }
            }
            return hit;
        };
        // The server looks at the keys in their order. Those before this one were empty, and only those behind it need
        // be asked again.
        hit = true;
        end_all(node, &wait_groups[..place], Some(PopReply::Nil));
        end_all(node, &wait_groups[place + 1..], Some(PopReply::Nil));
        wait_groups[place].act(node, |machine| machine.poll_ended(1, Via::Poll, Some(PopReply::Elements(elements))));
        ask_one(node, &wait_groups[place]).await;
        wait_groups.drain(..=place);
    }
}

fn end_all(node: &Rc<Node>, wait_groups: &[Rc<WaitGroup>], reply: Option<PopReply<Vec<u8>>>) {
    for group in wait_groups {
        group.act(node, |machine| machine.poll_ended(1, Via::Poll, reply.clone()));
    }
}

/// The question of one wait group, repeated while it brings something.
async fn ask_one(node: &Rc<Node>, group: &Rc<WaitGroup>) -> bool {
    let mut hit = false;
    loop {
        let waiters = group.machine.borrow().len();
        if !group.machine.borrow().needs_polls() {
            return hit;
        }
        let counts = group.pop.kind() != PopKind::Move;
        let (question, most) = match group.pop.burst(waiters) {
            Some((question, sizes)) if counts && waiters > 1 => (question, sizes[0]),
            _ => (group.pop.non_blocking(), 1),
        };
        group.machine.borrow_mut().poll_began(most);
        let reply = match ask(node, &group.key.0, &question).await {
            Said::Nothing => Some(PopReply::Nil),
            Said::Unknown => None,
            // A reply that makes no sense is as good as a lost one.
            Said::Reply(frame) => match group.non_blocking_reply(&frame) {
                Some(PopReply::Error(error, _)) => Some(judge(node, group, error).await),
                other => {
                    // Its type fits again: it can share a question and have a connection.
                    group.difficult.set(false);
                    other
                }
            },
        };
        let more = matches!(reply, Some(PopReply::Elements(_)));
        group.act(node, |machine| machine.poll_ended(most, Via::Poll, reply));
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
async fn judge(node: &Rc<Node>, group: &Rc<WaitGroup>, error: Vec<u8>) -> PopReply<Vec<u8>> {
    if passes(&error) {
        return PopReply::Nil;
    }
    if error.starts_with(b"-READONLY") {
        // The server was demoted: it tells its own blocked clients so and closes them (docs/design/semantics.md 7.1).
        node.on_refusal(&error);
        return PopReply::Error(DEMOTED.to_vec(), true);
    }
    if !error.starts_with(b"-WRONGTYPE") {
        return PopReply::Error(error, false);
    }
    // A key that becomes one of another type leaves its clients blocked; a wrong destination does not.
    group.difficult.set(true);
    if group.pop.kind() != PopKind::Move {
        return PopReply::Nil;
    }
    let mut question = bytes::BytesMut::new();
    encode::command(&mut question, &[b"LLEN", group.pop.source()]);
    match ask(node, &group.key.0, &question).await {
        // A list, or by now nothing: it was the destination.
        Said::Reply(length) if length.starts_with(b":") => PopReply::Error(error, false),
        _ => PopReply::Nil,
    }
}
