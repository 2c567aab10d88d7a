//! What a run can be told by its environment.

use kit::setting;

/// The seed of everything that is drawn.
pub(crate) fn seed() -> u64 {
    setting("STATE_SEED", 20_241_124)
}

/// The cap on upstream connections, over all workers.
pub(crate) fn cap() -> u32 {
    setting("STATE_CAP", 32)
}

/// Whether the bars on latency and CPU are asserted, not only reported. Not in short runs, which share the machine.
pub(crate) fn bars_count(full: bool) -> bool {
    full && setting("STATE_BARS", 1) != 0
}

/// Settings of the proxy for all scenarios: `key=value`, separated by spaces.
pub(crate) fn extra() -> Vec<String> {
    std::env::var("STATE_SET").unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Whether `arm` (`direct`, `respmux`) is to run.
pub(crate) fn wanted(arm: &str) -> bool {
    std::env::var("STATE_ARM").map_or(true, |only| only == arm)
}
