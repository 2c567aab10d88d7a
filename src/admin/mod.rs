//! The admin port: metrics, health and the status page over HTTP.
//!
//! Owns the HTTP server and what its pages look like; the figures are `telemetry`'s, and what changes something is
//! passed on to `lifecycle`, which starts this room. Served by the main thread: nothing here touches the data path.
//! [`pages`] says what there is, [`access`] who may do more than look; this file is the I/O with its limits. The port
//! may be open to a whole cluster, so a peer gets little: one request per connection, few headers, little time, and a
//! script from another site in somebody's browser gets nothing at all.

mod access;
mod html;
mod pages;
mod status;

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{AdminHandle, Peers};
use crate::command::CommandTable;
use crate::config::Config;
use crate::telemetry::{Telemetry, unix_millis};

/// What the admin port shows, and whom it asks.
pub(crate) struct AdminState {
    /// Counters, facts and heartbeats.
    pub telemetry: Arc<Telemetry>,
    /// Gives the configuration in effect.
    pub config: Box<dyn Fn() -> Arc<Config>>,
    /// The workers, for what only they know.
    pub peers: Peers,
    /// The main thread, for what somebody wants changed.
    pub admin_handle: AdminHandle,
    /// The command table, for the names of commands that clients run.
    pub commands: Arc<CommandTable>,
}

/// How much a peer of the admin port may take.
#[derive(Clone, Copy)]
struct Limits {
    /// Connections at once; more wait in the backlog of the listener.
    connections: usize,
    /// From accept to the end of the request's head.
    head: Duration,
    /// From accept to the last byte of the response.
    connection: Duration,
}

const LIMITS: Limits = Limits { connections: 64, head: Duration::from_secs(5), connection: Duration::from_secs(30) };

/// Headers of a request; Prometheus and probes send about six, browsers about twenty.
const MAX_HEADERS: usize = 32;

/// Bytes of a request's head; the least hyper allows.
const MAX_HEAD_BYTES: usize = 8192;

/// How long responses under way may take after the shutdown.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How long to wait after accept(2) failed, mostly for want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves the admin port until `shutdown` is ready, then for the responses under way, at most 250 ms longer.
///
/// Connections are local tasks: call it within a `LocalSet` or `LocalRuntime`.
pub(crate) async fn serve(listener: TcpListener, state: Rc<AdminState>, shutdown: impl Future<Output = ()>) {
    serve_within(LIMITS, listener, state, shutdown).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    state: Rc<AdminState>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    // Dropping the set ends the connections with the server.
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < limits.connections;
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn_local(answer(limits, stream, peer.ip(), Rc::clone(&state)));
                }
                Err(error) => {
                    tracing::warn!(%error, "admin port: accept failed");
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let last_words = async { while connections.join_next().await.is_some() {} };
    // Whoever has not got its answer by now does without.
    let _ = timeout(LAST_WORDS, last_words).await;
}

/// One connection: one request, one response.
async fn answer(limits: Limits, stream: TcpStream, peer: IpAddr, state: Rc<AdminState>) {
    let respond = service_fn(|request: Request<Incoming>| {
        let state = Rc::clone(&state);
        async move {
            let (head, _) = request.into_parts();
            Ok::<_, Infallible>(pages::respond(&head, peer, &state, unix_millis()).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        // A scrape or probe comes every few seconds; a kept connection would only take a place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), respond);
    match timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection took too long"),
    }
}

#[cfg(test)]
mod tests;
