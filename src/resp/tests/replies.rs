//! Replies: frames end where they should, wherever the bytes are cut.

use crate::resp::reply::MAX_DEPTH;
use crate::resp::reply_error::MAX_ELEMENTS;
use crate::resp::{Advance, ReplyError, ReplyScanner};

/// Length and first byte of the first frame, or why there is none, after feeding `chunks`; `None` when it is not over.
fn first_frame<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Result<(usize, u8), ReplyError>> {
    let mut scanner = ReplyScanner::new();
    let mut before = 0;
    for chunk in chunks.into_iter().filter(|chunk| !chunk.is_empty()) {
        match scanner.advance(chunk) {
            Advance::Partial => {
                before += chunk.len();
                assert!(scanner.mid_frame());
            }
            Advance::Complete { len, kind } => {
                assert!(!scanner.mid_frame() && scanner.kind().is_none());
                return Some(Ok((before + len, kind.byte())));
            }
            Advance::Invalid(error) => {
                assert_eq!(scanner.advance(b"+OK\r\n"), Advance::Invalid(error), "an error is final");
                return Some(Err(error));
            }
        }
    }
    None
}

fn at_every_split(bytes: &[u8], expected: Option<Result<(usize, u8), ReplyError>>) {
    let shown = bytes.escape_ascii();
    assert_eq!(first_frame([bytes]), expected, "{shown} whole");
    for cut in 1..bytes.len() {
        let (head, tail) = bytes.split_at(cut);
        assert_eq!(first_frame([head, tail]), expected, "{shown} cut at {cut}");
    }
    assert_eq!(first_frame(bytes.chunks(1)), expected, "{shown} byte by byte");
}

const FRAMES: &[&[u8]] = &[
    b"+OK\r\n",
    b"+\r\n",
    b"+a\nb\r\n",
    b"-ERR no\r\n",
    b"-LOADING\r\n",
    b"-\r\n",
    b":0\r\n",
    b":-1\r\n",
    b":+5\r\n",
    b":9223372036854775807\r\n",
    b":-9223372036854775808\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"$12\r\nabcdefghijkl\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*2\r\n$1\r\na\r\n*-1\r\n",
    b"*3\r\n*0\r\n*2\r\n:1\r\n*1\r\n+x\r\n$-1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"#f\r\n",
    b",3.141\r\n",
    b",3\r\n",
    b",-0.5e-10\r\n",
    b",1.0000000000000001e+300\r\n",
    b",.5\r\n",
    b",5.\r\n",
    b",inf\r\n",
    b",-inf\r\n",
    b",nan\r\n",
    b",-nan\r\n",
    b"(1234567999999999999999999999999999999\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n",
    b"=29\r\ntxt:This is a verbatim\nstring\r\n",
    b"=4\r\nraw:\r\n",
    b"%0\r\n",
    b"%3\r\n:0\r\n#f\r\n:1\r\n#t\r\n:2\r\n#f\r\n",
    b"%1\r\n*1\r\n:1\r\n%1\r\n+a\r\n+b\r\n",
    b"~3\r\n:0\r\n:1\r\n:2\r\n",
    b">0\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n",
];

#[test]
fn a_frame_ends_at_its_end_and_not_in_what_follows() {
    for frame in FRAMES {
        for after in [&b""[..], b"+OK\r\n", b"\r\n", b"garbage"] {
            at_every_split(&[frame, after].concat(), Some(Ok((frame.len(), frame[0]))));
        }
        at_every_split(&frame[..frame.len() - 1], None);
    }
}

#[test]
fn attributes_are_a_prefix_at_any_level() {
    let attribute: &[u8] = b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n";
    for frame in FRAMES {
        for prefix in [attribute, b"|0\r\n", &[attribute, attribute].concat()] {
            let bytes = [prefix, frame].concat();
            at_every_split(&bytes, Some(Ok((bytes.len(), frame[0]))));
            let nested = [b"*2\r\n", prefix, frame, prefix, b":1\r\n"].concat();
            // A push inside a frame is none of its elements.
            let missing: &[u8] = if frame[0] == b'>' { b":2\r\n" } else { b"" };
            let nested = [&nested, missing].concat();
            at_every_split(&nested, Some(Ok((nested.len(), b'*'))));
        }
    }
    at_every_split(attribute, None);
}

/// What Redis 7.0.15 sends a client on RESP3 that is subscribed to `c`: `MULTI`, `PUBLISH c x`, `PING`, `EXEC`.
#[test]
fn a_push_inside_exec_is_not_counted() {
    let exec = b"*2\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n:1\r\n+PONG\r\n";
    at_every_split(exec, Some(Ok((exec.len(), b'*'))));
    let first = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n";
    at_every_split(&[&first[..], exec].concat(), Some(Ok((first.len(), b'>'))));
}

#[test]
fn what_is_no_frame_is_refused() {
    use ReplyError as E;
    let table: &[(&[u8], E)] = &[
        (b"x", E::UnknownType(b'x')),
        (b"\r\n", E::UnknownType(b'\r')),
        (b"HTTP/1.1 400\r\n", E::UnknownType(b'H')),
        (b";4\r\nabcd\r\n", E::UnknownType(b';')),
        (b".\r\n", E::UnknownType(b'.')),
        (b"*1\r\n\r\n", E::UnknownType(b'\r')),
        (b"$?\r\n", E::Streamed),
        (b"*?\r\n", E::Streamed),
        (b"%?\r\n", E::Streamed),
        (b"$\r\n", E::InvalidLength),
        (b"$x\r\n", E::InvalidLength),
        (b"$-2\r\n", E::InvalidLength),
        (b"$-0\r\n", E::InvalidLength),
        (b"$-01\r\n", E::InvalidLength),
        (b"$+1\r\na\r\n", E::InvalidLength),
        (b"$01\r\na\r\n", E::InvalidLength),
        (b"$ 1\r\na\r\n", E::InvalidLength),
        (b"*1 \r\n:1\r\n", E::InvalidLength),
        (b"%-1\r\n", E::InvalidLength),
        (b"~-1\r\n", E::InvalidLength),
        (b"=-1\r\n", E::InvalidLength),
        (b">-1\r\n", E::InvalidLength),
        (b"=3\r\ntxt\r\n", E::InvalidLength),
        (b"$99999999999999999999\r\n", E::InvalidLength),
        (b"$9223372036854775807\r\n", E::TooLong),
        (b"*4294967296\r\n", E::TooLong),
        (b"+OK\rx", E::MissingCrlf),
        (b"+OK\r\r\n", E::MissingCrlf),
        (b"$2\r\nabc\r\n", E::MissingCrlf),
        (b"$2\r\nab\rc", E::MissingCrlf),
        (b"$2\r\nab\n\n", E::MissingCrlf),
        (b"$2\rxab\r\n", E::MissingCrlf),
        (b":1\rx", E::MissingCrlf),
        (b":\r\n", E::InvalidContent(b':')),
        (b":-\r\n", E::InvalidContent(b':')),
        (b":1a\r\n", E::InvalidContent(b':')),
        (b":--1\r\n", E::InvalidContent(b':')),
        (b":9223372036854775808\r\n", E::InvalidContent(b':')),
        (b":-9223372036854775809\r\n", E::InvalidContent(b':')),
        (b",\r\n", E::InvalidContent(b',')),
        (b",.\r\n", E::InvalidContent(b',')),
        (b",1.2.3\r\n", E::InvalidContent(b',')),
        (b",1e\r\n", E::InvalidContent(b',')),
        (b",in\r\n", E::InvalidContent(b',')),
        (b",nano\r\n", E::InvalidContent(b',')),
        (b"#\r\n", E::InvalidContent(b'#')),
        (b"#x\r\n", E::InvalidContent(b'#')),
        (b"#tt\r\n", E::InvalidContent(b'#')),
        (b"_x\r\n", E::InvalidContent(b'_')),
    ];
    for (bytes, error) in table {
        at_every_split(bytes, Some(Err(*error)));
        let nested = [b"*2\r\n:1\r\n", *bytes].concat();
        at_every_split(&nested, Some(Err(*error)));
    }
}

#[test]
fn replies_as_deep_and_long_as_a_server_sends_are_accepted() {
    // `EVAL` of nested tables reaches 7,996 levels on Redis 7.0.15, and `EXEC` wraps it once more.
    for depth in [129, 8_000, MAX_DEPTH] {
        let mut frame = b"*1\r\n".repeat(depth);
        frame.extend_from_slice(b":1\r\n");
        let expected = Some(Ok((frame.len(), b'*')));
        assert_eq!(first_frame([&frame[..]]), expected);
        assert_eq!(first_frame(frame.chunks(3)), expected);
    }
    assert_eq!(first_frame([&b"*1\r\n".repeat(MAX_DEPTH + 1)[..]]), Some(Err(ReplyError::TooDeep)));
    assert_eq!(first_frame([format!("%{MAX_ELEMENTS}\r\n:1\r\n").as_bytes()]), None);
    let mut frame = b"*20000\r\n".to_vec();
    frame.extend(b"$1\r\nx\r\n".repeat(20_000));
    assert_eq!(first_frame(frame.chunks(4_093)), Some(Ok((frame.len(), b'*'))));
}

#[test]
fn the_kind_is_known_with_its_first_byte() {
    let mut scanner = ReplyScanner::new();
    assert!(!scanner.mid_frame());
    assert_eq!((scanner.advance(b"|1\r\n:1\r\n-no"), scanner.kind()), (Advance::Partial, None));
    assert!(scanner.mid_frame());
    assert_eq!((scanner.advance(b"\r\n"), scanner.kind()), (Advance::Partial, None));
    assert!(scanner.mid_frame(), "the frame after the attribute is still to come");
    assert_eq!((scanner.advance(b"-"), scanner.kind()), (Advance::Partial, Some(b'-')));
    let Advance::Complete { len: 5, kind } = scanner.advance(b"ERR\r\n:1") else { panic!("the error ends") };
    assert!(kind.is_error() && !kind.is_push());
    assert_eq!((scanner.mid_frame(), scanner.kind()), (false, None));
    let Advance::Complete { len: 12, kind } = scanner.advance(b">1\r\n$2\r\nab\r\n+") else { panic!("the push ends") };
    assert!(kind.is_push() && !kind.is_error());
}

#[test]
fn a_stream_of_frames_is_cut_at_each_of_them() {
    let stream = FRAMES.concat();
    for read in [1, 2, 3, 7, 16, 64, 1000] {
        let mut scanner = ReplyScanner::new();
        let (mut ends, mut at) = (Vec::new(), 0);
        for chunk in stream.chunks(read) {
            let mut rest = chunk;
            while !rest.is_empty() {
                match scanner.advance(rest) {
                    Advance::Complete { len, .. } => {
                        at += len;
                        ends.push(at);
                        rest = &rest[len..];
                    }
                    Advance::Partial => {
                        at += rest.len();
                        rest = &[];
                    }
                    Advance::Invalid(error) => panic!("{error}"),
                }
            }
        }
        let expected: Vec<usize> = FRAMES
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        assert_eq!(ends, expected, "reads of {read}");
    }
}
