//! Option tokens inside a request, compared as servers compare them.

/// `token` up to its first NUL byte: what a C string comparison sees (docs/design/semantics.md 3.3).
#[must_use]
pub fn cut_at_nul(token: &[u8]) -> &[u8] {
    memchr::memchr(0, token).map_or(token, |end| &token[..end])
}

/// Whether `token` is `word`, in any case, cut at the first NUL byte.
#[must_use]
pub fn token_is(token: &[u8], word: &str) -> bool {
    cut_at_nul(token).eq_ignore_ascii_case(word.as_bytes())
}

/// Whether an XREAD or XREADGROUP has a BLOCK option. Follows the server's walk over the options (each with its
/// values) up to STREAMS, and answers yes when in doubt: a blocked lane is worse than a lease.
pub fn stream_read_blocks<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> bool {
    while let Some(token) = args.next() {
        if token_is(token, "BLOCK") {
            return true;
        }
        if token_is(token, "STREAMS") {
            return false;
        }
        if token_is(token, "COUNT") {
            // The value of COUNT may itself be the word BLOCK; the server then answers an error, at once.
            args.next();
        } else if token_is(token, "GROUP") {
            args.next();
            args.next();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::stream_read_blocks;

    fn blocks(words: &str) -> bool {
        stream_read_blocks(words.split(' ').skip(1).map(str::as_bytes))
    }

    #[test]
    fn block_counts_only_as_an_option_before_streams() {
        assert!(blocks("XREAD BLOCK 0 STREAMS s $"));
        assert!(blocks("XREAD COUNT 1 block\0zz 0 STREAMS s $"));
        assert!(blocks("XREADGROUP GROUP g c BLOCK 0 STREAMS s >"));
        assert!(!blocks("XREAD STREAMS BLOCK 0"));
        assert!(!blocks("XREADGROUP GROUP BLOCK BLOCK STREAMS s >"));
        assert!(!blocks("XREAD COUNT 1 STREAMS s 0"));
    }
}
