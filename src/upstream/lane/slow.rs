//! Slow requests of a lane: when they were written, and what can be told of them.

use super::{Lane, LaneState, Slot};
use crate::command::{CommandId, first_key};
use crate::resp::{RequestLimits, RequestScanner, Scan};
use crate::upstream::client_key::ClientKey;
use crate::upstream::{Node, Slow};

impl Lane {
    /// Written requests are kept until they are answered: somebody may want to see them again.
    #[inline]
    pub(super) fn keeps_requests(&self) -> bool {
        self.config.upstream.retry_reads || self.config.slowlog.keys || self.guard.is_on()
    }

    /// The reply to `slot` is there, and the request still kept: remembers its key if it was slow.
    #[inline]
    pub(super) fn remember_key(&self, node: &Node, state: &mut LaneState, slot: &Slot, now: u64) {
        if self.config.slowlog.keys && node.rt.slowlog.is_slow(now.saturating_sub(slot.at)) {
            let plain = slot.command != CommandId::OURS;
            state.slow_key = plain.then(|| key_of(node, slot, state.kept.oldest(slot.bytes as usize))).flatten();
        }
    }
}

/// The number of arguments that the head of a canonical request tells.
pub(super) fn arguments(request: &[u8]) -> u32 {
    let digits = request.iter().skip(1).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u32, |count, digit| count.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')))
}

fn key_of(node: &Node, slot: &Slot, request: &[u8]) -> Option<Vec<u8>> {
    let mut scanner = RequestScanner::new();
    let limits = RequestLimits { max_bulk: u64::MAX, max_args: u64::from(u32::MAX), authenticated: true };
    let Scan::Complete { .. } = scanner.scan(request, &mut None, &limits) else { return None };
    let spec = node.rt.table.spec(slot.command);
    first_key(spec, scanner.argc(), |at| scanner.arg(request, at)).map(<[u8]>::to_vec)
}

/// The request of `slot` was slow.
#[cold]
pub(super) fn keep(node: &Node, state: &mut LaneState, slot: &Slot, client: ClientKey, now: u64) {
    // Of one that is late nobody has looked when it was written.
    let written = slot.written.max(state.since).max(slot.at);
    node.rt.keep_slow(Slow {
        command: slot.command,
        client: node.rt.outboxes.with(client, |outbox| outbox.id()).unwrap_or(0),
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
}
