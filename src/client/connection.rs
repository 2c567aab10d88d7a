//! One client: what its task has, and why it ends. The files beside this one are what it does.

use std::cell::Cell;
use std::rc::Rc;

use bytes::BytesMut;

use super::directory::record::ClientRecord;
use super::drain::departure::DrainTimer;
use super::identity::admission_state::Admission;
use super::input::Input;
use super::last_write::LastWrite;
use super::request::Request;
use super::shared::Shared;
use crate::command::{CommandId, Lookup};
use crate::link::ReadHalf;
use crate::resp::{ProtocolError, Resume};
use crate::router::FreeRoute;
use crate::session::Resp;
use crate::telemetry::CloseReason;
use crate::upstream::{Lane, Node, Outbox, Runtime, Wants};

/// The client is to be closed; unwinds the way to [`Client::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed(pub CloseReason);

/// What the loop cannot do by itself.
pub(super) enum Step {
    /// Nobody knows yet whether this client may use the upstream.
    Admit,
    /// A request that does not ride. It has left the input.
    Command(Request, FreeRoute),
    /// What stands next in the input is no request: it is answered last, and nothing behind it is looked at.
    Invalid(ProtocolError),
    Close(CloseReason),
}

/// How far the scanner came.
pub(super) enum Flow {
    /// All whole requests were processed; what is left is the beginning of one.
    NeedMore,
    /// The next request must wait.
    Stalled(Wants),
    Step(Step),
}

/// Why a request did not ride.
pub(super) enum Halt {
    Stalled(Wants),
    Step(Step),
    /// MULTI: what follows may ride with it.
    Multi(Multi),
}

/// MULTI as it was scanned.
#[derive(Clone, Copy)]
pub(super) struct Multi {
    pub id: CommandId,
    /// Bytes of input.
    pub len: usize,
    pub canonical: bool,
}

/// One client's task.
pub(crate) struct Client {
    /// What all clients of the worker share. Set once.
    pub(super) shared: Rc<Shared>,
    /// What others may see of this client. Shared with the worker's table of clients; moved by this task.
    pub(super) record: Rc<ClientRecord>,
    /// The client's socket, behind what was read ahead from it. Moved by `read`.
    pub(super) read: Input,
    /// Input that is not processed yet; starts at the beginning of a request.
    pub(super) carry: BytesMut,
    /// How far the scanner came in a request whose end is not there yet: its next look goes on there. Moved by the
    /// scanner.
    pub(super) resume: Option<Box<Resume>>,
    /// The lane of the client's key, once something rode. Moved by `ride`; forgotten by whatever changes the key.
    pub(super) lane: Option<Rc<Lane>>,
    /// The node of `lane`; moved whenever the client gets another lane.
    pub(super) node: Rc<Node>,
    /// `lane` is the one for long replies.
    pub(super) on_long_lane: bool,
    /// Moved by `identity` alone.
    pub(super) admission: Admission,
    /// The client has closed its side and everything before that was read. Moved by `read`, and never taken back.
    pub(super) eof: bool,
    /// Commands without a login.
    /// Moved by `identity`: counted with each answer, forgotten with the login.
    pub(super) strikes: u32,
    /// Moved by whatever sends a command that may write.
    pub(super) wrote: LastWrite,
    /// A WAIT that needs a connection gets one of respmux' own user.
    /// Moved by `local::wait`, for the time of one lease.
    pub(super) wait_as_respmux: bool,
    /// Bytes of the request that is being carried out aside from the lane.
    /// Moved by `run`; `pinned` takes it back as soon as the bytes count in its own buffer.
    pub(super) kept: usize,
    /// The last look at `carry` found no whole request.
    /// Moved by `run`; whatever may leave a request in `carry` takes it back.
    pub(super) exhausted: bool,
    /// The client does not read its replies, and its requests wait until it does.
    /// Set by `read`, which counts the stall once; taken back with the first flush that leaves nothing.
    pub(super) behind: bool,
    /// When the client was last read, nanoseconds of the worker's clock: one look at the clock serves all requests of
    /// a read.
    pub(super) now: u64,
    /// Only while it is sent away.
    /// Dropped by each read: the moment for the close is counted from the last one.
    pub(super) drain_timer: Option<Box<DrainTimer>>,
    /// What had been received when the client was last looked at for another protocol's.
    pub(super) looked: Cell<u64>,
}

impl Client {
    pub(super) fn new(shared: Rc<Shared>, record: Rc<ClientRecord>, read: ReadHalf) -> Self {
        Self {
            node: shared.node(),
            shared,
            record,
            read: Input::new(read),
            carry: BytesMut::new(),
            resume: None,
            lane: None,
            on_long_lane: false,
            admission: Admission::Unasked,
            eof: false,
            strikes: 0,
            wrote: LastWrite::default(),
            wait_as_respmux: false,
            kept: 0,
            exhausted: true,
            behind: false,
            now: 0,
            drain_timer: None,
            looked: Cell::new(0),
        }
    }

    /// What the worker has.
    pub(super) fn rt(&self) -> &Rc<Runtime> {
        &self.shared.rt
    }

    /// The node that a command goes to which any node can take.
    pub(super) fn node(&self) -> Rc<Node> {
        self.shared.node()
    }

    pub(super) fn outbox(&self) -> &Rc<Outbox> {
        &self.record.outbox
    }

    pub(super) fn resp(&self) -> Resp {
        self.record.session.borrow().key.resp
    }

    /// CLIENT LIST shows this command from here on. What the table does not list has one name for all.
    pub(super) fn show_command(&self, request: &Request) {
        let known = matches!(request.lookup(), Lookup::Known(_));
        self.record.command.set(if known { request.id() } else { CommandId::OTHER });
    }

    /// `id` runs on a connection that is no lane.
    pub(super) fn note_write(&mut self, id: CommandId) {
        if self.rt().table.spec(id).write {
            self.wrote.aside(&self.shared.node());
        }
    }
}
