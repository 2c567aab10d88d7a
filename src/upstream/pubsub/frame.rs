//! What a push on a hub is. Looks at the two first elements only; the payload is passed on as it is. Pure.

use crate::session::Family;

/// A push about subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Push<'a> {
    /// Goes to everybody who hears `name`.
    Message {
        family: Family,
        name: &'a [u8],
    },
    Confirmation {
        joined: bool,
        family: Family,
        name: &'a [u8],
    },
}

/// Reads a whole push; `None` for any other kind.
pub(super) fn push(frame: &[u8]) -> Option<Push<'_>> {
    let head = frame.iter().position(|byte| *byte == b'\n')? + 1;
    let (kind, at) = bulk(frame, head)?;
    let (name, _) = bulk(frame, at)?;
    let message = |family| Some(Push::Message { family, name });
    let confirmation = |joined, family| Some(Push::Confirmation { joined, family, name });
    match kind {
        b"message" => message(Family::Channel),
        b"pmessage" => message(Family::Pattern),
        b"smessage" => message(Family::Shard),
        b"subscribe" => confirmation(true, Family::Channel),
        b"unsubscribe" => confirmation(false, Family::Channel),
        b"psubscribe" => confirmation(true, Family::Pattern),
        b"punsubscribe" => confirmation(false, Family::Pattern),
        b"ssubscribe" => confirmation(true, Family::Shard),
        b"sunsubscribe" => confirmation(false, Family::Shard),
        _ => None,
    }
}

/// The bulk string at `at`, and where it ends.
fn bulk(frame: &[u8], at: usize) -> Option<(&[u8], usize)> {
    if frame.get(at) != Some(&b'$') {
        return None;
    }
    let line = at + 1;
    let digits = frame.get(line..)?.iter().position(|byte| *byte == b'\r')?;
    let length: usize = std::str::from_utf8(&frame[line..line + digits]).ok()?.parse().ok()?;
    let start = line + digits + 2;
    let end = start.checked_add(length)?;
    Some((frame.get(start..end)?, end + 2))
}

/// The text of a reply to PING: a bulk or a line, without its frame.
pub(super) fn echo(frame: &[u8]) -> &[u8] {
    bulk(frame, 0).map_or_else(|| frame.strip_suffix(b"\r\n").and_then(|f| f.get(1..)).unwrap_or_default(), |(t, _)| t)
}

#[cfg(test)]
mod tests {
    use super::{Family, Push, echo, push};

    #[test]
    fn kinds_and_names_are_read() {
        let message = b">3\r\n$7\r\nmessage\r\n$2\r\nab\r\n$1\r\nx\r\n";
        assert_eq!(push(message), Some(Push::Message { family: Family::Channel, name: b"ab" }));
        let left = b">3\r\n$12\r\nsunsubscribe\r\n$0\r\n\r\n:0\r\n";
        assert_eq!(push(left), Some(Push::Confirmation { joined: false, family: Family::Shard, name: b"" }));
        assert_eq!(push(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"), None);
        assert_eq!(echo(b"$3\r\nabc\r\n"), b"abc");
        assert_eq!(echo(b"+PONG\r\n"), b"PONG");
    }
}
