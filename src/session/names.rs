//! What may be a client name or a library fact: the checks that servers make, with their texts
//! (docs/design/semantics.md 5.2).

/// The servers that respmux tells apart, where they differ on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flavour {
    /// Valkey rather than Redis.
    pub valkey: bool,
    pub major: u16,
    pub minor: u16,
}

impl Flavour {
    /// CLIENT SETINFO came with Redis 7.2; every Valkey has it.
    #[must_use]
    pub fn has_setinfo(self) -> bool {
        self.valkey || self.at_least(7, 2)
    }

    /// Since Redis 7.4 and in Valkey a HELLO with a bad SETNAME has not logged in (rule A6).
    #[must_use]
    pub fn hello_checks_name_first(self) -> bool {
        self.valkey || self.at_least(7, 2)
    }

    /// Whether CLIENT UNBLOCK leaves connections alone that CLIENT PAUSE holds back; other servers crash.
    #[must_use]
    pub fn unblock_spares_paused(self) -> bool {
        if self.valkey { self.at_least(9, 0) } else { self.at_least(8, 2) }
    }

    /// Version order.
    #[must_use]
    pub fn at_least(self, major: u16, minor: u16) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

/// Names may hold the bytes `!` to `~` only; empty clears.
///
/// # Errors
/// The server's error line, without the dash.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if printable(name) {
        Ok(())
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.")
    }
}

/// CLIENT SETINFO values follow the same alphabet; `attribute` is repeated as typed.
///
/// # Errors
/// The server's error line, without the dash.
pub fn check_info_value(attribute: &str, value: &[u8]) -> Result<(), String> {
    if printable(value) {
        Ok(())
    } else {
        Err(format!("ERR {attribute} cannot contain spaces, newlines or special characters."))
    }
}

fn printable(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| (b'!'..=b'~').contains(b))
}
