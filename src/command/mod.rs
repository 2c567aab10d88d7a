//! What a command is: one static table, looked up once per request.
//!
//! Owns `commands.tsv` (a row for each command and subcommand, with its class), `replies.tsv` (the types its reply
//! can have), and what follows from a row: arity, the kind of work ([`Op`]), rights by name ([`Policy`]), the form of
//! a blocking pop that does not wait. The rooms above may call it; it knows `resp` only. Pure.
//!
//! Names are compared the way servers do: the command name with its full length, the subcommand of a container
//! and option tokens as C strings, that is cut at the first NUL byte (docs/design/semantics.md 3.3).

mod family;
mod glob;
mod key;
mod load;
mod policy;
mod pop;
mod reply_mask;
mod spec;
mod stream_wait;
mod tokens;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub use family::Family;
pub use glob::glob_matches;
pub use key::first_key;
pub use policy::Policy;
pub use pop::{Pop, PopKind, is_nil, popped_key};
pub use reply_mask::{Replies, ReplyMask};
pub use spec::{CommandId, LatencyKind, Op, Pausing, Spec};
pub use stream_wait::StreamWait;
pub use tokens::{cut_at_nul, stream_read_blocks, token_is};

/// What the table says about the first words of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Known(CommandId),
    /// A container with a subcommand that the table does not list.
    UnknownSubcommand(CommandId),
    /// A NUL byte where names are compared: never on a lane (rule L6).
    Nul,
    Unknown,
}

/// Longest name that is packed into an integer key; longer ones take the slow map.
const PACKED: usize = 16;

/// Hashes one packed name with a multiply; the table is static, so nobody can choose colliding keys.
#[derive(Default)]
pub struct PackedHasher(u64);

impl Hasher for PackedHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    #[allow(clippy::cast_possible_truncation)] // the two halves of the key are folded on purpose
    fn write_u128(&mut self, key: u128) {
        let folded = (key as u64) ^ ((key >> 64) as u64).rotate_left(23);
        let mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

type Packed<V> = HashMap<u128, V, BuildHasherDefault<PackedHasher>>;

/// The static command table.
pub struct CommandTable {
    specs: Vec<Spec>,
    names: Packed<CommandId>,
    long_names: HashMap<String, CommandId>,
    subcommands: HashMap<CommandId, HashMap<String, CommandId>>,
    /// Names without a row that are forbidden, in upper case, with the bits of their policies.
    denied_names: HashMap<String, u32>,
}

impl Default for CommandTable {
    fn default() -> Self {
        Self::new()
    }
}

impl CommandTable {
    /// Loads the compiled-in table.
    #[must_use]
    pub fn new() -> Self {
        let specs = load::specs();
        let mut table = Self {
            specs,
            names: Packed::default(),
            long_names: HashMap::new(),
            subcommands: HashMap::new(),
            denied_names: HashMap::new(),
        };
        for (index, spec) in table.specs.iter().enumerate().skip(1) {
            let id = CommandId(u16::try_from(index).expect("the table has fewer than 65,536 rows"));
            if spec.name.contains(' ') {
                continue;
            }
            match pack(spec.name.as_bytes()) {
                Some(key) => drop(table.names.insert(key, id)),
                None => drop(table.long_names.insert(spec.name.clone(), id)),
            }
        }
        table.index_subcommands();
        table
    }

    fn index_subcommands(&mut self) {
        for (index, spec) in self.specs.iter().enumerate() {
            let Some((head, sub)) = spec.name.split_once(' ') else { continue };
            let id = CommandId(u16::try_from(index).expect("the table has fewer than 65,536 rows"));
            if let Some(container) = self.find(head.as_bytes()) {
                self.subcommands.entry(container).or_default().insert(sub.to_owned(), id);
            }
        }
    }

    /// The row of `id`.
    #[must_use]
    pub fn spec(&self, id: CommandId) -> &Spec {
        self.specs.get(usize::from(id.0)).unwrap_or(&self.specs[0])
    }

    /// What a command that the table lists does.
    #[must_use]
    pub fn op(&self, lookup: Lookup) -> Option<Op> {
        if let Lookup::Known(id) = lookup { Some(self.spec(id).op) } else { None }
    }

    /// Metric labels, by [`CommandId`].
    #[must_use]
    pub fn labels(&self) -> Vec<String> {
        self.specs.iter().map(Spec::full_name).collect()
    }

    /// The row for a request's first words; `second` is its second argument, if any.
    #[must_use]
    pub fn lookup(&self, first: &[u8], second: Option<&[u8]>) -> Lookup {
        let Some(id) = self.find(first) else {
            return self.lookup_odd(first);
        };
        if !self.spec(id).container {
            return Lookup::Known(id);
        }
        match second {
            None => Lookup::Known(id),
            Some(sub) => self.lookup_sub(id, sub),
        }
    }

    fn find(&self, name: &[u8]) -> Option<CommandId> {
        match pack(name) {
            Some(key) => self.names.get(&key).copied(),
            None => std::str::from_utf8(name).ok().and_then(|n| self.long_names.get(&n.to_ascii_uppercase()).copied()),
        }
    }

    /// Names that are not in the table as written. The test for a stray HTTP request is a C string comparison on
    /// the server, so `post\0x` counts.
    fn lookup_odd(&self, first: &[u8]) -> Lookup {
        let cut = cut_at_nul(first);
        if cut.len() == first.len() {
            return Lookup::Unknown;
        }
        match self.find(cut) {
            Some(id) if self.spec(id).op == Op::CrossProtocol => Lookup::Known(id),
            _ => Lookup::Nul,
        }
    }

    fn lookup_sub(&self, container: CommandId, sub: &[u8]) -> Lookup {
        if cut_at_nul(sub).len() != sub.len() && self.spec(container).unlisted != Op::ClientUnknown {
            return Lookup::Nul;
        }
        let found = std::str::from_utf8(sub)
            .ok()
            .and_then(|s| self.subcommands.get(&container)?.get(&s.to_ascii_uppercase()).copied());
        found.map_or(Lookup::UnknownSubcommand(container), Lookup::Known)
    }
}

/// Upper-cases up to 16 bytes into one integer; `None` for longer names. The length takes part through the
/// position of the bytes, and a NUL byte is refused because it would look like padding.
fn pack(name: &[u8]) -> Option<u128> {
    if name.len() > PACKED {
        return None;
    }
    let mut padded = [0u8; PACKED];
    for (to, from) in padded.iter_mut().zip(name) {
        if *from == 0 {
            return Some(u128::MAX);
        }
        *to = from.to_ascii_uppercase();
    }
    Some(u128::from_le_bytes(padded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(table: &CommandTable, first: &str, second: Option<&str>) -> Option<Op> {
        match table.lookup(first.as_bytes(), second.map(str::as_bytes)) {
            Lookup::Known(id) => Some(table.spec(id).op),
            _ => None,
        }
    }

    #[test]
    fn names_are_found_in_any_case_and_only_whole() {
        let table = CommandTable::new();
        assert_eq!(op(&table, "get", None), Some(Op::Plain));
        assert_eq!(op(&table, "GeT", None), Some(Op::Plain));
        assert_eq!(op(&table, "client", Some("rEply")), Some(Op::ClientReply));
        assert_eq!(op(&table, "GEORADIUSBYMEMBER_RO", None), Some(Op::Plain));
        assert_eq!(table.lookup(b"ge", None), Lookup::Unknown);
        assert_eq!(table.lookup(b"", None), Lookup::Unknown);
    }

    #[test]
    fn names_with_a_nul_byte_are_never_plain() {
        let table = CommandTable::new();
        assert_eq!(table.lookup(b"get\0", None), Lookup::Nul);
        assert_eq!(table.lookup(b"blpop\0x", None), Lookup::Nul);
        assert_eq!(op(&table, "post\0x", None), Some(Op::CrossProtocol));
        assert!(matches!(table.lookup(b"client", Some(b"reply\0x")), Lookup::UnknownSubcommand(_)));
        assert_eq!(table.lookup(b"config", Some(b"get\0x")), Lookup::Nul);
    }

    #[test]
    fn every_row_is_reachable_by_its_name() {
        let table = CommandTable::new();
        for (index, spec) in table.specs.iter().enumerate().skip(1) {
            let (first, second) = spec.name.split_once(' ').map_or((spec.name.as_str(), None), |(a, b)| (a, Some(b)));
            let found = table.lookup(first.as_bytes(), second.map(str::as_bytes));
            assert_eq!(found, Lookup::Known(CommandId(u16::try_from(index).unwrap())), "{}", spec.name);
        }
    }

    #[test]
    fn nothing_on_the_poison_list_is_plain() {
        let table = CommandTable::new();
        for name in [
            "REPLCONF",
            "CLIENT REPLY",
            "SUBSCRIBE",
            "PSUBSCRIBE",
            "SSUBSCRIBE",
            "UNSUBSCRIBE",
            "MONITOR",
            "SYNC",
            "PSYNC",
            "CLUSTER SYNCSLOTS",
            "CLIENT TRACKING",
            "CLIENT CACHING",
            "CLIENT MAINT_NOTIFICATIONS",
            "SCRIPT DEBUG",
            "BLPOP",
            "BRPOP",
            "BLMOVE",
            "BRPOPLPUSH",
            "BLMPOP",
            "BZPOPMIN",
            "BZPOPMAX",
            "BZMPOP",
            "BLMOVEM",
            "WAIT",
            "WAITAOF",
            "MULTI",
            "EXEC",
            "DISCARD",
            "WATCH",
            "AUTH",
            "HELLO",
            "RESET",
            "SELECT",
            "READONLY",
            "READWRITE",
            "ASKING",
            "CLIENT CAPA",
            "CLIENT NO-TOUCH",
            "CLIENT SETNAME",
            "HIMPORT PREPARE",
            "HIMPORT SET",
            "HIMPORT DISCARD",
            "QUIT",
            "SHUTDOWN",
            "POST",
            "HOST:",
            "CLIENT KILL",
            "CLIENT UNBLOCK",
            "CLIENT UNPAUSE",
            "DEBUG",
            "MODULE LOAD",
            "FAILOVER",
            "SCRIPT KILL",
            "FUNCTION KILL",
        ] {
            let (first, second) = name.split_once(' ').map_or((name, None), |(a, b)| (a, Some(b)));
            let found = op(&table, first, second);
            assert!(found.is_some_and(|o| o != Op::Plain), "{name}: {found:?}");
        }
    }

    #[test]
    fn a_command_of_pubsub_names_its_family() {
        let table = CommandTable::new();
        let family = |name: &str, sub| match table.lookup(name.as_bytes(), sub) {
            Lookup::Known(id) => table.spec(id).family,
            other => panic!("{name}: {other:?}"),
        };
        for wanted in Family::ALL {
            assert_eq!(family(wanted.join_command(), None), wanted);
            assert_eq!(family(wanted.leave_command(), None), wanted);
        }
        assert_eq!(family("PUBLISH", None), Family::Channel);
        assert_eq!(family("SPUBLISH", None), Family::Shard);
        assert_eq!(family("PUBSUB", Some(b"NUMSUB")), Family::Channel);
        assert_eq!(family("PUBSUB", Some(b"SHARDNUMSUB")), Family::Shard);
    }
}
