//! The attempt to log in: slower after failures, refused unseen after many (see `auth::Throttle`).

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::connection::{Client, Closed};
use super::error_reply;
use super::held::Held;
use super::hello::Hello;
use super::login::auth_credentials;
use super::request::Request;
use crate::auth::Attempt;
use crate::router::Login;
use crate::telemetry::LoginResult;

/// Why nobody has looked at a login; the line for the client.
pub(super) struct Unseen(pub Vec<u8>);

impl Client {
    /// Lets the upstream judge `command`, a login as `user`.
    pub(super) async fn prove(&mut self, user: &[u8], command: &[u8]) -> Result<Result<Vec<u8>, Unseen>, Closed> {
        let up = Rc::clone(self.up());
        let source = self.source();
        if let Err(unseen) = self.may_attempt(user).await? {
            return Ok(Err(unseen));
        }
        // Others that came at the same time may have failed meanwhile: asked again when its turn has come.
        let still_may = || !matches!(up.throttle.attempt(source, user, Instant::now()), Attempt::Refused(_));
        Ok(match up.scratch.login(&up, command, still_may).await {
            Ok(Some(reply)) => {
                self.on_judged(user, &reply);
                Ok(reply)
            }
            Ok(None) => Err(self.throttled(self.up().config.auth.failures.window)),
            Err(_) => {
                up.shard.logins[LoginResult::Unavailable].inc();
                Err(Unseen(error_reply::NOT_EXECUTED.to_vec()))
            }
        })
    }

    /// Waits as long as the failures before demand.
    pub(super) async fn may_attempt(&mut self, user: &[u8]) -> Result<Result<(), Unseen>, Closed> {
        match self.up().throttle.attempt(self.source(), user, Instant::now()) {
            Attempt::Refused(left) => return Ok(Err(self.throttled(left))),
            Attempt::After(Duration::ZERO) => {}
            Attempt::After(pause) => {
                self.up().shard.logins_delayed.inc();
                if let Ok(closed) = timeout(pause, self.watch(false)).await {
                    return Err(closed);
                }
            }
        }
        Ok(Ok(()))
    }

    /// A login as `user` was judged. Only a wrong password counts as a failure of the address.
    pub(super) fn on_judged(&self, user: &[u8], reply: &[u8]) {
        let success = !reply.starts_with(b"-");
        let result = if success { LoginResult::Ok } else { LoginResult::Failed };
        self.up().shard.logins[result].inc();
        if success || reply.starts_with(b"-WRONGPASS") || reply.starts_with(b"-ERR invalid password") {
            self.up().throttle.on_result(self.source(), user, success, Instant::now());
        }
    }

    /// AUTH or HELLO of a client that holds a connection: the same limits before the server of that connection sees
    /// it.
    pub(super) async fn login_on_held(
        &mut self,
        held: &mut Held,
        request: Request,
        login: Login,
    ) -> Result<(), Closed> {
        let user = match login {
            Login::Auth => Some(auth_credentials(&request).user),
            Login::Hello => Hello::parse(&request).ok().and_then(|hello| hello.auth).map(|(user, _)| user),
        };
        if let Some(user) = user
            && let Err(Unseen(line)) = self.may_attempt(&user).await?
        {
            self.reply_error(&line);
            return Ok(());
        }
        held.send_login(self, request, login);
        Ok(())
    }

    fn throttled(&self, left: Duration) -> Unseen {
        self.up().shard.logins[LoginResult::Throttled].inc();
        Unseen(error_reply::throttled(left))
    }

    /// The address to which failures are counted; none for unix sockets.
    fn source(&self) -> Option<IpAddr> {
        self.profile.addr.parse::<SocketAddr>().ok().map(|addr| addr.ip())
    }
}
