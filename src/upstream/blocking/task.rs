//! The I/O of one lent connection that waits for a wait group.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::queue::SourceId;
use super::{Node, WaitGroup};
use crate::base::TaskWaker;
use crate::link::{ServerClient, ServerRef, Use};
use crate::resp::{Advance, ReplyScanner};
use crate::telemetry::{AnomalyReason, UpstreamCloseReason};
use crate::upstream::{Lease, Return};

/// A connection id that no server reaches: asks whether we may unblock at all.
const NOBODY: i64 = i64::MAX;
/// What clients of a server that has become a replica are told.
pub(super) const DEMOTED: &[u8] =
    b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";
/// How long a connection may stay silent of which a server says that it does not wait.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(3);

/// Two answers that a connection does not wait belong together when no more than this lies between them: it is asked
/// again within 50 ms, as long as that is what it is asked for.
const LONG_AGO: Duration = Duration::from_millis(500);

/// What the wait group and the task of its connection share.
pub(super) struct Io {
    /// Packets that the machine has sent and the socket has not taken.
    out: BytesMut,
    /// The task of the connection; every change here wakes it.
    task: TaskWaker,
    /// The machine needs the connection no more. Set once, by `release`.
    released: bool,
    /// The connection as its server knows it, if it told us.
    pub(super) client: Option<ServerClient>,
    /// The connection cannot be unblocked, so it waits for slices of time.
    pub(super) sliced: bool,
    /// The server on which it waits.
    pub(super) server: ServerRef,
    /// The connection waits on a server that nobody can ask any more; set by `doom`.
    pub(super) doomed: bool,
    /// Since when the server that is asked again and again says that it does not wait, and when it said so last.
    not_blocked: Option<(Instant, Instant)>,
}

impl Io {
    /// Appends a packet; it is written in one piece if the socket takes it.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.not_blocked = None;
        self.out.extend_from_slice(bytes);
        self.wake();
    }

    /// Gives the connection up: it waits on a server that nobody can ask any more.
    pub(super) fn doom(&mut self) {
        self.doomed = true;
        self.wake();
    }

    /// The server that was asked to unblock the connection says that it is not blocked. Its reply is on its way then; where
    /// none comes, the two connections lead to different servers behind one address: the address had moved before
    /// respmux was told. Nobody can ask the right one any more.
    pub(super) fn on_not_blocked(&mut self, now: Instant) {
        // What it said long ago, in another moment like this, says nothing about now.
        let lasting = self.not_blocked.filter(|(_, last)| now.saturating_duration_since(*last) < LONG_AGO);
        let since = lasting.map_or(now, |(since, _)| since);
        self.not_blocked = Some((since, now));
        if now.saturating_duration_since(since) >= SILENT_FOR {
            self.doom();
        }
    }

    /// The connection is not needed any more.
    pub(super) fn release(&mut self) {
        self.released = true;
        self.wake();
    }

    fn wake(&self) {
        self.task.wake();
    }
}

/// How the wait on one connection ended.
pub(super) enum SourceEnd {
    /// Nobody waits any more and every reply is there.
    Released,
    /// Gone, or given up: what its waiters asked for has to be waited for elsewhere.
    Lost(UpstreamCloseReason),
    Anomaly,
}

/// Borrows a connection, waits on it for `group` for as long as that needs it, and gives it back.
pub(super) async fn run(node: Rc<Node>, group: Rc<WaitGroup>, source: SourceId) {
    // The lease first: an answer to the second question is of no use to a wait group that gets no connection.
    let lease = node.rt.pool.lease_for_blocked(&node, &group.key.0).await;
    let unblocks = lease.is_ok() && may_unblock(&node).await;
    let Ok(mut lease) = lease else {
        group.act(&node, super::queue::Queue::not_leased);
        return;
    };
    let (client, server) = (lease.link().client(), lease.link().server());
    let sliced = client.is_none() || !unblocks;
    let io = Io {
        out: BytesMut::new(),
        task: TaskWaker::default(),
        released: false,
        client,
        sliced,
        server,
        doomed: false,
        not_blocked: None,
    };
    // Before the machine hears of it: what it decides is sent through this entry.
    group.links.borrow_mut().insert(source, io);
    if server.is_before(node.dialer.server()) {
        group.act(&node, super::queue::Queue::give_way); // told to move meanwhile
    }
    group.act(&node, |machine| machine.leased(source, sliced));
    let mut connection = WaitingConnection { lease, frames: Frames::default() };
    let end = poll_fn(|cx| connection.poll(&node, &group, source, cx)).await;
    // Before the machine hears of the end: it must not send anything through an entry that nobody writes any more.
    group.links.borrow_mut().remove(&source);
    let lost = !matches!(end, SourceEnd::Released);
    part(&node, connection.lease, end);
    if lost {
        group.act(&node, |machine| machine.lost(source));
    }
}

/// Gives a connection back on which clients waited, or closes it.
pub(super) fn part(node: &Rc<Node>, mut lease: Lease, end: SourceEnd) {
    match end {
        SourceEnd::Released => lease.give_back(Return::Clean),
        SourceEnd::Lost(reason) => {
            lease.spoil(reason);
            tracing::warn!(worker = node.rt.worker, upstream = %node.address(), "a connection with blocked clients was lost");
            node.on_connection_lost();
        }
        SourceEnd::Anomaly => {
            lease.spoil(UpstreamCloseReason::Anomaly);
            tracing::error!(worker = node.rt.worker, upstream = %node.address(), "a connection with blocked clients was killed: unexpected reply");
            node.rt.shard.anomaly(Use::Pool, AnomalyReason::UnexpectedReply);
            node.on_connection_lost();
        }
    }
}

/// Whether connections can be unblocked; asked once, and again after an answer that said nothing.
pub(super) async fn may_unblock(node: &Node) -> bool {
    if let Some(known) = node.wait_groups.unblocks.get() {
        return known;
    }
    match node.control.unblock(ServerClient { server: node.control.server(), id: NOBODY }).await {
        Ok(reply) if reply.starts_with(b":") => node.wait_groups.unblocks.set(Some(true)),
        Ok(reply) if reply.starts_with(b"-NOPERM") || reply.starts_with(b"-ERR unknown") => {
            tracing::warn!(upstream = %node.address(), "the upstream user may not run CLIENT UNBLOCK: blocked clients time out up to 0.4 s late");
            node.wait_groups.unblocks.set(Some(false));
        }
        Ok(_) | Err(_) => {}
    }
    node.wait_groups.unblocks.get() == Some(true)
}

/// Whole replies out of what was read; pushes are left out.
pub(super) struct Frames {
    scanner: ReplyScanner,
    /// The beginning of a reply.
    partial: BytesMut,
}

impl Default for Frames {
    fn default() -> Self {
        Self { scanner: ReplyScanner::new(), partial: BytesMut::new() }
    }
}

impl Frames {
    /// The next whole reply of `rest`, if there is one; `None` for what is no reply at all.
    pub(super) fn next(&mut self, rest: &mut &[u8]) -> Option<Option<BytesMut>> {
        while !rest.is_empty() {
            match self.scanner.advance(rest) {
                Advance::Invalid(_) => return None,
                Advance::Partial => {
                    self.partial.extend_from_slice(rest);
                    *rest = &[];
                }
                Advance::Complete { len, kind } => {
                    let (piece, after) = rest.split_at(len);
                    *rest = after;
                    self.partial.extend_from_slice(piece);
                    let frame = self.partial.split();
                    if !kind.is_push() {
                        return Some(Some(frame));
                    }
                }
            }
        }
        Some(None)
    }
}

struct WaitingConnection {
    lease: Lease,
    frames: Frames,
}

impl WaitingConnection {
    /// Writes and reads in turn until there is nothing to read: a reply may lead to the next packet at once.
    fn poll(
        &mut self,
        node: &Rc<Node>,
        group: &Rc<WaitGroup>,
        source: SourceId,
        cx: &mut Context<'_>,
    ) -> Poll<SourceEnd> {
        loop {
            if let Some(end) = self.write(group, source, cx) {
                return Poll::Ready(end);
            }
            let mut memory = node.rt.read_buffer.borrow_mut();
            let chunk = match ready!(self.lease.link().poll_chunk(cx, &mut memory)) {
                Ok(chunk) => chunk,
                Err(error) => return Poll::Ready(SourceEnd::Lost((&error).into())),
            };
            if self.on_bytes(node, group, source, chunk).is_none() {
                return Poll::Ready(SourceEnd::Anomaly);
            }
        }
    }

    /// Writes what the machine wants sent; the end, if that is what it wants.
    fn write(&mut self, group: &WaitGroup, source: SourceId, cx: &mut Context<'_>) -> Option<SourceEnd> {
        let mut links = group.links.borrow_mut();
        let Some(io) = links.get_mut(&source) else { return Some(SourceEnd::Anomaly) };
        // Before what is to be written: nothing of it may be begun on a connection that is given up.
        if io.doomed {
            return Some(SourceEnd::Lost(UpstreamCloseReason::Moved));
        }
        if io.released {
            // The machine releases a connection of which every reply is there. If bytes are left its books are wrong, and
            // nobody else may be lent it.
            let clean = io.out.is_empty() && !self.frames.scanner.mid_frame();
            return Some(if clean { SourceEnd::Released } else { SourceEnd::Anomaly });
        }
        io.task.remember(cx);
        match self.lease.link().poll_write_out(cx, &mut io.out) {
            Poll::Ready(Err(error)) => Some(SourceEnd::Lost((&error).into())),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    fn on_bytes(&mut self, node: &Rc<Node>, group: &Rc<WaitGroup>, source: SourceId, chunk: &[u8]) -> Option<()> {
        let mut rest = chunk;
        while let Some(frame) = self.frames.next(&mut rest)? {
            self.on_frame(node, group, source, &frame)?;
        }
        Some(())
    }

    fn on_frame(&self, node: &Rc<Node>, group: &Rc<WaitGroup>, source: SourceId, frame: &[u8]) -> Option<()> {
        let armed = group.machine.borrow().awaits_armed(source)?;
        let reply = if armed { group.own_reply(frame) } else { group.non_blocking_reply(frame) }?;
        group.act(node, |machine| machine.on_reply(source, reply)).ok()
    }
}
