//! One GET to our own admin endpoint. Not a client for the web: no redirects, no TLS, small answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes of an answer that are read at most.
const LARGEST: u64 = 16 << 20;

/// The body of a 200; `Err` says who answered what, or why nobody did.
pub(super) fn get(address: SocketAddr, path: &str, patience: Duration) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(LARGEST).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = ask().map_err(|error| format!("http://{address}{path}: {error}"))?;
    let (status, body) = parts(&answer).ok_or_else(|| format!("http://{address}{path}: not an HTTP answer"))?;
    if status == 200 { Ok(body.to_owned()) } else { Err(format!("http://{address}{path}: {status}: {}", body.trim())) }
}

/// Status and body. The server closes after the body, so its length need not be known.
fn parts(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (!chunked).then_some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        assert_eq!(parts("HTTP/1.1 200 OK\r\na: b\r\n\r\nyes\n"), Some((200, "yes\n")));
        assert_eq!(parts("HTTP/1.1 503 Service Unavailable\r\n\r\n"), Some((503, "")));
        for other in ["", "+PONG\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0"]
        {
            assert_eq!(parts(other), None, "{other:?}");
        }
    }
}
