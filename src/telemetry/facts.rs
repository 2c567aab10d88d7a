//! What is true of the process as a whole.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::cells::Each;
use super::log_count::LogCounts;
use super::memory::Total;
use super::node_facts::NodeFacts;
use super::reasons::{ReloadResult, TlsSide, UpstreamKind};

/// The name of the only upstream there is.
const ONLY: &str = "default";

/// Facts of the process: set rarely, from any thread; read by the admin thread.
///
/// It is made after the configuration was loaded, so its existence says that one was.
pub struct ProcessFacts {
    running: Mutex<ConfigFacts>,
    last_load_good: AtomicBool,
    loaded_unix_millis: AtomicU64,
    paused: AtomicBool,
    started_unix_millis: u64,
    listening: AtomicBool,
    draining: AtomicBool,
    /// The servers, by the number that the topology gives them; there is one.
    nodes: Vec<Arc<NodeFacts>>,
    /// Changes of users' rights that have passed by.
    rights_changes: AtomicU64,
    client_max: AtomicU64,
    upstream_max: AtomicU64,
    upstream_max_by_kind: Each<UpstreamKind, AtomicU64>,
    log_counts: LogCounts,
    memory: Total,
    certificate_expiry: Each<TlsSide, AtomicI64>,
    reloads: Each<TlsSide, Each<ReloadResult, AtomicU64>>,
}

/// What a reload can change.
struct ConfigFacts {
    config_sha256: String,
    pending_restart: Vec<&'static str>,
}

impl ProcessFacts {
    /// Facts of a process that starts now: not listening, not draining, upstream not seen yet.
    ///
    /// `endpoint` is the configured upstream address, shown as a label; credentials in it are cut out. `config_sha256`
    /// is the hash of the running configuration in hex.
    pub fn new(endpoint: &str, config_sha256: impl Into<String>) -> Self {
        Self {
            running: Mutex::new(ConfigFacts { config_sha256: config_sha256.into(), pending_restart: Vec::new() }),
            last_load_good: AtomicBool::new(true),
            loaded_unix_millis: AtomicU64::new(unix_millis()),
            paused: AtomicBool::new(false),
            started_unix_millis: unix_millis(),
            listening: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            nodes: vec![Arc::new(NodeFacts::new(ONLY, endpoint))],
            rights_changes: AtomicU64::new(0),
            client_max: AtomicU64::new(0),
            upstream_max: AtomicU64::new(0),
            upstream_max_by_kind: Each::default(),
            log_counts: LogCounts::default(),
            memory: Total::new(u64::MAX, 1),
            certificate_expiry: Each::default(),
            reloads: Each::default(),
        }
    }

    /// With a limit for the buffers of `workers` workers together, bytes.
    #[must_use]
    pub fn with_memory(mut self, limit: u64, workers: usize) -> Self {
        self.memory = Total::new(limit, workers);
        self
    }

    /// With log events that are counted here.
    #[must_use]
    pub fn with_log_counts(mut self, counts: LogCounts) -> Self {
        self.log_counts = counts;
        self
    }

    /// The buffers of all workers together.
    pub fn memory(&self) -> &Total {
        &self.memory
    }

    /// The servers, by the number that the topology gives them.
    pub fn nodes(&self) -> &[Arc<NodeFacts>] {
        &self.nodes
    }

    /// The server with this number in the topology.
    ///
    /// # Panics
    /// There is none: the topology has more servers than the process was started with.
    pub fn node(&self, number: usize) -> &Arc<NodeFacts> {
        &self.nodes[number]
    }

    /// How many bytes an argument may have that goes to whichever server: the smallest of their limits.
    #[inline]
    pub fn max_bulk(&self) -> u64 {
        self.nodes.iter().map(|node| node.max_bulk()).min().unwrap_or(u64::MAX)
    }

    /// The configured address of each server, without credentials.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.endpoint()).collect()
    }

    /// Whether every server answered its last health check.
    pub fn upstream_up(&self) -> bool {
        self.nodes.iter().all(|node| node.is_up())
    }

    /// The hash of the running configuration, in hex.
    pub fn config_sha256(&self) -> String {
        self.running().config_sha256.clone()
    }

    /// Keys whose values in the file wait for a restart.
    pub fn pending_restart(&self) -> Vec<&'static str> {
        self.running().pending_restart.clone()
    }

    /// A configuration was read again and is in force now, but for the keys `pending_restart`. As
    /// [`ProcessFacts::new`].
    pub fn set_loaded(&self, endpoint: &str, config_sha256: impl Into<String>, pending_restart: Vec<&'static str>) {
        *self.running() = ConfigFacts { config_sha256: config_sha256.into(), pending_restart };
        for node in &self.nodes {
            node.on_address(endpoint);
        }
        self.last_load_good.store(true, Relaxed);
        self.loaded_unix_millis.store(unix_millis(), Relaxed);
    }

    /// A configuration was read again and is wrong: the old one stays in force.
    pub fn set_load_failed(&self) {
        self.last_load_good.store(false, Relaxed);
    }

    /// Whether the configuration that was read last is in force.
    pub fn last_load_good(&self) -> bool {
        self.last_load_good.load(Relaxed)
    }

    /// When the configuration in force was read: unix time in milliseconds.
    pub fn loaded_unix_millis(&self) -> u64 {
        self.loaded_unix_millis.load(Relaxed)
    }

    fn running(&self) -> MutexGuard<'_, ConfigFacts> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// PROXY PAUSE: requests are held.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Relaxed);
    }

    /// Whether requests are held.
    pub fn paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// When the process started: unix time in milliseconds.
    pub fn started_unix_millis(&self) -> u64 {
        self.started_unix_millis
    }

    /// Every client listener is bound.
    pub fn set_listening(&self) {
        self.listening.store(true, Relaxed);
    }

    /// Whether every client listener was bound. Stays true during a drain.
    pub fn listening(&self) -> bool {
        self.listening.load(Relaxed)
    }

    /// A drain began or was called off.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Relaxed);
    }

    /// Whether the process is draining.
    pub fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// A command that may change users' rights was answered to a client.
    pub fn on_rights_change(&self) {
        self.rights_changes.fetch_add(1, Relaxed);
    }

    /// How many changes of rights and settings have passed through respmux.
    pub fn rights_changes(&self) -> u64 {
        self.rights_changes.load(Relaxed)
    }

    /// The client limit of the whole process.
    pub fn set_client_max(&self, clients: u64) {
        self.client_max.store(clients, Relaxed);
    }

    /// The client limit of the whole process.
    pub fn client_max(&self) -> u64 {
        self.client_max.load(Relaxed)
    }

    /// The budget of upstream connections of the whole process, and how it is divided. The parts need not add up to the
    /// total; a kind that is not named keeps 0.
    pub fn set_upstream_max(&self, total: u64, by_kind: &[(UpstreamKind, u64)]) {
        self.upstream_max.store(total, Relaxed);
        for (kind, connections) in by_kind {
            self.upstream_max_by_kind[*kind].store(*connections, Relaxed);
        }
    }

    /// The budget of upstream connections of the whole process.
    pub fn upstream_max(&self) -> u64 {
        self.upstream_max.load(Relaxed)
    }

    /// The part of one kind, by its place in [`UpstreamKind::ALL`].
    pub fn upstream_max_of(&self, kind: usize) -> u64 {
        self.upstream_max_by_kind.at(kind).load(Relaxed)
    }

    /// When the certificate in use expires: unix time in seconds.
    pub fn set_certificate_expiry(&self, side: TlsSide, seconds: i64) {
        self.certificate_expiry[side].store(seconds, Relaxed);
    }

    /// By the place in [`TlsSide::ALL`]; 0 if there is none.
    #[allow(clippy::cast_precision_loss)] // seconds of the next 285 million years are exact
    pub fn certificate_expiry(&self, side: usize) -> f64 {
        self.certificate_expiry.at(side).load(Relaxed) as f64
    }

    /// Changed certificate files were read again.
    pub fn reloaded(&self, side: TlsSide, result: ReloadResult) {
        self.reloads[side][result].fetch_add(1, Relaxed);
    }

    pub(super) fn reloads(&self, side: usize, result: usize) -> u64 {
        self.reloads.at(side).at(result).load(Relaxed)
    }

    pub(super) fn log_messages(&self, level: usize) -> u64 {
        self.log_counts.of(level)
    }
}

/// The time now: unix time in milliseconds; 0 on a clock before 1970.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_process_claims_nothing() {
        let facts = ProcessFacts::new("a:1", "ff");
        assert!(!facts.listening() && !facts.draining() && !facts.upstream_up());
        assert_eq!(facts.config_sha256(), "ff");
        assert!(facts.started_unix_millis() <= unix_millis());
    }

    #[test]
    fn parts_of_the_budget_that_are_not_named_stay() {
        let facts = ProcessFacts::new("a:1", "");
        facts.set_upstream_max(32, &[(UpstreamKind::Pool, 20), (UpstreamKind::Lane, 8)]);
        assert_eq!(facts.upstream_max(), 32);
        assert_eq!(facts.upstream_max_of(UpstreamKind::Pool as usize), 20);
        assert_eq!(facts.upstream_max_of(UpstreamKind::Control as usize), 0);
    }
}
