//! CLIENT TRACKING with REDIRECT, which would make the server push to another connection. The ids of a server are not
//! those of respmux' clients: the one that is meant is none of its connections, and the one that is hit may be a lane.

use bytes::BytesMut;

use crate::client::request::{Request, strict_integer};
use crate::command::token_is;
use crate::resp::encode;

/// An id that no connection of a server has.
const NOBODY: &[u8] = b"0";

/// The request with every id after REDIRECT replaced, so that all it gets is the server's own refusal, in the server's
/// own order of errors. Reads the options as the server does, up to the first that it does not know.
pub(super) fn to_nobody(request: &Request) -> BytesMut {
    let mut words: Vec<&[u8]> = request.args_from(0).collect();
    let (mut at, last) = (3, words.len().saturating_sub(1));
    while at < last {
        if token_is(words[at], "REDIRECT") {
            at += 1;
            // What we do not take for a number the server must not either.
            words[at] = if strict_integer(words[at]).is_some() { NOBODY } else { b"not a number" };
        } else if token_is(words[at], "PREFIX") {
            at += 1;
        }
        at += 1;
    }
    let mut raw = BytesMut::with_capacity(request.raw().len() + 16);
    encode::command(&mut raw, &words);
    raw
}
