//! How long a handshake may take. A server that is paused answers none, and is there: told from one that hangs by an
//! error, which servers answer in spite of a pause.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use super::dialer::{Dialed, SocketStage, greeting_cause, is_greeting};
use super::{DialError, Dialer, Link, Permit};
use crate::base::{now, since};
use crate::resp::encode;
use crate::session::RouteKey;
use crate::telemetry::ConnectError;

/// A handshake that is not answered for so long, behind an error that was, is held back. Longer where the error took
/// longer.
const HELD_AFTER: Duration = Duration::from_millis(300);

impl Dialer {
    /// Everything is held back by an upstream that lives: handshakes take as long as that lasts.
    pub fn be_patient(&self, patient: bool) {
        self.patient.set(patient);
    }

    /// Somebody waits for an answer to a handshake.
    #[must_use]
    pub fn is_shaking(&self) -> bool {
        self.shaking.get() > 0
    }

    /// As [`Dialer::dial`], when the upstream is silent: tells whether it hangs or is paused, which is a
    /// [`DialError::Unavailable`] of its own and no failure.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(super) async fn dial_suspicious(&self, permit: Permit, key: &RouteKey) -> Dialed {
        self.open(permit, key, SocketStage::Suspicious).await
    }

    pub(super) async fn shake_in_time(
        &self,
        link: &mut Link,
        key: &RouteKey,
        stage: SocketStage,
    ) -> Result<(), DialError> {
        self.shaking.set(self.shaking.get() + 1);
        let result = if stage == SocketStage::Suspicious {
            self.shake_suspiciously(link, key).await
        } else {
            self.patiently(self.shake(link, key, stage)).await
        };
        self.shaking.set(self.shaking.get() - 1);
        match result {
            Some(Err(DialError::Identity(text))) if is_greeting(&text) => {
                Err(DialError::unavailable(greeting_cause(&text), String::from_utf8_lossy(&text)))
            }
            Some(result) => result,
            None => Err(DialError::unavailable(
                ConnectError::Timeout,
                "connected, but the handshake was not answered: the upstream hangs",
            )),
        }
    }

    /// Within the time for a handshake, which stands still while the upstream is paused.
    async fn patiently<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        loop {
            match timeout(self.config().upstream.handshake_timeout, what.as_mut()).await {
                Ok(result) => return Some(result),
                Err(_) if self.patient.get() => {}
                Err(_) => return None,
            }
        }
    }

    /// An error first. `None` when not even that is answered.
    async fn shake_suspiciously(&self, link: &mut Link, key: &RouteKey) -> Option<Result<(), DialError>> {
        let began = now();
        let mut wrong = BytesMut::new();
        encode::command(&mut wrong, &["ECHO"]); // without its argument
        let answered = timeout(self.config().upstream.handshake_timeout, link.call(&wrong, 1)).await.ok()?;
        match answered {
            Err(error) => return Some(Err(DialError::io(&error))),
            Ok(replies) if replies[0].starts_with(b"-") => {
                let text = replies[0].trim_ascii_end().get(1..).unwrap_or_default().to_vec();
                if is_greeting(&text) {
                    return Some(Err(DialError::Identity(text)));
                }
            }
            Ok(_) => return Some(Err(DialError::unavailable(ConnectError::Handshake, "ECHO without text was echoed"))),
        }
        let limit = (since(began) * 4).max(HELD_AFTER);
        let shaken = timeout(limit, self.shake(link, key, SocketStage::Fresh)).await;
        Some(shaken.unwrap_or_else(|_| {
            Err(DialError::unavailable(
                ConnectError::Paused,
                "it answers errors, and holds commands back: it is paused",
            ))
        }))
    }
}

impl DialError {
    /// The upstream is paused, and lives.
    #[must_use]
    pub fn is_pause(&self) -> bool {
        matches!(self, Self::Unavailable { cause: ConnectError::Paused, .. })
    }
}
