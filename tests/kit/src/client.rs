//! A client in raw bytes, over TCP or a unix socket, with a deadline on every read.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::Frame;

/// How long a reply may take before the test fails. Generous: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Where a server or the proxy listens.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Tls(SocketAddr, Arc<ClientConfig>),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn read_within(&mut self, time: Duration, chunk: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(time)).and_then(|()| stream.read(chunk)),
            Self::Unix(stream) => stream.set_read_timeout(Some(time)).and_then(|()| stream.read(chunk)),
            Self::Tls(stream) => {
                stream.sock.set_read_timeout(Some(time))?;
                // Not the stream's own `read`, which insists on writing first: a peer that has closed is still read.
                loop {
                    match stream.conn.reader().read(chunk) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        read => return read,
                    }
                    stream.conn.read_tls(&mut stream.sock)?;
                    stream.conn.process_new_packets().map_err(std::io::Error::other)?;
                }
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tls(stream) => {
                // The handshake is part of the first write.
                stream.sock.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(bytes).and_then(|()| stream.flush())
            }
        }
    }
}

/// One connection. What was received and not yet expected stays in `received`.
pub struct TestClient {
    stream: Stream,
    received: Vec<u8>,
    eof: bool,
}

/// Why a read ended without what was wanted.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadEnd {
    TimedOut,
    Eof,
}

impl TestClient {
    pub fn connect(address: &Address) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connect to {address:?}: {error}"))
    }

    /// Errors as the operating system gives them: refused, too many files, …
    pub fn try_connect(address: &Address) -> std::io::Result<Self> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
            Address::Tls(address, config) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                let session = ClientConnection::new(Arc::clone(config), address.ip().into());
                Stream::Tls(Box::new(StreamOwned::new(session.map_err(std::io::Error::other)?, stream)))
            }
        };
        Ok(Self { stream, received: Vec::new(), eof: false })
    }

    /// Writes all of `bytes`. A peer that closed already is no failure here: what matters is what it answered.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(error) => panic!("write of {} bytes: {error}", bytes.len()),
        }
    }

    /// Sends one command as multibulk.
    pub fn send_command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) {
        self.send(&encode(arguments));
    }

    /// Sends one command and reads its reply.
    #[track_caller]
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Frame {
        self.send_command(arguments);
        self.read_frame()
    }

    /// As [`Self::call`], with the words of `line` as arguments.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Frame {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Half close: no more requests, replies still wanted.
    pub fn shut_write(&mut self) {
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        };
    }

    /// The handshake of a TLS client, which otherwise comes with its first command.
    pub fn handshake(&mut self) -> std::io::Result<()> {
        let Stream::Tls(stream) = &mut self.stream else { return Ok(()) };
        stream.sock.set_read_timeout(Some(PATIENCE))?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(())
    }

    /// The certificate of the other side, after the handshake.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let Stream::Tls(stream) = &self.stream else { return None };
        stream.conn.peer_certificates().map(|chain| chain[0].to_vec())
    }

    /// Closes with a reset instead of an orderly end (TCP only).
    pub fn reset(self) {
        let stream = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
            Stream::Unix(_) => return,
        };
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }

    /// This end's address as a server would show it (`127.0.0.1:port`).
    pub fn local_address(&self) -> String {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().expect("a connected socket has an address").to_string(),
            Stream::Tls(stream) => stream.sock.local_addr().expect("a connected socket has an address").to_string(),
            Stream::Unix(_) => String::new(),
        }
    }

    /// What has arrived and was not yet taken.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Takes the first `count` bytes of what has arrived.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.received.split_off(count);
        std::mem::replace(&mut self.received, rest)
    }

    /// Whether the peer has not closed, as far as has arrived here.
    pub fn is_open(&mut self) -> bool {
        self.read_some(Instant::now()) != Err(ReadEnd::Eof)
    }

    /// Reads once; `Ok` when bytes were added. A reset counts as the end: a server that closes with input unread
    /// resets, and what it wrote before is delivered first.
    pub fn read_some(&mut self, deadline: Instant) -> Result<(), ReadEnd> {
        if self.eof {
            return Err(ReadEnd::Eof);
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(200));
        let mut chunk = [0; 65536];
        match self.stream.read_within(left, &mut chunk) {
            Ok(0) => self.eof = true,
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                return Ok(());
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
                ) =>
            {
                self.eof = true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if Instant::now() >= deadline {
                    return Err(ReadEnd::TimedOut);
                }
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => panic!("read: {error}"),
        }
        Err(ReadEnd::Eof)
    }

    /// The next frame, within [`PATIENCE`].
    #[track_caller]
    pub fn read_frame(&mut self) -> Frame {
        match self.try_read_frame(PATIENCE) {
            Ok(frame) => frame,
            Err(end) => panic!("{end:?} instead of a reply, after {:?}", Shown(&self.received)),
        }
    }

    /// The next frame, or why there is none.
    #[track_caller]
    pub fn try_read_frame(&mut self, patience: Duration) -> Result<Frame, ReadEnd> {
        let deadline = Instant::now() + patience;
        loop {
            match Frame::parse(&self.received) {
                Ok(Some((frame, used))) => {
                    self.received.drain(..used);
                    return Ok(frame);
                }
                Ok(None) => self.read_some(deadline)?,
                Err(complaint) => panic!("{complaint} in {:?}", Shown(&self.received)),
            }
        }
    }

    /// Exactly these bytes come next.
    #[track_caller]
    pub fn expect(&mut self, wanted: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let common = self.received.len().min(wanted.len());
            let right = self.received[..common] == wanted[..common];
            assert!(right, "wanted {:?}, got {:?}", Shown(wanted), Shown(&self.received));
            if common == wanted.len() {
                self.received.drain(..common);
                return;
            }
            let read = self.read_some(deadline);
            assert!(read.is_ok(), "wanted {:?}, got {:?} and then {read:?}", Shown(wanted), Shown(&self.received));
        }
    }

    /// The peer closes, and says nothing more before it does.
    #[track_caller]
    pub fn expect_eof(&mut self) {
        let rest = self.read_to_end(PATIENCE);
        assert!(rest.is_empty(), "wanted the connection closed, got {:?}", Shown(&rest));
    }

    /// Everything up to the close.
    #[track_caller]
    pub fn read_to_end(&mut self, patience: Duration) -> Vec<u8> {
        let deadline = Instant::now() + patience;
        while !self.eof {
            let read = self.read_some(deadline);
            assert_ne!(read, Err(ReadEnd::TimedOut), "not closed; so far {:?}", Shown(&self.received));
        }
        std::mem::take(&mut self.received)
    }

    /// Nothing arrives, and the connection stays open, for `time`.
    #[track_caller]
    pub fn expect_nothing(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            assert!(self.received.is_empty(), "wanted nothing, got {:?}", Shown(&self.received));
            match self.read_some(deadline) {
                Ok(()) => {}
                Err(ReadEnd::TimedOut) => return,
                Err(ReadEnd::Eof) => panic!("wanted silence, got a close"),
            }
        }
    }
}

/// One command as multibulk.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Bytes as one readable line, CRLF as `/`, long ones cut in the middle.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, tail) =
            if self.0.len() > 2000 { (&self.0[..1500], &self.0[self.0.len() - 300..]) } else { (self.0, &[][..]) };
        write!(out, "«{}", head.escape_ascii().to_string().replace("\\r\\n", "/"))?;
        if !tail.is_empty() {
            write!(out, "…({} bytes)…{}", self.0.len(), tail.escape_ascii().to_string().replace("\\r\\n", "/"))?;
        }
        write!(out, "»")
    }
}
