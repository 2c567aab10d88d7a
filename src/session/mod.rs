//! What respmux remembers about a client: who it is, its database and protocol, which replies it wants, its name, the
//! state of its transaction and its subscriptions.
//!
//! Owns these values and how commands and replies change them; the client's task holds one [`Session`] and moves it.
//! Pure data: no I/O, no clock. `router` reads it, `upstream` uses [`RouteKey`], `client` changes it.

mod identity;
mod names;
mod subscription;
mod transaction;

use crate::command::Policy;

pub use crate::command::Family;
pub use identity::Identity;
pub use names::{Flavour, check_info_value, check_name};
pub use subscription::Subscribed;
pub use transaction::{ReplyShape, Tracked, Transaction};

/// Protocol version of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resp {
    #[default]
    Two,
    Three,
}

impl Resp {
    /// The number that HELLO takes and reports.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// Everything that makes two upstream connections interchangeable (rule L1). Fixed in a handshake, never changed on a
/// live lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    pub identity: Identity,
    pub resp: Resp,
    pub db: u32,
    pub readonly: bool,
    pub no_touch: bool,
}

impl RouteKey {
    /// What a new connection of `identity` starts as, like a real one: RESP2, database `db`.
    #[must_use]
    pub fn fresh(identity: Identity, db: u32) -> Self {
        Self { identity, resp: Resp::Two, db, readonly: false, no_touch: false }
    }
}

/// CLIENT REPLY: which replies the client wants (rule F5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    #[default]
    On,
    Off,
    /// The reply of the next command is dropped.
    SkipNext,
    /// No replies: the peer turned out to be no client of a server and will be closed. Nothing changes that.
    Never,
}

/// Whether the client may run its transaction commands. The marks keep a client that ignores errors from running
/// its body unguarded after a failure that respmux made itself (rule M6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionGuard {
    #[default]
    Intact,
    /// A WATCH was lost: the next transaction must not execute, its EXEC is nil.
    WatchBroken,
    /// A MULTI was lost: the body is refused, EXEC is EXECABORT.
    Poisoned,
}

/// CLIENT MAINT_NOTIFICATIONS: what the client wants to hear before it is sent away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaintNotifications {
    #[default]
    Off,
    /// The client wants to hear that it is to go, and where.
    Address,
    /// The client wants to hear that it is to connect anew, to the address that it has.
    NoAddress,
}

/// The virtual connection state of one client.
#[derive(Debug)]
pub struct Session {
    pub key: RouteKey,
    pub reply: ReplyMode,
    pub guard: TransactionGuard,
    pub notices: MaintNotifications,
    /// Which commands are forbidden to it.
    pub policy: Policy,
    /// Name and library facts are rare enough to cost one pointer when absent.
    pub labels: Option<Box<Labels>>,
}

/// What a client said about itself.
#[derive(Debug, Default, Clone)]
pub struct Labels {
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
}

impl Session {
    /// A new client of the identity that does not log in; `policy` is that of this identity.
    #[must_use]
    pub fn new(db: u32, policy: Policy) -> Self {
        Self {
            key: RouteKey::fresh(Identity::Implicit, db),
            reply: ReplyMode::On,
            guard: TransactionGuard::Intact,
            notices: MaintNotifications::Off,
            policy,
            labels: None,
        }
    }

    /// The client's labels, for writing.
    pub fn labels_mut(&mut self) -> &mut Labels {
        self.labels.get_or_insert_with(Box::default)
    }

    /// The name given with CLIENT SETNAME; empty when none.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.labels.as_ref().map_or(&[], |l| &l.name)
    }

    /// Takes the decision of CLIENT REPLY for the command that is about to be answered: `true` drops its reply.
    #[inline]
    pub fn take_suppressed(&mut self) -> bool {
        let suppressed = self.reply != ReplyMode::On;
        if self.reply == ReplyMode::SkipNext {
            self.reply = ReplyMode::On;
        }
        suppressed
    }

    /// RESET: everything but the library's name and version goes back to a new connection's state (rule A8).
    pub fn on_reset(&mut self, db: u32, policy: Policy) {
        self.policy = policy;
        self.key = RouteKey::fresh(Identity::Implicit, db);
        if self.reply != ReplyMode::Never {
            self.reply = ReplyMode::On;
        }
        self.guard = TransactionGuard::Intact;
        self.notices = MaintNotifications::Off;
        if let Some(labels) = &mut self.labels {
            labels.name.clear();
        }
    }
}
