//! TLS handshakes of a worker's clients: how many at once, for how long, and how much of the thread they may take.
//!
//! A handshake that waits for its client costs a descriptor and little memory, so there may be many; else a few
//! clients that connect and say nothing would keep all others out. What costs is the computing. It takes turns: at
//! most [`AT_ONCE`] steps between two looks at everybody else on the thread.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::config;
use crate::link::{Socket, TlsStream};
use crate::telemetry::{BufferKind, HandshakeResult, RejectReason, Shard};
use crate::upstream::{Charge, Runtime};

/// Steps with signatures in one turn of the thread.
const AT_ONCE: usize = 2;

// rustls does not tell what a session holds. Measured as the growth of a process with 1,000 clients: 10 KiB each in a
// half-finished handshake, 8 KiB behind it, 12 KiB after a reply of 30 KB.

/// What a session is taken to hold while its handshake lasts, bytes; a long hello takes more.
const HANDSHAKE: usize = 24 << 10;
/// Memory of a TLS session after its handshake, for as long as the client is connected; bytes.
const SESSION: usize = 12 << 10;

/// A client behind TLS, and what its session counts against the memory of all for as long as this lives.
pub(super) struct Secured {
    pub socket: Socket,
    pub memory: Charge,
}

/// What all handshakes of a worker share.
pub(super) struct HandshakeLimiter {
    settings: config::Tls,
    going_on: Cell<usize>,
    turns: Semaphore,
}

impl HandshakeLimiter {
    pub(super) fn new(settings: &config::Tls) -> Rc<Self> {
        Rc::new(Self { settings: settings.clone(), going_on: Cell::new(0), turns: Semaphore::new(AT_ONCE) })
    }

    /// The handshake of one client; nothing when it is not to be served.
    pub(super) async fn secure(&self, rt: &Runtime, stream: TcpStream, config: Arc<ServerConfig>) -> Option<Secured> {
        let shard = &*rt.shard;
        if self.going_on.get() >= self.settings.max_handshakes {
            // Without a handshake there is no way to say why.
            shard.client_rejected[RejectReason::Handshakes].inc();
            return None;
        }
        let _in_line = QueuedHandshake::new(self, shard);
        let mut memory = Charge::new(&rt.memory, BufferKind::Tls);
        let shake = self.shake(stream, config, rt, &mut memory);
        let result = match timeout(self.settings.handshake_timeout, shake).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake of a client failed");
                Err(HandshakeResult::Failed)
            }
            Err(_) => Err(HandshakeResult::Timeout),
        };
        shard.handshakes[result.as_ref().err().copied().unwrap_or(HandshakeResult::Ok)].inc();
        memory.set(SESSION);
        result.ok().map(|session| Secured { socket: Socket::Tls(session), memory })
    }

    async fn shake(
        &self,
        stream: TcpStream,
        config: Arc<ServerConfig>,
        rt: &Runtime,
        memory: &mut Charge,
    ) -> io::Result<Rc<TlsStream>> {
        // Not even memory for those that say nothing.
        stream.readable().await?;
        memory.set(HANDSHAKE);
        rt.relieve();
        let session = TlsStream::server(stream, config)?;
        loop {
            let turn = self.turns.acquire().await.map_err(io::Error::other)?;
            let done = session.step()?;
            // The turn ends when everybody else on the thread has had one.
            yield_now().await;
            drop(turn);
            if done {
                return Ok(session);
            }
            std::future::poll_fn(|cx| session.poll_step_ready(cx)).await?;
        }
    }
}

/// One handshake, counted for as long as it lasts, however it ends.
struct QueuedHandshake<'a> {
    handshakes: &'a HandshakeLimiter,
    shard: &'a Shard,
}

impl<'a> QueuedHandshake<'a> {
    fn new(handshakes: &'a HandshakeLimiter, shard: &'a Shard) -> Self {
        handshakes.going_on.set(handshakes.going_on.get() + 1);
        shard.handshaking.add(1);
        Self { handshakes, shard }
    }
}

impl Drop for QueuedHandshake<'_> {
    fn drop(&mut self) {
        self.handshakes.going_on.set(self.handshakes.going_on.get() - 1);
        self.shard.handshaking.sub(1);
    }
}
