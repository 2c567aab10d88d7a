//! The attempt to log in: slower after failures, refused unseen after many (see `auth::Throttle`).

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::auth::{Attempt, Users};
use crate::client::connection::{Client, Closed};
use crate::client::error_reply;
use crate::client::identity::hello::Hello;
use crate::client::identity::login::auth_credentials;
use crate::client::pinned::Pinned;
use crate::client::request::Request;
use crate::link::Credentials;
use crate::router::Login;
use crate::session::{Identity, check_name};
use crate::telemetry::LoginResult;

/// Why nobody has looked at a login; the line for the client.
pub(in crate::client) struct Throttled(pub Vec<u8>);

impl Client {
    /// Lets the upstream judge `command`, a login as `user`.
    pub(in crate::client) async fn prove(
        &mut self,
        user: &[u8],
        command: &[u8],
    ) -> Result<Result<Vec<u8>, Throttled>, Closed> {
        let node = self.node();
        // Clients of a unix socket have no address: their failures count for the user alone.
        let source = self.source();
        if let Err(unseen) = self.may_attempt(user).await? {
            return Ok(Err(unseen));
        }
        // Others that came at the same time may have failed meanwhile: asked again when its turn has come.
        let still_may = || !matches!(node.rt.throttle.attempt(source, user, crate::base::now()), Attempt::Refused(_));
        Ok(match node.login_connection.login(&node, command, still_may).await {
            Ok(Some(reply)) => {
                self.on_judged(user, &reply);
                Ok(reply)
            }
            // Its turn had come, and by then too many others had failed: it was not sent.
            Ok(None) => Err(self.throttled(self.rt().config().auth.failures.window)),
            Err(_) => {
                // No failure of the client's: nobody has looked at the password.
                node.rt.shard.logins[LoginResult::Unavailable].inc();
                Err(Throttled(error_reply::NOT_EXECUTED.to_vec()))
            }
        })
    }

    /// Waits as long as the failures before demand.
    pub(in crate::client) async fn may_attempt(&mut self, user: &[u8]) -> Result<Result<(), Throttled>, Closed> {
        match self.rt().throttle.attempt(self.source(), user, crate::base::now()) {
            Attempt::Refused(left) => return Ok(Err(self.throttled(left))),
            Attempt::After(Duration::ZERO) => {}
            // The client is watched meanwhile: whoever gives up must not keep a place in the line.
            Attempt::After(pause) => {
                self.rt().shard.logins_delayed.inc();
                if let Ok(closed) = timeout(pause, self.watch(false)).await {
                    return Err(closed);
                }
            }
        }
        Ok(Ok(()))
    }

    /// A login as `user` was judged. Only a wrong password counts as a failure of the address.
    pub(in crate::client) fn on_judged(&self, user: &[u8], reply: &[u8]) {
        let success = !reply.starts_with(b"-");
        let result = if success { LoginResult::Ok } else { LoginResult::Failed };
        self.rt().shard.logins[result].inc();
        // -NOPERM, -BUSY and the like say nothing of the password.
        if success || reply.starts_with(b"-WRONGPASS") || reply.starts_with(b"-ERR invalid password") {
            self.rt().throttle.on_result(self.source(), user, success, crate::base::now());
        }
    }

    /// AUTH or HELLO of a client that holds a connection: the same limits before the server of that connection sees
    /// it.
    pub(in crate::client) async fn login_while_pinned(
        &mut self,
        pinned: &mut Pinned,
        request: Request,
        login: Login,
    ) -> Result<(), Closed> {
        let user = match login {
            Login::Auth => Some(auth_credentials(&request).user),
            Login::Hello => Hello::parse(&request).ok().and_then(|hello| hello.auth).map(|(user, _)| user),
        };
        // Where respmux judges logins itself, nothing of them is sent (rule A1).
        if let (Some(_), Some(_)) = (&user, &self.rt().rules().users) {
            return self.login_here_while_pinned(&request, login).await;
        }
        if let Some(user) = user
            && let Err(Throttled(line)) = self.may_attempt(&user).await?
        {
            self.reply_error(&line);
            return Ok(());
        }
        pinned.send_login(self, request, login);
        Ok(())
    }

    /// AUTH, judged by respmux.
    pub(in crate::client) async fn auth_here(&mut self, words: usize, credentials: &Credentials) -> Result<(), Closed> {
        // AUTH with a password alone, where the default user needs none: servers have a text for that.
        if words == 2 && self.rt().rules().users.as_ref().is_some_and(Users::default_is_open) {
            self.reply_error(error_reply::NO_PASSWORD_SET);
            return Ok(());
        }
        if self.judged_right(&credentials.user, &credentials.password).await? {
            self.become_user(Identity::user(&credentials.user));
            self.reply_ok();
        }
        Ok(())
    }

    /// HELLO with AUTH, judged by respmux.
    pub(in crate::client) async fn hello_here(&mut self, request: &Request, hello: &Hello) -> Result<(), Closed> {
        // Before the password: a HELLO with a bad name has not logged in, as on later servers (rule A6).
        if let Some(bad) = hello.name.as_deref().and_then(|name| check_name(name).err()) {
            self.reply_error(bad.as_bytes());
            return Ok(());
        }
        if let Some((user, password)) = &hello.auth {
            if !self.judged_right(user, password).await? {
                return Ok(());
            }
            self.become_user(Identity::user(user));
        }
        self.speak(request, hello).await
    }

    /// The connection that the client holds is that of one user.
    async fn login_here_while_pinned(&mut self, request: &Request, login: Login) -> Result<(), Closed> {
        let (user, password) = match login {
            Login::Auth => {
                let credentials = auth_credentials(request);
                (credentials.user, credentials.password)
            }
            Login::Hello => Hello::parse(request).ok().and_then(|hello| hello.auth).unwrap_or_default(),
        };
        if self.judged_right(&user, &password).await? {
            // The connection stays that of the user for whom it was lent. AUTH as the same one changes nothing, and may
            // succeed.
            let same = self.record.session.borrow().key.identity == Identity::user(&user);
            if same && login == Login::Auth {
                self.reply_ok();
            } else {
                self.reply_error(error_reply::LOGIN_WHILE_PINNED);
            }
        }
        Ok(())
    }

    /// Judges by the users of the configuration; a refusal is answered.
    async fn judged_right(&mut self, user: &[u8], password: &[u8]) -> Result<bool, Closed> {
        if let Err(Throttled(line)) = self.may_attempt(user).await? {
            self.reply_error(&line);
            return Ok(false);
        }
        // Others may have failed during the pause.
        if let Attempt::Refused(left) = self.rt().throttle.attempt(self.source(), user, crate::base::now()) {
            let Throttled(line) = self.throttled(left);
            self.reply_error(&line);
            return Ok(false);
        }
        let right = self.rt().rules().users.as_ref().is_some_and(|users| users.judge(user, password));
        // Counted for both outcomes: a success forgets the failures before it.
        self.on_judged(user, if right { b"+OK" } else { b"-WRONGPASS" });
        if !right {
            self.reply_error(error_reply::WRONG_PASSWORD);
        }
        Ok(right)
    }

    /// A login that nobody has looked at: a client that was only asked to wait stays who it was.
    pub(in crate::client) fn refuse_unseen(&self, Throttled(line): Throttled) -> Result<(), Closed> {
        if error_reply::is_for_want_of_a_connection(&line) {
            return Err(self.refuse_switch(&line));
        }
        self.reply_error(&line);
        Ok(())
    }

    /// Counted by itself: it was neither right nor wrong.
    fn throttled(&self, left: Duration) -> Throttled {
        self.rt().shard.logins[LoginResult::Throttled].inc();
        Throttled(error_reply::throttled(left))
    }

    /// The address to which failures are counted; none for unix sockets.
    fn source(&self) -> Option<IpAddr> {
        self.record.address.ip()
    }
}
