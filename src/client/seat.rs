//! Which lane a client's next request takes.

use std::rc::Rc;

use super::connection::Client;
use crate::upstream::{Lane, Question, Wants};

/// Why a request cannot ride now.
pub(super) enum Hold {
    Wait(Wants),
    /// The budget has no lane for this key: the pool carries the command.
    NoLane,
}

impl Client {
    /// The lane of the client's key. It may be another one than before only when nothing is unanswered (I2).
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
        let lane = self.up().lanes.obtain(self.up(), &key).map_err(|_| Hold::NoLane)?;
        self.lane = Some(Rc::clone(&lane));
        Ok(lane)
    }

    /// As [`Client::current_lane`], but a question that had a long reply lately goes over the lane for those.
    #[inline]
    pub(super) fn lane_for(&mut self, question: Question) -> Result<Rc<Lane>, Hold> {
        let big = self.up().big_replies.knows(question);
        if big == self.on_big_lane {
            return self.current_lane();
        }
        self.change_lane(big)
    }

    fn change_lane(&mut self, big: bool) -> Result<Rc<Lane>, Hold> {
        if self.outbox().pending() > 0 {
            // Behind its own long replies a short one may stay; a long one must not hold up the other lane.
            return if big { Err(Hold::Wait(Wants::Pending(0))) } else { self.current_lane() };
        }
        (self.lane, self.on_big_lane) = (None, false);
        if big {
            let key = self.profile.session.borrow().key.clone();
            self.lane = self.up().lanes.obtain_big(self.up(), &key);
            self.on_big_lane = self.lane.is_some();
        }
        self.current_lane()
    }
}
