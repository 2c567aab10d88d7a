//! Commands that an operator forbids: which rows of the table a list of names means.
//!
//! Each policy is a bit in every row, so that the look-up costs nothing beside the row itself.

use super::{CommandId, CommandTable, Lookup};

/// Which of the policies holds for a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy(u8);

impl Policy {
    /// How many there can be beside [`Policy::ALLOW_ALL`].
    pub const MOST: u8 = 31;
    /// Forbids nothing.
    pub const ALLOW_ALL: Self = Self(Self::MOST);

    /// Policy number `index`; `None` from [`Policy::MOST`] on.
    #[must_use]
    pub fn numbered(index: u8) -> Option<Self> {
        (index < Self::MOST).then_some(Self(index))
    }

    fn bit(self) -> u32 {
        1 << self.0
    }
}

/// What `@dangerous` means: administration, other clients' data and addresses, the whole keyspace at once.
pub const DANGEROUS: &[&str] = &[
    "ACL DELUSER",
    "ACL DRYRUN",
    "ACL GETUSER",
    "ACL LIST",
    "ACL LOAD",
    "ACL LOG",
    "ACL SAVE",
    "ACL SETUSER",
    "ACL USERS",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLIENT KILL",
    "CLIENT LIST",
    "CLIENT PAUSE",
    "CLIENT UNBLOCK",
    "CLIENT UNPAUSE",
    "CLUSTER ADDSLOTS",
    "CLUSTER ADDSLOTSRANGE",
    "CLUSTER BUMPEPOCH",
    "CLUSTER DELSLOTS",
    "CLUSTER DELSLOTSRANGE",
    "CLUSTER FAILOVER",
    "CLUSTER FLUSHSLOTS",
    "CLUSTER FORGET",
    "CLUSTER MEET",
    "CLUSTER REPLICATE",
    "CLUSTER RESET",
    "CLUSTER SAVECONFIG",
    "CLUSTER SET-CONFIG-EPOCH",
    "CLUSTER SETSLOT",
    "CONFIG",
    "DEBUG",
    "FAILOVER",
    "FLUSHALL",
    "FLUSHDB",
    "FUNCTION KILL",
    "KEYS",
    "LATENCY RESET",
    "MIGRATE",
    "MODULE",
    "MONITOR",
    "PFDEBUG",
    "PSYNC",
    "REPLCONF",
    "REPLICAOF",
    "RESTORE",
    "RESTORE-ASKING",
    "SAVE",
    "SCRIPT DEBUG",
    "SCRIPT KILL",
    "SHUTDOWN",
    "SLAVEOF",
    "SLOWLOG RESET",
    "SWAPDB",
    "SYNC",
];

/// Servers let everybody run these, whatever the rights.
const FOR_EVERYBODY: &[&str] = &["AUTH", "HELLO", "QUIT", "RESET"];

/// Why a list of names is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not in the table, and not the name of a module's command (which has a dot).
    #[error("{0:?} is no command and no \"@dangerous\"; commands of modules are known by their dot")]
    Unknown(String),
    /// AUTH, HELLO, QUIT, RESET.
    #[error("{0:?} cannot be denied: a client needs it before it has rights")]
    ForEverybody(String),
}

impl CommandTable {
    /// Forbids what `deny` names, but for what `allow` names, to the clients of `policy`. A name is a command with all
    /// its subcommands, `COMMAND SUBCOMMAND`, or `@dangerous`.
    ///
    /// # Errors
    /// A name that means nothing. The table is of no use then.
    pub fn forbid(&mut self, policy: Policy, deny: &[String], allow: &[String]) -> Result<(), PolicyError> {
        for name in deny {
            self.mark(policy, name, true)?;
        }
        for name in allow {
            self.mark(policy, name, false)?;
        }
        Ok(())
    }

    fn mark(&mut self, policy: Policy, name: &str, denied: bool) -> Result<(), PolicyError> {
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_uppercase();
        if name == "@DANGEROUS" {
            return DANGEROUS.iter().try_for_each(|name| self.mark(policy, name, denied));
        }
        if FOR_EVERYBODY.contains(&name.as_str()) {
            return Err(PolicyError::ForEverybody(name));
        }
        let below = format!("{name} ");
        let mut found = false;
        for spec in &mut self.specs {
            if spec.name == name || spec.name.starts_with(&below) {
                found = true;
                spec.denied = if denied { spec.denied | policy.bit() } else { spec.denied & !policy.bit() };
            }
        }
        match found {
            true => Ok(()),
            // No name of the table has a dot; those of modules have.
            false if name.contains('.') && !name.contains(' ') => {
                let bits = self.denied_names.entry(name).or_default();
                *bits = if denied { *bits | policy.bit() } else { *bits & !policy.bit() };
                Ok(())
            }
            false => Err(PolicyError::Unknown(name)),
        }
    }

    /// Whether `policy` forbids the command that was looked up; `first` is its name as typed.
    #[inline]
    #[must_use]
    pub fn denies(&self, policy: Policy, lookup: Lookup, first: &[u8]) -> bool {
        match lookup {
            Lookup::Known(id) => self.spec(id).denied & policy.bit() != 0,
            _ => self.denies_odd(policy, lookup, first),
        }
    }

    #[cold]
    fn denies_odd(&self, policy: Policy, lookup: Lookup, first: &[u8]) -> bool {
        match lookup {
            Lookup::Known(id) | Lookup::UnknownSubcommand(id) => self.spec(id).denied & policy.bit() != 0,
            // Servers cut the subcommand at the NUL byte: it may be any.
            Lookup::Nul => self.find(first).is_some_and(|id| self.denies_some(policy, id)),
            Lookup::Unknown => std::str::from_utf8(first).is_ok_and(|name| {
                self.denied_names.get(&name.to_ascii_uppercase()).is_some_and(|bits| bits & policy.bit() != 0)
            }),
        }
    }

    fn denies_some(&self, policy: Policy, container: CommandId) -> bool {
        let below = self.subcommands.get(&container).into_iter().flat_map(|subs| subs.values());
        below.chain([&container]).any(|id| self.spec(*id).denied & policy.bit() != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(deny: &[&str], allow: &[&str]) -> Result<CommandTable, PolicyError> {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut table = CommandTable::new();
        table.forbid(Policy::default(), &own(deny), &own(allow))?;
        Ok(table)
    }

    fn denies(table: &CommandTable, policy: Policy, line: &str) -> bool {
        let words: Vec<_> = line.split(' ').map(|word| word.replace('|', "\0")).collect();
        let lookup = table.lookup(words[0].as_bytes(), words.get(1).map(String::as_bytes));
        table.denies(policy, lookup, words[0].as_bytes())
    }

    #[test]
    fn names_containers_subcommands_and_exceptions() {
        let table = table(&["@dangerous", "client  no-evict", "eval", "FT.DROP"], &["keys", "CONFIG GET"]).unwrap();
        for line in [
            "config",
            "CONFIG SET a b",
            "config bananas",
            "config set|x",
            "Client KILL",
            "client list",
            "CLIENT NO-EVICT ON",
            "eval x 0",
            "flushall",
            "ft.drop",
            "ACL SETUSER",
            "MODULE LOAD",
            "script kill",
        ] {
            assert!(denies(&table, Policy::default(), line), "{line}");
            assert!(!denies(&table, Policy::ALLOW_ALL, line), "{line}");
        }
        for line in ["KEYS *", "config get x", "get a", "client id", "acl whoami", "script load", "ft.add", "bananas"] {
            assert!(!denies(&table, Policy::default(), line), "{line}");
        }
    }

    #[test]
    fn a_slip_is_an_error_and_not_a_hole() {
        for name in ["CONFIGG", "CONFIG SETT", "@dangeros", "", "GET a.b"] {
            assert!(matches!(table(&[name], &[]), Err(PolicyError::Unknown(_))), "{name}");
        }
        for name in FOR_EVERYBODY {
            assert_eq!(table(&[name], &[]).err(), Some(PolicyError::ForEverybody((*name).to_owned())));
        }
    }

    #[test]
    fn every_dangerous_name_has_a_row() {
        let table = table(&["@dangerous"], &[]).unwrap();
        assert!(table.denied_names.is_empty());
        for name in DANGEROUS {
            assert!(denies(&table, Policy::default(), name), "{name}");
        }
    }

    #[test]
    fn policies_do_not_mix() {
        let mut table = CommandTable::new();
        let [first, second] = [0, 1].map(|index| Policy::numbered(index).unwrap());
        table.forbid(first, &["GET".to_owned()], &[]).unwrap();
        table.forbid(second, &["SET".to_owned()], &[]).unwrap();
        assert!(denies(&table, first, "GET a") && !denies(&table, second, "GET a"));
        assert!(denies(&table, second, "SET a 1") && !denies(&table, first, "SET a 1"));
        assert_eq!(Policy::numbered(31), None);
    }
}
