//! `[commands]`: commands that are refused. Pure.

use super::key::{Key, key, table};
use super::kind::Kind;
use super::settings::Settings;

table! {
    /// What is forbidden, and to whom not.
    pub struct Commands = "commands." {
        /// Commands that respmux refuses with -NOPERM: names ("CONFIG" is all its subcommands), "CLIENT KILL", and
        /// "@dangerous" for administration, other clients' data and addresses, and the whole keyspace at once: CONFIG,
        /// DEBUG, SHUTDOWN, MODULE, ACL but for CAT, GENPASS and WHOAMI, REPLICAOF, FAILOVER, MIGRATE, RESTORE, SYNC,
        /// PSYNC, MONITOR, CLUSTER's changes, CLIENT KILL, LIST, PAUSE and UNBLOCK, SAVE, BGSAVE, BGREWRITEAOF, SCRIPT
        /// KILL, FUNCTION KILL, LATENCY RESET, SLOWLOG RESET, SWAPDB, FLUSHALL, FLUSHDB, KEYS. What a script calls is
        /// not seen here, nor is a command that the upstream has renamed.
        deny: Vec<String> = key("", Kind::Texts);
        /// Exceptions from commands.deny, such as "KEYS".
        allow: Vec<String> = key("", Kind::Texts);
        /// Users to whom commands.deny does not apply. Clients that do not log in are upstream.username, or "default".
        exempt: Vec<String> = key("", Kind::Texts);
    }
}
