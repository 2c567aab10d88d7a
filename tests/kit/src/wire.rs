//! Connections: bytes out, frames in.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::resp::{Broken, Value, parse};

/// How long anything may take before it counts as missing.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no frame.
#[derive(Debug)]
pub enum NoFrame {
    /// The other side closed (or reset); these bytes of a frame had arrived.
    End(Vec<u8>),
    Broken(Broken),
}

/// The reading half, with what has arrived and is not taken yet.
pub struct Reader {
    half: OwnedReadHalf,
    received: Vec<u8>,
    at: usize,
}

pub struct Wire {
    pub reader: Reader,
    pub writer: OwnedWriteHalf,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let (half, writer) = stream.into_split();
        Ok(Self { reader: Reader { half, received: Vec::new(), at: 0 }, writer })
    }

    /// The connection ends with a reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(self.writer.as_ref()).set_linger(Some(Duration::ZERO));
        self.writer.forget();
    }

    /// One command, one reply. For the run's own connections.
    pub async fn call(&mut self, arguments: &[&str]) -> Result<Value, NoFrame> {
        let mut bytes = Vec::new();
        request(&mut bytes, &arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
        self.exchange(&bytes).await
    }

    /// The reply must be `wanted`, byte by byte.
    pub async fn exchange_exactly(&mut self, bytes: &[u8], wanted: &[u8]) -> Result<(), String> {
        self.writer.write_all(bytes).await.map_err(|error| error.to_string())?;
        self.reader.expect_stream(wanted).await
    }

    pub async fn exchange(&mut self, bytes: &[u8]) -> Result<Value, NoFrame> {
        let gone = |_| NoFrame::End(Vec::new());
        self.writer.write_all(bytes).await.map_err(gone)?;
        timeout(PATIENCE, self.reader.frame()).await.map_err(|_| NoFrame::End(b"no reply in time".to_vec()))?
    }
}

impl Reader {
    /// The next frame.
    pub async fn frame(&mut self) -> Result<Value, NoFrame> {
        loop {
            match parse(&self.received[self.at..]) {
                Ok(Some((value, used))) => {
                    self.at += used;
                    return Ok(value);
                }
                Ok(None) => {}
                Err(broken) => return Err(NoFrame::Broken(broken)),
            }
            self.compact();
            match self.half.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return Err(NoFrame::End(self.received.split_off(self.at))),
                Ok(_) => {}
            }
        }
    }

    /// The next bytes must be `wanted`: compared as they come, nothing is built.
    pub async fn expect_stream(&mut self, wanted: &[u8]) -> Result<(), String> {
        let mut matched = 0;
        while matched < wanted.len() {
            if self.received.len() == self.at {
                self.compact();
                let read = timeout(PATIENCE, self.half.read_buf(&mut self.received)).await;
                match read.map_err(|_| format!("nothing after {matched} bytes"))? {
                    Ok(0) | Err(_) => return Err(format!("the end after {matched} of {} bytes", wanted.len())),
                    Ok(_) => {}
                }
            }
            let count = (self.received.len() - self.at).min(wanted.len() - matched);
            let found = &self.received[self.at..self.at + count];
            if *found != wanted[matched..matched + count] {
                return Err(format!("after {matched} bytes: {}", found[..count.min(200)].escape_ascii()));
            }
            matched += count;
            self.at += count;
        }
        Ok(())
    }

    /// What has arrived and belongs to no frame that was taken, without waiting.
    pub fn left_over(&mut self) -> Vec<u8> {
        let mut more = [0; 4096];
        if let Ok(count @ 1..) = self.half.try_read(&mut more) {
            self.received.extend_from_slice(&more[..count]);
        }
        let left = self.received.split_off(self.at);
        self.received.clear();
        self.at = 0;
        left
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let _ = self.half.read_to_end(&mut self.received).await;
        self.received.split_off(self.at)
    }

    fn compact(&mut self) {
        if self.at > 0 && (self.at == self.received.len() || self.at > 1 << 16) {
            self.received.drain(..self.at);
            self.at = 0;
        }
        self.received.reserve(16 * 1024);
    }
}

/// Writes `pieces` one after the other and lets others run in between.
pub async fn write_pieces(writer: &mut OwnedWriteHalf, mut pieces: VecDeque<&[u8]>) {
    while let Some(piece) = pieces.pop_front() {
        // A peer that has closed shows in what is read.
        if writer.write_all(piece).await.is_err() {
            return;
        }
        if !pieces.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

/// One command as multibulk.
pub fn request(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}
