//! A client of our own for questions over RESP: blocking, one request at a time, plain TCP or a unix socket.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;

use super::PingTarget;
use crate::config::Endpoint;
use crate::resp::{Advance, ReplyScanner, Value, decode, encode};

/// Bytes of one answer that are read at most.
const LARGEST: usize = 64 << 20;

/// A connected socket of either kind.
pub(super) trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// Connects; neither that nor any later read takes longer than `patience`.
///
/// # Errors
/// Says who could not be reached and why.
pub(super) fn connect(endpoint: &Endpoint, patience: Duration) -> Result<Box<dyn Stream>, String> {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let addresses = (host.as_str(), *port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
            let mut last = format!("{host}: the name has no address");
            for one in addresses {
                match TcpStream::connect_timeout(&one, patience) {
                    Ok(stream) => {
                        let waits = stream.set_read_timeout(Some(patience));
                        waits.map_err(|error| format!("{one}: {error}"))?;
                        return Ok(Box::new(stream));
                    }
                    Err(error) => last = format!("{one}: {error}"),
                }
            }
            Err(last)
        }
        Endpoint::Unix(path) => {
            let failed = |error: std::io::Error| format!("{}: {error}", path.display());
            let stream = UnixStream::connect(path).map_err(failed)?;
            stream.set_read_timeout(Some(patience)).map_err(failed)?;
            Ok(Box::new(stream))
        }
    }
}

/// A logged-in connection.
pub(super) struct RespConnection {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
}

impl RespConnection {
    /// Connects and logs in, if the target has a password. While the upstream cannot be asked about a login, the
    /// connection does without: a proxy answers callers of its own machine all the same.
    ///
    /// # Errors
    /// Says what failed, never with the password in it.
    pub(super) fn open(target: &PingTarget, patience: Duration) -> Result<Self, String> {
        let Some(password) = &target.password else { return Self::anonymous(target, patience) };
        let mut connection = Self::anonymous(target, patience / 2)?;
        let mut words: Vec<&[u8]> = vec![b"AUTH"];
        words.extend(target.username.as_ref().map(String::as_bytes));
        words.push(password.expose());
        let sent = std::time::Instant::now();
        match connection.ask(&words) {
            Ok(_) => Ok(connection),
            // In time it is somebody's answer.
            Err(error) if !error.starts_with("LOADING") && sent.elapsed() < patience / 2 => Err(error),
            Err(_) => Self::anonymous(target, patience),
        }
    }

    /// Connects without a login.
    ///
    /// # Errors
    /// Says what failed.
    pub(super) fn anonymous(target: &PingTarget, patience: Duration) -> Result<Self, String> {
        Ok(Self { stream: connect(&target.endpoint, patience)?, received: Vec::new() })
    }

    /// One question and its answer.
    ///
    /// # Errors
    /// The words of an error reply, or what broke.
    pub(super) fn ask<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<Value, String> {
        let mut request = BytesMut::new();
        encode::command(&mut request, words);
        self.stream.write_all(&request).map_err(|error| error.to_string())?;
        let frame = self.read_frame()?;
        match decode(&frame) {
            Some(Value::Error(line)) => Err(String::from_utf8_lossy(&line).into_owned()),
            Some(value) => Ok(value),
            None => Err("the answer is not understood".to_owned()),
        }
    }

    fn read_frame(&mut self) -> Result<Vec<u8>, String> {
        let mut scanner = ReplyScanner::new();
        let mut seen = 0;
        loop {
            match scanner.advance(&self.received[seen..]) {
                Advance::Complete { len, .. } => {
                    let rest = self.received.split_off(seen + len);
                    return Ok(std::mem::replace(&mut self.received, rest));
                }
                Advance::Partial => seen = self.received.len(),
                Advance::Invalid(error) => return Err(format!("not an answer: {error}")),
            }
            if self.received.len() > LARGEST {
                return Err("the answer is too large".to_owned());
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk).map_err(|error| error.to_string())? {
                0 => return Err("closed the connection without an answer".to_owned()),
                count => self.received.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Gives these bytes, a few at a time.
    struct Canned(io::Cursor<Vec<u8>>);

    impl Read for Canned {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let few = into.len().min(3);
            self.0.read(&mut into[..few])
        }
    }

    impl Write for Canned {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn answers_are_read_whole_and_one_by_one() {
        let bytes = b"*2\r\n$1\r\na\r\n:7\r\n-NOPERM no\r\n$3\r\nabc\r\n".to_vec();
        let mut connection = RespConnection { stream: Box::new(Canned(io::Cursor::new(bytes))), received: Vec::new() };
        let list = connection.ask(&["A"]).unwrap();
        assert_eq!(list.as_list().map(<[Value]>::len), Some(2));
        assert_eq!(connection.ask(&["B"]), Err("NOPERM no".to_owned()));
        assert_eq!(connection.ask(&["C"]).unwrap().as_text().map(|text| text.to_vec()), Some(b"abc".to_vec()));
        assert_eq!(connection.ask(&["D"]), Err("closed the connection without an answer".to_owned()));
    }
}
