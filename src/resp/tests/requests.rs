//! Requests: the facts of Redis 7.0, wherever the bytes are cut.

use bytes::BytesMut;
use proptest::prelude::*;

use crate::resp::{ProtocolError, RequestLimits, RequestScanner, Scan, encode};

/// What the scanner makes of a stream: requests in order, then what stopped it.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Args(Vec<Vec<u8>>),
    Error(ProtocolError),
    /// The bytes end within a request.
    Pending,
}

const AUTHENTICATED: RequestLimits =
    RequestLimits { max_bulk: 536_870_912, max_args: 2_147_483_647, authenticated: true };
const UNAUTHENTICATED: RequestLimits = RequestLimits { authenticated: false, ..AUTHENTICATED };

/// Feeds the chunks as reads of one client, and checks on the way what holds for every scan.
fn feed<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limits: &RequestLimits) -> Vec<Seen> {
    let (mut scanner, mut resume) = (RequestScanner::new(), None);
    let (mut buf, mut seen) = (Vec::new(), Vec::new());
    for chunk in chunks {
        buf.extend_from_slice(chunk);
        while !buf.is_empty() {
            let scan = scanner.scan(&buf, &mut resume, limits);
            assert_eq!(resume.is_some(), scan == Scan::Incomplete);
            match scan {
                Scan::Incomplete => break,
                Scan::Empty { len } => drop(buf.drain(..len)),
                Scan::Invalid(error) => {
                    seen.push(Seen::Error(error));
                    return seen;
                }
                Scan::Complete { len, canonical } => {
                    let mut encoded = BytesMut::new();
                    encode::request(&mut encoded, &scanner, &buf);
                    assert_eq!(canonical, encoded[..] == buf[..len], "canonical is what we would write");
                    seen.push(Seen::Args((0..scanner.argc()).map(|i| scanner.arg(&buf, i).to_vec()).collect()));
                    buf.drain(..len);
                }
            }
        }
    }
    if !buf.is_empty() {
        seen.push(Seen::Pending);
    }
    seen
}

/// The same stream whole, in two pieces at every place, and byte by byte.
fn feed_at_every_split(stream: &[u8], limits: &RequestLimits, expected: &[Seen]) {
    let shown = stream.escape_ascii();
    assert_eq!(feed([stream], limits), expected, "{shown} whole");
    for cut in 1..stream.len() {
        let (head, tail) = stream.split_at(cut);
        assert_eq!(feed([head, tail], limits), expected, "{shown} cut at {cut}");
    }
    assert_eq!(feed(stream.chunks(1), limits), expected, "{shown} byte by byte");
}

fn args(args: &[&[u8]]) -> Seen {
    Seen::Args(args.iter().map(|arg| arg.to_vec()).collect())
}

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::command(&mut out, args);
    out.to_vec()
}

#[test]
fn protocol_errors_have_the_texts_of_the_server() {
    use ProtocolError as E;
    let table: [(E, &[u8]); 11] = [
        (E::InlineTooBig, b"ERR Protocol error: too big inline request"),
        (E::MultibulkCountTooBig, b"ERR Protocol error: too big mbulk count string"),
        (E::BulkCountTooBig, b"ERR Protocol error: too big bulk count string"),
        (E::InvalidMultibulkLength, b"ERR Protocol error: invalid multibulk length"),
        (E::ExpectedDollar(b'x'), b"ERR Protocol error: expected '$', got 'x'"),
        (E::ExpectedDollar(b'\r'), b"ERR Protocol error: expected '$', got ' '"),
        (E::ExpectedDollar(0xff), b"ERR Protocol error: expected '$', got '\xff'"),
        (E::InvalidBulkLength, b"ERR Protocol error: invalid bulk length"),
        (E::UnbalancedQuotes, b"ERR Protocol error: unbalanced quotes in request"),
        (E::UnauthenticatedMultibulkLength, b"ERR Protocol error: unauthenticated multibulk length"),
        (E::UnauthenticatedBulkLength, b"ERR Protocol error: unauthenticated bulk length"),
    ];
    for (error, text) in table {
        assert_eq!(error.text(), text);
    }
}

#[test]
fn broken_requests_are_refused_after_what_came_before() {
    use ProtocolError as E;
    let table: &[(&[u8], E)] = &[
        (b"*x\r\n", E::InvalidMultibulkLength),
        (b"*+1\r\n", E::InvalidMultibulkLength),
        (b"*01\r\n", E::InvalidMultibulkLength),
        (b"*00\r\n", E::InvalidMultibulkLength),
        (b"* 1\r\n", E::InvalidMultibulkLength),
        (b"*1 \r\n", E::InvalidMultibulkLength),
        (b"*\r\n", E::InvalidMultibulkLength),
        (b"*-0\r\n", E::InvalidMultibulkLength),
        (b"*2147483648\r\n", E::InvalidMultibulkLength),
        (b"*9223372036854775808\r\n", E::InvalidMultibulkLength),
        (b"*-9223372036854775809\r\n", E::InvalidMultibulkLength),
        (b"*000000000000000000001\r\n", E::InvalidMultibulkLength),
        (b"*1\nPING\r\n", E::InvalidMultibulkLength),
        (b"*1\r\nPING\r\n", E::ExpectedDollar(b'P')),
        (b"*1\r\n\r\n", E::ExpectedDollar(b'\r')),
        (b"*1\r\n\n\r\n", E::ExpectedDollar(b'\n')),
        (b"*1\r\n*1\r\n", E::ExpectedDollar(b'*')),
        (b"*1\r\n\xff\r\n", E::ExpectedDollar(0xff)),
        (b"*2\r\n$4\r\nPING\r\nx\r\n", E::ExpectedDollar(b'x')),
        (b"*1\r\n$abc\r\n", E::InvalidBulkLength),
        (b"*1\r\n$\r\n", E::InvalidBulkLength),
        (b"*1\r\n$-1\r\n", E::InvalidBulkLength),
        (b"*1\r\n$-0\r\n", E::InvalidBulkLength),
        (b"*1\r\n$+4\r\n", E::InvalidBulkLength),
        (b"*1\r\n$04\r\n", E::InvalidBulkLength),
        (b"*1\r\n$ 4\r\n", E::InvalidBulkLength),
        (b"*1\r\n$536870913\r\n", E::InvalidBulkLength),
        (b"*1\r\n$99999999999999999999\r\n", E::InvalidBulkLength),
        (b"SET a \"b\r\n", E::UnbalancedQuotes),
        (b"SET a 'b\r\n", E::UnbalancedQuotes),
        (b"SET a \"b\\\r\n", E::UnbalancedQuotes),
        (b"SET a \"b\\\"\r\n", E::UnbalancedQuotes),
        (b"SET a \"foo\"bar\r\n", E::UnbalancedQuotes),
        (b"SET a 'foo'bar\r\n", E::UnbalancedQuotes),
        (b"SET \"a\"\"b\"\r\n", E::UnbalancedQuotes),
        (b"\"\n", E::UnbalancedQuotes),
    ];
    for (bytes, error) in table {
        let mut stream = command(&[b"GET", b"k"]);
        stream.extend_from_slice(bytes);
        stream.extend_from_slice(b"PING\r\n");
        feed_at_every_split(&stream, &AUTHENTICATED, &[args(&[b"GET", b"k"]), Seen::Error(*error)]);
    }
}

#[test]
fn what_is_no_command_is_skipped() {
    let table: &[&[u8]] = &[
        b"*0\r\n",
        b"*-1\r\n",
        b"*-5\r\n",
        b"*-9223372036854775808\r\n",
        b"*0\rx",
        b"\r\n",
        b"\n",
        b"   \r\n",
        b"\r\r\n",
        b"\t\n",
        b"\x0b\x0c\n",
    ];
    for bytes in table {
        let mut stream = bytes.to_vec();
        stream.extend_from_slice(b"PING\r\n");
        feed_at_every_split(&stream, &AUTHENTICATED, &[args(&[b"PING"])]);
    }
}

#[test]
fn any_byte_after_cr_and_any_two_after_a_bulk_are_accepted() {
    let expected = [args(&[b"GET", b"k\r"]), args(&[b"PING"])];
    for bytes in [
        &b"*2\rX$3\rYGET\r\n$2\r\nk\r\r\nPING\r\n"[..],
        b"*2\r\r$3\r\rGETQQ$2\r\nk\rXYPING\n",
        b"*2\r\n$3\r\nGET*1$2\r\nk\r\n\rPING\r\n",
    ] {
        feed_at_every_split(bytes, &AUTHENTICATED, &expected);
    }
    // Each of them alone is enough to need re-encoding.
    for bytes in [&b"*1\rX$4\r\nPING\r\n"[..], b"*1\r\n$4\rXPING\r\n", b"*1\r\n$4\r\nPINGX\n", b"*1\r\n$4\r\nPING\rX"] {
        feed_at_every_split(bytes, &AUTHENTICATED, &[args(&[b"PING"])]);
    }
}

#[test]
fn unusual_requests_are_commands() {
    feed_at_every_split(b"*1\r\n$0\r\n\r\nPING\r\n", &AUTHENTICATED, &[args(&[b""]), args(&[b"PING"])]);
    feed_at_every_split(b"*1\r\n$3\r\na\0b\r\n", &AUTHENTICATED, &[args(&[b"a\0b"])]);
    feed_at_every_split(b"$3\r\nfoo\r\n+OK\n", &AUTHENTICATED, &[args(&[b"$3"]), args(&[b"foo"]), args(&[b"+OK"])]);
    let ten: Vec<Vec<u8>> = (0..12).map(|i| vec![b'v'; 1 << i]).collect();
    let ten: Vec<&[u8]> = ten.iter().map(Vec::as_slice).collect();
    feed_at_every_split(
        &command(&ten),
        &UNAUTHENTICATED,
        &[Seen::Error(ProtocolError::UnauthenticatedMultibulkLength)],
    );
    feed_at_every_split(&command(&ten), &AUTHENTICATED, &[args(&ten)]);
}

#[test]
fn inline_lines_are_split_as_the_server_does() {
    let table: &[(&[u8], &[&[u8]])] = &[
        (b"SET a b\r\n", &[b"SET", b"a", b"b"]),
        (b"  SET   a\t\tb  \n", &[b"SET", b"a", b"b"]),
        (b"SET \"a b\" 'c d'\r\n", &[b"SET", b"a b", b"c d"]),
        (b"x \"\\n\\r\\t\\b\\a\\x41\\xfF\\xg1\\x4\\q\\\"\\\\\"\r\n", &[b"x", b"\n\r\t\x08\x07A\xffxg1x4q\"\\"]),
        (b"x 'a\\'b\\n\\\\ '\r\n", &[b"x", b"a'b\\n\\\\ "]),
        (b"x foo\"bar\" foo'b r'\r\n", &[b"x", b"foobar", b"foob r"]),
        (b"x 'foo'\x0bbar\r\n", &[b"x", b"foo", b"bar"]),
        (b"x a\x0bb\x0cc\r\n", &[b"x", b"a\x0bb\x0cc"]),
        (b"x \"\" ''\r\n", &[b"x", b"", b""]),
        (b"\"\"\r\n", &[b""]),
        (b"x a\rb\r\n", &[b"x", b"a", b"b"]),
        (b"x a\r\r\n", &[b"x", b"a"]),
        (b"x \"a\rb\"\r\n", &[b"x", b"a\rb"]),
        (b"x \\x41 \\\r\n", &[b"x", b"\\x41", b"\\"]),
        (b"x \"\\x00z\" \xff\xa0\r\n", &[b"x", b"\0z", b"\xff\xa0"]),
    ];
    for (line, expected) in table {
        feed_at_every_split(line, &AUTHENTICATED, &[args(expected)]);
    }
}

#[test]
fn a_nul_hides_the_end_of_a_line() {
    for bytes in
        [&b"GET\0a\r\nPING\r\n"[..], b"\0\n", b"*1\0\r\n", b"*1\r\n$2\0\r\nzz\r\n", b"*1\r\n\0\r\n", b"x \"a\0\"\r\n"]
    {
        feed_at_every_split(bytes, &AUTHENTICATED, &[Seen::Pending]);
    }
}

/// A line of `len` bytes after `before`, in reads of at most 1,000 bytes, then `after`.
fn pending_line(before: &[u8], line: &[u8], len: usize, after: &[u8]) -> Vec<Seen> {
    let mut stream = before.to_vec();
    stream.extend(line.iter().chain(std::iter::repeat(line.last().unwrap())).take(len));
    feed(stream.chunks(1000).chain([after]), &AUTHENTICATED)
}

#[test]
fn a_line_may_have_65536_bytes_before_its_end_arrives() {
    use ProtocolError as E;
    let table: &[(&[u8], &[u8], E)] = &[
        (b"", b"x", E::InlineTooBig),
        (b"PING\r\n", b"x\0", E::InlineTooBig),
        (b"", b"*1", E::MultibulkCountTooBig),
        (b"PING\r\n", b"*\0", E::MultibulkCountTooBig),
        (b"*1\r\n", b"$7", E::BulkCountTooBig),
        (b"*1\r\n", b"x", E::BulkCountTooBig),
        (b"*2\r\n$4\r\nPINGxx", b"\0", E::BulkCountTooBig),
    ];
    for (before, line, error) in table {
        assert_eq!(pending_line(before, line, 65_536, b"").last(), Some(&Seen::Pending));
        assert_eq!(pending_line(before, line, 65_537, b"").last(), Some(&Seen::Error(*error)));
    }
}

#[test]
fn a_line_whose_end_arrives_in_time_may_be_longer() {
    let after = vec![b'x'; 1000];
    let mut end = after;
    end.extend_from_slice(b"\r\n");
    assert_eq!(pending_line(b"", b"x", 65_536, &end), [args(&[&[b'x'; 66_536]])]);
    let error = Seen::Error(ProtocolError::InvalidMultibulkLength);
    assert_eq!(pending_line(b"", b"*x", 65_536, &end), [error]);
    let error = Seen::Error(ProtocolError::ExpectedDollar(b'x'));
    assert_eq!(pending_line(b"*1\r\n", b"x", 65_536, &end), [error]);
    // The `\r` is there, so the line is not too big, but only the next byte ends it.
    assert_eq!(pending_line(b"", b"*x", 65_536, b"xx\r"), [Seen::Pending]);
}

#[test]
fn clients_that_are_not_authenticated_may_send_less() {
    use ProtocolError as E;
    let ping: &[u8] = b"PING";
    feed_at_every_split(&command(&[ping; 10]), &UNAUTHENTICATED, &[args(&[ping; 10])]);
    feed_at_every_split(b"*11\r\n", &UNAUTHENTICATED, &[Seen::Error(E::UnauthenticatedMultibulkLength)]);
    feed_at_every_split(b"*2147483648\r\n", &UNAUTHENTICATED, &[Seen::Error(E::InvalidMultibulkLength)]);
    feed_at_every_split(b"*-11\r\n*\r\n", &UNAUTHENTICATED, &[Seen::Error(E::InvalidMultibulkLength)]);
    let line = [ping; 11].join(&b' ');
    let inline = [&line[..], b"\r\n"].concat();
    feed_at_every_split(&inline, &UNAUTHENTICATED, &[args(&[ping; 11])]);
    let largest = command(&[&[b'v'; 16_384]]);
    assert_eq!(feed([&largest[..]], &UNAUTHENTICATED), [args(&[&[b'v'; 16_384]])]);
    assert_eq!(feed(largest.chunks(999), &UNAUTHENTICATED), [args(&[&[b'v'; 16_384]])]);
    feed_at_every_split(b"*1\r\n$16385\r\n", &UNAUTHENTICATED, &[Seen::Error(E::UnauthenticatedBulkLength)]);
    feed_at_every_split(b"*1\r\n$536870913\r\n", &UNAUTHENTICATED, &[Seen::Error(E::InvalidBulkLength)]);
}

#[test]
fn limits_of_the_upstream_hold() {
    let limits = RequestLimits { max_bulk: 5, max_args: 2, authenticated: true };
    feed_at_every_split(&command(&[b"12345", b""]), &limits, &[args(&[b"12345", b""])]);
    feed_at_every_split(b"*3\r\n", &limits, &[Seen::Error(ProtocolError::InvalidMultibulkLength)]);
    feed_at_every_split(b"*1\r\n$6\r\n", &limits, &[Seen::Error(ProtocolError::InvalidBulkLength)]);
    // Nothing is reserved for what is only announced, and no sum overflows.
    let limits = RequestLimits { max_bulk: u64::MAX, max_args: u64::MAX, authenticated: true };
    feed_at_every_split(b"*9223372036854775807\r\n$9223372036854775807\r\nx", &limits, &[Seen::Pending]);
}

#[test]
fn what_was_scanned_is_not_read_again() {
    let many: Vec<&[u8]> = vec![b"vv"; 50_000];
    let mut stream = command(&many);
    let (mut scanner, mut resume) = (RequestScanner::new(), None);
    let cut = stream.len() - 1;
    assert_eq!(scanner.scan(&stream[..cut], &mut resume, &AUTHENTICATED), Scan::Incomplete);
    // Another client's request in between changes nothing for this one.
    assert!(matches!(scanner.scan(b"PING\r\n", &mut None, &AUTHENTICATED), Scan::Complete { len: 6, .. }));
    stream[..cut - 1].fill(b'#');
    let len = stream.len();
    assert_eq!(scanner.scan(&stream, &mut resume, &AUTHENTICATED), Scan::Complete { len, canonical: true });
    assert_eq!(scanner.argc(), 50_000);
    assert_eq!(scanner.arg(&stream, 49_999), b"##");
    // The room for so many is given back.
    assert!(matches!(scanner.scan(b"PING\r\n", &mut resume, &AUTHENTICATED), Scan::Complete { .. }));
    assert_eq!(scanner.argc(), 1);
    assert!(scanner.kept_args() <= 4096);
}

#[test]
fn an_empty_buffer_is_incomplete_and_costs_nothing() {
    let mut resume = None;
    assert_eq!(RequestScanner::new().scan(b"", &mut resume, &AUTHENTICATED), Scan::Incomplete);
    assert!(resume.is_none());
    assert_eq!(size_of_val(&resume), size_of::<usize>());
}

/// Arguments as a client would quote them inline.
fn quoted(args: &[Vec<u8>]) -> Vec<u8> {
    let mut line = Vec::new();
    for arg in args {
        line.push(b'"');
        for byte in arg {
            line.extend_from_slice(format!("\\x{byte:02X}").as_bytes());
        }
        line.extend_from_slice(b"\" ");
    }
    line.extend_from_slice(b"\r\n");
    line
}

proptest! {
    #[test]
    fn requests_survive_any_cut(
        requests in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6)), 1..5),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (inline, args) in requests {
            let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            stream.extend(if inline { quoted(&args) } else { command(&slices) });
            expected.push(Seen::Args(args));
        }
        prop_assert_eq!(&feed([&stream[..]], &AUTHENTICATED), &expected);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([stream.len()]);
        let chunks: Vec<&[u8]> = starts.zip(ends).map(|(start, end)| &stream[start..end]).collect();
        prop_assert_eq!(&feed(chunks, &AUTHENTICATED), &expected);
    }

    /// Also of bytes that are mostly no requests: whatever they are, they are it at any cut.
    #[test]
    fn noise_is_the_same_at_any_cut(
        noise in "([*$][0-9]{0,2}|\\r|\\n|\r\n|[ \"'a\\\\]|\0){0,24}",
        cut in any::<prop::sample::Index>(),
    ) {
        let stream = noise.as_bytes();
        let (head, tail) = stream.split_at(cut.index(stream.len() + 1));
        let whole = feed([stream], &UNAUTHENTICATED);
        prop_assert_eq!(&feed([head, tail], &UNAUTHENTICATED), &whole);
        prop_assert_eq!(&feed(stream.chunks(1), &UNAUTHENTICATED), &whole);
    }
}
