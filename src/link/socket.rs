//! TCP, with TLS or without, and unix sockets as one type: a closed set, so no trait objects on the data path.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

#[cfg(test)]
use super::memory_socket::MemorySocket;
use super::tls::TlsStream;

/// A connected stream socket.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(test)]
    Memory(MemorySocket),
    Tls(Rc<TlsStream>),
}

impl Socket {
    /// Writes what the socket takes now; `WouldBlock` when it takes nothing.
    ///
    /// # Errors
    /// The socket's error.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.try_write(bytes),
            Self::Unix(s) => s.try_write(bytes),
            #[cfg(test)]
            Self::Memory(s) => s.try_write(bytes),
            Self::Tls(s) => s.try_write(bytes),
        }
    }

    /// Ready when a write may go on.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_write_ready(cx),
            Self::Unix(s) => s.poll_write_ready(cx),
            #[cfg(test)]
            Self::Memory(s) => s.poll_writable(cx),
            Self::Tls(s) => s.poll_writable(cx),
        }
    }

    /// Reads what the peer still sends without a look at it, until it closes its side.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Tls(s) = self {
            return s.poll_drain(cx);
        }
        let mut sink = [0u8; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut sink);
            std::task::ready!(Pin::new(&mut *self).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether there is nothing to read and the peer has not closed: what an idle connection must be.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0u8; 1];
        let read = match self {
            Self::Tcp(s) => s.try_read(&mut byte),
            Self::Unix(s) => s.try_read(&mut byte),
            #[cfg(test)]
            Self::Memory(s) => return s.is_quiet(),
            Self::Tls(s) => return s.is_quiet(),
        };
        matches!(read, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Splits into a half for the task that reads and one for whoever writes.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Tcp(r), WriteHalf::Tcp(TcpWriter::new(w)))
            }
            Self::Unix(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Unix(r), WriteHalf::Unix(w))
            }
            #[cfg(test)]
            Self::Memory(s) => (ReadHalf::Memory(s.clone()), WriteHalf::Memory(s)),
            Self::Tls(s) => (ReadHalf::Tls(Rc::clone(&s)), WriteHalf::Tls(s)),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            #[cfg(test)]
            Self::Memory(s) => s.poll_read(cx, buf),
            Self::Tls(s) => s.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            #[cfg(test)]
            Self::Memory(s) => s.poll_write(cx, buf),
            Self::Tls(s) => loop {
                match s.try_write(buf) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::task::ready!(s.poll_writable(cx))?,
                    result => return Poll::Ready(result),
                }
            },
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // what counts as written is in the kernel, with TLS too
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            #[cfg(test)]
            Self::Memory(s) => {
                s.end();
                Poll::Ready(Ok(()))
            }
            Self::Tls(s) => s.poll_shutdown(cx),
        }
    }
}

/// The reading half of a client's socket; owned by the client's task.
pub enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    #[cfg(test)]
    Memory(MemorySocket),
    Tls(Rc<TlsStream>),
}

impl ReadHalf {
    /// Reads into `buf`. A short read clears the socket's readiness, which saves the read that ends in EAGAIN.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            #[cfg(test)]
            Self::Memory(s) => s.poll_read(cx, buf),
            Self::Tls(s) => s.poll_read(cx, buf),
        }
    }
}

/// The writing half of a client's socket; lanes write replies through it.
pub enum WriteHalf {
    Tcp(TcpWriter),
    Unix(unix::OwnedWriteHalf),
    #[cfg(test)]
    Memory(MemorySocket),
    Tls(Rc<TlsStream>),
}

/// The writing half of a TCP socket. When it goes while the peer may still send, that direction is shut down first:
/// what comes in unread would make the kernel's close a reset, which could overtake the last reply. After the peer's
/// own end nothing can come in, and the close says it all.
pub struct TcpWriter {
    /// The writing half, until the drop.
    half: Option<tcp::OwnedWriteHalf>,
    peer_has_ended: Cell<bool>,
}

impl TcpWriter {
    fn new(half: tcp::OwnedWriteHalf) -> Self {
        Self { half: Some(half), peer_has_ended: Cell::new(false) }
    }
}

impl Deref for TcpWriter {
    type Target = TcpStream;

    #[inline]
    fn deref(&self) -> &TcpStream {
        self.half.as_ref().expect("taken by the drop only").as_ref()
    }
}

impl Drop for TcpWriter {
    fn drop(&mut self) {
        if let Some(half) = self.half.take()
            && self.peer_has_ended.get()
        {
            half.forget();
        }
    }
}

impl WriteHalf {
    /// The peer has ended its side, and nothing that it sent is unread.
    pub fn on_end(&self) {
        if let Self::Tcp(s) = self {
            s.peer_has_ended.set(true);
        }
    }

    /// Our end of the connection; none where it has no IP address, or is gone.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(s) => s.local_addr().ok(),
            Self::Tls(s) => s.local_address(),
            _ => None,
        }
    }

    /// Writes what the socket takes now; `WouldBlock` when it takes nothing.
    ///
    /// # Errors
    /// The socket's error.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.try_write(bytes),
            Self::Unix(s) => s.try_write(bytes),
            #[cfg(test)]
            Self::Memory(s) => s.try_write(bytes),
            Self::Tls(s) => s.try_write(bytes),
        }
    }

    /// Whether everything that came in has been read, as the kernel knows it now; the runtime may learn of it later.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let peeked = match self {
            Self::Tcp(s) => SockRef::from(&**s).peek(&mut byte),
            Self::Unix(s) => SockRef::from(s.as_ref()).peek(&mut byte),
            #[cfg(test)]
            Self::Memory(s) => return s.is_quiet(),
            Self::Tls(s) => return s.is_silent(),
        };
        matches!(peeked, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closes this direction; the peer reads what was written, then the end.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = match self {
            Self::Tcp(s) => SockRef::from(&**s),
            Self::Unix(s) => SockRef::from(s.as_ref()),
            #[cfg(test)]
            Self::Memory(s) => {
                s.end();
                return Poll::Ready(Ok(()));
            }
            Self::Tls(s) => return s.poll_shutdown(cx),
        };
        Poll::Ready(stream.shutdown(Shutdown::Write))
    }

    /// The peer has closed or reset the connection, and no byte before that is unread.
    #[must_use]
    pub fn peer_is_gone(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let peeked = match self {
            Self::Tcp(s) => SockRef::from(&**s).peek(&mut byte),
            Self::Unix(s) => SockRef::from(s.as_ref()).peek(&mut byte),
            #[cfg(test)]
            Self::Memory(s) => return s.peer_is_gone(),
            Self::Tls(s) => return s.peer_is_gone(),
        };
        match peeked {
            Ok(bytes) => bytes == 0,
            Err(e) => e.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Ready when a write may go on.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_write_ready(cx),
            Self::Unix(s) => s.as_ref().poll_write_ready(cx),
            #[cfg(test)]
            Self::Memory(s) => s.poll_writable(cx),
            Self::Tls(s) => s.poll_writable(cx),
        }
    }
}
