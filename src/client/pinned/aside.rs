//! What a client that holds a connection asks for and what does not run there.

use super::Pinned;
use crate::client::connection::{Client, Closed};
use crate::client::request::Request;
use crate::router::{Args, Refusal, Relay, Route};
use crate::telemetry::CloseReason;

impl Client {
    /// A command that does not run on the held connection. Everything sent before it is answered.
    pub(super) async fn aside(&mut self, pinned: &mut Pinned, request: Request, route: Route) -> Result<(), Closed> {
        match route {
            Route::Local(local) => self.answer(&request, local).await,
            Route::Hub => self.subscribe_while_pinned(pinned, request).await,
            Route::Refuse(refusal) => {
                if refusal == Refusal::InTransaction || pinned.queueing() {
                    pinned.on_refused();
                }
                self.refuse(&request, refusal);
                Ok(())
            }
            Route::Quit => {
                self.reply_ok();
                Err(Closed(CloseReason::Quit))
            }
            Route::Drop => Err(Closed(CloseReason::CrossProtocol)),
            Route::Relay(Relay::Login(login)) => self.login_while_pinned(pinned, request, login).await,
            Route::Relay(relay @ (Relay::Pause | Relay::Exec)) => self.pause_while_pinned(pinned, request, relay).await,
            Route::Lane
            | Route::Publish
            | Route::Relay(_)
            | Route::Pin(_)
            | Route::Fold
            | Route::Switch(_)
            | Route::Login(_)
            | Route::Ask => {
                unreachable!("the router sends what a held connection can carry to it ({:?})", request.nth(0))
            }
        }
    }
}
