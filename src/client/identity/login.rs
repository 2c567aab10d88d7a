//! AUTH, HELLO and RESET: who the client is, proved by the upstream and by nothing else (rule A1).

use bytes::BytesMut;

use crate::client::connection::{Client, Closed};
use crate::client::error_reply;
use crate::client::identity::admission_state::Admission;
use crate::client::identity::hello::{Hello, patch_id};
use crate::command::cut_at_nul;
use crate::link::Credentials;
use crate::resp::encode;
use crate::router::{Args, Login};
use crate::session::{Identity, Resp, RouteKey, check_name};
use crate::upstream::Answer;

use crate::client::request::{Request, strict_integer};

impl Client {
    /// AUTH, or HELLO with AUTH: the command itself runs on a connection that has just been reset.
    pub(in crate::client) async fn login(&mut self, request: Request, login: Login) -> Result<(), Closed> {
        match login {
            Login::Auth => self.auth(&request).await,
            Login::Hello => self.hello_with_auth(&request).await,
        }
    }

    async fn auth(&mut self, request: &Request) -> Result<(), Closed> {
        let credentials = auth_credentials(request);
        // Users of the configuration are judged here; the server does not know them.
        if self.rt().rules().users.is_some() {
            return self.auth_here(request.count(), &credentials).await;
        }
        // The client's own words, right or wrong: how AUTH is judged is the server's matter (rule A1).
        match self.prove(&credentials.user, request.raw()).await? {
            Ok(reply) => {
                if reply == b"+OK\r\n" {
                    self.on_login(credentials);
                }
                self.reply(&reply);
            }
            Err(unseen) => return self.refuse_unseen(unseen),
        }
        Ok(())
    }

    /// The upstream has accepted these credentials: the client is that user now (rule A2: a failure changes
    /// nothing).
    pub(in crate::client) fn on_login(&mut self, credentials: Credentials) {
        let identity = Identity::user(&credentials.user);
        // The keyring first: the lane that the next request opens logs in with what is there (rule A7).
        self.rt().keyring.on_verified(&identity, credentials);
        self.become_user(identity);
    }

    /// The client is this user from here on.
    pub(in crate::client) fn become_user(&mut self, identity: Identity) {
        let key = RouteKey { identity, ..self.record.session.borrow().key.clone() };
        // Admitted before it is somebody: the limit of a client without a login ends first.
        self.on_admitted();
        // What the operator forbids differs by user. Routing reads it from the session, so it moves with the identity.
        self.record.session.borrow_mut().policy = self.rt().rules().policies.of(&key.identity);
        self.adopt(key);
    }

    async fn hello_with_auth(&mut self, request: &Request) -> Result<(), Closed> {
        // What every server refuses in the same words costs no round trip.
        let Some(hello) = self.checked_hello(request) else { return Ok(()) };
        if self.rt().rules().users.is_some() {
            return self.hello_here(request, &hello).await;
        }
        // The name is judged before anything is sent. Whether a server would log in by then depends on its version
        // (rule A6).
        if let Some(bad) = hello.name.as_deref().and_then(|name| check_name(name).err()) {
            return self.hello_with_bad_name(&hello, bad).await;
        }
        let user = hello.auth.as_ref().map_or(b"default".as_slice(), |(user, _)| user);
        let reply = match self.prove(user, request.raw()).await? {
            Ok(reply) => reply,
            Err(unseen) => return self.refuse_unseen(unseen),
        };
        // A HELLO that failed has changed nothing: not the protocol, not the name, not the user (rule A2).
        if reply.starts_with(b"-") {
            self.reply(&reply);
            return Ok(());
        }
        if let Some((user, password)) = hello.auth.clone() {
            self.on_login(Credentials { user, password });
        }
        self.on_hello(&hello);
        self.reply(&patch_id(&reply, self.outbox().id()));
        Ok(())
    }

    /// Redis 7.0 answers the error but has logged in; later servers have not (rule A6).
    async fn hello_with_bad_name(&mut self, hello: &Hello, error: &'static str) -> Result<(), Closed> {
        let node = self.node();
        if let Some((user, password)) = hello.auth.clone()
            && !node.control.known_flavour().await.hello_checks_name_first()
        {
            // Old servers log in before they look at the name. AUTH alone does the same, and changes nothing else.
            let mut auth = BytesMut::new();
            encode::command(&mut auth, &[b"AUTH".as_slice(), &user, &password]);
            match self.prove(&user, &auth).await? {
                Ok(reply) if reply == b"+OK\r\n" => self.on_login(Credentials { user, password }),
                Ok(reply) => {
                    self.reply(&reply);
                    return Ok(());
                }
                Err(unseen) => return self.refuse_unseen(unseen),
            }
        }
        self.reply_error(error.as_bytes());
        Ok(())
    }

    /// HELLO without AUTH: the confirming command runs on a lane that speaks that protocol already.
    pub(in crate::client) async fn hello(&mut self, request: &Request) -> Result<(), Closed> {
        let Some(hello) = self.checked_hello(request) else { return Ok(()) };
        if self.admission == Admission::Unauthenticated && self.rt().rules().users.is_some() {
            self.reply_error(error_reply::HELLO_NOAUTH);
            return Ok(());
        }
        if self.admission == Admission::Unauthenticated {
            // The wording differs over versions: the server's own.
            let node = self.node();
            match node.login_connection.run(&node, request.raw()).await {
                Ok(reply) => self.reply(&patch_id(&reply, self.outbox().id())),
                Err(_) => return Err(self.refuse_switch(error_reply::NOT_EXECUTED)),
            }
            return Ok(());
        }
        if let Some(bad) = hello.name.as_deref().and_then(|name| check_name(name).err()) {
            self.reply_error(bad.as_bytes());
            return Ok(());
        }
        self.speak(request, &hello).await
    }

    /// A HELLO that is in order, but for what the upstream thinks of it. Nothing of its AUTH is sent.
    pub(in crate::client) async fn speak(&mut self, request: &Request, hello: &Hello) -> Result<(), Closed> {
        let mut key = self.record.session.borrow().key.clone();
        // A copy: the client's own key changes when the server has said yes.
        key.resp = wanted(hello, key.resp);
        let mut probe = BytesMut::new();
        match &hello.version {
            Some(version) => encode::command(&mut probe, &[b"HELLO".as_slice(), version]),
            None => encode::command(&mut probe, &["HELLO"]),
        }
        match self.confirm_bytes_on(&key, request.id(), &probe).await? {
            Answer::Reply(frame) if !frame.starts_with(b"-") => {
                self.adopt(key);
                self.on_hello(hello);
                self.reply(&patch_id(&frame, self.outbox().id()));
            }
            answer => drop(self.pass_on_switch(answer)?),
        }
        Ok(())
    }

    /// The options, or the answer that a server gives to bad ones.
    /// The version is judged before the options, in the order in which servers do it (rule A6).
    pub(in crate::client) fn checked_hello(&self, request: &Request) -> Option<Hello> {
        if request.count() > 1 {
            let error = match strict_integer(request.nth(1)) {
                None => Some(error_reply::BAD_PROTOCOL_VERSION),
                Some(2 | 3) => None,
                Some(_) => Some(error_reply::NO_PROTOCOL),
            };
            if let Some(line) = error {
                self.reply_error(line);
                return None;
            }
        }
        match Hello::parse(request) {
            Ok(hello) => Some(hello),
            Err(option) => {
                let mut line = b"ERR Syntax error in HELLO option '".to_vec();
                line.extend_from_slice(cut_at_nul(&option));
                line.push(b'\'');
                self.reply_error(&line);
                None
            }
        }
    }

    /// A HELLO has succeeded: its protocol and name count.
    pub(in crate::client) fn on_hello(&mut self, hello: &Hello) {
        {
            let mut session = self.record.session.borrow_mut();
            session.key.resp = wanted(hello, session.key.resp);
            if let Some(name) = &hello.name {
                session.labels_mut().name.clone_from(name);
            }
        }
        // Messages that come from now on are written in the other protocol.
        if let Some(hub) = self.outbox().hub() {
            hub.speaks(self.outbox().key(), self.resp());
        }
        // A lane speaks one protocol (rule L1): the next request finds another.
        (self.lane, self.on_long_lane) = (None, false);
    }

    /// RESET: a new connection in all but its socket; the default user is asked for again (rule A8).
    pub(in crate::client) async fn reset(&mut self) -> Result<(), Closed> {
        // First of all: a message must not come behind +RESET.
        self.leave_hub();
        {
            let mut session = self.record.session.borrow_mut();
            let policy = self.rt().rules().policies.of(&Identity::Implicit);
            session.on_reset(self.rt().config().upstream.db, policy);
        }
        // What RESET forgets differs over versions, and clients may count on either.
        let server = self.node().control.known_flavour().await;
        if server.valkey || (server.major, server.minor) >= (7, 2) {
            self.outbox().set_no_evict(false); // earlier ones forget to
        }
        (self.lane, self.on_long_lane) = (None, false);
        // Admitted as a client that has just come: the default user may have got a password since (rule A4).
        self.on_unasked();
        self.reply(b"+RESET\r\n");
        Ok(())
    }
}

/// HELLO without a version keeps the protocol (rule A6). Any version but 2 and 3 was refused before.
fn wanted(hello: &Hello, now: Resp) -> Resp {
    match hello.version.as_deref() {
        Some(b"3") => Resp::Three,
        Some(_) => Resp::Two,
        None => now,
    }
}

/// `AUTH password` is for the default user.
pub(in crate::client) fn auth_credentials(request: &Request) -> Credentials {
    if request.count() > 2 {
        Credentials { user: request.nth(1).to_vec(), password: request.nth(2).to_vec() }
    } else {
        Credentials { user: b"default".to_vec(), password: request.nth(1).to_vec() }
    }
}
