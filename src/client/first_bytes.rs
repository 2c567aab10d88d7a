//! What the first bytes of a client tell before they are a whole request.

/// Whether the first word of the request in `buf`, however it is written, is `word`; nothing if that cannot be said
/// yet.
pub(super) fn begins_with(buf: &[u8], word: &[u8]) -> Option<bool> {
    let mut rest = buf;
    if let Some(header) = buf.strip_prefix(b"*") {
        let digits = header.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let count = std::str::from_utf8(&header[..digits]).ok().filter(|digits| !digits.is_empty());
        // More than any array has is an error at once.
        if count.is_some_and(|count| count.parse::<i32>().is_err()) {
            return Some(false);
        }
        let length = format!("\r\n${}\r\n", word.len());
        let (seen, wanted) = (&header[digits..], length.as_bytes());
        if seen.len() < wanted.len() {
            return if wanted.starts_with(seen) { None } else { Some(false) };
        }
        rest = match seen.strip_prefix(wanted) {
            Some(rest) => rest,
            None => return Some(false),
        };
    }
    let seen = &rest[..rest.len().min(word.len())];
    if !word[..seen.len()].eq_ignore_ascii_case(seen) {
        return Some(false);
    }
    rest.get(word.len()).map(|byte| byte.is_ascii_whitespace())
}

/// The first bytes of TLS, where a request should begin: its record type, then version 3.x. No server has a command
/// that begins so; behind them comes a NUL byte, and a line with one never ends.
pub(super) fn is_tls_hello(buf: &[u8]) -> bool {
    matches!(buf, [0x16, 3, ..])
}

#[cfg(test)]
mod tests {
    use super::begins_with;

    #[test]
    fn the_first_word_is_known_as_soon_as_it_can_be() {
        let seen = |text: &str| begins_with(text.as_bytes(), b"PROXY");
        for text in ["*2\r\n$5\r\nPROXY\r\n$4\r\nHELP\r\n", "*1\r\n$5\r\nproxy\r", "PROXY HELP\r\n", "proxy\n"] {
            assert_eq!(seen(text), Some(true), "{text:?}");
            // However few bytes of it are there, it is not taken for another one.
            for end in 0..text.len() {
                assert_ne!(seen(&text[..end]), Some(false), "{:?}", &text[..end]);
            }
        }
        for text in [
            "*1\r\n$4\r\n",
            "*1\r\n$5\r\nPROXz",
            "*x",
            "PROXYS",
            "GET",
            "\x16\x03\x01",
            "*12345678901",
            "*2147483648\r\n",
            "\r\nPROXY",
        ] {
            assert_eq!(seen(text), Some(false), "{text:?}");
        }
    }
}
