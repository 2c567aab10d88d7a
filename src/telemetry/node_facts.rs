//! What is true of one server, as all workers together see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::outage::Outage;
use super::server_limits::{Heard, ServerLimits};
use super::unix_millis;

/// `proto-max-bulk-len` of a server that was not told otherwise, bytes.
const MAX_BULK: u64 = 512 << 20;

/// Facts of one server. They are set rarely, by the workers' control connections and dialers, and read by whoever shows
/// them.
pub struct NodeFacts {
    /// The value of the label `upstream`.
    name: &'static str,
    /// The configured address, without credentials. A reload replaces it.
    endpoint: Mutex<String>,
    /// Since when there are facts: unix time in milliseconds.
    began: u64,
    up: AtomicBool,
    /// When `up` changed last, unix time in milliseconds; 0 is never.
    changed: AtomicU64,
    outage: Outage,
    busy_millis: AtomicU64,
    max_bulk: AtomicU64,
    limits: Heard,
}

impl NodeFacts {
    /// Facts of a server that nobody has seen yet. Credentials in `endpoint` are cut out.
    pub(super) fn new(name: &'static str, endpoint: &str) -> Self {
        Self {
            name,
            endpoint: Mutex::new(without_credentials(endpoint)),
            began: unix_millis(),
            up: AtomicBool::new(false),
            changed: AtomicU64::new(0),
            outage: Outage::default(),
            busy_millis: AtomicU64::new(u64::MAX),
            max_bulk: AtomicU64::new(MAX_BULK),
            limits: Heard::default(),
        }
    }

    /// The name of the server in labels, on the status page and in PROXY.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The configured address, without credentials.
    pub fn endpoint(&self) -> String {
        self.address().clone()
    }

    /// A reload gave the server this address. Where it is another one, what went wrong before is forgotten.
    pub(super) fn on_address(&self, endpoint: &str) {
        let endpoint = without_credentials(endpoint);
        let before = std::mem::replace(&mut *self.address(), endpoint.clone());
        if before != endpoint {
            self.outage.forget();
        }
    }

    fn address(&self) -> MutexGuard<'_, String> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's control connection got, or did not get, an answer to its last health check.
    pub fn set_up(&self, up: bool) {
        if self.up.swap(up, Relaxed) != up {
            self.changed.store(unix_millis(), Relaxed);
        }
    }

    /// Whether the server answered its last health check; false before the first.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// When the server was found to be there, or away, last: unix time in milliseconds; 0 before the first time.
    pub fn changed(&self) -> u64 {
        self.changed.load(Relaxed)
    }

    /// Since when the server is away, if it is: unix time in milliseconds; the start of the process if it never answered.
    pub fn away_since(&self) -> Option<u64> {
        let since = match self.changed() {
            0 => self.began,
            changed => changed,
        };
        (!self.is_up()).then_some(since)
    }

    /// What went wrong on the way to the server.
    pub fn outage(&self) -> &Outage {
        &self.outage
    }

    /// The server's configuration was heard: after how many milliseconds it answers -BUSY to others than the caller of a
    /// script, and how many bytes an argument may have. What is not told stays as it was.
    pub fn on_limits(&self, busy_millis: Option<u64>, max_bulk: Option<u64>) {
        if let Some(millis) = busy_millis {
            self.busy_millis.store(millis, Relaxed);
        }
        if let Some(bytes) = max_bulk {
            self.max_bulk.store(bytes.min(MAX_BULK), Relaxed);
        }
    }

    /// After how many milliseconds of a script the server answers -BUSY; `u64::MAX` when not known.
    pub fn busy_millis(&self) -> u64 {
        self.busy_millis.load(Relaxed)
    }

    /// How many bytes an argument may have; the default of every server when not known, and never more.
    pub fn max_bulk(&self) -> u64 {
        self.max_bulk.load(Relaxed)
    }

    /// The server's limits on connections were heard. Returns whether they are news.
    pub fn on_server_limits(&self, limits: ServerLimits) -> bool {
        self.limits.set(limits)
    }

    /// How often the server's limits on connections have changed: whoever keeps a copy compares this number.
    pub fn server_limit_changes(&self) -> u64 {
        self.limits.changes()
    }

    /// What the server's configuration limits on connections.
    pub fn server_limits(&self) -> ServerLimits {
        self.limits.get()
    }
}

/// The address without `user:password@`. Only an address with a scheme can have one; there the last `@` counts, so that
/// an unescaped one in a password does not show half of it.
fn without_credentials(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_cut_out_of_the_endpoint() {
        for (address, shown) in [
            ("redis://user:pa@ss/wo:rd@db.example:6379/2", "redis://db.example:6379/2"),
            ("redis://:secret@[::1]:6379", "redis://[::1]:6379"),
            ("valkey://db:6379", "valkey://db:6379"),
            ("127.0.0.1:6379", "127.0.0.1:6379"),
            ("/run/redis@main.sock", "/run/redis@main.sock"),
        ] {
            assert_eq!(NodeFacts::new("default", address).endpoint(), shown);
        }
    }
}
