//! Numbers in lines: lengths, integers and doubles, whole or byte by byte as they arrive.

use std::ops::Range;

/// `string2ll` reads at most this many bytes (a sign and 19 digits).
const MAX_INTEGER: usize = 20;
/// Most digits [`plain_length`] reads; a longer line takes the careful way.
const PLAIN_DIGITS: usize = 10;

/// The length and the end of a line `<type><digits>\r\n` that starts at `at`, or `None` when the bytes there are not
/// wholly of that form: unfinished, signed, padded, too long or wrong. The caller then looks again with care. Nearly
/// every length line is of this form, and nearly all have one or two digits.
#[inline(always)]
pub(super) fn plain_length(buf: &[u8], at: usize) -> Option<(u64, usize)> {
    let value = |digit: u8| u64::from(digit - b'0');
    match *buf.get(at + 1..)? {
        [a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((value(a), at + 4)),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => Some((value(a) * 10 + value(b), at + 5)),
        _ => long_plain_length(buf, at),
    }
}

/// [`plain_length`] for any number of digits.
fn long_plain_length(buf: &[u8], at: usize) -> Option<(u64, usize)> {
    let digits = buf.get(at + 1..)?;
    let mut value = 0;
    for (count, &byte) in digits.iter().take(PLAIN_DIGITS + 1).enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let ends = byte == b'\r' && digits.get(count + 1) == Some(&b'\n');
            let padded = count > 1 && digits[0] == b'0';
            return (ends && count > 0 && !padded).then_some((value, at + count + 3));
        }
        value = value * 10 + u64::from(digit);
    }
    None
}

/// The bytes of a bulk of `length` that starts at `start`, when it and its CRLF are wholly there.
#[inline(always)]
pub(super) fn whole_bulk(buf: &[u8], start: usize, length: u64) -> Option<Range<usize>> {
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (buf.get(end..)?.starts_with(b"\r\n")).then_some(start..end)
}

/// An integer as the server's `string2ll` reads it: no spaces, no `+`, no leading zeros, no `-0`.
pub(super) fn strict_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let strict = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => text.len() <= MAX_INTEGER && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !strict {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A decimal integer in progress, within the range of an `i64`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Integer {
    pub(super) magnitude: u64,
    /// Digits seen, up to 255.
    pub(super) digits: u8,
    signed: bool,
    pub(super) negative: bool,
    /// Starts with a zero.
    zero_first: bool,
}

impl Integer {
    /// With one more sign or digit; `None` when it cannot be there or leaves the range.
    pub(super) fn with_digit(mut self, byte: u8) -> Option<Self> {
        match byte {
            b'-' | b'+' if self.digits == 0 && !self.signed => {
                self.signed = true;
                self.negative = byte == b'-';
            }
            b'0'..=b'9' => {
                self.zero_first |= self.digits == 0 && byte == b'0';
                self.digits = self.digits.saturating_add(1);
                self.magnitude = self.magnitude.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
                let most = if self.negative { i64::MIN.unsigned_abs() } else { i64::MAX.unsigned_abs() };
                if self.magnitude > most {
                    return None;
                }
            }
            _ => return None,
        }
        Some(self)
    }

    /// Whether this is the one way to write its value: at least one digit, no leading zero, no `-0`.
    pub(super) fn is_canonical(self) -> bool {
        self.digits > 0 && !(self.zero_first && (self.digits > 1 || self.negative))
    }
}

/// A double in progress: `[sign] (digits [. [digits]] | . digits) [e [sign] digits]`, or `[sign] inf`, `[sign] nan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Double {
    Start,
    Sign,
    /// Digits before the point.
    Whole,
    /// A point with no digits before it.
    Point,
    /// After a point, with digits on at least one side.
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// These letters of `inf` or `nan` are still to come.
    Letters(&'static [u8]),
}

impl Double {
    pub(super) fn with_byte(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, b'+' | b'-') => Self::Sign,
            (Self::Start | Self::Sign | Self::Whole, b'0'..=b'9') => Self::Whole,
            (Self::Start | Self::Sign, b'.') => Self::Point,
            (Self::Start | Self::Sign, b'i') => Self::Letters(b"nf"),
            (Self::Start | Self::Sign, b'n') => Self::Letters(b"an"),
            (Self::Whole, b'.') => Self::Fraction,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Whole | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Exponent, b'+' | b'-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => Self::ExponentDigits,
            (Self::Letters([next, rest @ ..]), _) if byte == *next => Self::Letters(rest),
            _ => return None,
        })
    }

    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Whole | Self::Fraction | Self::ExponentDigits | Self::Letters([]))
    }
}
