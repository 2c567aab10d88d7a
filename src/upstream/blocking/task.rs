//! The I/O of one lent connection that waits for a fold.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

use super::fold::SourceId;
use super::{Fold, Upstreams};
use crate::link::Use;
use crate::resp::{Advance, ReplyScanner};
use crate::telemetry::{AnomalyReason, UpstreamCloseReason};
use crate::upstream::{Lease, Return};

/// A connection id that no server reaches: asks whether we may unblock at all.
const NOBODY: &[u8] = b"9223372036854775807";

/// What the fold and the task of its connection share.
pub(super) struct Io {
    out: BytesMut,
    waker: Option<Waker>,
    released: bool,
    /// The upstream's id of the connection.
    pub(super) id: i64,
    /// It cannot be unblocked, so it waits for slices of time.
    pub(super) sliced: bool,
    /// Of the connection.
    pub(super) generation: u64,
    /// It waits on a server that nobody can ask any more.
    pub(super) doomed: bool,
}

impl Io {
    /// Appends a packet; it is written in one piece if the socket takes it.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.wake();
    }

    /// It waits on a server that nobody can ask any more, and is given up.
    pub(super) fn doom(&mut self) {
        self.doomed = true;
        self.wake();
    }

    /// The connection is not needed any more.
    pub(super) fn release(&mut self) {
        self.released = true;
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

enum End {
    Released,
    Lost(UpstreamCloseReason),
    Anomaly,
}

/// Borrows a connection, waits on it for `fold` for as long as that needs it, and gives it back.
pub(super) async fn run(up: Rc<Upstreams>, fold: Rc<Fold>, source: SourceId) {
    let lease = up.pool.lend_for_blocked(&up, &fold.key.0).await;
    let unblocks = lease.is_ok() && may_unblock(&up).await;
    let Ok(mut lease) = lease else {
        fold.act(&up, super::fold::Fold::not_lent);
        return;
    };
    let (id, generation) = (lease.link().id(), lease.link().generation());
    let sliced = id == 0 || !unblocks;
    let io = Io { out: BytesMut::new(), waker: None, released: false, id, sliced, generation, doomed: false };
    fold.links.borrow_mut().insert(source, io);
    if generation < up.dialer.generation() {
        fold.act(&up, super::fold::Fold::give_way); // told to move meanwhile
    }
    fold.act(&up, |machine| machine.lent(source, sliced));
    let mut connection = Connection { lease, scanner: ReplyScanner::new(), partial: BytesMut::new() };
    let end = poll_fn(|cx| connection.poll(&up, &fold, source, cx)).await;
    fold.links.borrow_mut().remove(&source);
    match end {
        End::Released => connection.lease.give_back(Return::Clean),
        End::Lost(reason) => {
            connection.lease.spoil(reason);
            tracing::warn!(worker = up.worker, "a connection with blocked clients was lost");
            up.on_upstream_lost();
            fold.act(&up, |machine| machine.lost(source));
        }
        End::Anomaly => {
            connection.lease.spoil(UpstreamCloseReason::Anomaly);
            tracing::error!(worker = up.worker, "a connection with blocked clients was killed: unexpected reply");
            up.shard.anomaly(Use::Pool, AnomalyReason::UnexpectedReply);
            up.on_upstream_lost();
            fold.act(&up, |machine| machine.lost(source));
        }
    }
}

/// Whether connections can be unblocked; asked once, and again after an answer that said nothing.
async fn may_unblock(up: &Upstreams) -> bool {
    if let Some(known) = up.folds.unblocks.get() {
        return known;
    }
    match up.control.unblock(NOBODY, up.control.generation()).await {
        Ok(reply) if reply.starts_with(b":") => up.folds.unblocks.set(Some(true)),
        Ok(reply) if reply.starts_with(b"-NOPERM") || reply.starts_with(b"-ERR unknown") => {
            tracing::warn!("the upstream user may not run CLIENT UNBLOCK: blocked clients time out up to 0.4 s late");
            up.folds.unblocks.set(Some(false));
        }
        Ok(_) | Err(_) => {}
    }
    up.folds.unblocks.get() == Some(true)
}

struct Connection {
    lease: Lease,
    scanner: ReplyScanner,
    /// The beginning of a reply.
    partial: BytesMut,
}

impl Connection {
    fn poll(&mut self, up: &Rc<Upstreams>, fold: &Rc<Fold>, source: SourceId, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Some(end) = self.write(up, fold, source, cx) {
                return Poll::Ready(end);
            }
            let mut memory = up.read_buffer.borrow_mut();
            let mut buf = ReadBuf::new(&mut memory);
            match self.lease.link().poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(End::Lost((&error).into())),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    return Poll::Ready(End::Lost(UpstreamCloseReason::Upstream));
                }
                Poll::Ready(Ok(())) => {}
            }
            up.shard.upstream_read(buf.filled().len());
            if self.on_bytes(up, fold, source, buf.filled()).is_none() {
                return Poll::Ready(End::Anomaly);
            }
        }
    }

    fn write(&mut self, up: &Upstreams, fold: &Fold, source: SourceId, cx: &mut Context<'_>) -> Option<End> {
        let mut links = fold.links.borrow_mut();
        let Some(io) = links.get_mut(&source) else { return Some(End::Anomaly) };
        if io.doomed {
            return Some(End::Lost(UpstreamCloseReason::Moved));
        }
        if io.released {
            let clean = io.out.is_empty() && !self.scanner.mid_frame();
            return Some(if clean { End::Released } else { End::Anomaly });
        }
        if !io.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            io.waker = Some(cx.waker().clone());
        }
        while !io.out.is_empty() {
            match self.lease.link().try_write(&io.out) {
                Err(error) => return Some(End::Lost((&error).into())),
                Ok(0) => match self.lease.link().poll_writable(cx) {
                    Poll::Ready(Err(error)) => return Some(End::Lost((&error).into())),
                    Poll::Ready(Ok(())) => {}
                    Poll::Pending => break,
                },
                Ok(n) => {
                    io.out.advance(n);
                    up.shard.upstream_written(n);
                }
            }
        }
        None
    }

    fn on_bytes(&mut self, up: &Rc<Upstreams>, fold: &Rc<Fold>, source: SourceId, chunk: &[u8]) -> Option<()> {
        let mut rest = chunk;
        while !rest.is_empty() {
            match self.scanner.advance(rest) {
                Advance::Invalid(_) => return None,
                Advance::Partial => {
                    self.partial.extend_from_slice(rest);
                    rest = &[];
                }
                Advance::Complete { len, kind } => {
                    let (piece, after) = rest.split_at(len);
                    rest = after;
                    self.partial.extend_from_slice(piece);
                    let frame = self.partial.split();
                    if !kind.is_push() {
                        self.on_frame(up, fold, source, &frame)?;
                    }
                }
            }
        }
        Some(())
    }

    fn on_frame(&self, up: &Rc<Upstreams>, fold: &Rc<Fold>, source: SourceId, frame: &[u8]) -> Option<()> {
        let armed = fold.machine.borrow().awaits_armed(source)?;
        let reply = if armed { fold.own_reply(frame) } else { fold.twin_reply(frame) }?;
        fold.act(up, |machine| machine.on_reply(source, reply)).ok()
    }
}
