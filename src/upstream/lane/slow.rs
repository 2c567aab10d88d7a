//! Slow requests of a lane: when they were written, and what can be told of them.

use std::collections::VecDeque;

use super::{Slot, State};
use crate::command::{CommandId, first_key};
use crate::config::Integrity;
use crate::resp::{RequestLimits, RequestScanner, Scan};
use crate::upstream::roster::ClientKey;
use crate::upstream::{Slow, Upstreams};

/// Writes that came late because the socket was full: how many bytes were written in all after each, and when. What was
/// written at once needs no mark.
#[derive(Default)]
pub(super) struct LateWrites(VecDeque<(u64, u64)>);

impl LateWrites {
    /// The socket took bytes again, up to the `written`th; what was submitted before the `oldest`th is answered.
    pub(super) fn on_written(&mut self, written: u64, oldest: u64, now: u64) {
        while self.0.front().is_some_and(|(until, _)| *until <= oldest) {
            self.0.pop_front();
        }
        self.0.push_back((written, now));
    }

    /// When the byte at `start` was written, if it was late.
    fn at(&self, start: u64) -> Option<u64> {
        self.0.iter().find(|(until, _)| *until > start).map(|(_, at)| *at)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The number of arguments that the head of a canonical request tells.
pub(super) fn arguments(request: &[u8]) -> u32 {
    let digits = request.iter().skip(1).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u32, |count, digit| count.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')))
}

/// The reply to `slot` is there, and the request still kept: remembers its key if it was slow.
#[inline]
pub(super) fn remember_key(up: &Upstreams, state: &mut State, slot: &Slot, now: u64) {
    if up.slowlog.keeps_keys() && up.slowlog.is_slow(now.saturating_sub(slot.at)) {
        // Where replies are kept back, others come in between.
        let plain = slot.command != CommandId::OURS && up.config.integrity != Integrity::Strict;
        state.slow_key = plain.then(|| key_of(up, slot, state.kept.oldest(slot.bytes as usize))).flatten();
    }
}

fn key_of(up: &Upstreams, slot: &Slot, request: &[u8]) -> Option<Vec<u8>> {
    let mut scanner = RequestScanner::new();
    let limits = RequestLimits { max_bulk: u64::MAX, max_args: u64::from(u32::MAX), authenticated: true };
    let Scan::Complete { .. } = scanner.scan(request, &mut None, &limits) else { return None };
    let spec = up.table.spec(slot.command);
    first_key(spec, scanner.argc(), |at| scanner.arg(request, at)).map(<[u8]>::to_vec)
}

/// The request of `slot` was slow.
#[cold]
pub(super) fn keep(up: &Upstreams, state: &mut State, slot: &Slot, client: ClientKey, now: u64) {
    let written = state.late_writes.at(slot.start()).unwrap_or(0).max(state.since).max(slot.at);
    up.keep_slow(Slow {
        command: slot.command,
        client: up.roster.with(client, |outbox| outbox.id()).unwrap_or(0),
        asked: slot.at,
        written,
        now,
        arguments: slot.arguments,
        bytes: u64::from(slot.bytes),
        key: state.slow_key.take(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_tells_the_number_of_arguments() {
        assert_eq!(arguments(b"*3\r\n$3\r\nSET\r\n"), 3);
        assert_eq!(arguments(b"*12345\r\n"), 12_345);
        assert_eq!((arguments(b""), arguments(b"*")), (0, 0));
    }

    #[test]
    fn only_late_writes_have_a_time_of_their_own() {
        let mut writes = LateWrites::default();
        assert_eq!(writes.at(0), None);
        writes.on_written(100, 0, 5);
        writes.on_written(300, 0, 9);
        assert_eq!([0, 99, 100, 299, 300].map(|start| writes.at(start)), [Some(5), Some(5), Some(9), Some(9), None]);
        writes.on_written(400, 100, 11);
        assert_eq!(writes.0.len(), 2, "what is answered needs no mark");
    }
}
