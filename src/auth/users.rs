//! The users of the configuration, when respmux itself judges logins.
//!
//! A judgement takes the same time for every user and password: one hash, and as many comparisons as the user with the
//! most passwords needs.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::config::{Config, User};

/// Compared with where a user has no further hash. Nobody's: it would take a preimage of zero.
const NOBODY: [u8; 32] = [0; 32];

/// Judges logins.
pub struct Users {
    users: Vec<User>,
    /// Hashes of the user that has most of them.
    most: usize,
}

impl Users {
    /// The users, if respmux judges.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        let users = config.auth.users.clone();
        let most = users.iter().map(|user| user.hashes.0.len()).max().unwrap_or(0).max(1);
        config.auth.terminate.then_some(Self { users, most })
    }

    /// Whether `password` is one of `name`.
    #[must_use]
    pub fn judge(&self, name: &[u8], password: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(password).into();
        let mut right = Choice::from(0);
        let user = self.users.iter().find(|user| user.name.as_bytes() == name);
        let hashes = user.map_or(&[][..], |user| &user.hashes.0);
        for index in 0..self.most {
            right |= digest.ct_eq(hashes.get(index).unwrap_or(&NOBODY));
        }
        bool::from(right) || user.is_some_and(|user| user.nopass)
    }

    /// Clients need not log in.
    #[must_use]
    pub fn default_is_open(&self) -> bool {
        self.users.iter().any(|user| user.name == "default" && user.nopass)
    }
}

/// What `password_sha256` takes.
#[must_use]
pub fn hash(password: &[u8]) -> String {
    Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Users {
        Users::new(&Config::from_toml(&format!("auth.mode = 'terminate'\n{text}")).unwrap()).unwrap()
    }

    #[test]
    fn any_of_the_hashes_serves_and_only_for_its_user() {
        let (one, two, three) = (hash(b"one"), hash(b"two"), hash(b"three"));
        let users = users(&format!(
            "[[auth.users]]\nname = 'a'\npassword_sha256 = ['{one}', '{two}']\n\
             [[auth.users]]\nname = 'b'\npassword_sha256 = '{three}'\n[[auth.users]]\nname = 'c'\nnopass = true\n"
        ));
        for (name, password, right) in [
            ("a", "one", true),
            ("a", "two", true),
            ("a", "three", false),
            ("b", "three", true),
            ("b", "one", false),
            ("b", "", false),
            ("c", "whatever", true),
            ("nobody", "one", false),
            ("A", "one", false),
            ("a", &one, false),
        ] {
            assert_eq!(users.judge(name.as_bytes(), password.as_bytes()), right, "{name} {password}");
        }
        assert!(!users.default_is_open());
    }

    #[test]
    fn the_upstream_judges_unless_told_otherwise() {
        assert!(Users::new(&Config::default()).is_none());
    }
}
