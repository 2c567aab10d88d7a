//! Tokens: every reply says whose it is and which one.

use std::fmt::Write;

/// `[t:WHO.LIFE.SEQUENCE.CHECK]`: the client, how often it has started over, a number of its own, and a check over
/// all three and the seed, so that no byte soup passes for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) who: u32,
    pub(crate) life: u32,
    pub(crate) sequence: u64,
}

/// Replies of private counters start here times (client + 1), so that an integer too says whose it is.
pub(crate) const COUNTER_STRIDE: i64 = 1_000_000_000;

impl Token {
    fn check(self, seed: u64) -> u32 {
        let mixed = (seed ^ (u64::from(self.who) << 40) ^ (u64::from(self.life) << 20) ^ self.sequence)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 32) as u32 ^ mixed as u32
    }

    pub(crate) fn text(self, seed: u64) -> String {
        format!("[t:{}.{}.{}.{:08x}]", self.who, self.life, self.sequence, self.check(seed))
    }

    /// Exactly `size` bytes that belong to this token: its text again and again, numbered, cut to size.
    pub(crate) fn payload(self, seed: u64, size: usize) -> Vec<u8> {
        let text = self.text(seed);
        let mut out = String::with_capacity(size + text.len() + 12);
        let mut number = 0_u32;
        while out.len() < size {
            out.push_str(&text);
            let _ = write!(out, "{number};");
            number += 1;
        }
        let mut out = out.into_bytes();
        out.truncate(size);
        out
    }

    /// Reads the token at the start of `bytes` (which begin with `[t:`).
    fn read(bytes: &[u8], seed: u64) -> Option<Self> {
        let end = memchr::memchr(b']', &bytes[..bytes.len().min(80)])?;
        let text = std::str::from_utf8(&bytes[3..end]).ok()?;
        let mut parts = text.split('.');
        let token = Self {
            who: parts.next()?.parse().ok()?,
            life: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
        };
        let check = u32::from_str_radix(parts.next()?, 16).ok()?;
        (check == token.check(seed) && parts.next().is_none()).then_some(token)
    }

    /// Whether `bytes` hold a token that `wanted` accepts.
    pub(crate) fn any_in(bytes: &[u8], seed: u64, wanted: impl Fn(Self) -> bool) -> bool {
        memchr::memmem::find_iter(bytes, b"[t:").any(|at| Self::read(&bytes[at..], seed).is_some_and(&wanted))
    }

    /// The token that is all of `bytes`.
    pub(crate) fn whole(bytes: &[u8], seed: u64) -> Option<Self> {
        let token = if bytes.starts_with(b"[t:") { Self::read(bytes, seed)? } else { return None };
        (token.text(seed).as_bytes() == bytes).then_some(token)
    }
}

#[test]
fn a_token_is_read_back_and_no_other_bytes_are() {
    let token = Token { who: 7, life: 2, sequence: 99 };
    let payload = token.payload(5, 1000);
    assert_eq!(payload.len(), 1000);
    assert!(Token::any_in(&payload, 5, |found| found == token));
    assert!(!Token::any_in(&payload, 6, |_| true), "another seed's tokens are no tokens");
    assert!(!Token::any_in(&payload[1..20], 5, |_| true));
    assert_eq!(Token::whole(token.text(5).as_bytes(), 5), Some(token));
    assert_eq!(Token::whole(&payload, 5), None);
}
