//! Clients before their login, logins that fail, and who may do what: the tables `auth` and `commands`.

use std::time::Duration;

use super::key::{KIB, Key, MIB, count, key, optional, size, time};
use super::users::User;
use super::value::{Kind, Setting};
use super::values::Values;

/// The rows of both tables.
pub(super) const KEYS: &[Key] = &[
    key(
        "auth.timeout",
        "60s",
        time(0),
        "Where the upstream wants a login, how long a client may be connected without one; then it is closed. Servers \
         have no such limit: libraries log in within their first packet, and a minute lets people type it. 0s is never.",
    ),
    key(
        "auth.max_commands",
        "1000",
        count(1, 1_000_000_000),
        "Commands that a client may have refused with -NOAUTH before it is closed. Failed logins are among them.",
    ),
    key(
        "auth.max_input",
        "256KiB",
        size(64 * KIB, 64 * MIB),
        "Unprocessed input of a client that has not logged in above which it is closed. Its largest legal request (10 \
         arguments of 16 KiB, as servers have it) fits into the default.",
    ),
    key(
        "auth.max_output",
        "64KiB",
        size(KIB, 64 * MIB),
        "Replies that a client which has not logged in leaves unread before it is closed.",
    ),
    key(
        "auth.failure_delay",
        "100ms",
        Kind::Time { min: 0, max: 60_000 },
        "After a failed login the next one from that address is looked at this much later; doubles with each failure. \
         0s is never.",
    ),
    key("auth.failure_delay_max", "3s", Kind::Time { min: 0, max: 60_000 }, "Longest such delay."),
    key(
        "auth.max_failures",
        "10",
        count(0, 1_000_000),
        "Failed logins of one address (an IPv6 /64 counts as one) within auth.failure_window; then its logins are \
         refused unseen for as long. A user that has logged in from that address is counted by itself there, and its \
         next success clears the count, so that one client with an old password does not lock the others behind the \
         same NAT out. Unix sockets are not counted. 0 is no limit.",
    ),
    key(
        "auth.failure_window",
        "60s",
        Kind::Time { min: 100, max: 86_400_000 },
        "The time in which failed logins are counted, and for which an address is refused.",
    ),
    key(
        "auth.mode",
        "upstream",
        Kind::Word(&["upstream", "terminate"]),
        "Who judges logins. \"upstream\": the upstream itself, so its users are the clients' users. \"terminate\": respmux, \
         by auth.users; no password of a client reaches the upstream. Commands about the upstream's users (ACL, also ACL \
         WHOAMI) are then about the user behind the client's: forbid them with commands.deny where that matters.",
    ).restart(),
    optional(
        "auth.users",
        "[{ name = \"guest\", nopass = true, deny = [\"@dangerous\"] }]",
        Kind::Accounts,
        "With auth.mode = \"terminate\", the users, in the file as [[auth.users]]: name; password_sha256, one or several of \
         64 hexadecimal digits (`respmux hash-password` makes them), or nopass = true; upstream_user and \
         upstream_password_file, who this user is to the upstream (usually upstream.username); deny, in place of \
         commands.deny; proxy = \"none\", \"read\" or \"write\", in place of auth.proxy_read and auth.proxy_write. Clients \
         that do not log in are \"default\", if that is nopass. No two users share an upstream connection.",
    ),
    key(
        "auth.proxy_read",
        "any",
        Kind::Texts,
        "Users who may ask PROXY (client.proxy_commands), or \"any\". What shows others also needs the upstream's right to \
         CLIENT LIST, INFO or SLOWLOG.",
    ),
    key(
        "auth.proxy_write",
        "",
        Kind::Texts,
        "Users who may change something with PROXY, or \"any\". They see all of it without the upstream being asked.",
    ),
    key(
        "commands.deny",
        "",
        Kind::Texts,
        "Commands that respmux refuses with -NOPERM: names (\"CONFIG\" is all its subcommands), \"CLIENT KILL\", and \
         \"@dangerous\" for administration, other clients' data and addresses, and the whole keyspace at once: CONFIG, \
         DEBUG, SHUTDOWN, MODULE, ACL but for CAT, GENPASS and WHOAMI, REPLICAOF, FAILOVER, MIGRATE, RESTORE, SYNC, \
         PSYNC, MONITOR, CLUSTER's changes, CLIENT KILL, LIST, PAUSE and UNBLOCK, SAVE, BGSAVE, BGREWRITEAOF, SCRIPT \
         KILL, FUNCTION KILL, LATENCY RESET, SLOWLOG RESET, SWAPDB, FLUSHALL, FLUSHDB, KEYS. What a script calls is not \
         seen here, nor is a command that the upstream has renamed.",
    ),
    key("commands.allow", "", Kind::Texts, "Exceptions from commands.deny, such as \"KEYS\"."),
    key(
        "commands.exempt",
        "",
        Kind::Texts,
        "Users to whom commands.deny does not apply. Clients that do not log in are upstream.username, or \"default\".",
    ),
];

/// Rows of several places as one table.
pub(super) const fn joined<const N: usize>(parts: [&[Key]; 4]) -> [Key; N] {
    let mut rows = [parts[0][0]; N];
    let (mut part, mut at) = (0, 0);
    while part < parts.len() {
        let mut row = 0;
        while row < parts[part].len() {
            rows[at] = parts[part][row];
            (row, at) = (row + 1, at + 1);
        }
        part += 1;
    }
    rows
}

/// Clients before their login, and logins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// For a client that has not logged in; zero is never.
    pub timeout: Duration,
    /// Refused commands before the close.
    pub max_commands: usize,
    /// Bytes of unprocessed input before the login.
    pub max_input: usize,
    /// Bytes of unread replies before the login.
    pub max_output: usize,
    /// Throttling of failed logins.
    pub failures: Failures,
    /// respmux judges logins, by `users`.
    pub terminate: bool,
    /// Names are unique; empty unless `terminate`.
    pub users: Vec<User>,
    /// Who may ask PROXY: users, or `any`.
    pub proxy_read: Vec<String>,
    /// Who may change something with PROXY: users, or `any`.
    pub proxy_write: Vec<String>,
}

/// What is forbidden, and to whom not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// Names of commands, or `@dangerous`.
    pub deny: Vec<String>,
    /// Exceptions from them.
    pub allow: Vec<String>,
    /// Users to whom it does not apply.
    pub exempt: Vec<String>,
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
    /// The configured user of this name.
    #[must_use]
    pub fn user(&self, name: &[u8]) -> Option<&User> {
        self.users.iter().find(|user| user.name.as_bytes() == name)
    }

    /// What is wrong with the users as a whole.
    pub(super) fn problem(&self) -> Option<String> {
        if !self.terminate {
            return None;
        }
        if self.users.is_empty() {
            return Some("auth.mode = \"terminate\" needs auth.users: nobody could log in".to_owned());
        }
        let twice = |(at, user): (usize, &User)| self.users[..at].iter().any(|other| other.name == user.name);
        let twice = self.users.iter().enumerate().find(|(at, user)| twice((*at, user)));
        twice.map(|(_, user)| format!("auth.users: {:?} is there twice", user.name))
    }

    /// Somebody may use the upstream without a password.
    pub(super) fn is_open(&self) -> bool {
        !self.terminate || self.users.iter().any(|user| user.nopass)
    }
}

impl Values<'_> {
    pub(super) fn auth(&self) -> Auth {
        Auth {
            timeout: self.time("auth.timeout"),
            max_commands: self.count("auth.max_commands"),
            max_input: self.count("auth.max_input"),
            max_output: self.count("auth.max_output"),
            failures: Failures {
                delay: self.time("auth.failure_delay"),
                delay_max: self.time("auth.failure_delay_max"),
                most: self.count("auth.max_failures"),
                window: self.time("auth.failure_window"),
            },
            terminate: self.is_word("auth.mode", "terminate"),
            users: match &self.entry("auth.users").setting {
                Setting::Accounts(users) => users.clone(),
                _ => Vec::new(),
            },
            proxy_read: self.texts("auth.proxy_read"),
            proxy_write: self.texts("auth.proxy_write"),
        }
    }

    pub(super) fn commands(&self) -> Commands {
        Commands {
            deny: self.texts("commands.deny"),
            allow: self.texts("commands.allow"),
            exempt: self.texts("commands.exempt"),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, path: &str) -> Vec<String> {
        match &self.entry(path).setting {
            Setting::Texts(texts) => texts.clone(),
            other => unreachable!("{path} is no list of texts but {other:?}"),
        }
    }
}
