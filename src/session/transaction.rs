//! The transaction state of a connection lent to one client, followed from the replies (rule M3).
//!
//! ```text
//!            WATCH +OK                MULTI +OK
//!   Clean ──────────────▶ Watching ─────────────▶ Queueing
//!     ▲  ◀── UNWATCH +OK ────┘                       │
//!     │             MULTI +OK (from Clean too)       │
//!     └──────── EXEC: any reply · DISCARD +OK ───────┘
//! ```

/// What a request on a lent connection may do to its state; the reply decides whether it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    Watch,
    Unwatch,
    Multi,
    Exec,
    Discard,
    /// Any other command: queued while in MULTI.
    Other,
}

/// The part of a reply that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyShape {
    Error,
    Ok,
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TransactionState {
    #[default]
    Clean,
    Watching,
    Queueing {
        watching: bool,
        /// A queued command was refused, or respmux refused one: EXEC will abort.
        aborted: bool,
        queued: u32,
    },
}

/// Follows one lent connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transaction {
    state: TransactionState,
}

impl Transaction {
    /// The upstream answered `request`.
    pub fn on_reply(&mut self, request: Tracked, reply: ReplyShape) {
        self.state = match (self.state, request, reply) {
            (TransactionState::Clean, Tracked::Watch, ReplyShape::Ok) => TransactionState::Watching,
            (TransactionState::Watching, Tracked::Unwatch, ReplyShape::Ok) => TransactionState::Clean,
            (TransactionState::Clean | TransactionState::Watching, Tracked::Multi, ReplyShape::Ok) => {
                TransactionState::Queueing {
                    watching: self.state == TransactionState::Watching,
                    aborted: false,
                    queued: 0,
                }
            }
            (TransactionState::Queueing { .. }, Tracked::Exec, _)
            | (TransactionState::Queueing { .. }, Tracked::Discard, ReplyShape::Ok) => TransactionState::Clean,
            // Nested MULTI and WATCH are refused but never queued; on Redis the transaction goes on, on Valkey
            // EXEC aborts. Either way the server decides at EXEC.
            (TransactionState::Queueing { watching, queued, .. }, _, ReplyShape::Error) => {
                TransactionState::Queueing { watching, aborted: true, queued }
            }
            (TransactionState::Queueing { watching, aborted, queued }, _, _) => {
                TransactionState::Queueing { watching, aborted, queued: queued + 1 }
            }
            (state @ (TransactionState::Clean | TransactionState::Watching), _, _) => state,
        };
    }

    /// respmux itself refused a command of the body (rule M7).
    pub fn on_refused(&mut self) {
        if let TransactionState::Queueing { aborted, .. } = &mut self.state {
            *aborted = true;
        }
    }

    /// MULTI was answered and neither EXEC nor DISCARD.
    #[must_use]
    pub fn queueing(&self) -> bool {
        matches!(self.state, TransactionState::Queueing { .. })
    }

    /// A command of the body was refused.
    #[must_use]
    pub fn aborted(&self) -> bool {
        matches!(self.state, TransactionState::Queueing { aborted: true, .. })
    }

    /// How many commands EXEC will run.
    #[must_use]
    pub fn queued(&self) -> u32 {
        if let TransactionState::Queueing { queued, .. } = self.state { queued } else { 0 }
    }

    /// Watches are set (also while queueing).
    #[must_use]
    pub fn watching(&self) -> bool {
        matches!(self.state, TransactionState::Watching | TransactionState::Queueing { watching: true, .. })
    }

    /// Nothing remains that the next user of the connection could notice.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.state == TransactionState::Clean
    }
}

#[cfg(test)]
mod tests {
    use super::{ReplyShape, Tracked, Transaction};

    fn after(steps: &[(Tracked, ReplyShape)]) -> Transaction {
        let mut transaction = Transaction::default();
        for (request, reply) in steps {
            transaction.on_reply(*request, *reply);
        }
        transaction
    }

    #[test]
    fn any_exec_reply_in_multi_ends_it_and_its_watches() {
        for reply in [ReplyShape::Ok, ReplyShape::Error, ReplyShape::Other] {
            let steps = [(Tracked::Watch, ReplyShape::Ok), (Tracked::Multi, ReplyShape::Ok), (Tracked::Exec, reply)];
            assert!(after(&steps).clean());
        }
    }

    #[test]
    fn errors_outside_multi_change_nothing() {
        assert!(after(&[(Tracked::Multi, ReplyShape::Error)]).clean());
        let watching = after(&[
            (Tracked::Watch, ReplyShape::Ok),
            (Tracked::Exec, ReplyShape::Error),
            (Tracked::Discard, ReplyShape::Error),
        ]);
        assert!(watching.watching() && !watching.clean());
    }

    #[test]
    fn discard_with_an_error_stays_in_multi_and_aborts() {
        let state = after(&[(Tracked::Multi, ReplyShape::Ok), (Tracked::Discard, ReplyShape::Error)]);
        assert!(state.queueing() && state.aborted());
    }

    #[test]
    fn unwatch_inside_multi_is_queued_not_obeyed() {
        let state = after(&[
            (Tracked::Watch, ReplyShape::Ok),
            (Tracked::Multi, ReplyShape::Ok),
            (Tracked::Unwatch, ReplyShape::Other),
        ]);
        assert!(state.watching() && state.queued() == 1);
    }
}
