//! Recognises pauses of the server that did not pass by: by a client connected directly, another instance, a failover.
//!
//! *Of everything*: the control connection gets no answer, but the server closes it when asked to, and answers an error
//! on a new one; a server that hangs does neither. *Of writes*: a lane waits for the reply to a write while the control
//! connection is answered; then the server is asked, in its INFO (Valkey) or by a script that does nothing, which a pause
//! of writes holds back, too.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::time::timeout;

use super::Node;
use super::lane::{Lane, LanePhase};
use crate::base::nanos;
use crate::link::{Link, decoded};
use crate::resp::encode;
use crate::router::Extent;
use crate::telemetry::UpstreamCloseReason;

/// A lane that waits for the reply to a write for so long, while others are answered, may be held back.
const STUCK: Duration = Duration::from_millis(150);
/// How long the script may be held back before that is taken for a pause.
const HELD_AFTER: Duration = Duration::from_millis(300);
/// Time between two such questions.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What became of the control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Fine,
    /// No answer, and nobody waits for it: paused, or hung?
    Silent,
    /// The server answers, but holds a batch back; so the connection is of no use.
    HeldBack,
    Broken(UpstreamCloseReason),
}

/// What one worker remembers of it.
#[derive(Default)]
pub(super) struct PauseDetector {
    asked: Cell<Option<Instant>>,
    /// The lane that is held back, and when it was answered last: its next answer ends a pause of writes.
    witness: RefCell<Option<(Rc<Lane>, u64)>>,
    /// When that was last tried for a pause of everything.
    tried: Cell<Option<Instant>>,
    /// When a pause of everything was seen, nanoseconds of the worker's clock: any answer since then ends it.
    since: Cell<u64>,
}

impl PauseDetector {
    /// Whether the server was tried less than `every` ago; if not, it is now.
    pub(super) fn rests(&self, every: Duration) -> bool {
        let rests = self.tried.get().is_some_and(|at| crate::base::since(at) < every);
        if !rests {
            self.tried.set(Some(crate::base::now()));
        }
        rests
    }
}

impl Node {
    /// The worker's tick: pauses that are over, and whether somebody waits for an answer that does not come.
    pub(super) fn pause_tick(&self) {
        if self.dialer.is_shaking() || self.login_connection.is_in_use() {
            self.control.check_now();
        }
        if self.server_pause.extent().is_none() {
            return;
        }
        if self.server_pause.is_seen() && self.seen_pause_is_over() {
            self.see_pause(None);
        }
        self.look_at_pauses();
    }

    fn seen_pause_is_over(&self) -> bool {
        let watch = &self.control.watch;
        if let Some((lane, progress)) = &*watch.witness.borrow() {
            return lane.phase() != LanePhase::Ready || lane.progress() != *progress || lane.oldest().is_none();
        }
        self.lanes.all().iter().any(|lane| lane.last_answer() > watch.since.get())
    }

    /// The server holds everything back, and has just shown that it lives.
    pub(super) fn on_all_held(&self) {
        self.server_pause.on_sign_of_life();
        if !self.server_pause.is_all() {
            self.control.watch.since.set(self.rt.now());
            self.control.watch.witness.take();
            self.see_pause(Some(Extent::All));
        }
        self.look_at_pauses();
    }

    /// The control connection was answered: not everything is held back.
    pub(super) fn on_control_answered(&self) {
        if self.server_pause.extent().is_some() {
            self.server_pause.on_sign_of_life();
            if self.control.watch.witness.borrow().is_none() {
                self.see_pause(None);
            }
        }
    }

    /// A lane that waits for something that a pause of writes would hold.
    fn stuck_lane(&self) -> Option<Rc<Lane>> {
        let now = self.rt.now();
        self.lanes.all().into_iter().find(|lane| lane.may_be_held(self, now, nanos(STUCK)))
    }
}

/// Asks whether writes are held back, if it looks like that.
pub(super) async fn look_for_held_writes(node: &Node, link: &mut Link) -> After {
    let watch = &node.control.watch;
    let lately = watch.asked.get().is_some_and(|at| crate::base::since(at) < ASK_EVERY);
    if lately || node.server_pause.extent().is_some() {
        return After::Fine;
    }
    let Some(lane) = node.stuck_lane() else { return After::Fine };
    let progress = lane.progress();
    watch.asked.set(Some(crate::base::now()));
    let mut batch = BytesMut::new();
    encode::command(&mut batch, &["INFO", "clients"]);
    let asked = timeout(node.rt.config().upstream.handshake_timeout, link.call(&batch, 1)).await;
    let replies = match asked {
        Ok(Ok(replies)) => replies,
        Ok(Err(error)) => return After::Broken((&error).into()),
        Err(_) => return After::Broken(UpstreamCloseReason::Timeout),
    };
    let held = match paused_actions(&replies[0]) {
        Some(held) => held,
        None => {
            batch.clear();
            encode::command(&mut batch, &["EVAL", "return 0", "0"]);
            match timeout(HELD_AFTER, link.call(&batch, 1)).await {
                Ok(Ok(_)) => false,
                Ok(Err(error)) => return After::Broken((&error).into()),
                Err(_) => {
                    node.on_writes_held(lane, progress);
                    return After::HeldBack;
                }
            }
        }
    };
    if held {
        node.on_writes_held(lane, progress);
    }
    After::Fine
}

impl Node {
    /// The server holds writes back. Its end is seen by the lane that waited when this was asked, `progress` then. One
    /// that was answered meanwhile tells nothing any more: what held the question back is a pause that began later, and
    /// that passed by or will be found by whoever waits for it.
    fn on_writes_held(&self, lane: Rc<Lane>, progress: u64) {
        if lane.progress() != progress {
            return;
        }
        self.control.watch.witness.replace(Some((lane, progress)));
        self.server_pause.on_sign_of_life();
        self.see_pause(Some(Extent::Write));
    }
}

/// What INFO says of pauses; nothing where it has no such field.
fn paused_actions(info: &[u8]) -> Option<bool> {
    let info = decoded(info).ok()?;
    let text = String::from_utf8_lossy(info.as_text()?).into_owned();
    let actions = text.lines().find_map(|line| line.strip_prefix("paused_actions:"))?;
    Some(actions.trim() != "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_tells_of_pauses_where_it_can() {
        let info = |text: &str| paused_actions(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
        assert_eq!(info("# Clients\r\nblocked_clients:0\r\n"), None);
        assert_eq!(info("paused_reason:none\r\npaused_actions:none\r\n"), Some(false));
        assert_eq!(info("paused_reason:client_pause\r\npaused_actions:write\r\n"), Some(true));
        assert_eq!(paused_actions(b"-NOPERM no\r\n"), None);
    }
}
