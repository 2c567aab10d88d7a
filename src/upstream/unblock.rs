//! CLIENT UNBLOCK on the control connection, as respmux itself asks for it and as clients do.
//!
//! Redis before 8.2 and Valkey before 9 crash when it hits a connection that CLIENT PAUSE … WRITE holds back
//! (redis#14164, valkey#2111), and a failover pauses in just that way. So it goes there in one transaction with a
//! script that writes nothing: servers hold such a transaction back too for as long as they are paused, so whenever it
//! runs nobody is held back.

use std::io;
use std::time::Duration;

use bytes::BytesMut;

use super::control::Control;
use crate::link::{ServerClient, ServerRef};
use crate::resp::encode;

/// How long the transaction may be held back before it is given up together with its connection.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long nobody is unblocked after the server was found paused.
const PAUSED_FOR: Duration = Duration::from_secs(1);

/// What the server says to MULTI, to the two commands in it, and to EXEC.
const REPLIES: usize = 4;
/// EXEC's reply up to that of the second command; the script's is 0.
const EXECUTED: &[u8] = b"*2\r\n:0\r\n";

impl Control {
    /// Unblocks `client`, one of the server's; the server's reply: `:1`, `:0`, or an error.
    ///
    /// # Errors
    /// As [`Control::ask`]; [`io::ErrorKind::TimedOut`] while the server is paused: nothing was unblocked.
    pub async fn unblock(&self, client: ServerClient) -> io::Result<Vec<u8>> {
        let id = client.id.to_string();
        self.run_unblock(&[b"CLIENT", b"UNBLOCK", id.as_bytes()], client.server).await
    }

    /// As [`Control::unblock`], in the words of whoever asked for it.
    ///
    /// # Errors
    /// As [`Control::unblock`].
    pub(super) async fn run_unblock(&self, unblock: &[&[u8]], server: ServerRef) -> io::Result<Vec<u8>> {
        if self.known_flavour().await.unblock_spares_paused() {
            let mut command = BytesMut::new();
            encode::command(&mut command, unblock);
            let asked = self.ask_batch(command, 1, None, Some(server)).await;
            return asked.map(|mut replies| replies.swap_remove(0));
        }
        if self.paused_within(PAUSED_FOR) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut batch = BytesMut::new();
        encode::command(&mut batch, &["MULTI"]);
        encode::command(&mut batch, &["EVAL", "return 0", "0"]);
        encode::command(&mut batch, unblock);
        encode::command(&mut batch, &["EXEC"]);
        let replies = self.ask_batch(batch, REPLIES, Some(PATIENCE), Some(server)).await?;
        Ok(outcome(&replies))
    }
}

/// The reply to CLIENT UNBLOCK, or the error that kept it from being carried out.
fn outcome(replies: &[Vec<u8>]) -> Vec<u8> {
    let executed = replies.last().and_then(|exec| exec.strip_prefix(EXECUTED));
    let refusal = || replies.iter().find(|reply| reply.starts_with(b"-")).cloned();
    // Neither: a server that answers EXEC in a way of its own. It is not asked again.
    executed.map(<[u8]>::to_vec).or_else(refusal).unwrap_or_else(|| b"-ERR unknown answer to EXEC\r\n".to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(parts: [&str; 4]) -> Vec<Vec<u8>> {
        parts.iter().map(|part| part.as_bytes().to_vec()).collect()
    }

    #[test]
    fn the_second_reply_counts_or_the_first_error() {
        let done = |exec| outcome(&replies(["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", exec]));
        assert_eq!(done("*2\r\n:0\r\n:1\r\n"), b":1\r\n");
        assert_eq!(done("*2\r\n:0\r\n:0\r\n"), b":0\r\n");
        assert_eq!(done("*-1\r\n"), b"-ERR unknown answer to EXEC\r\n");
        let refused = ["+OK\r\n", "-NOPERM no scripts\r\n", "+QUEUED\r\n", "-EXECABORT discarded\r\n"];
        assert_eq!(outcome(&replies(refused)), b"-NOPERM no scripts\r\n");
    }
}
