//! The few frames we write ourselves: commands to the upstream, and answers of our own to clients. `resp` is the
//! client's protocol version, 2 or 3, where the two differ.

use bytes::{BufMut, BytesMut};

use super::RequestScanner;

/// Most bytes of a line of a type byte, an integer and a CRLF.
const INTEGER_LINE: usize = 23;

/// A command, as the canonical multibulk.
pub fn command(out: &mut BytesMut, args: &[impl AsRef<[u8]>]) {
    let bytes: usize = args.iter().map(|arg| arg.as_ref().len() + INTEGER_LINE + 2).sum();
    out.reserve(INTEGER_LINE + bytes);
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg.as_ref());
    }
}

/// The request that `scanner` has just found in `buf`, as the canonical multibulk. This is how an inline request, and
/// one with sloppy line ends, goes upstream.
pub fn request(out: &mut BytesMut, scanner: &RequestScanner, buf: &[u8]) {
    array_header(out, scanner.argc());
    for arg in scanner.args(buf) {
        bulk(out, arg);
    }
}

/// The head of an array; `len` frames must follow.
pub fn array_header(out: &mut BytesMut, len: usize) {
    count_line(out, b'*', len);
}

/// The head of a map of `pairs`; twice as many frames must follow. A flat array in RESP2.
pub fn map_header(out: &mut BytesMut, pairs: usize, resp: u8) {
    if resp >= 3 { count_line(out, b'%', pairs) } else { count_line(out, b'*', pairs * 2) }
}

/// The head of a set; `len` frames must follow. An array in RESP2.
pub fn set_header(out: &mut BytesMut, len: usize, resp: u8) {
    count_line(out, if resp >= 3 { b'~' } else { b'*' }, len);
}

/// The head of a push; `len` frames must follow. An array in RESP2.
pub fn push_header(out: &mut BytesMut, len: usize, resp: u8) {
    count_line(out, if resp >= 3 { b'>' } else { b'*' }, len);
}

/// A bulk string.
pub fn bulk(out: &mut BytesMut, bytes: &[u8]) {
    out.reserve(INTEGER_LINE + bytes.len() + 2);
    count_line(out, b'$', bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// An error whose line is `text`, without the leading `-`. CRs and LFs at the end are dropped and others written as
/// spaces, as the server does.
pub fn error(out: &mut BytesMut, text: &[u8]) {
    let is_line_end = |byte: u8| matches!(byte, b'\r' | b'\n');
    let end = text.iter().rposition(|&byte| !is_line_end(byte)).map_or(0, |last| last + 1);
    out.reserve(end + 3);
    out.put_u8(b'-');
    out.extend(text[..end].iter().map(|&byte| if is_line_end(byte) { b' ' } else { byte }));
    out.put_slice(b"\r\n");
}

/// An integer.
pub fn integer(out: &mut BytesMut, value: i64) {
    out.reserve(INTEGER_LINE);
    out.put_u8(b':');
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
    out.put_slice(b"\r\n");
}

/// Nil where RESP2 has a nil string (`$-1`).
pub fn null(out: &mut BytesMut, resp: u8) {
    out.put_slice(if resp >= 3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// Nil where RESP2 has a nil array (`*-1`): a blocking pop that timed out, an `EXEC` that a `WATCH` stopped.
pub fn null_array(out: &mut BytesMut, resp: u8) {
    out.put_slice(if resp >= 3 { b"_\r\n" } else { b"*-1\r\n" });
}

/// A plain text (`CLIENT LIST`, `INFO`): a verbatim string, or a bulk in RESP2.
pub fn verbatim_txt(out: &mut BytesMut, text: &[u8], resp: u8) {
    if resp < 3 {
        return bulk(out, text);
    }
    out.reserve(INTEGER_LINE + text.len() + 6);
    count_line(out, b'=', text.len() + 4);
    out.put_slice(b"txt:");
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

fn count_line(out: &mut BytesMut, kind: u8, count: usize) {
    out.put_u8(kind);
    out.put_slice(itoa::Buffer::new().format(count).as_bytes());
    out.put_slice(b"\r\n");
}
