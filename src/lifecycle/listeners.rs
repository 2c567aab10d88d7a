//! Everything the process listens on: its sockets come from systemd, from the process before, or are bound here, and they
//! may go to the process after.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::accept_loop::AcceptLoop;
use super::bind::{CannotListen, tcp_listener};
use super::certificates::ForClients;
use super::client_listeners::ClientListeners;
use super::handover::{self, Handover, OfferedSocket, Predecessor, Successor};
use super::inherit::{Inherited, Keeper, Unwanted};
use crate::config::Config;
use crate::telemetry::ProcessFacts;

/// How often a process that is about to take over checks whether the upstream answers.
const CHECK_EVERY: Duration = Duration::from_millis(10);
/// How long clients that wait in the backlog are still accepted when a drain begins.
const LAST_ACCEPT: Duration = Duration::from_millis(1);
/// How long the clients that were accepted last may go on before the drain begins, where another process takes the next
/// ones: a connection for a few commands is over by then, and the next one goes to the other process.
const SETTLE: Duration = Duration::from_millis(500);

/// The listeners for clients, for HTTP, and for the process that comes after this one.
pub(super) struct Listeners {
    pub clients: ClientListeners,
    /// Taken by the admin server.
    admin: Option<TcpListener>,
    /// A copy of the admin listener, for the process that comes after this one.
    admin_copy: Option<(OwnedFd, Keeper)>,
    handover: Option<Handover>,
    /// The process that runs, until [`Self::begin`] takes over from it.
    predecessor: Option<Predecessor>,
    /// What the process that runs listens on and this one does not, until [`Self::begin`] removes it.
    unwanted: Option<Unwanted>,
}

impl Listeners {
    /// Takes the sockets that systemd or the process that runs has, and binds the rest.
    pub(super) async fn bind(
        config: &Arc<Config>,
        tls: Option<ForClients>,
        mut inherited: Inherited,
    ) -> anyhow::Result<(Self, AcceptLoop)> {
        let mut predecessor = None;
        if let Some(path) = &config.handover {
            predecessor = handover::find(path, &mut inherited).await.context("hand-over")?;
        }
        let (clients, accept_loop) = ClientListeners::bind(config, tls.as_ref(), &mut inherited)?;
        let handover = config.handover.as_ref().map(|path| {
            Handover::bind(path, &mut inherited).map_err(|error| CannotListen::new("handover", &path.display(), error))
        });
        let handover = handover.transpose()?;
        let (mut admin, mut admin_copy) = (None, None);
        if let Some(address) = config.admin {
            let (listener, keeper) = match inherited.at_address(address) {
                Some(given) => (tcp_listener(given.fd)?, given.keeper),
                None => {
                    let bound = TcpListener::bind(address).await;
                    (bound.map_err(|error| CannotListen::new("admin", &address, error))?, Keeper::Us)
                }
            };
            admin_copy = match &handover {
                Some(_) => Some((listener.as_fd().try_clone_to_owned()?, keeper)),
                None => None,
            };
            admin = Some(listener);
        }
        let unwanted = Some(inherited.finish()?);
        Ok((Self { clients, admin, admin_copy, handover, predecessor, unwanted }, accept_loop))
    }

    /// What clients may connect to, with the ports that were chosen.
    pub(super) fn addresses(&self) -> &[String] {
        self.clients.addresses()
    }

    /// The configuration, showing what is listened on.
    pub(super) fn settled(&self, config: &Config) -> Config {
        let mut config = config.clone();
        let admin = self.admin.as_ref().and_then(|listener| listener.local_addr().ok());
        config.settle_listeners(self.addresses(), admin);
        config
    }

    /// The listener for HTTP, once.
    pub(super) fn admin(&mut self) -> Option<TcpListener> {
        self.admin.take()
    }

    /// Takes over from the process that runs, if one does, when the upstream has answered or was given `wait` for it.
    ///
    /// # Errors
    /// The other process has lost patience and goes on.
    pub(super) async fn begin(&mut self, facts: &ProcessFacts, wait: Duration) -> anyhow::Result<()> {
        if let Some(predecessor) = self.predecessor.take() {
            let node = async {
                while !facts.upstream_up() {
                    sleep(CHECK_EVERY).await;
                }
            };
            let _ = timeout(wait, node).await; // an upstream that is away is no reason for the old process to stay
            predecessor.replace().await?;
        }
        if let Some(unwanted) = self.unwanted.take() {
            unwanted.remove();
        }
        Ok(())
    }

    /// Accepts clients until another process does. When this is ready, that process has every socket of this one, and
    /// every client that was accepted here has a worker.
    pub(super) async fn serve(&self) {
        loop {
            self.clients.begin();
            let successor = self.taken().await;
            self.clients.hold().await;
            match successor.begin().await {
                Ok(()) => return tracing::info!("handed over: another process serves new clients"),
                Err(error) => tracing::warn!(%error, "the new process ended at the last moment, this one goes on"),
            }
        }
    }

    /// Ready when another process is ready to serve. Pends for ever without `handover`.
    async fn taken(&self) -> Successor {
        let Some(handover) = &self.handover else { return std::future::pending().await };
        let mut sockets: Vec<OfferedSocket<'_>> = self.clients.sockets().collect();
        sockets.extend(self.admin_copy.iter().map(|(fd, keeper)| (fd.as_fd(), *keeper)));
        sockets.push(handover.socket());
        handover.taken(&sockets).await
    }

    /// Leaves all sockets to the process that serves now. Clients that were accepted here are served here.
    pub(super) async fn leave(self) {
        self.clients.leave().await;
        sleep(SETTLE).await;
    }

    /// Accepts clients for `delay`, then closes the sockets and removes the files of unix sockets. Where systemd keeps
    /// every socket, there is no delay: clients that connect from now on wait for the process that systemd starts next.
    pub(super) async fn end(self, delay: Duration) {
        let kept = self.clients.is_kept();
        if !kept {
            // With no delay at all, those who have connected already are let in.
            self.clients.begin();
            sleep(delay.max(LAST_ACCEPT)).await;
        }
        self.close().await;
        if kept {
            sleep(SETTLE).await;
        }
    }

    async fn close(self) {
        if self.handover.as_ref().is_some_and(Handover::is_passed) {
            return self.clients.leave().await; // the files are the other process', if it lives; if not, the next one replaces them
        }
        self.clients.close().await;
        if let Some(handover) = self.handover {
            handover.close();
        }
    }
}
