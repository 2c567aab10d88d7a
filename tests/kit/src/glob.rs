//! `*` and `?` wildcards over bytes, for the parts of a reply that vary.

/// Whether `pattern` covers all of `text`; `*` stands for any bytes, `?` for one, `\` takes the next byte literally.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| matches(rest, &text[skip..])),
        Some((b'?', rest)) => !text.is_empty() && matches(rest, &text[1..]),
        Some((b'\\', rest)) if !rest.is_empty() => literal(rest[0], &rest[1..], text),
        Some((&byte, rest)) => literal(byte, rest, text),
    }
}

fn literal(byte: u8, rest: &[u8], text: &[u8]) -> bool {
    text.first() == Some(&byte) && matches(rest, &text[1..])
}

#[test]
fn wildcards_cover_whole_texts_only() {
    assert!(matches(b"id=* addr=*:?*", b"id=7 addr=127.0.0.1:6379"));
    assert!(!matches(b"id=*", b" id=7"));
    assert!(matches(b"a\\*b", b"a*b"));
    assert!(!matches(b"a\\*b", b"axb"));
}
