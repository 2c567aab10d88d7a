//! The memory of outboxes: one short buffer for most, pieces for who reads slowly, and spare ones for the next use.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::memory::Memory;
use crate::telemetry::BufferKind;

/// Buffers kept for reuse by one worker, the largest one that is kept, and all of them, bytes.
const KEPT_BUFFERS: usize = 1024;
const KEPT_BYTES: usize = 64 << 10;
const KEPT_TOTAL: usize = 4 << 20;
/// More output than this goes into further pieces, each of this size: what was sent gives its memory back at once, and
/// nothing long is moved, bytes.
const PIECE: usize = 64 << 10;

/// Empty output buffers of a worker. A client without output owns none.
pub struct Buffers {
    spare: RefCell<Vec<Vec<u8>>>,
    /// Bytes that clients' sockets have taken since the last look.
    sent: Cell<u64>,
    pub(super) memory: Rc<Memory>,
}

impl Buffers {
    /// No buffers yet; what they take is counted in `memory`.
    #[must_use]
    pub fn new(memory: Rc<Memory>) -> Self {
        Self { spare: RefCell::default(), sent: Cell::new(0), memory }
    }

    /// An empty buffer: a spare one with the capacity that it had grown to, or a small new one. Which of the two it is
    /// shows in the figures only: spare memory becomes output, or output grows.
    pub(super) fn take(&self) -> Vec<u8> {
        let Some(buffer) = self.spare.borrow_mut().pop() else {
            let buffer = Vec::with_capacity(512);
            self.memory.change(BufferKind::Output, 0, buffer.capacity());
            return buffer;
        };
        self.memory.change(BufferKind::Spare, buffer.capacity(), 0);
        self.memory.change(BufferKind::Output, 0, buffer.capacity());
        buffer
    }

    pub(super) fn on_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Bytes sent to clients since the last call.
    pub fn take_sent(&self) -> u64 {
        self.sent.take()
    }

    /// A buffer that was sent whole. Kept for the next client if it is not large and there are not many: an idle client
    /// has none, and one long reply must not keep its memory for ever.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity == 0 {
            return;
        }
        self.memory.change(BufferKind::Output, capacity, 0);
        let mut spare = self.spare.borrow_mut();
        let room = self.memory.buffered(BufferKind::Spare) + capacity <= KEPT_TOTAL;
        if spare.len() < KEPT_BUFFERS && capacity <= KEPT_BYTES && room {
            buffer.clear();
            spare.push(buffer);
            self.memory.change(BufferKind::Spare, 0, capacity);
        }
    }

    /// Memory is short: keeps none.
    pub(super) fn drop_spare(&self) {
        self.spare.take();
        self.memory.change(BufferKind::Spare, self.memory.buffered(BufferKind::Spare), 0);
    }
}

/// Output that the socket has not taken.
#[derive(Default)]
pub(super) struct Output {
    /// What is sent next, one call at a time.
    pub front: Vec<u8>,
    /// What follows; only slow readers have any.
    rest: Option<Box<Pieces>>,
}

/// Bytes that wait, in pieces of at most 64 KiB.
#[derive(Default)]
pub struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes in them, and of their memory.
    bytes: usize,
    capacity: usize,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.front.len() + self.rest.as_ref().map_or(0, |rest| rest.bytes())
    }

    /// Bytes of memory.
    pub(super) fn capacity(&self) -> usize {
        self.front.capacity() + self.rest.as_ref().map_or(0, |rest| rest.capacity())
    }

    /// Appends. The front grows to one piece, and what does not fit goes behind it in pieces of its own: a buffer that
    /// doubled for a slow reader would be copied as a whole each time.
    pub(super) fn push(&mut self, buffers: &Buffers, bytes: &[u8]) {
        if self.front.capacity() == 0 {
            self.front = buffers.take();
        }
        let before = self.capacity();
        let room = if self.rest.is_none() { PIECE.saturating_sub(self.front.len()).min(bytes.len()) } else { 0 };
        let (here, there) = bytes.split_at(room);
        self.front.extend_from_slice(here);
        if !there.is_empty() {
            self.rest.get_or_insert_default().push(there);
        }
        buffers.memory.change(BufferKind::Output, before, self.capacity());
    }

    /// The front is sent: the next piece takes its place. `false` when there is none.
    pub(super) fn advance(&mut self, memory: &Memory) -> bool {
        let before = self.capacity();
        let Some(next) = self.rest.as_mut().and_then(|rest| rest.pop()) else {
            self.rest = None;
            return false;
        };
        self.front = next;
        memory.change(BufferKind::Output, before, self.capacity());
        true
    }
}

impl Pieces {
    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of their memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        let room = self.pieces.back().map_or(0, |last| PIECE.saturating_sub(last.len())).min(bytes.len());
        let (here, there) = bytes.split_at(room);
        if let Some(last) = self.pieces.back_mut() {
            let before = last.capacity();
            last.extend_from_slice(here);
            self.capacity += last.capacity() - before;
        }
        for piece in there.chunks(PIECE) {
            let mut next = Vec::with_capacity(PIECE);
            next.extend_from_slice(piece);
            self.capacity += next.capacity();
            self.pieces.push_back(next);
        }
    }

    /// The oldest piece.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let next = self.pieces.pop_front()?;
        self.bytes -= next.len();
        self.capacity -= next.capacity();
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::ProcessFacts;

    fn buffers() -> Buffers {
        Buffers::new(Rc::new(Memory::new(Arc::new(ProcessFacts::new("a:1", "")), 0)))
    }

    #[test]
    fn output_comes_out_as_it_went_in_and_is_counted_to_the_byte() {
        let buffers = buffers();
        let memory = &buffers.memory;
        let (mut output, mut expected) = (Output::default(), Vec::new());
        for (number, length) in [1, 600, PIECE - 1, 3 * PIECE, 17, PIECE, 0, 40_000].into_iter().enumerate() {
            let bytes = vec![number as u8; length];
            output.push(&buffers, &bytes);
            expected.extend_from_slice(&bytes);
            assert_eq!(output.len(), expected.len());
            assert_eq!(memory.buffered(BufferKind::Output), output.capacity());
        }
        assert!(output.capacity() < expected.len() + 3 * PIECE, "{} for {}", output.capacity(), expected.len());
        let mut sent = Vec::new();
        loop {
            sent.extend_from_slice(&output.front);
            if !output.advance(memory) {
                break;
            }
            assert_eq!(memory.buffered(BufferKind::Output), output.capacity());
        }
        assert!(sent == expected);
        buffers.give(std::mem::take(&mut output.front));
        assert_eq!(memory.buffered(BufferKind::Output), 0);
    }

    #[test]
    fn spare_buffers_are_counted_and_bounded() {
        let buffers = buffers();
        let memory = &buffers.memory;
        let many: Vec<_> = (0..200)
            .map(|_| {
                let mut output = Output::default();
                output.push(&buffers, &[0; 40_000]);
                output.front
            })
            .collect();
        many.into_iter().for_each(|buffer| buffers.give(buffer));
        assert_eq!(memory.buffered(BufferKind::Output), 0);
        let spare = memory.buffered(BufferKind::Spare);
        assert!(spare > KEPT_TOTAL / 2 && spare <= KEPT_TOTAL, "{spare}");
        let one = buffers.take();
        assert_eq!(memory.buffered(BufferKind::Spare) + one.capacity(), spare);
        buffers.drop_spare();
        assert_eq!((memory.buffered(BufferKind::Spare), memory.buffered(BufferKind::Output)), (0, one.capacity()));
    }
}
