//! The process: start, accept, drain, stop.

mod accept;
mod bind;
mod certificates;
pub mod embedded;
mod pause;
mod reload;
mod sources;
mod start;
mod steer;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::admin::{self, AdminState};
use crate::client::Wishes;
use crate::config::{Config, Source};
use accept::Acceptor;
use certificates::Certificates;
use embedded::Embedded;
use pause::Pauses;
use reload::Reloader;
use start::Workers;

/// Runs respmux until it has drained.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(config: Config, source: Source) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let result = runtime.block_on(live(config, source));
    // Worker threads that did not drain in time end with the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn live(mut config: Config, source: Source) -> anyhow::Result<()> {
    start::fit_descriptors(&mut config)?;
    let mut embedded = match config.embedded {
        true => Some(embedded::start().await?),
        false => None,
    };
    if let Some(server) = &embedded {
        config.upstream.endpoint = server.endpoint().clone();
    }
    let config = Arc::new(config);
    let result = serve(&config, source, &mut embedded).await;
    if let Some(server) = embedded {
        server.stop().await;
    }
    result
}

async fn serve(config: &Arc<Config>, source: Source, embedded: &mut Option<Embedded>) -> anyhow::Result<()> {
    let facts = Arc::new(start::facts(config));
    let certificates = Certificates::load(config, &facts)?;
    let acceptor = Acceptor::bind(config, certificates.for_clients()).await?;
    let admin = match config.admin {
        Some(addr) => Some(TcpListener::bind(addr).await.with_context(|| format!("admin: cannot listen on {addr}"))?),
        None => None,
    };
    let (ways, mut wishes) = Wishes::new();
    let mut workers = Workers::start(config, &facts, certificates.for_upstream().as_ref(), &ways)?;
    let certificates = Rc::new(RefCell::new(certificates));
    spawn_local(Certificates::watch(Rc::clone(&certificates)));
    let reloader = Reloader::new(config, source, &facts, certificates);
    let pauses = Pauses::new(workers.orders(), &facts);
    let (stop, stopped) = watch::channel(false);
    if let Some(listener) = admin {
        let state = Arc::new(AdminState { telemetry: Arc::clone(&workers.telemetry) });
        spawn_local(admin::serve(listener, state, until(stopped.clone())));
    }
    facts.set_listening();
    start::announce(config, acceptor.addresses());
    let mut signals = Signals::new()?;
    tokio::select! {
        () = acceptor.run(&workers) => {}
        () = signals.next() => {}
        () = steer::until_drain(&mut wishes, &reloader, &pauses, &acceptor, &workers) => {}
        status = exited(embedded) => anyhow::bail!("the embedded server ended: {status}"),
    }
    facts.set_draining(true);
    tracing::info!("draining");
    // Who asks for something now is told that the process ends.
    drop(wishes);
    pauses.end("the process drains").await;
    let config = reloader.running();
    let drained = drain(&config, acceptor, &mut workers);
    tokio::select! {
        () = drained => {}
        () = signals.next() => tracing::warn!("second signal: stopping at once"),
    }
    // Nobody listens any more if the admin server is gone.
    let _ = stop.send(true);
    Ok(())
}

/// Unready at once, still accepting for `drain.delay`, then closing clients at request boundaries until
/// `drain.timeout`.
async fn drain(config: &Config, acceptor: Acceptor, workers: &mut Workers) {
    if !config.drain.delay.is_zero() {
        let _ = timeout(config.drain.delay, acceptor.run(workers)).await;
    }
    acceptor.close();
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
