//! What a held connection still has to answer.

use bytes::BytesMut;

use crate::client::identity::hello::Hello;
use crate::command::CommandId;
use crate::link::Credentials;
use crate::router::{Effect, PauseChange, Relay};
use crate::session::Tracked;

/// One request that has no reply yet.
pub(super) struct Expect {
    pub relay: Relay,
    pub payload: Payload,
    /// The client wanted no reply to it.
    pub suppressed: bool,
    /// The client's own PUBLISH, or an EXEC that may hold one: its messages wait for this reply (rule P7).
    pub own: bool,
    pub id: CommandId,
    /// When it was sent, nanoseconds of the worker's clock.
    pub at: u64,
    /// When it was asked for: before, if its client had to wait for the connection.
    pub asked: u64,
    pub arguments: u32,
    pub bytes: u64,
}

/// What its reply must be combined with.
pub(super) enum Payload {
    None,
    /// Text of a command queued in MULTI that changes virtual state.
    Effect(Effect, Vec<u8>),
    /// DISCARD was sent in place of EXEC: the client gets nil, or that the transaction was aborted.
    Nil,
    Abort,
    /// WAIT, sent when the bump before it has been answered.
    Wait(BytesMut),
    /// PUBLISH: this is added to the count.
    Publish(i64),
    Select(u32),
    /// What it changes if the server accepts it.
    Pause(PauseChange),
    Tracking(bool),
    Auth(Credentials),
    Hello(Hello),
}

/// A queued command whose element in EXEC's reply concerns respmux.
pub(super) struct Queued {
    pub index: u32,
    pub effect: Effect,
    pub text: Vec<u8>,
}

impl Expect {
    /// The server may take as long as it likes.
    pub(super) fn blocks(&self) -> bool {
        matches!(self.relay, Relay::Blocking | Relay::Wait)
    }

    /// Whatever becomes of it, nothing of the client's is on the connection afterwards.
    pub(super) fn leaves_nothing(&self) -> bool {
        matches!(self.relay, Relay::Plain | Relay::Isolated | Relay::Debug | Relay::Pause)
    }

    /// How the next request is routed depends on this answer.
    pub(super) fn is_barrier(&self) -> bool {
        match self.relay {
            Relay::Plain
            | Relay::Watch
            | Relay::Unwatch
            | Relay::Queued(_)
            | Relay::Session
            | Relay::Isolated
            | Relay::Debug
            | Relay::Pause => false,
            Relay::Multi
            | Relay::Exec
            | Relay::Discard
            | Relay::Blocking
            | Relay::Wait
            | Relay::Subscribe
            | Relay::Unsubscribe
            | Relay::Monitor
            | Relay::Tracking
            | Relay::Select
            | Relay::Login(_) => true,
        }
    }

    /// What it does to the transaction state.
    pub(super) fn tracked(&self) -> Tracked {
        match self.relay {
            Relay::Watch => Tracked::Watch,
            Relay::Unwatch => Tracked::Unwatch,
            Relay::Multi => Tracked::Multi,
            Relay::Exec => Tracked::Exec,
            Relay::Discard => Tracked::Discard,
            _ => Tracked::Other,
        }
    }
}
