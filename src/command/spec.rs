//! What one command or subcommand means to a multiplexer.

use super::family::Family;
use super::reply_mask::Replies;

/// Position of a command in the [`CommandTable`](super::CommandTable); the value that travels in slots and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommandId(pub u16);

impl CommandId {
    /// Stands for every command that the table does not list.
    pub const OTHER: Self = Self(0);
    /// A question of respmux' own: no row, and not counted as a client's command.
    pub const OURS: Self = Self(u16::MAX);
}

/// Whether a server that is paused for writes holds a command back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pausing {
    Never,
    Always,
    /// By the flags of a script or function, which the server knows.
    ByFlags,
}

/// Latency class: the label of the duration histograms (docs/design/operations.md 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyKind {
    Read,
    Write,
    Blocking,
    Pubsub,
    Script,
    Transaction,
    Admin,
    Other,
}

/// What a command does to connection state, decided once when the table is loaded. After routing nobody looks at
/// the command's name again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Leaves no state behind and never waits: may ride a lane.
    Plain,
    /// XREAD and XREADGROUP: plain without BLOCK.
    StreamRead,
    /// Waits on the server, then answers once.
    Blocking,
    /// Waits for an element, and has a form that does not wait: BLPOP and its relatives.
    BlockingPop,
    /// WAIT and WAITAOF: blocking, and counts this connection's writes.
    Wait,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Subscribe,
    Unsubscribe,
    /// PUBLISH and SPUBLISH: plain, but their counts are put right.
    Publish,
    /// PUBSUB NUMSUB and SHARDNUMSUB: the same.
    Numsub,
    Monitor,
    /// Must not sit behind other commands of a lane, or leaves unknown state: own connection, then reset.
    Isolated,
    /// Must get through while a script or a pause stops everybody else, and knows no database: own connection, in
    /// database 0, because the way to another is a SELECT, which is refused then.
    OutOfBand,
    /// CLIENT PAUSE: respmux holds at the clients what the server holds back then.
    Pause,
    /// CLIENT UNPAUSE: must get through while a pause of writes stops others.
    Unpause,
    /// Leaves state that only RESET or close removes (HIMPORT, CLIENT CAPA, CLIENT IMPORT-SOURCE).
    Session,
    /// CLIENT TRACKING.
    Tracking,
    Select,
    Readonly,
    Readwrite,
    NoTouch,
    Asking,
    Auth,
    Hello,
    Reset,
    Quit,
    /// `POST` and `Host:`: an HTTP request that strayed here.
    CrossProtocol,
    ClientId,
    ClientGetName,
    ClientSetName,
    ClientSetInfo,
    ClientReply,
    ClientNoEvict,
    ClientGetRedir,
    ClientTrackingInfo,
    ClientCaching,
    ClientInfo,
    ClientList,
    ClientKill,
    ClientUnblock,
    /// CLIENT MAINT_NOTIFICATIONS: respmux' own to give, never a lane's.
    ClientNotices,
    /// A CLIENT subcommand that this table does not know or that must not be forwarded.
    ClientUnknown,
    /// SYNC and its relatives.
    NotSupported,
    /// Questions to respmux itself.
    Proxy,
    Debug,
    Module,
    ScriptDebug,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Upper case, subcommands joined by a space: `CLIENT LIST`.
    pub name: String,
    pub op: Op,
    pub kind: LatencyKind,
    /// As the server counts it: negative is a minimum, the name included. 0 when unknown.
    pub arity: i16,
    pub write: bool,
    /// A read that may be sent again after it was written: it changes nothing (rule K1).
    pub retry: bool,
    /// Changes limits of the server, or rights, that respmux must know.
    pub reconfigures: bool,
    /// May stand in a transaction that rides a lane whole (rule M1).
    pub in_unit: bool,
    /// CLIENT PAUSE WRITE holds it back.
    pub pausing: Pausing,
    /// What the command names when it is about subscriptions; [`Family::Channel`] for all others.
    pub family: Family,
    /// A RESP2 client with subscriptions may send it, and gets the answer as if it were a message: PING.
    pub ping: bool,
    /// Has subcommands of its own in the table.
    pub container: bool,
    /// What a subcommand is that the table does not list.
    pub unlisted: Op,
    /// What a reply to it can be.
    pub replies: Replies,
    /// A bit for each [`Policy`](super::Policy) that forbids it.
    pub denied: u32,
}

impl Spec {
    /// Whether `argc` arguments (the name included) satisfy the arity. Unknown arities accept everything.
    #[must_use]
    pub fn arity_fits(&self, argc: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        match self.arity {
            0 => true,
            n if n > 0 => argc == wanted,
            _ => argc >= wanted,
        }
    }

    /// The name as servers print it in errors: lower case, `client|list`.
    #[must_use]
    pub fn full_name(&self) -> String {
        self.name.to_ascii_lowercase().replace(' ', "|")
    }
}

impl Spec {
    /// A read that may be asked again, whose reply may be of any length.
    #[must_use]
    pub fn reads_at_length(&self) -> bool {
        self.retry && b"$*%~=".iter().any(|byte| self.replies.either().allows(*byte))
    }
}
