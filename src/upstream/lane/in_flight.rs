//! The first-in first-out list of a lane: position is the only thing that matches a reply to its request
//! (rule I1). Pure.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::base::bug;
use crate::command::{CommandId, ReplyMask};
use crate::upstream::client_key::ClientKey;

/// Who gets a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Goes to the client as it is.
    Forward(ClientKey),
    /// The client wanted no reply (CLIENT REPLY).
    Discard(ClientKey),
    /// PUBLISH: goes to the client with this added to the count. It was looked up when the command was submitted: a
    /// client that hears the message and leaves was still one that heard it.
    Publish(ClientKey, i32),
    /// Goes whole to the client's task, which waits for it.
    Call(ClientKey),
    /// The client was told that the outcome is not known; its reply is for nobody. Keeps its place (rule I7).
    Orphan,
    /// respmux' own question ([`OwnCommands`](crate::upstream::OwnCommands)), by its number.
    Inner(u64),
    /// Must echo this number: proves that the lane is in step (rule L7).
    Canary(u64),
    /// CLIENT INFO of an idle lane: must show an untouched connection (rule L7).
    Audit,
}

impl Owner {
    /// The client, if the slot belongs to one.
    #[must_use]
    pub fn client(self) -> Option<ClientKey> {
        match self {
            Self::Forward(key) | Self::Discard(key) | Self::Publish(key, _) | Self::Call(key) => Some(key),
            Self::Orphan | Self::Inner(_) | Self::Canary(_) | Self::Audit => None,
        }
    }
}

/// One request on a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub owner: Owner,
    pub command: CommandId,
    /// The types that its reply can have.
    pub legal: ReplyMask,
    /// Length of the request, bytes.
    pub bytes: u32,
    /// Arguments, the name included; 0 when nobody has counted them.
    pub arguments: u32,
    /// When it was submitted, nanoseconds of the worker's clock.
    pub at: u64,
    /// When the socket took its first byte; 0 until its reply is there.
    pub written: u64,
    /// Offset of its first byte in everything that was ever submitted to this connection.
    start: u64,
    /// Part of the same transaction as the slot before it: both were written, or neither counts as written.
    pub joined: bool,
    /// The request was sent on an earlier connection, too.
    pub retried: bool,
}

/// What a whole reply meets.
#[derive(Debug)]
pub(crate) enum Popped {
    /// No request that was sent waits for one.
    Nothing,
    /// The oldest request, which cannot have such a reply. It keeps its slot: its client is closed with the others.
    Unfit(CommandId),
    Slot(Slot),
}

/// The slots of one lane, oldest first, and how far the socket has taken their bytes.
#[derive(Default)]
pub(crate) struct InFlight {
    slots: VecDeque<Slot>,
    submitted: u64,
    written: u64,
    bytes: usize,
    /// What `written` was after each write whose requests are not all answered, and when that was.
    writes: VecDeque<(u64, u64)>,
}

impl InFlight {
    /// A request was appended to the lane's output. Must happen with the bytes, in one step: nothing may come
    /// between them.
    pub(crate) fn push(&mut self, owner: Owner, command: CommandId, legal: ReplyMask, bytes: usize, at: u64) {
        self.append(owner, command, legal, bytes, at, false);
    }

    /// As [`InFlight::push`]; `joined` to the slot before it. A transaction is pushed in one step with its bytes: what
    /// came between its parts would run inside it.
    pub(crate) fn append(
        &mut self,
        owner: Owner,
        command: CommandId,
        legal: ReplyMask,
        bytes: usize,
        at: u64,
        joined: bool,
    ) {
        let length = u32::try_from(bytes).expect("requests on lanes are bounded far below 4 GiB");
        let start = self.submitted;
        let slot =
            Slot { owner, command, legal, bytes: length, arguments: 0, at, written: 0, start, joined, retried: false };
        self.slots.push_back(slot);
        self.submitted += u64::from(length);
        self.bytes += bytes;
    }

    /// The request that was appended last has so many arguments.
    #[inline]
    pub(crate) fn note_arguments(&mut self, count: u32) {
        if let Some(last) = self.slots.back_mut() {
            last.arguments = count;
        }
    }

    /// A request of an earlier connection is sent again on the next one.
    pub(crate) fn push_again(&mut self, slot: &Slot) {
        self.append(slot.owner, slot.command, slot.legal, slot.bytes as usize, slot.at, false);
        self.note_arguments(slot.arguments);
        if let Some(last) = self.slots.back_mut() {
            last.retried = true;
        }
    }

    /// A request of which nothing was written on an earlier connection waits for the next one.
    pub(crate) fn keep(&mut self, slot: &Slot) {
        self.append(slot.owner, slot.command, slot.legal, slot.bytes as usize, slot.at, slot.joined);
        if let Some(last) = self.slots.back_mut() {
            (last.arguments, last.retried) = (slot.arguments, slot.retried);
        }
    }

    /// Bytes of the oldest request that the socket has not taken, if it was sent on an earlier connection, too.
    pub(crate) fn left_of_retried(&self) -> Option<usize> {
        let head = self.slots.front().filter(|slot| slot.retried)?;
        Some(usize::try_from((head.start + u64::from(head.bytes)).saturating_sub(self.written)).unwrap_or(0))
    }

    /// The socket took `n` more bytes, at `now`.
    pub(crate) fn on_written(&mut self, n: usize, now: u64) {
        self.written += n as u64;
        match self.writes.back_mut() {
            Some((end, at)) if *at == now => *end = self.written,
            _ => self.writes.push_back((self.written, now)),
        }
    }

    /// When the socket took the first byte of this request. Requests are asked about in their order, each once.
    #[inline]
    pub(crate) fn written_at(&mut self, slot: &Slot) -> u64 {
        while let Some((end, at)) = self.writes.front() {
            if slot.start < *end {
                return *at;
            }
            self.writes.pop_front();
        }
        slot.at
    }

    /// The request that the reply now being read belongs to; `None` for a reply to nothing, and for one to a
    /// request of which not a byte was sent.
    #[must_use]
    pub(crate) fn head(&self) -> Option<&Slot> {
        self.slots.front().filter(|slot| slot.start < self.written)
    }

    /// The head's reply is complete, and `fits` says whether it can be one.
    pub(crate) fn pop_if(&mut self, fits: impl FnOnce(&Slot) -> bool) -> Popped {
        if self.head().is_none() {
            return Popped::Nothing;
        }
        if self.slots.len() > 1 && bug("swap_replies") {
            self.slots.swap(0, 1);
        }
        match self.slots.front() {
            Some(slot) if !fits(slot) => Popped::Unfit(slot.command),
            _ => self.slots.pop_front().map_or(Popped::Nothing, |slot| {
                self.bytes -= slot.bytes as usize;
                Popped::Slot(slot)
            }),
        }
    }

    /// Only for the proof that the storm sees it: a slot that went with its client.
    pub(crate) fn forget_head(&mut self) {
        self.slots.pop_front();
    }

    /// The connection is gone: takes every slot, and says of each whether its request was written, even partly.
    /// "Not executed" may be said of the others only. A transaction of which a part was written counts as written to
    /// its end: its rest must never run by itself.
    pub(crate) fn take_all(&mut self) -> (Vec<Slot>, Vec<Slot>) {
        let written = self.written;
        let mut begun = false;
        let slots = std::mem::take(self).slots.into_iter();
        slots.partition(|slot| {
            begun = slot.start < written || (slot.joined && begun);
            begun
        })
    }

    /// Takes the oldest slot if none of its bytes was written and it was submitted before `at`.
    pub(crate) fn pop_unsent_before(&mut self, at: u64) -> Option<Slot> {
        let slot = *self.slots.front()?;
        if slot.start < self.written || slot.at >= at {
            return None;
        }
        self.slots.pop_front();
        self.bytes -= slot.bytes as usize;
        // Its bytes leave the output too, so the ones behind it move up.
        self.submitted -= u64::from(slot.bytes);
        for later in &mut self.slots {
            later.start -= u64::from(slot.bytes);
        }
        Some(slot)
    }

    /// The written requests of clients that were submitted before `at`, oldest first: gives them up. Each keeps its
    /// place, as an orphan. `spare` is a client whose requests stay: it is in the middle of a reply.
    pub(crate) fn orphan_before(&mut self, at: u64, spare: Option<ClientKey>) -> Vec<Slot> {
        let written = self.written;
        let mut orphaned = Vec::new();
        let mut begun = false;
        for slot in &mut self.slots {
            begun = slot.start < written || (slot.joined && begun);
            if !begun || slot.at >= at {
                break;
            }
            if slot.owner.client().is_some_and(|client| Some(client) != spare) {
                orphaned.push(*slot);
                slot.owner = Owner::Orphan;
            }
        }
        orphaned
    }

    /// The requests of clients that were submitted before `at` and of which not a byte was written, nor of the
    /// transaction that they belong to. They leave, and their bytes leave `out`, of which the end is what was
    /// submitted last.
    pub(crate) fn withdraw_before(&mut self, at: u64, out: &mut BytesMut, spare: Option<ClientKey>) -> Vec<Slot> {
        let written = self.written;
        let mut begun = false;
        let mut first = self.slots.len();
        for (position, slot) in self.slots.iter().enumerate() {
            begun = slot.start < written || (slot.joined && begun);
            if !begun {
                first = position;
                break;
            }
        }
        let wanted = |slot: &Slot| slot.at < at && slot.owner.client().is_some_and(|client| Some(client) != spare);
        if !self.slots.range(first..).any(wanted) {
            return Vec::new();
        }
        let tail = self.slots.split_off(first);
        let unwritten: usize = tail.iter().map(|slot| slot.bytes as usize).sum();
        let mut requests = out.split_off(out.len() - unwritten);
        self.submitted -= unwritten as u64;
        self.bytes -= unwritten;
        let mut withdrawn = Vec::new();
        for slot in tail {
            let request = requests.split_to(slot.bytes as usize);
            if wanted(&slot) {
                withdrawn.push(slot);
            } else {
                out.extend_from_slice(&request);
                self.append(slot.owner, slot.command, slot.legal, request.len(), slot.at, slot.joined);
                self.note_arguments(slot.arguments);
            }
        }
        withdrawn
    }

    /// How many requests submitted before `at` are for nobody, by `is_gone`; with the oldest of them that was given
    /// up.
    pub(crate) fn abandoned_before(&self, at: u64, is_gone: impl Fn(ClientKey) -> bool) -> (usize, Option<u64>) {
        let mut count = 0;
        let mut oldest = None;
        for slot in self.slots.iter().take_while(|slot| slot.at < at) {
            if slot.owner == Owner::Orphan {
                oldest = oldest.or(Some(slot.at));
            }
            count += usize::from(slot.owner == Owner::Orphan || slot.owner.client().is_some_and(&is_gone));
        }
        (count, oldest)
    }

    /// Requests without a reply.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// No request is without a reply.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of the requests without a reply.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest request was submitted.
    #[must_use]
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::outboxes::Outboxes;

    #[test]
    fn giving_up_takes_the_unwritten_out_and_leaves_the_written_in_place() {
        let outboxes = Outboxes::default();
        let client = outboxes.key_for_tests();
        let mut in_flight = InFlight::default();
        let mut out = BytesMut::new();
        for (n, owner) in [Owner::Forward(client), Owner::Canary(1), Owner::Forward(client), Owner::Canary(2)]
            .into_iter()
            .chain([Owner::Forward(client), Owner::Forward(client)])
            .enumerate()
        {
            out.extend_from_slice(&[b'a' + n as u8; 4]);
            in_flight.push(owner, CommandId::OTHER, ReplyMask::ANY, 4, n as u64);
        }
        // The third is written to its half.
        drop(out.split_to(10));
        in_flight.on_written(10, 0);
        let withdrawn = in_flight.withdraw_before(5, &mut out, None);
        assert_eq!(withdrawn.iter().map(|slot| slot.at).collect::<Vec<_>>(), [4]);
        assert_eq!(&out[..], b"ccddddffff");
        assert_eq!((in_flight.len(), in_flight.bytes()), (5, 20));
        let orphaned = in_flight.orphan_before(5, None);
        assert_eq!(orphaned.iter().map(|slot| slot.at).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(in_flight.abandoned_before(9, |_| false), (2, Some(0)));
        in_flight.on_written(10, 0);
        let owners: Vec<_> = std::iter::from_fn(|| pop(&mut in_flight)).collect();
        let expected = [Owner::Orphan, Owner::Canary(1), Owner::Orphan, Owner::Canary(2), Owner::Forward(client)];
        assert_eq!(owners, expected);
    }

    #[test]
    fn a_transaction_of_which_a_part_was_written_is_not_withdrawn() {
        let client = Outboxes::default().key_for_tests();
        let mut in_flight = InFlight::default();
        let mut out = BytesMut::from(&[0; 20][..]);
        for joined in [false, true] {
            in_flight.append(Owner::Forward(client), CommandId::OTHER, ReplyMask::ANY, 10, 0, joined);
        }
        drop(out.split_to(3));
        in_flight.on_written(3, 0);
        assert!(in_flight.withdraw_before(9, &mut out, None).is_empty());
        assert_eq!(out.len(), 17);
    }

    fn filled(lengths: &[usize]) -> InFlight {
        let mut in_flight = InFlight::default();
        for (n, length) in lengths.iter().enumerate() {
            in_flight.push(Owner::Canary(n as u64), CommandId::OTHER, ReplyMask::ANY, *length, n as u64);
        }
        in_flight
    }

    fn pop(in_flight: &mut InFlight) -> Option<Owner> {
        match in_flight.pop_if(|_| true) {
            Popped::Slot(slot) => Some(slot.owner),
            _ => None,
        }
    }

    #[test]
    fn a_reply_to_a_request_that_was_not_sent_belongs_to_nobody() {
        let mut in_flight = filled(&[10, 10]);
        assert!(pop(&mut in_flight).is_none());
        in_flight.on_written(10, 0);
        assert!(pop(&mut in_flight) == Some(Owner::Canary(0)));
        assert!(pop(&mut in_flight).is_none());
    }

    #[test]
    fn each_request_knows_the_write_that_took_its_first_byte() {
        let mut in_flight = filled(&[10, 10, 10, 10]);
        in_flight.on_written(15, 100);
        in_flight.on_written(15, 200);
        in_flight.on_written(10, 200);
        let mut times = Vec::new();
        while let Popped::Slot(slot) = in_flight.pop_if(|_| true) {
            times.push(in_flight.written_at(&slot));
        }
        assert_eq!(times, [100, 100, 200, 200]);
        assert!(in_flight.writes.len() <= 1);
    }

    #[test]
    fn a_reply_that_does_not_fit_leaves_its_slot() {
        let mut in_flight = filled(&[10]);
        in_flight.on_written(10, 0);
        assert!(matches!(in_flight.pop_if(|_| false), Popped::Unfit(CommandId::OTHER)));
        assert_eq!((in_flight.len(), in_flight.bytes()), (1, 10));
        assert_eq!(pop(&mut in_flight), Some(Owner::Canary(0)));
    }

    #[test]
    fn one_byte_written_is_written() {
        let mut in_flight = filled(&[10, 10, 10]);
        in_flight.on_written(11, 0);
        let (sent, unsent) = in_flight.take_all();
        assert_eq!((sent.len(), unsent.len()), (2, 1));
        assert!(in_flight.is_empty() && in_flight.bytes() == 0);
    }

    #[test]
    fn a_transaction_is_written_whole_or_not_at_all() {
        let mut in_flight = filled(&[10]);
        for joined in [false, true, true] {
            in_flight.append(Owner::Canary(9), CommandId::OTHER, ReplyMask::ANY, 10, 0, joined);
        }
        in_flight.push(Owner::Canary(9), CommandId::OTHER, ReplyMask::ANY, 10, 0);
        in_flight.on_written(11, 0);
        let (sent, unsent) = in_flight.take_all();
        assert_eq!((sent.len(), unsent.len()), (4, 1), "one byte of MULTI was written");
    }

    #[test]
    fn expiry_takes_only_what_was_never_written_and_is_old() {
        let mut in_flight = filled(&[10, 20, 30]);
        assert!(in_flight.pop_unsent_before(0).is_none());
        assert!(in_flight.pop_unsent_before(1).is_some());
        assert!(in_flight.pop_unsent_before(1).is_none());
        assert_eq!(in_flight.bytes(), 50);
        in_flight.on_written(1, 0);
        assert!(in_flight.pop_unsent_before(9).is_none());
        assert!(pop(&mut in_flight) == Some(Owner::Canary(1)));
        assert!(pop(&mut in_flight).is_none(), "not a byte of the third was written");
    }
}
