//! What makes a fresh socket a link: one batch of commands whose replies must match one by one
//! (docs/design/semantics.md 3.4).
//!
//! Greeting errors of the server (`-ERR max number of clients reached`, `-DENIED …`) arrive in place of the first
//! reply and fail the handshake, so they can never be taken for an answer to a client.

use bytes::BytesMut;

use super::decoded;
use super::keyring::Credentials;
use crate::base::bug;
use crate::resp::encode;
use crate::session::{Identity, RouteKey};

/// Everything a handshake needs besides the socket.
pub(super) struct HandshakeLogin<'a> {
    pub key: &'a RouteKey,
    pub credentials: Option<&'a Credentials>,
    /// The identity may not run SELECT: the database is selected as who is behind clients that do not log in, before
    /// the login, which leaves it as it is.
    pub select_as: Option<Option<&'a Credentials>>,
    /// CLIENT SETNAME of the link, so that operators recognise it: `respmux:<instance>:<worker>:<n>`.
    pub name: &'a str,
    /// Echoed by the last PING; proves that the replies are in step.
    pub nonce: &'a str,
}

/// Why a handshake failed although the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The server's own words, without the dash: to HELLO (who), or as a greeting.
    Identity(Vec<u8>),
    /// The server's words to SELECT, READONLY or NO-TOUCH: this client's request cannot be met.
    State(Vec<u8>),
    /// Replies that do not fit the batch: nothing on this connection can be trusted.
    OutOfStep(String),
}

/// What each reply of the batch must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandshakeStep {
    Reset,
    Hello,
    /// The login behind a SELECT.
    Auth,
    /// Not known before a login where one is required.
    Id,
    NoEvict,
    State,
    Nonce,
}

/// The batch of a handshake, and the check of its replies. Pure.
pub(super) struct Handshake {
    batch: BytesMut,
    steps: Vec<HandshakeStep>,
    nonce: String,
    /// RESP2 for an identity that is not allowed HELLO: such a connection already is what it should be.
    may_lack_hello: bool,
}

impl Handshake {
    /// Encodes the batch for `login`.
    #[must_use]
    pub(super) fn new(login: &HandshakeLogin<'_>) -> Self {
        let mut batch = BytesMut::with_capacity(256);
        let mut steps = Vec::with_capacity(8);
        let version = login.key.resp.number().to_string();
        let mut hello: Vec<&[u8]> = vec![b"HELLO", version.as_bytes()];
        if let Some(c) = login.select_as.unwrap_or(login.credentials) {
            hello.extend([b"AUTH".as_slice(), &c.user, &c.password]);
        }
        hello.extend([b"SETNAME".as_slice(), login.name.as_bytes()]);
        encode::command(&mut batch, &hello);
        encode::command(&mut batch, &["CLIENT", "NO-EVICT", "ON"]);
        steps.extend([HandshakeStep::Hello, HandshakeStep::NoEvict]);
        if login.key.db != 0 && !bug("skip_select") {
            encode::command(&mut batch, &["SELECT", &login.key.db.to_string()]);
            steps.push(HandshakeStep::State);
        }
        if let (Some(_), Some(c)) = (login.select_as, login.credentials) {
            encode::command(&mut batch, &[b"AUTH".as_slice(), &c.user, &c.password]);
            steps.push(HandshakeStep::Auth);
        }
        if login.key.readonly {
            encode::command(&mut batch, &["READONLY"]);
            steps.push(HandshakeStep::State);
        }
        if login.key.no_touch {
            encode::command(&mut batch, &["CLIENT", "NO-TOUCH", "ON"]);
            steps.push(HandshakeStep::State);
        }
        encode::command(&mut batch, &["PING", login.nonce]);
        steps.push(HandshakeStep::Nonce);
        let may_lack_hello = version == "2" && login.key.identity == Identity::Implicit && login.credentials.is_none();
        Self { batch, steps, nonce: login.nonce.to_owned(), may_lack_hello }
    }

    /// Only a RESET and a question for the id: for a connection whose identity changes with every use.
    #[must_use]
    pub(super) fn bare(name: &str) -> Self {
        let mut batch = BytesMut::with_capacity(64);
        encode::command(&mut batch, &["RESET"]);
        encode::command(&mut batch, &["CLIENT", "ID"]);
        encode::command(&mut batch, &["CLIENT", "SETNAME", name]);
        Self {
            batch,
            steps: vec![HandshakeStep::Reset, HandshakeStep::Id, HandshakeStep::NoEvict],
            nonce: String::new(),
            may_lack_hello: false,
        }
    }

    /// The bytes to send, in one write.
    #[must_use]
    pub(super) fn batch(&self) -> &[u8] {
        &self.batch
    }

    /// How many replies to read.
    #[must_use]
    pub(super) fn replies(&self) -> usize {
        self.steps.len()
    }

    /// Checks reply `index` by itself, as soon as it is there: a greeting error is followed by a close, so the
    /// other replies may never come. Returns the id that HELLO told.
    ///
    /// # Errors
    /// [`Refused`] says by whom and in which words.
    pub(super) fn check(&self, index: usize, reply: &[u8]) -> Result<Option<i64>, Refused> {
        let Some(step) = self.steps.get(index) else { return Err(Refused::OutOfStep("surplus reply".into())) };
        let error = (reply.first() == Some(&b'-')).then(|| line(reply));
        match (step, error) {
            (HandshakeStep::Reset, None) if reply == b"+RESET\r\n" => Ok(None),
            (HandshakeStep::Hello, None) => Ok(hello_id(reply)),
            (HandshakeStep::Hello, Some(text)) if self.may_lack_hello && text.starts_with(b"NOPERM") => Ok(Some(0)),
            (HandshakeStep::Reset | HandshakeStep::Hello | HandshakeStep::Auth, Some(text)) => {
                Err(Refused::Identity(text))
            }
            (HandshakeStep::Id, None) => Ok(decoded(reply).ok().and_then(|id| id.as_int())),
            (HandshakeStep::Id, Some(_)) => Ok(None),
            // Optional, and not known to every server.
            (HandshakeStep::NoEvict, _) => Ok(None),
            (HandshakeStep::State | HandshakeStep::Auth, None) if reply == b"+OK\r\n" => Ok(None),
            (HandshakeStep::State, Some(text)) => Err(Refused::State(text)),
            // The identity may not be allowed PING, or the server is busy or loading: still the right position.
            (HandshakeStep::Nonce, Some(text)) if tolerable(&text) => Ok(None),
            (HandshakeStep::Nonce, Some(text)) => Err(Refused::Identity(text)),
            (HandshakeStep::Nonce, None) if reply == bulk(&self.nonce) => Ok(None),
            (HandshakeStep::Reset | HandshakeStep::State | HandshakeStep::Auth | HandshakeStep::Nonce, None) => {
                Err(Refused::OutOfStep(format!("unexpected reply to {step:?}")))
            }
        }
    }
}

/// Errors that a PING or canary may meet at its position without meaning that the connection is out of step.
#[must_use]
pub fn tolerable(error: &[u8]) -> bool {
    [b"NOPERM".as_slice(), b"BUSY", b"LOADING", b"MASTERDOWN"].iter().any(|code| error.starts_with(code))
}

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// An error line without the dash and the line end.
fn line(reply: &[u8]) -> Vec<u8> {
    reply.strip_prefix(b"-").unwrap_or(reply).strip_suffix(b"\r\n").unwrap_or(reply).to_vec()
}

fn hello_id(reply: &[u8]) -> Option<i64> {
    decoded(reply).ok()?.field("id")?.as_int()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(key: &RouteKey) -> Handshake {
        Handshake::new(&HandshakeLogin { key, credentials: None, select_as: None, name: "respmux:1:0:1", nonce: "n-1" })
    }

    #[test]
    fn a_greeting_error_is_never_taken_for_the_reply_to_hello() {
        let key = RouteKey::fresh(Identity::Implicit, 0);
        let refused = login(&key).check(0, b"-ERR max number of clients reached\r\n");
        assert_eq!(refused, Err(Refused::Identity(b"ERR max number of clients reached".to_vec())));
    }

    #[test]
    fn the_nonce_must_be_echoed_exactly() {
        let key = RouteKey::fresh(Identity::Implicit, 0);
        let handshake = login(&key);
        assert_eq!(handshake.replies(), 3);
        assert_eq!(handshake.check(2, b"$3\r\nn-1\r\n"), Ok(None));
        assert!(matches!(handshake.check(2, b"$3\r\nn-2\r\n"), Err(Refused::OutOfStep(_))));
        assert!(matches!(handshake.check(2, b"+PONG\r\n"), Err(Refused::OutOfStep(_))));
    }

    #[test]
    fn select_must_be_answered_ok() {
        let key = RouteKey { db: 3, ..RouteKey::fresh(Identity::Implicit, 0) };
        let refused = login(&key).check(2, b"-ERR DB index is out of range\r\n");
        assert_eq!(refused, Err(Refused::State(b"ERR DB index is out of range".to_vec())));
    }
}
