//! What systemd is told of a service with `Type=notify`: ready, reloading, draining, alive. Without `NOTIFY_SOCKET`
//! nobody is told anything.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState::{self, ExtendTimeoutUsec, Ready, Reloading, Status, Stopping, Watchdog};
use tokio::time::{Instant, sleep};

use crate::telemetry::{Telemetry, unix_millis};

/// How often the number of clients that are left is told.
const PROGRESS: Duration = Duration::from_secs(1);
/// How much longer systemd is asked to wait, each time.
const EXTENSION: Duration = Duration::from_secs(10);

/// Every listener is bound and clients are served.
pub(super) fn ready(addresses: &[String]) {
    tell(&[Ready, Status(&format!("serving on {}", addresses.join(", ")))]);
}

/// A reload begins; [`reloaded`] must follow, whatever comes of it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[Reloading, now, Status("reloading")]),
        Err(error) => tracing::debug!(%error, "no monotonic clock: systemd is not told of the reload"),
    }
}

/// The end of a reload, with what came of it in a few words.
pub(super) fn reloaded(outcome: &str) {
    // A line end would begin another field.
    tell(&[Ready, Status(&outcome.replace(['\r', '\n'], "; "))]);
}

/// The end begins: tells how many clients are left for as long as it is polled, and asks for time until the drain is
/// over, whatever `TimeoutStopSec=` says.
pub(super) async fn while_draining(telemetry: Arc<Telemetry>, most: Duration) {
    let end = Instant::now() + most;
    tell(&[Stopping]);
    loop {
        let clients: u64 = telemetry.shards.iter().map(|shard| shard.clients.value()).sum();
        let status = format!("draining: {clients} clients left");
        let mut states = vec![Status(&status)];
        if Instant::now() < end {
            states.push(ExtendTimeoutUsec(u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX)));
        }
        tell(&states);
        sleep(PROGRESS).await;
    }
}

/// Tells systemd that the process is alive, twice in each `WatchdogSec=`, while every worker is. Draining workers end
/// one after the other; the deadline of the drain watches over them.
pub(super) async fn watchdog(telemetry: Arc<Telemetry>) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    loop {
        if telemetry.facts.draining() || all_beat(&telemetry, limit, unix_millis()) {
            tell(&[Watchdog]);
        }
        sleep(limit / 2).await;
    }
}

/// Whether no worker was silent for longer than `limit`; one that never spoke has as long from the start.
fn all_beat(telemetry: &Telemetry, limit: Duration, now: u64) -> bool {
    telemetry.silences(now).all(|silent| silent <= limit)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ProcessFacts;

    #[test]
    fn one_silent_worker_is_enough() {
        let facts = Arc::new(ProcessFacts::new("a:1", ""));
        let telemetry = Telemetry::new(2, &[], Arc::clone(&facts));
        let (start, limit) = (facts.started_unix_millis(), Duration::from_secs(10));
        assert!(all_beat(&telemetry, limit, start + 10_000), "nobody has spoken yet");
        assert!(!all_beat(&telemetry, limit, start + 10_001));
        telemetry.shards[0].beat(start + 20_000);
        assert!(!all_beat(&telemetry, limit, start + 20_000));
        telemetry.shards[1].beat(start + 15_000);
        assert!(all_beat(&telemetry, limit, start + 25_000));
        assert!(!all_beat(&telemetry, limit, start + 25_001));
    }
}
