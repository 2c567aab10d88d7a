//! The process: start, accept, drain, stop.

mod accept;
mod bind;
mod certificates;
pub mod embedded;
mod handover;
mod inherit;
mod notify;
mod open;
mod sources;
mod start;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::admin::{self, AdminState};
use crate::client::{Asked, Wish, Wishes};
use crate::config::Config;
use certificates::Certificates;
use embedded::Embedded;
use inherit::Inherited;
use open::Open;
use start::Workers;

/// Runs respmux until it has drained.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(config: Config) -> anyhow::Result<()> {
    let inherited = Inherited::from_systemd()?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let result = runtime.block_on(live(config, inherited));
    // Worker threads that did not drain in time end with the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn live(mut config: Config, inherited: Inherited) -> anyhow::Result<()> {
    start::fit_descriptors(&mut config)?;
    let mut embedded = match config.embedded {
        true => Some(embedded::start().await?),
        false => None,
    };
    if let Some(server) = &embedded {
        config.upstream.endpoint = server.endpoint().clone();
    }
    let config = Arc::new(config);
    let result = serve(&config, &mut embedded, inherited).await;
    if let Some(server) = embedded {
        server.stop().await;
    }
    result
}

async fn serve(config: &Arc<Config>, embedded: &mut Option<Embedded>, inherited: Inherited) -> anyhow::Result<()> {
    let facts = Arc::new(start::facts(config));
    let certificates = Certificates::load(config, &facts)?;
    let mut open = Open::bind(config, certificates.for_clients(), inherited).await?;
    let (ways, mut wishes) = Wishes::new();
    let mut workers = Workers::start(config, &facts, certificates.for_upstream().as_ref(), &ways)?;
    open.begin(&facts, config.upstream.connect_wait).await?;
    spawn_local(certificates.watch());
    let (stop, stopped) = watch::channel(false);
    if let Some(listener) = open.admin() {
        let state = Arc::new(AdminState { telemetry: Arc::clone(&workers.telemetry) });
        spawn_local(admin::serve(listener, state, until(stopped.clone())));
    }
    facts.set_listening();
    let mut signals = Signals::new()?;
    start::announce(config, open.addresses());
    notify::ready(open.addresses());
    spawn_local(notify::watchdog(Arc::clone(&workers.telemetry)));
    let handed_over = tokio::select! {
        () = open.serve(&workers) => true,
        () = signals.next() => false,
        () = asked_to_drain(&mut wishes) => false,
        status = exited(embedded) => anyhow::bail!("the embedded server ended: {status}"),
    };
    facts.set_draining(true);
    tracing::info!("draining");
    spawn_local(notify::while_draining(Arc::clone(&workers.telemetry), config.drain.delay + config.drain.timeout));
    let drained = async {
        if handed_over {
            // The other process answers there from now on.
            let _ = stop.send(true);
            open.leave().await;
        } else {
            open.end(&workers, config.drain.delay).await;
        }
        drain(config, &mut workers).await;
    };
    tokio::select! {
        () = drained => {}
        () = signals.next() => tracing::warn!("second signal: stopping at once"),
    }
    // Nobody listens any more if the admin server is gone.
    let _ = stop.send(true);
    Ok(())
}

/// Grants what the main thread is asked for, until that is a drain.
async fn asked_to_drain(wishes: &mut mpsc::Receiver<Asked>) {
    while let Some(asked) = wishes.recv().await {
        match asked.wish {
            Wish::Drain => return asked.answer(Ok(vec!["draining".to_owned()])),
        }
    }
    std::future::pending().await
}

/// Closes clients at request boundaries until `drain.timeout`.
async fn drain(config: &Config, workers: &mut Workers) {
    workers.drain().await;
    if timeout(config.drain.timeout, workers.ended()).await.is_err() {
        tracing::warn!(clients = workers.clients(), "drain timed out: closing the remaining clients");
    }
}

/// TERM and INT mean the same.
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stopped as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn exited(embedded: &mut Option<Embedded>) -> String {
    match embedded {
        Some(server) => server.wait_exit().await.map_or_else(|e| e.to_string(), |status| status.to_string()),
        None => std::future::pending().await,
    }
}
