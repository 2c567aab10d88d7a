//! HELLO: its options, and its reply with the client's own id (rule A6).

use bytes::BytesMut;

use crate::client::request::Request;
use crate::command::token_is;
use crate::resp::{element_ranges, encode};
use crate::router::Args;

/// What a HELLO asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::client) struct Hello {
    /// Absent: the protocol stays.
    pub version: Option<Vec<u8>>,
    pub auth: Option<(Vec<u8>, Vec<u8>)>,
    /// What SETNAME gives; who calls this judges it.
    pub name: Option<Vec<u8>>,
}

impl Hello {
    /// Reads the options as servers do.
    ///
    /// # Errors
    /// The option that is none, as typed.
    pub(in crate::client) fn parse(request: &Request) -> Result<Self, Vec<u8>> {
        let mut hello = Self { version: (request.count() > 1).then(|| request.nth(1).to_vec()), ..Self::default() };
        let mut at = 2;
        while at < request.count() {
            let option = request.nth(at);
            let left = request.count() - at - 1;
            if token_is(option, "AUTH") && left >= 2 {
                hello.auth = Some((request.nth(at + 1).to_vec(), request.nth(at + 2).to_vec()));
                at += 3;
            } else if token_is(option, "SETNAME") && left >= 1 {
                hello.name = Some(request.nth(at + 1).to_vec());
                at += 2;
            } else {
                return Err(option.to_vec());
            }
        }
        Ok(hello)
    }
}

/// Replaces the value of `id` in a HELLO reply: the upstream's id is the lane's.
pub(in crate::client) fn patch_id(frame: &[u8], id: u64) -> Vec<u8> {
    // Keys and values in turn, in RESP2's list and in RESP3's map alike. What cannot be read so is passed on as it is.
    let Some(ranges) = element_ranges(frame) else { return frame.to_vec() };
    let name = ranges.iter().position(|range| frame[range.clone()].ends_with(b"\r\nid\r\n"));
    let Some(value) = name.and_then(|at| ranges.get(at + 1)) else { return frame.to_vec() };
    let mut patched = BytesMut::with_capacity(frame.len() + 20);
    patched.extend_from_slice(&frame[..value.start]);
    encode::integer(&mut patched, i64::try_from(id).unwrap_or(i64::MAX));
    patched.extend_from_slice(&frame[value.end..]);
    patched.to_vec()
}

#[cfg(test)]
mod tests {
    use super::patch_id;

    #[test]
    fn the_upstreams_id_is_replaced_in_both_protocols() {
        let map = b"%2\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n";
        assert_eq!(patch_id(map, 123), b"%2\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:123\r\n");
        let list = b"*4\r\n$2\r\nid\r\n:7\r\n$5\r\nproto\r\n:2\r\n";
        assert_eq!(patch_id(list, 123), b"*4\r\n$2\r\nid\r\n:123\r\n$5\r\nproto\r\n:2\r\n");
    }
}
