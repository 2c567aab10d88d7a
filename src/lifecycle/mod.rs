//! The process: start, accept, reload, hand over, drain, stop.
//!
//! Owns the listening sockets, the worker threads, signals, and what is decided for all workers at once. The main
//! thread runs it; `cli` starts it and nothing calls it but `main`. Clients and browsers ask it for changes through
//! `client::AdminHandle`.

mod accept_loop;
mod admin_commands;
mod bind;
mod certificates;
mod client_listeners;
mod embedded;
mod handover;
mod inherit;
mod listeners;
pub(crate) mod preflight;
mod proxy_pause;
mod reload;
mod source_limit;
mod startup;
mod systemd;
mod workers;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState};
use crate::client::AdminHandle;
use crate::config::{Config, Source};
use crate::telemetry::{Telemetry, rates};
use crate::worker::WorkerCommand;
use bind::CannotListen;
use certificates::Certificates;
use embedded::Embedded;
use inherit::Inherited;
use listeners::Listeners;
use proxy_pause::ProxyPause;
use reload::Reloader;
use workers::Workers;

/// How long workers may take to end after their last clients were cut.
const AFTER_CUT: Duration = Duration::from_secs(1);

/// Runs respmux until it has drained.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(config: Config, source: Source) -> anyhow::Result<()> {
    let inherited = Inherited::from_systemd()?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let result = runtime.block_on(live(config, source, inherited));
    // Worker threads that did not drain in time end with the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Whether only another configuration can mend what [`run`] ended with: starting again is of no use.
pub fn is_lasting(error: &anyhow::Error) -> bool {
    error.downcast_ref::<CannotListen>().is_some_and(CannotListen::is_lasting)
}

async fn live(mut config: Config, source: Source, inherited: Inherited) -> anyhow::Result<()> {
    startup::fit_descriptors(&mut config)?;
    let mut embedded = match config.embedded {
        true => Some(embedded::start().await?),
        false => None,
    };
    if let Some(server) = &embedded {
        config.upstream.endpoint = server.endpoint().clone();
    }
    startup::settle(&mut config);
    let config = Arc::new(config);
    let result = serve(&config, source, &mut embedded, inherited).await;
    if let Some(server) = embedded {
        server.stop().await;
    }
    result
}

async fn serve(
    config: &Arc<Config>,
    source: Source,
    embedded: &mut Option<Embedded>,
    inherited: Inherited,
) -> anyhow::Result<()> {
    let facts = Arc::new(startup::facts(config));
    let certificates = Certificates::load(config, &facts)?;
    let (mut listeners, accept_loop) = Listeners::bind(config, certificates.for_clients(), inherited).await?;
    let config = &Arc::new(listeners.settled(config));
    let (ways, mut admin_handle) = AdminHandle::new();
    let workers = Workers::start(config, &facts, certificates.for_upstream().as_ref(), &ways, |workers, telemetry| {
        accept_loop.on_worker(workers, telemetry)
    })?;
    listeners.begin(&facts, config.upstream.connect_wait).await?;
    let certificates = Rc::new(RefCell::new(certificates));
    spawn_local(Certificates::watch(Rc::clone(&certificates)));
    let reloader = Rc::new(Reloader::new(config, source, &facts, certificates));
    let pause = ProxyPause::new(workers.commands(), &facts);
    let stop = CancellationToken::new();
    if let Some(listener) = listeners.admin() {
        let running = Rc::clone(&reloader);
        let state = Rc::new(AdminState {
            telemetry: Arc::clone(&workers.telemetry),
            config: Box::new(move || running.running()),
            peers: workers.peers.clone(),
            admin_handle: ways.clone(),
            commands: Arc::clone(&workers.table),
        });
        spawn_local(admin::serve(listener, state, stop.clone().cancelled_owned()));
    }
    facts.set_listening();
    let mut signals = Signals::new()?;
    startup::announce(config, listeners.addresses());
    systemd::ready(listeners.addresses());
    spawn_local(systemd::watchdog(Arc::clone(&workers.telemetry)));
    spawn_local(sample(Arc::clone(&workers.telemetry)));
    let handed_over = tokio::select! {
        () = listeners.serve() => true,
        () = signals.next() => false,
        () = admin_commands::until_drain(&mut admin_handle, &reloader, &pause, &listeners.clients, &workers) => false,
        status = exited(embedded) => anyhow::bail!("the embedded server ended: {status}"),
    };
    facts.set_draining(true);
    tracing::info!("draining");
    // Whoever asks for something from now on is told that the process ends.
    drop(admin_handle);
    pause.end("the process drains").await;
    let config = reloader.running();
    spawn_local(systemd::while_draining(Arc::clone(&workers.telemetry), config.drain.delay + config.drain.timeout));
    let drained = async {
        if handed_over {
            // The other process answers on the admin port from now on.
            stop.cancel();
            listeners.leave().await;
        } else {
            listeners.end(config.drain.delay).await;
        }
        drain(&config, &workers).await;
    };
    tokio::select! {
        () = drained => {}
        () = signals.next() => tracing::warn!("second signal: stopping at once"),
    }
    stop.cancel();
    Ok(())
}

/// Sends clients away between requests, and closes those that are left after `drain.timeout`.
async fn drain(config: &Config, workers: &Workers) {
    workers.commands().give(|| WorkerCommand::Drain).await;
    if timeout(config.drain.timeout, workers.ended()).await.is_err() {
        tracing::warn!(clients = workers.clients(), "drain timed out: closing the remaining clients");
        workers.commands().give(|| WorkerCommand::Cut).await;
        // The workers end once what these clients left on upstream connections is in order.
        let _ = timeout(AFTER_CUT, workers.ended()).await;
    }
}

/// A sample a second: for rates, the graph, and the events and lines of log that follow from counters.
async fn sample(telemetry: Arc<Telemetry>) {
    let mut timer = interval(rates::STEP);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        telemetry.beat();
    }
}

/// SIGTERM and SIGINT, which mean the same: drain.
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

async fn exited(embedded: &mut Option<Embedded>) -> String {
    match embedded {
        Some(server) => server.wait_exit().await.map_or_else(|e| e.to_string(), |status| status.to_string()),
        None => std::future::pending().await,
    }
}
