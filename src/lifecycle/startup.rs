//! What a start settles before a client comes: the facts of the process, its descriptors, and what it says of itself.

use std::io::{IsTerminal, Write};

use crate::config::{Config, Endpoint, SPARE_DESCRIPTORS, WorkerShare};
use crate::telemetry::{ProcessFacts, UpstreamKind};

/// The upstream's address as it is shown.
pub(super) fn endpoint(config: &Config) -> String {
    match &config.upstream.endpoint {
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    }
}

pub(super) fn facts(config: &Config) -> ProcessFacts {
    let facts = ProcessFacts::new(&endpoint(config), config.fingerprint())
        .with_memory(config.memory_limit as u64, config.workers)
        .with_log_counts(crate::telemetry::log::counts());
    facts.set_client_max(config.client.max_connections as u64);
    let shares = config.division();
    let sum = |pick: fn(&WorkerShare) -> usize| shares.shares().iter().map(pick).sum::<usize>() as u64;
    let by_kind = [
        (UpstreamKind::Lane, sum(|s| s.lanes)),
        (UpstreamKind::Pool, sum(|s| s.pool)),
        (UpstreamKind::Login, sum(|s| s.login)),
        (UpstreamKind::Control, sum(|s| s.control)),
        (UpstreamKind::Hub, sum(|s| s.hubs)),
    ];
    facts.set_upstream_max(config.upstream.max_connections as u64, &by_kind);
    facts
}

/// Every client and every upstream connection needs a descriptor: raises the limit as far as it goes, and takes fewer
/// clients where it does not go far enough, so that those who are in never lack one.
///
/// # Errors
/// Not one client would be left.
pub(super) fn fit_descriptors(config: &mut Config) -> anyhow::Result<()> {
    let beside = config.upstream.max_connections + SPARE_DESCRIPTORS;
    let wanted = config.client.max_connections + beside;
    let limit = match rlimit::increase_nofile_limit(wanted as u64) {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the file descriptor limit");
            return Ok(());
        }
    };
    if limit >= wanted {
        return Ok(());
    }
    enough_descriptors(config, limit as u64).map_err(anyhow::Error::msg)?;
    tracing::warn!(
        limit,
        wanted,
        asked = config.client.max_connections,
        clients = limit - beside,
        "client.max_connections lowered to what the hard limit on file descriptors (ulimit -Hn) allows"
    );
    config.client.max_connections = limit - beside;
    Ok(())
}

/// The configuration shows what has come of it in this process.
pub(super) fn settle(config: &mut Config) {
    config.settle(config.log.format.is_json(std::io::stderr().is_terminal()));
}

/// Whether a hard limit leaves a descriptor for clients.
///
/// # Errors
/// The limit leaves none.
pub(super) fn enough_descriptors(config: &Config, limit: u64) -> Result<(), String> {
    let beside = config.upstream.max_connections + SPARE_DESCRIPTORS;
    if limit > beside as u64 {
        return Ok(());
    }
    Err(format!(
        "too few file descriptors: the hard limit is {limit} (ulimit -Hn), {beside} are needed before the first client \
         (upstream.max_connections = {} and {SPARE_DESCRIPTORS} others)",
        config.upstream.max_connections
    ))
}

/// Says that clients may come, and to a person how: a daemon's standard output stays free of that.
pub(super) fn announce(config: &Config, addresses: &[String]) {
    tracing::info!(
        listen = addresses.join(","),
        upstream = endpoint(config),
        workers = config.workers,
        cap = config.upstream.max_connections,
        memory = config.memory_limit,
        "listening"
    );
    if !std::io::stdout().is_terminal() {
        return;
    }
    let mut text = format!("{}\n", config.division());
    for address in addresses {
        let hint = match address.strip_prefix("unix:") {
            Some(path) => format!("redis-cli -s {path}"),
            None => {
                let (plain, tls) = address.strip_prefix("tls:").map_or((&address[..], ""), |plain| (plain, " --tls"));
                plain.rsplit_once(':').map_or_else(String::new, |(host, port)| {
                    format!("redis-cli -h {} -p {port}{tls}", host.trim_matches(['[', ']']))
                })
            }
        };
        text.push_str(&format!("listening on {address}    try: {hint}\n"));
    }
    if let Some(admin) = config.admin {
        text.push_str(&format!(
            "status page on http://{admin}/    metrics and health on /metrics /readyz /livez /startupz\n"
        ));
    }
    // A reader that went away is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
