//! XREAD and XREADGROUP with BLOCK, read so that they can be asked in turns without BLOCK (rule B12).

use std::time::Duration;

use bytes::BytesMut;

use super::pop::{encoded, integer_timeout, popped_key};
use super::tokens::token_is;
use crate::resp::{element_ranges, encode};

/// XREAD or XREADGROUP with BLOCK, whose every argument is understood: it can be asked in turns.
#[derive(Clone, Debug)]
pub struct StreamWait {
    /// The command without BLOCK.
    words: Vec<Vec<u8>>,
    /// Where in `words` the keys and the ids begin.
    keys: usize,
    ids: usize,
    timeout: Option<Duration>,
}

impl StreamWait {
    /// `None` when anything is not surely right.
    #[must_use]
    pub fn parse(args: &[&[u8]]) -> Option<Self> {
        let mut words: Vec<Vec<u8>> = vec![args.first()?.to_vec()];
        let (mut at, mut timeout) = (1, None);
        loop {
            let token = *args.get(at)?;
            let values = if token_is(token, "BLOCK") {
                timeout = Some(integer_timeout(args.get(at + 1)?)?);
                at += 2;
                continue;
            } else if token_is(token, "STREAMS") {
                break;
            } else if token_is(token, "COUNT") {
                1
            } else if token_is(token, "GROUP") {
                2
            } else if token_is(token, "NOACK") {
                0
            } else {
                return None;
            };
            words.extend(args.get(at..=at + values)?.iter().map(|word| word.to_vec()));
            at += 1 + values;
        }
        let streams = args.len() - at - 1;
        if streams == 0 || !streams.is_multiple_of(2) {
            return None;
        }
        let keys = words.len() + 1;
        words.extend(args[at..].iter().map(|word| word.to_vec()));
        Some(Self { words, keys, ids: keys + streams / 2, timeout: timeout? })
    }

    /// How long the client waits; `None` is for ever.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The streams that are read from their end, each with its place for [`StreamWait::set_id`].
    #[must_use]
    pub fn streams_from_their_end(&self) -> Vec<(usize, Vec<u8>)> {
        let count = self.ids - self.keys;
        let ends = (0..count).filter(|i| self.words[self.ids + i] == b"$");
        ends.map(|i| (i, self.words[self.keys + i].clone())).collect()
    }

    /// What asks for the last entry of a stream.
    #[must_use]
    pub fn last_entry(key: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        encode::command(&mut out, &[b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"]);
        out
    }

    /// Reads stream `place` from what the reply to [`StreamWait::last_entry`] says; `false` when it says nothing.
    pub fn set_id(&mut self, place: usize, reply: &[u8]) -> bool {
        let Some(entries) = element_ranges(reply) else { return false };
        let id = match entries.first() {
            None => Some(b"0-0".to_vec()),
            Some(range) => popped_key(&reply[range.clone()]).map(<[u8]>::to_vec),
        };
        let Some(id) = id else { return false };
        self.words[self.ids + place] = id;
        true
    }

    /// The command without BLOCK.
    #[must_use]
    pub fn question(&self) -> BytesMut {
        encoded(&self.words)
    }
}
