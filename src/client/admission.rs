//! Whether a client may use the upstream at all: asked once, before its first command (semantics.md A4).

use std::rc::Rc;

use super::connection::{Client, Closed};
use crate::upstream::Standing;

/// What is known of a client's right to use the upstream (rule A4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nothing asked yet: the client has sent nothing.
    Unasked,
    /// The upstream could not be asked; what is in the buffer is answered "not executed".
    Unreachable,
    Unauthenticated,
    Admitted,
}

impl Client {
    /// The answer of a fresh probe serves without a wait.
    pub(super) fn admit_if_known(&mut self) -> bool {
        let up = self.up();
        let standing =
            if up.config.upstream.password.is_some() { Some(Standing::Implicit) } else { up.scratch.known() };
        match standing {
            Some(standing) => {
                self.on_standing(standing);
                true
            }
            None => false,
        }
    }

    pub(super) fn on_standing(&mut self, standing: Standing) {
        self.admission = match standing {
            Standing::Implicit => Admission::Admitted,
            Standing::Unauthenticated => Admission::Unauthenticated,
        };
    }

    pub(super) async fn admit(&mut self) -> Result<(), Closed> {
        let up = Rc::clone(self.up());
        match up.scratch.standing(&up).await {
            Ok(standing) => self.on_standing(standing),
            Err(_) => self.admission = Admission::Unreachable,
        }
        self.exhausted = false;
        Ok(())
    }
}
