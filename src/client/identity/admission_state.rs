//! Whether a client may use the upstream at all, as far as that is known. Moved by `admission` alone.

/// What is known of a client's right to use the upstream (rule A4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) enum Admission {
    /// The upstream was not asked yet, because the client has sent nothing.
    Unasked,
    /// The upstream could not be asked; what is in the buffer is answered "not executed".
    Unreachable,
    Unauthenticated,
    Admitted,
}

impl Admission {
    /// The admission in a word, for people.
    pub(in crate::client) fn word(self) -> &'static str {
        match self {
            Self::Unasked | Self::Unreachable => "not known yet",
            Self::Unauthenticated => "needed",
            Self::Admitted => "done or not needed",
        }
    }
}
