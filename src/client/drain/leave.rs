//! The departure of one client, carried out by its task: told, waited for, closed.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;

use super::departure::{DrainTimer, sequence};
use crate::client::connection::{Client, Closed};
use crate::session::{MaintNotifications, Resp, TransactionGuard};
use crate::telemetry::CloseReason;

/// How long a client may take to notice that its connection was closed.
const LINGER: Duration = Duration::from_secs(1);

impl Client {
    /// Tells a client whose turn it is to go elsewhere; whether it must not send more before, because something is
    /// unanswered. Only here, where no connection is held: what a lent connection has of a client's state (a
    /// transaction, tracking, subscriptions) stock clients do not take along when they move.
    pub(in crate::client) fn announce(&self) -> bool {
        let Some(departure) = self.record.departure.get() else { return false };
        let now = self.rt().now();
        if !departure.is_to_be_told(now) || !self.wants_announcement() {
            return false;
        }
        // A mark is half a transaction: the client is told when it has ended it.
        if self.record.session.borrow().guard != TransactionGuard::Intact {
            return false;
        }
        // A push between two replies of a pipeline would be read in the middle of it.
        if self.outbox().pending() > 0 {
            return true;
        }
        // The number is the drain's, so that a client that hears of it on several connections acts once.
        let seq = self.shared.schedule.get().map_or_else(|| sequence(&self.rt().config()), |schedule| schedule.seq());
        self.push_moving(seq, departure.seconds_left(now));
        self.record.departure.set(Some(departure.announced()));
        false
    }

    /// Pushes exist in RESP3 only, and a client that subscribes cannot move without a loss (rule O2).
    fn wants_announcement(&self) -> bool {
        let session = self.record.session.borrow();
        session.notices != MaintNotifications::Off && session.key.resp == Resp::Three && !self.record.subscribes()
    }

    /// Ready when this is the moment to close the client; called when there is nothing to read from it. `tells`: it
    /// could be told instead.
    pub(in crate::client) fn poll_departure(&mut self, cx: &mut Context<'_>, tells: bool) -> Poll<CloseReason> {
        let Some(departure) = self.record.departure.get() else { return Poll::Pending };
        if departure.is_for_age() && self.record.subscribes() {
            self.record.departure.set(None); // it would miss messages
            return Poll::Pending;
        }
        let tells = tells && self.wants_announcement();
        loop {
            if !self.at_boundary() {
                return Poll::Pending;
            }
            let now = self.rt().now();
            let departure = departure.at(now, tells);
            self.record.departure.set(Some(departure));
            let active = self.record.active.get();
            let Some(moment) = departure.moment(now, active, self.drain_timer.as_deref()) else {
                // The loop announces it, before it reads again.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            let (until, waits) = moment;
            if now >= until {
                // Unread input is answered before the close; its reader wakes this task.
                return if self.outbox().is_silent() { Poll::Ready(departure.reason()) } else { Poll::Pending };
            }
            if !self.drain_timer.as_ref().is_some_and(|timer| timer.is_set_for(moment)) {
                self.drain_timer = Some(DrainTimer::new(until, waits, now));
            }
            if self.drain_timer.as_mut().is_some_and(|timer| timer.poll(cx).is_pending()) {
                return Poll::Pending;
            }
        }
    }

    /// Whether nothing is asked, owed or begun. A connection that the client is pinned to has its own say in that.
    fn at_boundary(&self) -> bool {
        self.carry.is_empty()
            && !self.read.is_ahead()
            && self.outbox().pending() == 0
            && self.outbox().unsent() == 0
            && self.record.session.borrow().guard == TransactionGuard::Intact
    }

    /// Closes our side and waits until the client has closed its own: were the socket closed while something unread
    /// comes in, the kernel would reset the connection, and the reset would overtake the last reply.
    pub(in crate::client) async fn close_gracefully(&mut self, reason: CloseReason) {
        // Nothing more is taken for this client; what is written already is sent.
        self.outbox().close(reason);
        self.leave_hub();
        let node = self.node();
        let mut late = false;
        let parted = async {
            poll_fn(|cx| self.outbox().poll_end(cx)).await.map_err(|_| Closed(reason))?;
            loop {
                let read = poll_fn(|cx| self.poll_chunk(cx, usize::MAX, |_, chunk, _| chunk.len()));
                match read.await? {
                    0 => return Ok::<_, Closed>(()),
                    // It crossed our end: the client must send it again elsewhere, and cannot know whether it was executed.
                    _ => late = true,
                }
            }
        };
        // A client that does not notice, or has gone already, is closed all the same.
        let _ = timeout(LINGER, parted).await;
        if late {
            node.rt.shard.close_races.inc();
        }
    }
}
