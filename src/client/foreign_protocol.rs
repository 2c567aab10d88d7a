//! What strayed here from other protocols, treated as a server does.
//!
//! A server closes a client at `POST` or `Host:`, and what it answered in the same turn is never written: of an HTTP
//! request whose first line is a command as well (`GET / HTTP/1.1`) the sender sees nothing. Here answers go out while
//! later requests are not looked at yet, so at an inline request the rest of what was read with it is.

use super::connection::Client;
use super::first_bytes::is_tls_hello;
use crate::command::{CommandTable, Op, stream_read_blocks};
use crate::resp::{RequestLimits, RequestScanner, Scan};
use crate::session::ReplyMode;
use crate::telemetry::CloseReason;

/// What a server reads at once, bytes.
const ONE_READ: usize = 16 << 10;

impl Client {
    /// An inline request begins `buf`. If it will be found to be none, nothing is answered from here on.
    #[cold]
    pub(super) fn detect_foreign_protocol(&self, buf: &[u8]) {
        // Once for each read.
        if self.looked.replace(self.record.received.get()) == self.record.received.get() {
            return;
        }
        if is_foreign(buf, &self.limits(), &self.rt().rules().table) {
            self.record.session.borrow_mut().reply = ReplyMode::Never;
        }
    }

    /// The client has closed its side: what its end is called.
    #[cold]
    pub(super) fn left(&self) -> CloseReason {
        if is_tls_hello(&self.carry) { CloseReason::TlsHello } else { CloseReason::Client }
    }
}

/// Whether requests at the start of `buf` lead to one that closes the client, with none before it at which a server
/// stops to read on.
fn is_foreign(buf: &[u8], limits: &RequestLimits, table: &CommandTable) -> bool {
    let mut scanner = RequestScanner::new();
    // No farther than a server looks in one turn: what comes later it would answer before.
    let mut rest = &buf[..buf.len().min(ONE_READ)];
    loop {
        match scanner.scan(rest, &mut None, limits) {
            Scan::Complete { len, .. } => {
                let words = || scanner.args(rest);
                let lookup = table.lookup(scanner.arg(rest, 0), words().nth(1));
                match table.op(lookup) {
                    Some(Op::CrossProtocol) => return true,
                    Some(Op::Quit | Op::Blocking | Op::BlockingPop | Op::Wait) => return false,
                    Some(Op::StreamRead) if stream_read_blocks(words().skip(1)) => return false,
                    _ => rest = &rest[len..],
                }
            }
            Scan::Empty { len } => rest = &rest[len..],
            Scan::Incomplete | Scan::Invalid(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_a_close_and_what_does_not() {
        let table = CommandTable::new();
        let stray = |text: &str| is_foreign(text.as_bytes(), &RequestLimits::default(), &table);
        for text in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PUT /x HTTP/1.1\nA: b\nhost: y\n", "\r\nPING\r\nPOST /\r\n"]
        {
            assert!(stray(text), "{text:?}");
        }
        for text in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x",
            "QUIT\r\nHost: x\r\n",
            "BLPOP k 0\r\nHost: x\r\n",
            "XREAD BLOCK 0 STREAMS s $\r\nHost: x\r\n",
            "GET \"\r\nHost: x\r\n",
        ] {
            assert!(!stray(text), "{text:?}");
        }
    }
}
