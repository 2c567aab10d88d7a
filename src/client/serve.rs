//! One client, from the moment its socket was accepted to its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::activity::Activity;
use super::connection::Client;
use super::directory::address::Address;
use super::directory::line::Transport;
use super::directory::record::ClientRecord;
use super::shared::Shared;
use crate::command::CommandId;
use crate::link::Socket;
use crate::session::{Identity, Session};
use crate::telemetry::CloseReason;
use crate::upstream::{Outbox, OutputClass};

/// A socket that was accepted, and what is known about it.
pub(crate) struct Accepted {
    pub socket: Socket,
    pub transport: Transport,
    pub address: Address,
}

impl Shared {
    /// Serves one client until it leaves.
    pub(crate) async fn serve(self: Rc<Self>, accepted: Box<Accepted>) {
        let Accepted { socket, transport, address } = *accepted;
        let (read, write) = socket.into_split();
        // The limit of a client that needs no login; whoever turns out to need one gets a smaller one.
        let limit = self.node().output_limit(OutputClass::Normal);
        let id = self.ids.next();
        // The place comes before the outbox, which knows its own index and generation: slots point to it by both (rule
        // I6).
        let outbox = self.rt.outboxes.admit(|key| Outbox::new(key, id, write, limit));
        let now = crate::base::now();
        let record = Rc::new(ClientRecord {
            outbox,
            address,
            transport,
            session: RefCell::new(Session::new(
                self.rt.config().upstream.db,
                self.rt.rules().policies.of(&Identity::Implicit),
            )),
            activity: Activity::default(),
            command: Cell::new(CommandId::OTHER),
            // Counted from here although nobody knows yet whether it must log in: who says nothing must not stay for
            // ever.
            locked_at: Cell::new(self.rt.now().max(1)),
            connected: now,
            active: Cell::new(self.rt.now()),
            // A client that was in the backlog when the drain began is served, and sent away like the others.
            departure: Cell::new(self.departure_of_newcomer()),
            received: Cell::new(0),
        });
        // Nothing may fail or wait between this and the guard below: what was entered here would stay for ever.
        self.clients.enter(&record);
        self.rt.shard.client_began();
        // From here on the client is in tables of others, and leaves them when `stay` is dropped.
        let mut stay = Stay { shared: Rc::clone(&self), record: Rc::clone(&record), end: CloseReason::Internal };
        // Dropped before `stay`.
        let mut client = Client::new(Rc::clone(&self), record, read);
        stay.end = client.run().await;
    }
}

/// What a client has of others for as long as it is served. It goes however that ends, with a panic, too.
struct Stay {
    shared: Rc<Shared>,
    record: Rc<ClientRecord>,
    /// Why the client ended. It stays `Internal` unless its task has come to an end by itself.
    end: CloseReason,
}

impl Drop for Stay {
    fn drop(&mut self) {
        // The order: first who waits for this client, then what it has of others, then the tables in which it could be
        // found.
        let Self { shared, record, end } = self;
        let (node, outbox) = (&shared.node(), &record.outbox);
        if let Some(outcome) = record.departure.get().and_then(|departure| departure.outcome(*end)) {
            node.rt.shard.handoffs[outcome].inc();
        }
        if let Some(wait) = record.activity.leaves() {
            wait.left(false); // somebody may have asked it to
        }
        node.rt.slowlog.on_client_left(outbox.id(), || record.who());
        outbox.keep_input(&node.rt.memory, 0, 0);
        outbox.release(&node.rt.buffers);
        // What nobody else hears is unsubscribed upstream by the hub (rule P10).
        if let Some(hub) = outbox.take_hub(&node.rt.buffers) {
            hub.leave(node, outbox.key());
        }
        shared.clients.leave(outbox.id());
        node.rt.outboxes.leave(outbox.key());
        node.rt.shard.client_ended(*end);
        tracing::debug!(id = outbox.id(), reason = %end, "client left");
    }
}
