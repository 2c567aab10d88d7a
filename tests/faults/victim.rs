//! The client whose frames are harmed, and what it must not see.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::network::{MARK, PAYLOAD};
use crate::tally::{Finding, Tally};
use kit::Frame;

/// How long an outcome may take before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const NOT_EXECUTED: &str = "LOADING upstream is not available, command was not executed";

/// What is known of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Executed,
    Refused,
    Unknown,
}

/// One connection, and what it has read and not taken.
pub(crate) struct Victim {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What came next.
#[derive(Debug)]
pub(crate) enum Next {
    Frame(Frame),
    /// The end, and the bytes before it that are no whole frame.
    End(Vec<u8>),
    Nothing,
    Garbage(String),
}

impl Victim {
    pub(crate) fn connect(address: SocketAddr, db: u32) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        let mut victim = Self { stream, received: Vec::new() };
        victim.send(&command(&[b"SELECT", db.to_string().as_bytes()]));
        matches!(victim.next(), Next::Frame(frame) if frame.text == b"OK").then_some(victim)
    }

    /// A peer that has closed shows in what is read.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn next(&mut self) -> Next {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Frame::parse(&self.received) {
                Ok(Some((frame, used))) => {
                    self.received.drain(..used);
                    return Next::Frame(frame);
                }
                Ok(None) => {}
                Err(complaint) => return Next::Garbage(complaint),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Nothing;
            }
            let mut chunk = [0; 16384];
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut chunk));
            match read {
                Ok(count @ 1..) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Ok(0) | Err(_) => return Next::End(std::mem::take(&mut self.received)),
            }
        }
    }
}

/// What was sent, and what the answers must be.
pub(crate) struct Script {
    pub(crate) bytes: Vec<u8>,
    wanted: Vec<Frame>,
    /// The position of the write.
    write: Option<usize>,
}

impl Script {
    /// The marked frame alone: for harm that adds replies, which nobody could tell from those of what is behind it.
    pub(crate) fn alone(mark: u32) -> Self {
        let payload = payload(mark);
        Self { bytes: command(&[b"ECHO", &payload]), wanted: vec![bulk(payload)], write: None }
    }

    /// The marked frame between a read and a write.
    pub(crate) fn between(mark: u32, list: &str) -> Self {
        let (payload, before, token) = (payload(mark), format!("before{mark:08x}"), format!("t{mark:08x}"));
        let parts = [
            command(&[b"ECHO", before.as_bytes()]),
            command(&[b"ECHO", &payload]),
            command(&[b"RPUSH", list.as_bytes(), token.as_bytes()]),
        ];
        let wanted = vec![bulk(before.into_bytes()), bulk(payload)];
        Self { bytes: parts.concat(), wanted, write: Some(2) }
    }

    /// Reads the answers. `lossless`: all must come. `torn_allowed`: the harm is between the client and respmux.
    pub(crate) fn check(&self, victim: &mut Victim, rules: Rules, tally: &mut Tally) -> (bool, Fate) {
        let count = self.wanted.len() + usize::from(self.write.is_some());
        let mut fate = Fate::Unknown;
        for position in 0..count {
            let wanted = self.wanted.get(position);
            match victim.next() {
                Next::Frame(frame) if frame.is_error() && frame.as_str() == NOT_EXECUTED => {
                    tally.refused += 1;
                    if self.write == Some(position) {
                        fate = Fate::Refused;
                    }
                    if rules.lossless {
                        tally.found(Finding::Lost, &format!("{position}: {frame:?}"));
                    }
                }
                Next::Frame(frame) if wanted == Some(&frame) => tally.replies += 1,
                Next::Frame(frame) if self.write == Some(position) && frame.kind == b':' => {
                    tally.replies += 1;
                    fate = Fate::Executed;
                }
                Next::Frame(frame) => {
                    tally.found(Finding::Misdelivered, &format!("{position}: {frame:?}"));
                    return (false, fate);
                }
                Next::End(rest) => {
                    tally.closed += 1;
                    if !rest.is_empty() && !rules.torn_allowed {
                        tally.found(Finding::Torn, &format!("{position}: {} bytes", rest.len()));
                    }
                    if rules.lossless {
                        tally.found(Finding::Lost, &format!("{position}: closed"));
                    }
                    return (false, fate);
                }
                Next::Garbage(what) => {
                    tally.found(Finding::Torn, &format!("{position}: {what}"));
                    return (false, fate);
                }
                Next::Nothing => {
                    tally.found(Finding::Missing, &format!("{position}: no outcome"));
                    return (false, fate);
                }
            }
        }
        (true, fate)
    }
}

/// What the harm allows.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) lossless: bool,
    pub(crate) torn_allowed: bool,
}

fn bulk(text: Vec<u8>) -> Frame {
    Frame { kind: b'$', text, items: Vec::new(), null: false }
}

fn payload(mark: u32) -> Vec<u8> {
    let mut payload = [MARK, format!("{mark:08x}").as_bytes()].concat();
    payload.resize(PAYLOAD, b'x');
    payload
}

pub(crate) fn command(arguments: &[&[u8]]) -> Vec<u8> {
    kit::encode(arguments)
}
