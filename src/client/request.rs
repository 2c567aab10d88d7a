//! One request, taken out of its client's input: what every road but the lane works with.

use std::str::FromStr;

use bytes::BytesMut;

use crate::command::{CommandId, Lookup};
use crate::resp::{RequestLimits, RequestScanner, Scan, encode};
use crate::router::Args;

/// The arguments of the request that the scanner has just found.
pub(super) struct Scanned<'a> {
    pub scanner: &'a RequestScanner,
    pub buf: &'a [u8],
}

impl Args for Scanned<'_> {
    fn count(&self) -> usize {
        self.scanner.argc()
    }
    fn nth(&self, index: usize) -> &[u8] {
        self.scanner.arg(self.buf, index)
    }
}

/// A whole request in canonical encoding, with its arguments.
#[derive(Clone)]
pub(super) struct Request {
    /// As it goes upstream: well-formed multibulk, however it came (rule F1).
    raw: BytesMut,
    /// Where the arguments begin and end in `raw`.
    ranges: Vec<(usize, usize)>,
    /// What the command table said when the request was routed.
    lookup: Lookup,
}

impl Request {
    /// Copies the request that `scanned` describes.
    pub(super) fn take(scanned: &Scanned<'_>, len: usize, canonical: bool, lookup: Lookup) -> Self {
        if canonical {
            let ranges = offsets(scanned);
            return Self { raw: BytesMut::from(&scanned.buf[..len]), ranges, lookup };
        }
        let mut raw = BytesMut::new();
        encode::request(&mut raw, scanned.scanner, scanned.buf);
        // Scanned once more, since the arguments lie elsewhere in the canonical form. The limits are the widest: it has
        // passed the client's own.
        let mut scanner = RequestScanner::new();
        let limits = RequestLimits { max_bulk: u64::MAX, max_args: u64::from(u32::MAX), authenticated: true };
        let scan = scanner.scan(&raw, &mut None, &limits);
        debug_assert!(matches!(scan, Scan::Complete { .. }), "what our encoder writes is a request");
        let ranges = offsets(&Scanned { scanner: &scanner, buf: &raw });
        Self { raw, ranges, lookup }
    }

    /// The canonical bytes.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Bytes of all arguments, the name included.
    pub(super) fn arguments(&self) -> u32 {
        let bytes = self.ranges.iter().map(|(start, end)| end - start).sum::<usize>();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Gives the canonical bytes away.
    pub(super) fn into_raw(self) -> BytesMut {
        self.raw
    }

    pub(super) fn lookup(&self) -> Lookup {
        self.lookup
    }

    /// The row of the command table, or the row for what it does not list.
    pub(super) fn id(&self) -> CommandId {
        match self.lookup {
            Lookup::Known(id) | Lookup::UnknownSubcommand(id) => id,
            Lookup::Nul | Lookup::Unknown => CommandId::OTHER,
        }
    }

    /// Arguments from the one at `first` on.
    pub(super) fn args_from(&self, first: usize) -> impl Iterator<Item = &[u8]> {
        (first..self.count()).map(|i| self.nth(i))
    }
}

impl Args for Request {
    fn count(&self) -> usize {
        self.ranges.len()
    }
    fn nth(&self, index: usize) -> &[u8] {
        self.ranges.get(index).map_or(&[], |(start, end)| &self.raw[*start..*end])
    }
}

/// Where each argument lies in the scanned bytes.
/// Places, not slices: a request is moved and its bytes are given away.
fn offsets(scanned: &Scanned<'_>) -> Vec<(usize, usize)> {
    let base = scanned.buf.as_ptr() as usize;
    let place = |i: usize| {
        let argument = scanned.nth(i);
        let start = (argument.as_ptr() as usize).wrapping_sub(base);
        (start, start + argument.len())
    };
    (0..scanned.count()).map(place).collect()
}

/// An integer as servers read it: no sign but a minus, no leading zero, no blank (rule L3).
pub(super) fn strict_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = digits.iter().all(u8::is_ascii_digit) && !digits.is_empty();
    if !plain || (digits.starts_with(b"0") && text != b"0") {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// As the servers read ids: digits only.
pub(super) fn number<T: FromStr>(text: &[u8]) -> Option<T> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::strict_integer;

    #[test]
    fn integers_are_read_as_servers_read_them() {
        assert_eq!(strict_integer(b"0"), Some(0));
        assert_eq!(strict_integer(b"15"), Some(15));
        assert_eq!(strict_integer(b"-1"), Some(-1));
        for bad in [" 1", "1 ", "+1", "01", "", "-", "1.0", "-0", "99999999999999999999", "1\0"] {
            assert_eq!(strict_integer(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
