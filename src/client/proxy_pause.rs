//! PROXY PAUSE: nothing is begun for clients, and what was begun comes to its end.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::client::admin_command::AdminCommand;
use crate::client::connection::{Client, Closed};
use crate::client::error_reply;
use crate::client::request::{Request, strict_integer};
use crate::client::shared::Shared;
use crate::router::Args;
use crate::telemetry::PinReason;
use crate::upstream::Wants;

/// How often a worker looks whether everything is answered.
const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Client {
    /// Waits for the end of the pause.
    pub(in crate::client) async fn resumed(&mut self) -> Result<(), Closed> {
        let node = self.node();
        self.wait_for(Wants::Nothing, |_| (!node.rt.is_paused()).then_some(())).await
    }

    /// PROXY PAUSE with its time.
    pub(in crate::client) async fn pause_all(&self, request: &Request) -> Result<(), Closed> {
        let time = match (request.count() > 2).then(|| strict_integer(request.nth(2))) {
            None => None,
            Some(Some(millis)) if millis > 0 => Some(Duration::from_millis(millis.unsigned_abs())),
            Some(_) => {
                self.reply_error(error_reply::NOT_AN_INTEGER);
                return Ok(());
            }
        };
        self.admin_command(AdminCommand::Pause(time)).await
    }
}

impl Shared {
    /// Stops starting requests of clients. `quiet` fires once nothing is in flight; it is dropped if the pause ends
    /// first.
    pub(crate) fn pause(self: &Rc<Self>, quiet: oneshot::Sender<()>) {
        // A drain waits for clients to finish; a pause would keep them from it.
        if self.draining() {
            return;
        }
        self.upstream.set_paused(true);
        let shared = Rc::clone(self);
        spawn_local(async move {
            // Polled, as most of what is waited for tells nobody of its end.
            while shared.rt.is_paused() && !quiet.is_closed() {
                if shared.busy() == 0 {
                    // Whoever asked may have left.
                    let _ = quiet.send(());
                    return;
                }
                sleep(LOOK_EVERY).await;
            }
        });
    }

    /// Clients with something under way upstream, and requests of clients that have left. Not those that are blocked,
    /// which may be for ever.
    pub(crate) fn busy(&self) -> usize {
        let mut clients = 0;
        self.clients.each(|record| {
            clients += usize::from(record.outbox.pending() > 0 || record.activity.is_under_way());
        });
        let owed: usize = self.upstream.nodes().iter().map(|node| node.in_flight()).sum();
        // Clients that wait for an answer have a slot as well: both together would count them twice.
        if clients == 0 { owed } else { clients }
    }

    /// Replaces every upstream connection. Returns how many clients keep a pinned one until they are done with it.
    pub(crate) fn reconnect(&self) -> usize {
        self.upstream.reconnect();
        let leased = |reason: &PinReason| self.rt.shard.pinned[*reason].value();
        usize::try_from(PinReason::ALL.iter().map(leased).sum::<u64>()).unwrap_or(usize::MAX)
    }
}
