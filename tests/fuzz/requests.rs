//! Requests: however the bytes are cut, what is found is what the model and `redis-protocol` find.

use bytes::BytesMut;
use redis_protocol::resp2;
use redis_protocol::resp2::types::RangeFrame;
use respmux::internals::resp::{RequestLimits, RequestScanner, Scan, encode};

use crate::engine::{Target, behaviour};
use crate::model::{self, Seen};
use crate::mutate;

/// The request scanner, fed with multibulk or with inline requests.
pub(crate) struct Requests {
    inline: bool,
}

impl Requests {
    pub(crate) fn multibulk() -> Self {
        Self { inline: false }
    }

    pub(crate) fn inline() -> Self {
        Self { inline: true }
    }

    /// The first byte of an input chooses the limits and the cuts.
    fn limits(choice: u8) -> RequestLimits {
        match choice % 4 {
            0 => RequestLimits { authenticated: false, ..RequestLimits::default() },
            1 => RequestLimits { max_bulk: 20, max_args: 6, authenticated: true },
            _ => RequestLimits::default(),
        }
    }
}

impl Target for Requests {
    fn name(&self) -> &'static str {
        if self.inline { "inline" } else { "requests" }
    }

    fn corpus(&self) -> Vec<Vec<u8>> {
        mutate::corpus(if self.inline {
            include_str!("corpus/inline.txt")
        } else {
            include_str!("corpus/requests.txt")
        })
    }

    fn words(&self) -> &'static [&'static [u8]] {
        if self.inline {
            &[
                b"\"", b"'", b"\\", b"\\x", b"\\x4", b"\\n", b" ", b"\r\n", b"\n", b"\0", b"\x0b", b"\x0c", b"\t",
                b"*", b"a",
            ]
        } else {
            &[
                b"*",
                b"$",
                b"\r\n",
                b"\r",
                b"\n",
                b"*1\r\n",
                b"*2\r\n",
                b"$0\r\n\r\n",
                b"$1\r\nx\r\n",
                b"$4\r\nPING\r\n",
                b"-1",
                b"0",
                b"9",
                b"+1",
                b"007",
                b"2147483647",
                b"2147483648",
                b"536870912",
                b"536870913",
                b"16384",
                b"16385",
                b"9223372036854775807",
                b"9223372036854775808",
                b"18446744073709551615",
                b"\0",
                b" ",
                b"PING\r\n",
            ]
        }
    }

    fn run(&mut self, input: &[u8]) -> Result<u64, String> {
        let Some((choice, stream)) = input.split_first() else { return Ok(0) };
        let limits = Self::limits(*choice);
        let whole = feed(&[stream], &limits)?;
        let wanted = model::requests(stream, &limits);
        if whole != wanted {
            return Err(format!("found {whole:?}, a server finds {wanted:?}"));
        }
        let pieces = feed(&pieces(stream, *choice), &limits)?;
        if pieces != whole {
            return Err(format!("in pieces {pieces:?}, whole {whole:?}"));
        }
        let kind = |seen: &Seen| match seen {
            Seen::Args(args) => (0, args.len().min(8), args.iter().map(Vec::len).max().unwrap_or(0).min(4)),
            Seen::Error(error) => (1, behaviour(error.text().get(..30)) as usize, 0),
            Seen::Pending => (2, 0, 0),
        };
        Ok(behaviour((choice % 4, whole.iter().take(6).map(kind).collect::<Vec<_>>())))
    }

    fn weigh(&mut self, input: &[u8]) {
        let Some((choice, stream)) = input.split_first() else { return };
        let limits = Self::limits(*choice);
        let (mut scanner, mut resume, mut at) = (RequestScanner::new(), None, 0);
        while let Scan::Complete { len, .. } | Scan::Empty { len } = scanner.scan(&stream[at..], &mut resume, &limits) {
            at += len;
        }
    }
}

/// Cuts that follow from the input.
fn pieces(stream: &[u8], choice: u8) -> Vec<&[u8]> {
    let step = usize::from(choice / 4 % 8) + 1;
    if choice >= 128 {
        return stream.chunks(step).collect();
    }
    let cut = stream.len() * step / 9;
    vec![&stream[..cut], &stream[cut..]]
}

/// Feeds `chunks` as the reads of one client, and checks on the way what holds for each request.
pub(crate) fn feed(chunks: &[&[u8]], limits: &RequestLimits) -> Result<Vec<Seen>, String> {
    let (mut scanner, mut resume) = (RequestScanner::new(), None);
    let (mut buf, mut seen) = (Vec::new(), Vec::new());
    for chunk in chunks {
        buf.extend_from_slice(chunk);
        let mut at = 0;
        while at < buf.len() {
            let rest = &buf[at..];
            let scan = scanner.scan(rest, &mut resume, limits);
            if resume.is_some() != (scan == Scan::Incomplete) {
                return Err(format!("{scan:?}, and what is kept for later does not fit"));
            }
            match scan {
                Scan::Incomplete => break,
                Scan::Empty { len } => at += len,
                Scan::Invalid(error) => {
                    seen.push(Seen::Error(error));
                    return Ok(seen);
                }
                Scan::Complete { len, canonical } => {
                    check_request(&scanner, rest, len, canonical)?;
                    seen.push(Seen::Args(scanner.args(rest).map(<[u8]>::to_vec).collect()));
                    at += len;
                }
            }
        }
        buf.drain(..at);
    }
    if !buf.is_empty() {
        seen.push(Seen::Pending);
    }
    Ok(seen)
}

/// Canonical is what we would write, and `redis-protocol` finds the same arguments in what we write.
fn check_request(scanner: &RequestScanner, rest: &[u8], len: usize, canonical: bool) -> Result<(), String> {
    let mut written = BytesMut::new();
    encode::request(&mut written, scanner, rest);
    if canonical != (written[..] == rest[..len]) {
        return Err(format!("canonical is {canonical}, but written it is {}", written.escape_ascii()));
    }
    let theirs = match resp2::decode::decode_range(&written) {
        Ok(Some((RangeFrame::Array(elements), end))) if end == written.len() => elements,
        other => return Err(format!("redis-protocol makes {other:?} of {}", written.escape_ascii())),
    };
    let same = theirs.len() == scanner.argc()
        && theirs.iter().zip(scanner.args(rest)).all(|(element, arg)| match element {
            RangeFrame::BulkString((start, end)) => &written[*start..*end] == arg,
            _ => false,
        });
    if same { Ok(()) } else { Err(format!("redis-protocol finds other arguments in {}", written.escape_ascii())) }
}
