//! `respmux ping`: one PING as a client sends it, to a proxy or to a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::resp::{RespConnection, connect};
use crate::config::{Endpoint, Secret};
use crate::resp::encode;

/// Bytes of one line of an answer.
const LONGEST_LINE: u64 = 1 << 16;

/// Who is asked, and as whom.
#[derive(Debug)]
pub(crate) struct PingTarget {
    pub(crate) endpoint: Endpoint,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
}

/// How long connect, login and PING took together.
///
/// # Errors
/// Says what failed, or what was answered instead of PONG. Never with the password in it.
pub(crate) fn ping(target: &PingTarget, patience: Duration) -> Result<Duration, String> {
    let start = Instant::now();
    let stream = connect(&target.endpoint, patience)?;
    match converse(stream, target) {
        Ok(()) => Ok(start.elapsed()),
        Err(error) => Err(match reason(target, patience) {
            Some(reason) => format!("{error}\n{reason}"),
            None => error,
        }),
    }
}

/// What a proxy says of its upstream, if that is away and the proxy tells.
fn reason(target: &PingTarget, patience: Duration) -> Option<String> {
    let mut connection = RespConnection::anonymous(target, patience).ok()?;
    let info = connection.ask(&["PROXY", "INFO", "upstreams"]).ok()?;
    let text = String::from_utf8_lossy(info.as_text()?).into_owned();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("");
    let (upstream, seconds, error) = (field("upstream"), field("upstream_away_seconds"), field("upstream_last_error"));
    let why = if error.is_empty() { "it has not answered yet" } else { error };
    (field("upstream_up") == "0")
        .then(|| format!("respmux answers; its upstream {upstream} has been away for {seconds} s: {why}"))
}

fn converse(stream: impl Read + Write, target: &PingTarget) -> Result<(), String> {
    let mut stream = BufReader::new(stream);
    if let Some(password) = &target.password {
        let mut words: Vec<&[u8]> = vec![b"AUTH"];
        words.extend(target.username.as_ref().map(String::as_bytes));
        words.push(password.expose());
        ask(&mut stream, &words, "+OK")?;
    }
    ask(&mut stream, &[b"PING"], "+PONG")
}

fn ask(stream: &mut BufReader<impl Read + Write>, words: &[&[u8]], wanted: &str) -> Result<(), String> {
    let mut request = BytesMut::new();
    encode::command(&mut request, words);
    let mut line = Vec::new();
    let asked = stream.get_mut().write_all(&request);
    let answered = asked.and_then(|()| stream.take(LONGEST_LINE).read_until(b'\n', &mut line));
    answered.map_err(|error| error.to_string())?;
    match String::from_utf8_lossy(&line).trim_end() {
        "" => Err("closed the connection without an answer".to_owned()),
        line if line == wanted => Ok(()),
        line => Err(format!("answered {line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Answers whatever it is asked with these bytes.
    struct Canned(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Canned {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.read(into)
        }
    }

    impl Write for Canned {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answer(text: &str, password: Option<&str>) -> Result<(), String> {
        let password = password.map(|text| Secret::new(text.as_bytes()));
        let target = PingTarget { endpoint: Endpoint::Unix("".into()), username: None, password };
        converse(Canned(io::Cursor::new(text.as_bytes().to_vec()), Vec::new()), &target)
    }

    #[test]
    fn only_pong_is_well() {
        assert_eq!(answer("+PONG\r\n", None), Ok(()));
        assert_eq!(answer("+OK\r\n+PONG\r\n", Some("x")), Ok(()));
        assert_eq!(
            answer("-NOAUTH Authentication required.\r\n", None).unwrap_err(),
            "answered -NOAUTH Authentication required."
        );
        assert_eq!(answer("", None).unwrap_err(), "closed the connection without an answer");
        let refused = answer("-WRONGPASS no\r\n", Some("hunter2")).unwrap_err();
        assert!(refused.contains("WRONGPASS") && !refused.contains("hunter2"), "{refused}");
    }
}
