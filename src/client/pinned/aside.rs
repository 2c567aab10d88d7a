//! What a client that is pinned to a connection asks for and what does not run there.

use super::Pinned;
use crate::client::connection::{Client, Closed};
use crate::client::request::Request;
use crate::router::{Aside, Refusal};
use crate::telemetry::CloseReason;

impl Client {
    /// Carries out what does not run on the pinned connection. Everything sent before it is answered.
    pub(super) async fn aside(&mut self, pinned: &mut Pinned, request: Request, aside: Aside) -> Result<(), Closed> {
        match aside {
            Aside::Local(local) => self.answer(&request, local).await,
            Aside::Hub => self.subscribe_while_pinned(pinned, request).await,
            Aside::Login(login) => self.login_while_pinned(pinned, request, login).await,
            Aside::Refuse(refusal) => {
                // EXEC must not run a body of which a part was refused here: the server has not seen that part.
                if refusal == Refusal::InTransaction || pinned.queueing() {
                    pinned.on_refused();
                }
                // The mark before the answer: an EXEC may be behind this in the input.
                self.refuse(&request, refusal).await;
                Ok(())
            }
            Aside::Quit => {
                self.reply_ok();
                Err(Closed(CloseReason::Quit))
            }
            Aside::Drop => Err(Closed(CloseReason::CrossProtocol)),
        }
    }
}
