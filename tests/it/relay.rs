//! Between respmux and its upstream: passes everything on, and remembers what respmux said.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use kit::{RealRedis, pause};

/// What each connection has said.
type Said = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;

pub(crate) struct Relay {
    address: SocketAddr,
    said: Said,
}

impl Relay {
    /// Listens on a free port. Its threads end with their connections, the listener's with the process.
    pub(crate) fn start(redis: &RealRedis) -> Self {
        Self::slow_with(redis, &[], Duration::ZERO)
    }

    /// As [`Self::start`], but what has `words` in it arrives at the server by `late` too late.
    pub(crate) fn slow_with(redis: &RealRedis, words: &'static [u8], late: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (said, port) = (Said::default(), redis.port());
        let all = Arc::clone(&said);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
                let record = Arc::new(Mutex::new(Vec::new()));
                all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&record));
                let (back, forth) = (server.try_clone(), stream.try_clone());
                let (Ok(back), Ok(forth)) = (back, forth) else { return };
                thread::spawn(move || pass(stream, server, Some(&record), |chunk| wait_before(chunk, words, late)));
                thread::spawn(move || pass(back, forth, None, |_| ()));
            }
        });
        Self { address, said }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that respmux has made.
    pub(crate) fn connections(&self) -> usize {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Every command that respmux has sent, and the bytes in all.
    pub(crate) fn commands(&self) -> (Vec<Vec<Vec<u8>>>, usize) {
        let records = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut commands, mut bytes) = (Vec::new(), 0);
        for record in records.iter() {
            let text = record.lock().unwrap_or_else(PoisonError::into_inner).clone();
            bytes += text.len();
            parse(&text, &mut commands);
        }
        (commands, bytes)
    }
}

fn wait_before(chunk: &[u8], words: &[u8], late: Duration) {
    if !words.is_empty() && chunk.windows(words.len()).any(|part| part == words) {
        pause(late);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, record: Option<&Mutex<Vec<u8>>>, before: impl Fn(&[u8])) {
    let mut chunk = [0; 16384];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if let Some(record) = record {
            record.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..count]);
        }
        before(&chunk[..count]);
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Canonical multibulk requests; anything else is a command of its own, so that it is noticed.
fn parse(text: &[u8], commands: &mut Vec<Vec<Vec<u8>>>) {
    let mut at = 0;
    while at < text.len() {
        match one(&text[at..]) {
            Some((command, used)) => {
                commands.push(command);
                at += used;
            }
            None => {
                commands.push(vec![b"not canonical".to_vec(), text[at..].to_vec()]);
                return;
            }
        }
    }
}

fn one(text: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (count, mut at) = line(text, 0, b'*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, start) = line(text, at, b'$')?;
        words.push(text.get(start..start + length)?.to_vec());
        at = start + length + 2;
    }
    (at <= text.len()).then_some((words, at))
}

fn line(text: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    let rest = text.get(at..)?;
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    let digits = std::str::from_utf8(rest[..end].strip_prefix(&[mark])?).ok()?;
    Some((digits.parse().ok()?, at + end + 2))
}

#[test]
fn what_is_no_request_is_noticed() {
    let mut commands = Vec::new();
    parse(b"*2\r\n$4\r\nPING\r\n$1\r\nx\r\nPING\r\n", &mut commands);
    assert_eq!(
        commands,
        [vec![b"PING".to_vec(), b"x".to_vec()], vec![b"not canonical".to_vec(), b"PING\r\n".to_vec()]]
    );
}
