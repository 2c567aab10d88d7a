//! The credentials of every user of a worker, so that a connection that breaks can log in again (rule A7).
//!
//! One ring for all servers of a worker: a user who has logged in through one of them has lanes, a hub and leases on any
//! of them. What is on the ring opens nothing by itself. It is what *some* server accepted once, and the server that a
//! connection is made to decides anew, in that connection's handshake: a password that was changed, or that another
//! server never knew, is refused there and the clients of the identity are told so. Nobody is ever let in because the
//! ring knows the name.
//!
//! Passwords stay here and in the handshake that sends them; they are neither logged nor shown, so neither type has a
//! `Debug` form.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use crate::config::{Config, Upstream};
use crate::session::Identity;

/// Name and password of an identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

/// What one worker knows of its users' credentials.
#[derive(Default)]
pub struct Keyring {
    /// As last accepted by a server. Only [`Keyring::on_verified`] writes to it, behind the server's own `+OK`; entries
    /// are replaced and never removed, as a lane of the identity may have to be opened at any time.
    verified: RefCell<HashMap<Identity, Credentials>>,
}

impl Keyring {
    /// A server has just accepted these for `identity`.
    pub fn on_verified(&self, identity: &Identity, credentials: Credentials) {
        self.verified.borrow_mut().insert(identity.clone(), credentials);
    }

    /// The credentials with which to ask a server whether it accepts `identity`. In this order: verified ones; those
    /// that the configuration gives to a user whom respmux judges itself (`auth.users`, who may have another name
    /// upstream); the upstream's own login, for clients that do not log in. `config` is that of the server which is
    /// about to be asked. Secrets of the configuration are read again at each login, so that a rotated one works without
    /// a reload. `None` is a login without a password.
    ///
    /// # Errors
    /// The secret's file cannot be read.
    pub(super) fn credentials(&self, identity: &Identity, config: &Config) -> io::Result<Option<Credentials>> {
        if let Some(known) = self.verified.borrow().get(identity) {
            return Ok(Some(known.clone()));
        }
        if config.auth.terminate
            && let Identity::User(name) = identity
            && let Some((user, source)) = config.auth.user(name).and_then(|user| user.upstream.as_ref())
        {
            let password = source.read()?.expose().to_vec();
            return Ok(Some(Credentials { user: user.as_bytes().to_vec(), password }));
        }
        configured(&config.upstream)
    }
}

/// The login that the configuration gives to clients that do not log in themselves.
pub(super) fn configured(upstream: &Upstream) -> io::Result<Option<Credentials>> {
    let Some(source) = &upstream.password else { return Ok(None) };
    let password = source.read()?.expose().to_vec();
    let user = upstream.username.as_deref().unwrap_or("default").as_bytes().to_vec();
    Ok(Some(Credentials { user, password }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tested;

    fn named(user: &str) -> Credentials {
        Credentials { user: user.into(), password: b"secret".to_vec() }
    }

    #[test]
    fn verified_credentials_come_before_the_configured_login_and_the_newest_count() {
        let (ring, config) = (Keyring::default(), tested("[upstream]\nusername = \"app\"\npassword = \"p\"\n"));
        let known = |identity: &Identity| ring.credentials(identity, &config).expect("no file is read");
        let alice = Identity::user(b"alice");
        let user = |found: Option<Credentials>| found.map(|found| String::from_utf8(found.user).unwrap_or_default());
        assert_eq!(user(known(&alice)).as_deref(), Some("app"), "nobody has verified her yet");
        ring.on_verified(&alice, named("alice"));
        assert!(known(&alice) == Some(named("alice")));
        let changed = Credentials { password: b"new".to_vec(), ..named("alice") };
        ring.on_verified(&alice, changed.clone());
        assert!(known(&alice) == Some(changed), "the newest counts");
        assert_eq!(user(known(&Identity::Implicit)).as_deref(), Some("app"), "another identity is as it was");
    }
}
