//! Which lane a client's next request takes.

use std::rc::Rc;

use super::connection::Client;
use crate::command::CommandId;
use crate::upstream::{Lane, Question, Wants, Way};

/// Why a request cannot ride now.
pub(super) enum Hold {
    Wait(Wants),
    /// The budget has no lane for this key: the pool carries the command.
    NoLane,
}

impl Client {
    /// The lane of the client's key. It may be another one than before only when nothing is unanswered (rule I2).
    pub(super) fn current_lane(&mut self) -> Result<Rc<Lane>, Hold> {
        if let Some(lane) = &self.lane
            && lane.accepting()
        {
            return Ok(Rc::clone(lane));
        }
        if self.outbox().pending() > 0 {
            return Err(Hold::Wait(Wants::Pending(0)));
        }
        (self.lane, self.on_big_lane) = (None, false);
        let key = self.profile.session.borrow().key.clone();
        self.node = self.node();
        let lane = self.node.lanes.obtain(&self.node, &key).map_err(|_| Hold::NoLane)?;
        self.lane = Some(Rc::clone(&lane));
        Ok(lane)
    }

    /// As [`Client::current_lane`], for what is no read that may be asked again: not over the lane for long replies
    /// while the server may end that one.
    pub(super) fn main_lane(&mut self) -> Result<Rc<Lane>, Hold> {
        if self.on_big_lane && self.node.big_replies.is_guarded() {
            return self.change_lane(false);
        }
        self.current_lane()
    }

    /// As [`Client::current_lane`], but a question that had a long reply lately goes over the lane for those, or over
    /// none.
    #[inline]
    pub(super) fn lane_for(&mut self, id: CommandId, question: Question) -> Result<Rc<Lane>, Hold> {
        let big = match self.way(id, question) {
            Way::Lane => false,
            Way::BigLane => true,
            Way::Lent => return Err(Hold::NoLane),
        };
        if big == self.on_big_lane {
            return self.current_lane();
        }
        self.change_lane(big)
    }

    /// How a request of this command travels.
    #[inline]
    pub(super) fn way(&self, id: CommandId, question: Question) -> Way {
        self.node.big_replies.way(question, || self.rt().table.spec(id).reads_at_length())
    }

    fn change_lane(&mut self, big: bool) -> Result<Rc<Lane>, Hold> {
        if self.outbox().pending() > 0 {
            // Behind its own long replies a short one may stay; a long one must not hold up the other lane. While the
            // server limits replies, what cannot be asked again must not stay.
            let stays = !big && !self.node.big_replies.is_guarded();
            return if stays { self.current_lane() } else { Err(Hold::Wait(Wants::Pending(0))) };
        }
        (self.lane, self.on_big_lane) = (None, false);
        if big {
            let key = self.profile.session.borrow().key.clone();
            self.node = self.node();
            self.lane = self.node.lanes.obtain_big(&self.node, &key);
            self.on_big_lane = self.lane.is_some();
        }
        self.current_lane()
    }
}
