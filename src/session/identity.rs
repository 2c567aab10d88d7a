//! Who a client is to the upstream.

use std::sync::Arc;

/// The ACL user whose connections serve a client. Clients of different identities never share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Did not log in: the upstream's default user, or the user of the upstream URL when it names one.
    #[default]
    Implicit,
    /// Proved by the upstream through AUTH or HELLO … AUTH.
    User(Arc<[u8]>),
}

impl Identity {
    /// The identity that a successful login as `name` gives.
    #[must_use]
    pub fn user(name: &[u8]) -> Self {
        Self::User(name.into())
    }

    /// The ACL user's name as far as respmux knows it.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Implicit => b"default",
            Self::User(name) => name,
        }
    }
}
