//! The answers that routing can give.

use crate::command::CommandId;

/// Where a command goes of a client that is pinned to no connection. Carried out by one `match`, in
/// `client::dispatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeRoute {
    /// On the lane of the client's identity, protocol and database.
    Lane,
    /// PUBLISH: as [`FreeRoute::Lane`], with its count put right.
    Publish,
    /// Through the hub of the client's identity: a subscription, or the end of one.
    Hub,
    /// Lease a connection, then relay.
    Pin(PinReason),
    /// Waits together with the other clients that wait for the same (docs/design/semantics.md 7.2).
    WaitGroup,
    /// The command moves the client to another lane, and runs there to be confirmed.
    Switch(Switch),
    /// The upstream proves the identity on a connection of its own.
    Login(Login),
    /// CLIENT PAUSE, once everybody is ready for it.
    Pause,
    /// CLIENT UNPAUSE.
    Unpause,
    /// Answered by respmux.
    Local(Local),
    /// Refused by respmux.
    Refuse(Refusal),
    /// The command's name is not in the table: ask the upstream what it is.
    Ask,
    /// `+OK`, then close.
    Quit,
    /// Close without a word.
    Drop,
}

impl FreeRoute {
    /// Goes on the client's own lane, with what is there already.
    #[must_use]
    pub fn rides(self) -> bool {
        matches!(self, Self::Lane | Self::Publish)
    }

    /// During PROXY PAUSE this is not begun: it may reach the upstream for the client. Logins change nothing there, and
    /// without them nobody could end the pause.
    #[must_use]
    pub fn waits_for_resume(self) -> bool {
        !matches!(
            self,
            Self::Local(Local::Proxy)
                | Self::Login(_)
                | Self::Switch(Switch::Hello)
                | Self::Refuse(_)
                | Self::Quit
                | Self::Drop
        )
    }
}

/// Where a command goes of a client that is pinned to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinnedRoute {
    /// To that connection.
    Relay(Relay),
    /// Not there. Carried out by one `match`, in `client::pinned::aside`.
    Aside(Aside),
}

impl PinnedRoute {
    /// As [`FreeRoute::waits_for_resume`].
    #[must_use]
    pub fn waits_for_resume(self) -> bool {
        match self {
            Self::Relay(_) => true,
            Self::Aside(aside) => FreeRoute::from(aside).waits_for_resume(),
        }
    }
}

/// What does not run on a connection that carries the client's other commands, whether or not the client is pinned to
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    Hub,
    Login(Login),
    Local(Local),
    Refuse(Refusal),
    Quit,
    Drop,
}

impl From<Aside> for FreeRoute {
    fn from(aside: Aside) -> Self {
        match aside {
            Aside::Hub => Self::Hub,
            Aside::Login(login) => Self::Login(login),
            Aside::Local(local) => Self::Local(local),
            Aside::Refuse(refusal) => Self::Refuse(refusal),
            Aside::Quit => Self::Quit,
            Aside::Drop => Self::Drop,
        }
    }
}

/// Why a client is lent a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinReason {
    Transaction,
    Watch,
    Blocking,
    Wait,
    Subscribe,
    Monitor,
    Tracking,
    Session,
    Isolated,
    /// Must get through whatever stops the others; runs in database 0, and alone.
    OutOfBand,
    /// The server may hold it back, because it is paused.
    Paused,
    Large,
    /// No lane was free for the client's database or identity.
    Overflow,
}

/// What a relayed command means for the connection that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    Plain,
    Watch,
    Unwatch,
    Multi,
    Exec,
    Discard,
    /// Nothing behind it may be sent before it is answered.
    Blocking,
    /// WAIT and WAITAOF: behind a write of our own that makes the count sound (rule W1).
    Wait,
    Subscribe,
    Unsubscribe,
    Monitor,
    Tracking,
    Session,
    /// Leaves unknown state: the connection is reset before it serves somebody else.
    Isolated,
    /// DEBUG: nobody knows what it leaves, so the connection serves nobody else.
    Debug,
    Select,
    /// CLIENT PAUSE and UNPAUSE.
    Pause,
    /// Queued in a transaction; the element of EXEC's reply is replaced or obeyed.
    Queued(Effect),
    /// AUTH or HELLO on a connection that is the client's own.
    Login(Login),
}

/// What respmux does with an element of EXEC's reply (docs/design/semantics.md 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    ClientId,
    GetName,
    SetName,
    Select,
    /// WAIT and WAITAOF: not more than is true of all that the client wrote.
    Wait,
    /// PUBLISH, SPUBLISH, PUBSUB NUMSUB and SHARDNUMSUB: counts that are put right.
    Publish,
    ShardPublish,
    Numsub,
    ShardNumsub,
    /// CLIENT PAUSE and UNPAUSE.
    Pause,
}

/// A command whose effect is another lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Select,
    Readonly(bool),
    NoTouch,
    /// HELLO without AUTH.
    Hello,
}

/// How a client logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    Auth,
    Hello,
}

/// Commands that respmux answers itself, behind everything that the client sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    Id,
    GetName,
    SetName,
    SetInfo,
    Reply,
    NoEvict,
    GetRedir,
    TrackingInfo,
    Caching,
    Info,
    List,
    Kill,
    Unblock,
    /// CLIENT MAINT_NOTIFICATIONS.
    MaintNotifications,
    /// PUBSUB NUMSUB and SHARDNUMSUB.
    Numsub,
    /// PING of a RESP2 client with subscriptions.
    Pong,
    Reset,
    /// PROXY.
    Proxy,
    /// SCRIPT DEBUG NO: `+OK`.
    Ok,
    /// ASKING: the server's answer.
    Asking,
    /// WAIT and WAITAOF: from what the replicas have acknowledged.
    Wait,
    /// UNWATCH after a WATCH was lost: `+OK`, and the mark goes.
    Unwatch,
    /// EXEC after a MULTI was lost.
    PoisonedExec,
    /// DISCARD after a MULTI was lost.
    PoisonedDiscard,
}

/// Why respmux refuses a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server has not been told who this is (rule A5).
    NotAuthenticated,
    /// The operator forbids it to this client.
    Denied,
    /// Cannot be supported: SYNC, PSYNC, REPLCONF and relatives.
    NotSupported,
    Debug,
    Module,
    ScriptDebug,
    UnknownSubcommand,
    UnknownCommand,
    WrongArity(CommandId),
    /// RESP2 with subscriptions: only a few commands are allowed.
    Subscribed(CommandId),
    /// Inside MULTI on a lent connection: the transaction is poisoned (rule M7).
    InTransaction,
    /// A MULTI was lost: the body is not executed (rule M6).
    Poisoned,
}
