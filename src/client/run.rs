//! The loop of one client: send, scan, route, read; what cannot be done at once is handed to `dispatch`.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;
use tokio::time::timeout;

use super::connection::{Client, Closed, Flow, Halt, Step};
use super::first_bytes::begins_with;
use super::identity::admission_state::Admission;
use super::request::Scanned;
use crate::base::nanos;
use crate::resp::{RequestLimits, Scan};
use crate::telemetry::{CloseReason, StallReason};
use crate::upstream::Wants;

/// How long a client that is closed may take to read its last replies.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A client that is read again sooner than this does nothing but wait for us.
const HASTE: Duration = Duration::from_millis(1);

impl Client {
    /// Serves the client to its end; the reason is also the metric's label. Borrows the client: a future that owns it holds
    /// it twice, 160 bytes for each client.
    pub(super) async fn run(&mut self) -> CloseReason {
        loop {
            // The only await of a client whose commands all ride: what comes back from it is rare.
            let step = poll_fn(|cx| self.poll_step(cx)).await;
            // Everything but the lane is rare or slow: boxed, so that an idle client's task stays small.
            let result = match step {
                Step::Close(reason) => Err(Closed(reason)),
                Step::Admit => Box::pin(self.admit()).await,
                // The request left the input already; until it is answered its bytes count for the client through
                // `kept`.
                Step::Command(request, route) => {
                    self.kept = request.raw().len();
                    self.record.activity.begins(route.waits_for_resume(), request.arguments());
                    let done = Box::pin(self.dispatch(request, route)).await;
                    self.record.activity.ends();
                    self.kept = 0;
                    done.and_then(|()| self.on_command_done())
                }
                Step::Invalid(error) => Box::pin(self.refuse_protocol(error)).await,
            };
            if let Err(Closed(reason)) = result {
                Box::pin(self.last_words(reason)).await;
                return reason;
            }
        }
    }

    /// Sends what was answered before the close, except to clients that cannot or need not read it.
    async fn last_words(&mut self, reason: CloseReason) {
        if matches!(reason, CloseReason::OutputLimit | CloseReason::Memory | CloseReason::IoError | CloseReason::Killed)
        {
            return;
        }
        let flush = poll_fn(|cx| self.outbox().poll_flush(cx, &self.rt().buffers));
        // A client that does not read its last replies loses them; nobody waits for it.
        let _ = timeout(LAST_WORDS, flush).await;
        // These clients have done nothing to be closed for, and may be sending at this moment: a plain close could cost
        // them their last reply.
        if matches!(reason, CloseReason::Drain | CloseReason::MaxAge) {
            self.close_gracefully(reason).await;
        }
    }

    /// One turn of the loop: send, process, read, until something else must act.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            // The close comes first: for whoever is to be closed nothing more is begun.
            if let Some(reason) = self.outbox().close_reason() {
                return Poll::Ready(Step::Close(reason));
            }
            // Before anything else: what is done below may need memory, and who has most is asked first.
            self.count_input();
            // The announcement goes out with the flush that follows.
            let must_wait = self.announce();
            let flushed = match self.outbox().poll_flush(cx, &self.rt().buffers) {
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Close(CloseReason::IoError)),
                Poll::Ready(Ok(())) => true,
                Poll::Pending => false,
            };
            // Rule I8: a slow reader's requests wait for it; the lane does not. But a subscriber must be able to
            // unsubscribe.
            if !flushed && self.is_behind() && self.outbox().hub().is_none() {
                match self.wait_until_read(cx) {
                    Err(Closed(reason)) => return Poll::Ready(Step::Close(reason)),
                    Ok(true) => continue,
                    Ok(false) => {}
                }
                self.outbox().await_with(cx, Wants::Nothing);
                return Poll::Pending;
            }
            // Whoever reads everything is behind no more, however large the next reply is.
            self.behind &= !flushed;
            // It is to be told that it must move, but between two replies, not in the middle of a pipeline: what is
            // unanswered comes first, and nothing new is begun.
            if must_wait {
                self.outbox().await_with(cx, Wants::Pending(0));
                return Poll::Pending;
            }
            // Requests that are here already go before new input: a stall ends in the order in which it began.
            if !self.exhausted {
                match self.process_carry() {
                    Flow::Step(step) => return Poll::Ready(step),
                    Flow::Stalled(wants) => {
                        self.outbox().on_whole(); // it waits for us
                        self.outbox().await_with(cx, wants);
                        return Poll::Pending;
                    }
                    Flow::NeedMore => {}
                }
            }
            // Only behind the requests: the last ones may have come together with the end.
            if let Some(poll) = self.poll_end(cx, flushed) {
                return poll;
            }
            // What was read ahead takes memory already.
            let throttled = !self.read.is_ahead() && self.rt().throttles(self.outbox());
            let read = if throttled { Poll::Pending } else { self.poll_input(cx) };
            match read {
                Poll::Ready(Some(step)) => return Poll::Ready(step),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    if let Poll::Ready(reason) = self.poll_departure(cx, true) {
                        return Poll::Ready(Step::Close(reason));
                    }
                    // A departing client must be woken by its last reply: the moment for the close is counted from
                    // there.
                    let parts = self.record.departure.get().is_some();
                    let wants = if parts { Wants::Pending(0) } else { Wants::Nothing };
                    self.outbox().await_with(cx, wants);
                    if !self.carry.is_empty() {
                        self.outbox().await_rest();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// The client has sent its last byte: closed when every request is answered and sent (rule F7).
    fn poll_end(&self, cx: &Context<'_>, flushed: bool) -> Option<Poll<Step>> {
        if !self.eof {
            return None;
        }
        if self.outbox().pending() == 0 && flushed {
            return Some(Poll::Ready(Step::Close(self.left())));
        }
        self.outbox().await_with(cx, Wants::Pending(0));
        Some(Poll::Pending)
    }

    /// Reads once, at most `most` bytes, by way of the worker's buffer, and keeps the books of it; `take` gets the
    /// bytes, none at the end, and how long before that the client was read. All readers of a client come through here:
    /// its loop, its waits, and its close. The one exception is [`Client::read_ahead`], which reads past what is kept
    /// here.
    #[inline]
    pub(super) fn poll_chunk<T>(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: impl FnOnce(&mut Self, &[u8], Option<u64>) -> T,
    ) -> Poll<Result<T, Closed>> {
        let rt = Rc::clone(self.rt());
        let mut memory = rt.read_buffer.borrow_mut();
        let room = most.min(memory.len());
        let mut buf = ReadBuf::new(&mut memory[..room]);
        let ahead = self.read.is_ahead();
        if std::task::ready!(self.read.poll_read(cx, &mut buf)).is_err() {
            return Poll::Ready(Err(Closed(self.left())));
        }
        let chunk = buf.filled();
        let mut gap = None;
        if chunk.is_empty() {
            self.eof = true;
        } else {
            // One look at the clock serves all requests of this read.
            self.now = rt.now();
            // What was read ahead was counted then.
            if !ahead {
                gap = Some(self.now.saturating_sub(self.on_received(chunk.len(), self.now)));
            }
        }
        Poll::Ready(Ok(take(self, chunk, gap)))
    }

    /// Reads once, for the loop. Whole requests are processed straight from the worker's buffer; only what is left is
    /// copied.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        match std::task::ready!(self.poll_chunk(cx, usize::MAX, Self::on_chunk)) {
            Ok(step) => Poll::Ready(step),
            Err(Closed(reason)) => Poll::Ready(Some(Step::Close(reason))),
        }
    }

    fn on_chunk(&mut self, chunk: &[u8], gap: Option<u64>) -> Option<Step> {
        if chunk.is_empty() {
            self.outbox().on_end();
            return None;
        }
        if let Some(gap) = gap {
            let reads = &self.rt().shard.client_reads;
            reads.all.inc();
            if gap < nanos(HASTE) {
                reads.rapid.inc();
            }
        }
        // Behind the beginning of a request, or behind requests that wait: kept, and processed from there.
        if !self.carry.is_empty() {
            self.keep(chunk);
            self.exhausted = false;
            // Both limits are looked at behind each read. Behind whole requests would be too late: one that never ends
            // is what they are for.
            if self.input_over_budget() {
                return Some(Step::Close(CloseReason::AuthInput));
            }
            if self.request_too_large() {
                return Some(Step::Close(CloseReason::QueryBuffer));
            }
            return None;
        }
        let (used, flow) = self.process(chunk);
        self.carry.extend_from_slice(&chunk[used..]);
        self.exhausted = matches!(flow, Flow::NeedMore);
        match flow {
            // The stall is found again at once, from `carry`, where the wait is arranged.
            Flow::NeedMore | Flow::Stalled(_) => None,
            Flow::Step(step) => Some(step),
        }
    }

    fn process_carry(&mut self) -> Flow {
        // Taken out for as long as it is processed, so that the requests in it can be borrowed from it while the client
        // is changed.
        let carry = self.carry.split();
        let (used, flow) = self.process(&carry);
        let mut rest = carry;
        rest.advance(used);
        // An empty buffer gives its memory back: idle clients own none.
        self.carry = match rest.len() {
            0 => BytesMut::new(),
            // A short rest would keep all the memory of what was before it.
            len if len < used => BytesMut::from(&rest[..]),
            _ => rest,
        };
        if used > 0 {
            self.outbox().on_whole();
        }
        self.exhausted = matches!(flow, Flow::NeedMore);
        self.count_input();
        flow
    }

    /// Processes whole requests from the start of `data`; returns how many bytes are done with.
    pub(super) fn process(&mut self, data: &[u8]) -> (usize, Flow) {
        // One scanner for all clients of the worker: what it remembers between two looks is in `resume`.
        let shared = Rc::clone(&self.shared);
        let mut scanner = shared.scanner.borrow_mut();
        let mut at = 0;
        while at < data.len() {
            // Compared first, because it is false for every request of a client that has been admitted.
            if self.admission != Admission::Admitted && self.is_to_be_asked() && !self.admit_if_known() {
                match begins_with(&data[at..], b"PROXY") {
                    // PROXY asks itself, and not for long: it is for the time when nobody answers.
                    Some(true) => {}
                    Some(false) => return (at, Flow::Step(Step::Admit)),
                    None => break,
                }
            }
            // Looked at before each request, not once for a read: one read may bring more requests than may be
            // unanswered.
            if let Some(stall) = self.stalled() {
                return (at, stall);
            }
            let buf = &data[at..];
            let limits = self.limits();
            match scanner.scan(buf, &mut self.resume, &limits) {
                Scan::Incomplete => break,
                // An empty line, `*0`, `*-1`: no request, and no reply (docs/design/semantics.md 4.1).
                Scan::Empty { len } => at += len,
                // A PROXY that is too large for who has not logged in: only now must it be known who has.
                Scan::Invalid(_) if self.admission == Admission::Unasked => return (at, Flow::Step(Step::Admit)),
                Scan::Invalid(error) => return (at, Flow::Step(Step::Invalid(error))),
                Scan::Complete { len, canonical } => {
                    let scanned = Scanned { scanner: &scanner, buf };
                    match self.on_request(&scanned, len, canonical) {
                        Ok(()) => at += len,
                        // The step has its own copy of the request: it leaves the input.
                        Err(Halt::Step(step)) => return (at + len, Flow::Step(step)),
                        // It stays in the input, and is scanned and routed again when the wait is over: by then its
                        // route may be another.
                        Err(Halt::Stalled(wants)) => return (at, Flow::Stalled(wants)),
                        Err(Halt::Multi(multi)) => match self.on_multi(&mut scanner, buf, multi) {
                            Ok(len) => at += len,
                            Err((len, flow)) => return (at + len, flow),
                        },
                    }
                }
            }
        }
        if self.admission == Admission::Unreachable {
            self.admission = Admission::Unasked; // everything that was there is answered; ask again for what follows
        }
        (at, Flow::NeedMore)
    }

    /// Too much is unanswered: read no more requests until half of it is.
    fn stalled(&self) -> Option<Flow> {
        let rules = self.rt().rules_ref();
        let limits = &rules.config.client;
        let most = u32::try_from(limits.inflight_commands).unwrap_or(u32::MAX);
        let pending = self.outbox().pending();
        if pending < most && self.outbox().pending_bytes() < limits.inflight_bytes {
            return None;
        }
        if pending == 0 {
            return None; // one request larger than the limit
        }
        self.rt().shard.client_stalls[StallReason::Inflight].inc();
        // Half of it, so that a client that is always ahead stalls once for many requests and not once for each.
        Some(Flow::Stalled(Wants::Pending(pending / 2)))
    }

    pub(super) fn limits(&self) -> RequestLimits {
        RequestLimits {
            max_bulk: self.rt().process.max_bulk(),
            max_args: 2_147_483_647,
            authenticated: !matches!(self.admission, Admission::Unauthenticated | Admission::Unasked),
        }
    }
}
