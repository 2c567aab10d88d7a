//! `[auth]`: clients before their login, logins that fail, and who may ask PROXY. Pure.

use std::time::Duration;

use super::check::Check;
use super::key::{KIB, Key, MIB, count, key, optional, size, table, time, word};
use super::kind::Kind;
use super::settings::Settings;
use super::users::User;

table! {
    /// Clients before their login, and logins.
    pub struct Auth = "auth." {
        /// Where the upstream wants a login, how long a client may be connected without one before it is closed.
        /// Servers have no such limit, but libraries log in with their first packet, and a minute is enough for people
        /// who type. 0s is never.
        timeout: Duration = time("60s", 0);
        /// Commands refused with -NOAUTH after which a client is closed. Failed logins count.
        max_commands: usize = count("1000", 1, 1_000_000_000);
        /// Bytes of unprocessed input above which a client that has not logged in is closed. Its largest legal request
        /// (10 arguments of 16 KiB, as on servers) fits into the default.
        max_input: usize = size("256KiB", 64 * KIB, 64 * MIB);
        /// Bytes of replies that a client which has not logged in may leave unread before it is closed.
        max_output: usize = size("64KiB", KIB, 64 * MIB);
        /// After a failed login the next one from that address is delayed by this much; doubles with each failure. 0s
        /// is never.
        failure_delay = key("100ms", Kind::Time { min: 0, max: 60_000 });
        /// Longest such delay.
        failure_delay_max = key("3s", Kind::Time { min: 0, max: 60_000 });
        /// Failed logins of one address (an IPv6 /64 counts as one) within auth.failure_window. After that, its logins
        /// are refused unseen for as long. A user that has logged in from the address is counted separately there, and
        /// its next success clears the count, so that one client with an old password does not lock out the others
        /// behind the same NAT. Unix sockets are not counted. 0 is no limit.
        max_failures = count("10", 0, 1_000_000);
        /// The time over which failed logins are counted, and for which an address is refused.
        failure_window = time("60s", 100);
        /// Who judges logins. "upstream": the upstream itself, so its users are the clients' users. "terminate":
        /// respmux, by auth.users; no password of a client reaches the upstream. Commands about the upstream's users
        /// (ACL, also ACL WHOAMI) are then about the upstream user that stands for the client's: forbid them with
        /// commands.deny where that matters.
        mode = word("upstream", &["upstream", "terminate"]).restart();
        /// With auth.mode = "terminate", the users, in the file as [[auth.users]]: name; password_sha256, one or
        /// several of 64 hexadecimal digits (`respmux hash-password` makes them), or nopass = true; upstream_user and
        /// upstream_password_file, who this user is to the upstream (usually upstream.username); deny, in place of
        /// commands.deny; proxy = "none", "read" or "write", in place of auth.proxy_read and auth.proxy_write. Clients
        /// that do not log in are "default", if that is nopass. No two users share an upstream connection.
        users = optional("[{ name = \"guest\", nopass = true, deny = [\"@dangerous\"] }]", Kind::Accounts);
        /// Users who may read with PROXY (client.proxy_commands), or "any". What shows other clients also needs the
        /// upstream's right to CLIENT LIST, INFO or SLOWLOG.
        proxy_read: Vec<String> = key("any", Kind::Texts);
        /// Users who may change something with PROXY, or "any". They see all of it without the upstream being asked.
        proxy_write: Vec<String> = key("", Kind::Texts);
    } with {
        /// Throttling of failed logins.
        failures: Failures,
        /// respmux judges logins, by `users`.
        terminate: bool,
        /// Names are unique; empty unless `terminate`.
        users: Vec<User>,
    }
}

/// How failed logins slow an address down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// After the first failure; zero is never.
    pub delay: Duration,
    /// The longest delay.
    pub delay_max: Duration,
    /// Failures in a window; 0 is no limit.
    pub most: usize,
    /// The window, and how long an address is refused.
    pub window: Duration,
}

impl Auth {
    pub(super) const ORDERED: &[(&str, &str)] = &[("auth.failure_delay", "auth.failure_delay_max")];

    pub(super) fn of(settings: &Settings) -> Self {
        let failures = Failures {
            delay: settings.get("auth.failure_delay"),
            delay_max: settings.get("auth.failure_delay_max"),
            most: settings.get("auth.max_failures"),
            window: settings.get("auth.failure_window"),
        };
        let users: Option<_> = settings.get("auth.users");
        Self::read(settings, failures, settings.is("auth.mode", "terminate"), users.unwrap_or_default())
    }

    /// The configured user of this name.
    #[must_use]
    pub fn user(&self, name: &[u8]) -> Option<&User> {
        self.users.iter().find(|user| user.name.as_bytes() == name)
    }

    /// Somebody may use the upstream without a password.
    pub(super) fn is_open(&self) -> bool {
        !self.terminate || self.users.iter().any(|user| user.nopass)
    }

    pub(super) fn check(&self, check: &mut Check<'_>) {
        let twice = |(at, user): &(usize, &User)| self.users[..*at].iter().any(|other| other.name == user.name);
        if !self.terminate && !self.users.is_empty() {
            check.warn("auth.users is not used: auth.mode is \"upstream\"");
        } else if self.terminate && self.users.is_empty() {
            check.problem("auth.mode", "auth.mode = \"terminate\" needs auth.users: nobody could log in");
        } else if let Some((_, user)) = self.users.iter().enumerate().find(twice) {
            check.problem("auth.mode", format!("auth.users: {:?} is there twice", user.name));
        }
    }
}
