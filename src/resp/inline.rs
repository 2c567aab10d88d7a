//! Inline requests: one line split into arguments as the server's `sdssplitargs` does it.

use super::scan::Arg;

/// Splits `line` (without its end) into `args`, ranges of the unescaped `text`. `false` when a quote is not closed,
/// or closed and followed by something else than a space; `text` and `args` then hold the part before.
///
/// The rules are those of Redis 7: `"..."` knows `\n \r \t \b \a \xHH`, and any other escaped byte stands for itself;
/// `'...'` knows only `\'`; a quote may open in the middle of an argument.
pub(super) fn split(line: &[u8], text: &mut Vec<u8>, args: &mut Vec<Arg>) -> bool {
    let mut rest = line;
    loop {
        rest = skip_spaces(rest);
        if rest.is_empty() {
            return true;
        }
        let start = text.len();
        let Some(after) = take_argument(rest, text) else {
            return false;
        };
        args.push(Arg { start, end: text.len() });
        rest = after;
    }
}

/// `isspace` in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn skip_spaces(line: &[u8]) -> &[u8] {
    let spaces = line.iter().take_while(|&&byte| is_space(byte)).count();
    &line[spaces..]
}

/// Appends one argument to `text` and returns what follows it, or `None` for a quote that is not closed properly.
fn take_argument<'a>(line: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = line;
    loop {
        match rest {
            // A vertical tab and a form feed separate arguments only before one: inside they are part of it.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some(rest),
            [b'"', quoted @ ..] => return take_double_quoted(quoted, text),
            [b'\'', quoted @ ..] => return take_single_quoted(quoted, text),
            [byte, after @ ..] => {
                text.push(*byte);
                rest = after;
            }
        }
    }
}

fn take_double_quoted<'a>(quoted: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = quoted;
    loop {
        let (byte, after) = match rest {
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_digit(*high) << 4 | hex_digit(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescape(*escaped), after),
            [b'"', after @ ..] => return closed(after),
            [byte, after @ ..] => (*byte, after),
            [] => return None,
        };
        text.push(byte);
        rest = after;
    }
}

fn take_single_quoted<'a>(quoted: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = quoted;
    loop {
        let (byte, after) = match rest {
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [b'\'', after @ ..] => return closed(after),
            [byte, after @ ..] => (*byte, after),
            [] => return None,
        };
        text.push(byte);
        rest = after;
    }
}

/// A closing quote ends the argument, so a space or the end of the line must follow.
fn closed(after: &[u8]) -> Option<&[u8]> {
    match after.first() {
        Some(&byte) if !is_space(byte) => None,
        _ => Some(after),
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

/// The value of an ASCII hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
