//! What respmux counts about itself during a storm.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::storm::Shared;

/// Which road the storm's commands took, and what respmux itself took for a fault.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// Connections that respmux killed because their replies could not be trusted.
    pub(crate) violations: u64,
    /// Transactions that rode a lane.
    pub(crate) units: u64,
    /// Elements that went to clients blocked together with others.
    pub(crate) fold_elements: u64,
    /// Messages that went out over shared subscriber connections.
    pub(crate) hub_messages: u64,
}

/// The counters now; `None` when nobody answers.
pub(crate) async fn counted(admin: SocketAddr) -> Option<Counted> {
    let page = async {
        let mut stream = TcpStream::connect(admin).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: respmux\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    };
    let text = timeout(Duration::from_secs(5), page).await.ok()??;
    let sum = |name: &str| {
        let series = text.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    Some(Counted {
        violations: sum("respmux_integrity_violations_total"),
        units: sum("respmux_lane_transactions_total"),
        fold_elements: sum("respmux_blocking_elements_total"),
        hub_messages: sum("respmux_pubsub_messages_total"),
    })
}

/// Looks again and again; the last look stays.
pub(crate) async fn watch(shared: Rc<Shared>) {
    let Some(admin) = shared.config.admin else { return };
    while !shared.stop.get() {
        if let Some(counted) = counted(admin).await {
            shared.tally.borrow_mut().counted = counted;
        }
        // A storm that ends at the first alarm must not go on for long after it.
        sleep(Duration::from_millis(if shared.config.stop_on_alarm { 30 } else { 500 })).await;
    }
}
