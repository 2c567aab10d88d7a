//! Changes of inputs, and inputs as text.

use fastrand::Rng;

/// Longest input: small ones are read fast, and no rule of the grammar needs more.
const LONGEST: usize = 400;

/// A new input from those in `corpus`, with words of the target's language.
pub(crate) fn mutate(rng: &mut Rng, corpus: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    let doublings = rng.usize(..4);
    for _ in 0..1 + rng.usize(..1 << doublings) {
        change(rng, &mut input, corpus, words);
    }
    input.truncate(LONGEST);
    input
}

fn change(rng: &mut Rng, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&[u8]]) {
    let len = input.len();
    let at = rng.usize(..=len);
    if len == 0 {
        input.extend_from_slice(words[rng.usize(..words.len())]);
        return;
    }
    let (here, until) = (at.min(len - 1), (at + 1 + rng.usize(..8)).min(len));
    match rng.u8(..10) {
        0 => input[here] ^= 1 << rng.u8(..8),
        1 => input[here] = rng.u8(..),
        2 => input.insert(at, rng.u8(..)),
        3 => drop(input.drain(here..until)),
        4 => {
            let copy = input[here..until].to_vec();
            insert(input, at, &copy);
        }
        5 | 6 => insert(input, at, words[rng.usize(..words.len())]),
        7 => {
            let word = words[rng.usize(..words.len())];
            let end = (here + word.len()).min(len);
            input.splice(here..end, word.iter().copied());
        }
        8 => {
            let other = &corpus[rng.usize(..corpus.len())];
            let from = rng.usize(..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            // A number a little larger or smaller.
            if let Some(digit) = input[here..].iter().position(u8::is_ascii_digit) {
                let byte = &mut input[here + digit];
                *byte = if rng.bool() { byte.wrapping_add(1) } else { byte.wrapping_sub(1) };
            } else {
                input.truncate(at);
            }
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

/// The smallest input, as far as taking pieces away finds it, for which `fails` still holds.
pub(crate) fn shrink(mut input: Vec<u8>, mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + piece).min(input.len()));
            if fails(&shorter) { input = shorter } else { at += piece }
        }
        piece /= 2;
    }
    input
}

/// Lines of a corpus file: `#` begins a comment, escapes are those of Rust's byte strings.
pub(crate) fn corpus(text: &str) -> Vec<Vec<u8>> {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(unescape).collect()
}

/// Undoes `escape_ascii`.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'x') => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16)).expect("a hex digit");
                (digit() * 16 + digit()) as u8
            }
            Some(other) => other,
            None => panic!("a backslash at the end of {text}"),
        });
    }
    out
}
