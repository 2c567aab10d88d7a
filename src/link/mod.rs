//! One ready connection to the upstream, before anyone decides what it is for.
//!
//! Owns the cap ([`Budget`]), the way to a server (dialer, circuit, TLS, handshake), the logins of all users
//! ([`Keyring`]), and the connection itself. `upstream` calls it; it knows no client and no command but those of the
//! handshake.
//!
//! A [`Link`] exists only with a [`Permit`] from the process-wide [`Budget`], and only after its handshake matched
//! reply by reply: no other code can build one. Closing is orderly: the permit is given back when the upstream has
//! closed its side too, so that `connected_clients` never counts a connection that the budget has forgotten.

mod acquire;
mod budget;
mod circuit;
mod counted;
mod dialer;
mod error_hints;
mod generation;
mod handshake;
mod handshake_timeout;
mod keyring;
mod last_error;
mod login_refusal;
#[cfg(test)]
pub(crate) mod memory_socket;
mod open_socket;
mod own_ids;
mod pump;
mod server;
mod socket;
mod tls;

pub use acquire::{Patience, Start, Wanted};
pub use budget::{Budget, Permit, Use};
pub use dialer::{DialError, Dialer, DialerParts};
pub use handshake::tolerable;
pub use keyring::{Credentials, Keyring};
pub use own_ids::{OwnId, OwnIds};
pub use pump::{Outgoing, Pump};
pub(crate) use server::{ServerClient, ServerRef};
pub use socket::{ReadHalf, Socket, WriteHalf};
pub use tls::{ClientTls, Material, TlsStream, client_config, server_config, server_name};

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use crate::resp::cold::Value;
use crate::resp::{Advance, ReplyScanner};
use crate::session::RouteKey;
use crate::telemetry::UpstreamCloseReason;

use counted::Counted;

/// How long an orderly close waits for the upstream's own close before the permit is given back regardless.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Largest reply that a [`Link::call`] collects, bytes. CLIENT LIST of 100,000 clients stays below.
const CALL_LIMIT: usize = 64 << 20;

/// One authenticated connection to the upstream, in the state that `key` describes.
///
/// However it ends, also when the future that used it is dropped, it closes in order, and it keeps its permit and is
/// counted until then.
pub struct Link {
    socket: Option<Socket>,
    place: Option<Occupancy>,
    key: RouteKey,
    /// CLIENT ID on the upstream, from HELLO; 0 when HELLO was not permitted.
    id: OwnId,
    /// Bytes of a reply that a [`Link::call`] has not finished reading.
    unread: BytesMut,
    /// The server to which it leads, as that was known when the connection was begun.
    server: ServerRef,
}

/// What a connection takes for as long as the upstream has it.
struct Occupancy {
    permit: Permit,
    counted: Counted,
}

impl Link {
    /// The state that the handshake proved.
    #[must_use]
    pub fn key(&self) -> &RouteKey {
        &self.key
    }

    /// The key of a lent connection, for its owner, who follows what its only client changes.
    pub fn key_mut(&mut self) -> &mut RouteKey {
        &mut self.key
    }

    /// This connection as a client of its server; nothing while the server has not told its id.
    #[must_use]
    pub fn client(&self) -> Option<ServerClient> {
        let id = self.id.value();
        (id != 0).then_some(ServerClient { server: self.server, id })
    }

    /// The server to which this connection leads.
    #[must_use]
    pub fn server(&self) -> ServerRef {
        self.server
    }

    /// The upstream's id of this connection, learnt later than in the handshake.
    pub fn learn_id(&mut self, id: i64) {
        self.id.learn(id);
    }

    /// Reads what is there into `buf`.
    #[inline]
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.open_socket()).poll_read(cx, buf)
    }

    /// Writes as much as the socket takes now; `Ok(0)` when it takes nothing, after which the caller polls
    /// [`Link::poll_writable`].
    #[inline]
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let (Some(socket), Some(place)) = (&self.socket, &self.place) else { return Ok(0) };
        match socket.try_write(bytes) {
            Ok(n) => {
                place.counted.on_sent(n);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Ready when a blocked write may go on.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.as_ref().map_or(Poll::Pending, |socket| socket.poll_writable(cx))
    }

    /// The upstream has closed it, or sent something that nobody asked for: of no use to anybody. For idle links.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.socket.as_ref().is_some_and(Socket::is_quiet) || !self.unread.is_empty()
    }

    /// Sends one batch of commands and returns its `replies` replies, pushes left out. For cold paths on a
    /// connection that nobody else uses.
    ///
    /// # Errors
    /// Socket errors, `UnexpectedEof`, and `InvalidData` for what is no reply. The connection must be dropped then.
    pub async fn call(&mut self, batch: &[u8], replies: usize) -> io::Result<Vec<Vec<u8>>> {
        self.open_socket().write_all(batch).await?;
        let mut frames = Vec::with_capacity(replies);
        while frames.len() < replies {
            frames.push(self.read_frame().await?);
        }
        Ok(frames)
    }

    /// RESET, and everything that the connection still says (messages, MONITOR lines, replies to commands of a client
    /// that left) is read up to `+RESET`, which nothing else can look like.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub async fn silence(&mut self) -> io::Result<()> {
        let mut batch = BytesMut::new();
        crate::resp::encode::command(&mut batch, &["RESET"]);
        self.open_socket().write_all(&batch).await?;
        while self.read_frame().await? != b"+RESET\r\n" {}
        Ok(())
    }

    /// The next reply, whole.
    async fn read_frame(&mut self) -> io::Result<Vec<u8>> {
        let mut scanner = ReplyScanner::new();
        let mut seen = 0;
        loop {
            if seen < self.unread.len() {
                match scanner.advance(&self.unread[seen..]) {
                    Advance::Complete { len, kind } => {
                        let frame = self.unread.split_to(seen + len);
                        if kind.is_push() {
                            scanner = ReplyScanner::new();
                            seen = 0;
                            continue;
                        }
                        return Ok(frame.to_vec());
                    }
                    Advance::Partial => seen = self.unread.len(),
                    Advance::Invalid(error) => {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
                    }
                }
            }
            if self.unread.len() > CALL_LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "reply too large"));
            }
            let Self { socket, unread, .. } = self;
            let socket = socket.as_mut().expect("only close and drop take the socket");
            if socket.read_buf(unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Counts the connection as idle in the pool.
    pub fn on_returned(&mut self) {
        self.counted().on_returned();
    }

    /// Counts the connection as lent.
    pub fn on_leased(&mut self) {
        self.counted().on_leased();
    }

    /// Closes in order: our side first, then wait for the upstream's. Whoever drops the permit gives the
    /// connection's place away.
    pub async fn close(mut self, reason: UpstreamCloseReason) -> Permit {
        self.counted().on_closing(reason);
        if let Some(mut socket) = self.socket.take() {
            close_in_order(&mut socket).await;
        }
        self.place.take().expect(PLACED).permit
    }

    /// Closes our side; whether the upstream closes its own within `limit`. One that hangs does not, one that is paused
    /// does.
    pub async fn leave(&mut self, limit: Duration) -> bool {
        let Some(socket) = self.socket.as_mut() else { return true };
        tokio::time::timeout(limit, drained(socket)).await.is_ok()
    }

    fn open_socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("only close and drop take the socket")
    }

    fn counted(&mut self) -> &mut Counted {
        &mut self.place.as_mut().expect(PLACED).counted
    }
}

/// Why a link has one.
const PLACED: &str = "only close and drop take the place";

/// Dropped by whoever used it, or waited for it, and is gone.
impl Drop for Link {
    fn drop(&mut self) {
        let (Some(mut socket), Some(mut place)) = (self.socket.take(), self.place.take()) else { return };
        place.counted.on_closing(UpstreamCloseReason::Client);
        let id = self.id.take();
        tokio::task::spawn_local(async move {
            close_in_order(&mut socket).await;
            drop((place, id));
        });
    }
}

/// Half-closes and waits for the peer to close, for at most a second.
async fn close_in_order(socket: &mut Socket) {
    // An upstream that hangs keeps its connection; the permit cannot wait for it for ever.
    let _ = tokio::time::timeout(CLOSE_WAIT, drained(socket)).await;
}

async fn drained(socket: &mut Socket) {
    if socket.shutdown().await.is_err() {
        return;
    }
    // The end below TLS counts, not the upstream's goodbye: only then it has let go of the connection.
    let _ = std::future::poll_fn(|cx| socket.poll_drain(cx)).await;
}

/// Decodes one whole reply of a cold path.
///
/// # Errors
/// `InvalidData` when it is none.
pub fn decoded(frame: &[u8]) -> io::Result<Value> {
    crate::resp::cold::decode(frame).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a reply"))
}
