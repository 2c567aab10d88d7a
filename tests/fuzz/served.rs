//! Random streams, sent to a real server as they are: what it finds in them is what we find. `EVAL "return ARGV"` makes
//! it repeat every argument byte by byte.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use fastrand::Rng;
use respmux::internals::resp::{Advance, ProtocolError, ReplyScanner, RequestLimits};

use crate::engine::Report;
use crate::model::Seen;
use crate::mutate::mutate;
use crate::requests::feed;
use kit::{Address, Flavour, Progress, RealRedis};

const SCRIPT: &[u8] = b"return ARGV";
const WORDS: [&[u8]; 22] = [
    b"*",
    b"$",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\"",
    b"'",
    b"\\",
    b"\\x41",
    b"\\n",
    b"-1",
    b"0",
    b"+1",
    b"007",
    b"9",
    b"$1\r\nx\r\n",
    b"99999999999999999999",
    b"PING\r\n",
];

/// Sends `frames` streams to a server of this kind and compares.
pub(crate) fn run(flavour: Flavour, seed: u64, frames: u64) -> Report {
    let server = RealRedis::start(flavour, &["--maxclients", "1000"]);
    let mut client = server.connect();
    // Whatever a mutated request is: it must not change the server, and it must get one reply.
    client.send(b"ACL SETUSER default -@all +eval\r\n");
    assert!(client.read_frame().as_str().starts_with("OK"), "the server obeys");
    let Address::Unix(path) = server.unix_address() else { unreachable!("a unix socket was asked for") };
    let mut rng = Rng::with_seed(seed ^ flavour as u64);
    let mut report = Report { target: format!("served by {}", flavour.name()), ..Report::default() };
    let began = Instant::now();
    for _ in Progress::over(&format!("fuzz, {}", report.target), 0..frames) {
        let stream = stream(&mut rng);
        let cut = rng.usize(..=stream.len());
        let seen = match feed(&[&stream[..cut], &stream[cut..]], &RequestLimits::default()) {
            Ok(seen) if seen.iter().any(closes) => continue,
            Ok(seen) => seen,
            Err(what) => {
                differs(&mut report, &stream, &what);
                continue;
            }
        };
        report.executions += 1;
        let answer = ask(&path, &stream);
        if let Err(what) = compare(&seen, &answer, flavour)
            && !(flavour == Flavour::Valkey9 && valkey_differs(&seen, &answer, &stream))
        {
            differs(&mut report, &stream, &format!("{what}; ours {seen:?}, answered {}", answer.escape_ascii()));
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    report
}

fn differs(report: &mut Report, stream: &[u8], what: &str) {
    report.differences += 1;
    if report.findings.len() < 5 {
        report.findings.push(format!("{}: {what} for {}", report.target, stream.escape_ascii()));
    }
}

/// Requests that end a connection by what they mean.
fn closes(seen: &Seen) -> bool {
    let Seen::Args(args) = seen else { return false };
    // A name is a C string here.
    let name = args[0].split(|byte| *byte == 0).next().unwrap_or_default();
    [b"quit".as_slice(), b"post", b"host:"].iter().any(|word| name.eq_ignore_ascii_case(word))
}

/// Some requests, mostly whole, with damage here and there.
fn stream(rng: &mut Rng) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let mut words = || -> Vec<u8> {
            let some = (0..rng.usize(..5)).map(|_| WORDS[rng.usize(..WORDS.len())]);
            some.flatten().copied().collect()
        };
        let args: Vec<Vec<u8>> = (0..3).map(|_| words()).collect();
        if rng.bool() {
            let head: [&[u8]; 3] = [b"eval", SCRIPT, b"0"];
            let all: Vec<&[u8]> = head.into_iter().chain(args.iter().map(Vec::as_slice)).collect();
            stream.extend_from_slice(format!("*{}\r\n", all.len()).as_bytes());
            for arg in all {
                stream.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
                stream.extend_from_slice(arg);
                stream.extend_from_slice(b"\r\n");
            }
        } else {
            stream.extend_from_slice(b"eval \"return ARGV\" 0 ");
            stream.extend(args.concat().iter().filter(|byte| **byte != b'\n'));
            stream.extend_from_slice(if rng.bool() { b"\r\n" } else { b"\n" });
        }
    }
    if rng.u8(..3) == 0 { mutate(rng, &[stream], &WORDS) } else { stream }
}

/// Everything that the server answers until it closes, or has nothing more to read.
fn ask(path: &std::path::Path, stream: &[u8]) -> Vec<u8> {
    let mut socket = UnixStream::connect(path).expect("the server accepts");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    let mut answer = Vec::new();
    // A server that has closed does not read the rest.
    let _ = socket.write_all(stream).and_then(|()| socket.shutdown(Shutdown::Write));
    let _ = socket.read_to_end(&mut answer);
    answer
}

fn compare(seen: &[Seen], answer: &[u8], flavour: Flavour) -> Result<(), String> {
    let mut rest = answer;
    for (at, seen) in seen.iter().enumerate() {
        let wanted = match seen {
            Seen::Pending => break,
            Seen::Error(error) => Some([b"-", &error.text()[..], b"\r\n"].concat()),
            Seen::Args(args) if args.len() >= 3 && repeats(args) => Some(repeated(&args[3..])),
            Seen::Args(_) => None,
        };
        match wanted {
            Some(wanted) => {
                let cut = || rest.strip_prefix(&without_ff(seen, flavour)?[..]);
                let after = rest.strip_prefix(&wanted[..]).or_else(cut);
                rest = after.ok_or_else(|| format!("request {at} is answered otherwise"))?;
            }
            None => match ReplyScanner::new().advance(rest) {
                Advance::Complete { len, .. } => rest = &rest[len..],
                other => return Err(format!("request {at} has no answer: {other:?}")),
            },
        }
    }
    if rest.is_empty() { Ok(()) } else { Err("more answers than requests".to_owned()) }
}

/// Valkey 9 drops the byte FF from arguments of inline requests, where Redis and respmux keep it: what it answers then.
fn without_ff(seen: &Seen, flavour: Flavour) -> Option<Vec<u8>> {
    let (Flavour::Valkey9, Seen::Args(args)) = (flavour, seen) else { return None };
    let dropped = |arg: &Vec<u8>| arg.iter().copied().filter(|byte| *byte != 0xff).collect();
    Some(repeated(&args.get(3..)?.iter().map(dropped).collect::<Vec<_>>()))
}

/// We follow Redis. Valkey 9 insists on the CRLF after a bulk, lets a quote end within a word of an inline request, takes
/// tabs and their like between words for a part of them, and finds the end of a line behind a NUL. None of it reaches
/// Valkey through us: what is not canonical is written anew, or waited for.
fn valkey_differs(seen: &[Seen], answer: &[u8], stream: &[u8]) -> bool {
    let refused = b"-ERR Protocol error: invalid CRLF in request\r\n";
    let hidden = seen.contains(&Seen::Pending) && stream.contains(&0);
    let tabs = stream.iter().any(|byte| matches!(byte, b'\t' | 0x0b | 0x0c));
    hidden || tabs || seen.contains(&Seen::Error(ProtocolError::UnbalancedQuotes)) || answer.ends_with(refused)
}

fn repeats(args: &[Vec<u8>]) -> bool {
    args[0].eq_ignore_ascii_case(b"eval") && args[1] == SCRIPT && args[2] == b"0"
}

fn repeated(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}
