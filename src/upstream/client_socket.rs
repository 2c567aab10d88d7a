//! What the socket of an outbox knows of the client at its other end.

use std::net::SocketAddr;

use super::Outbox;

impl Outbox {
    /// The client has closed its side and sent nothing before, as far as its socket knows. For clients that wait.
    pub fn peer_is_gone(&self) -> bool {
        self.writer.peer_is_gone()
    }

    /// Our end of the client's connection; none where it has no such address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.writer.local_address()
    }

    /// The client has ended its side, and everything it sent was read.
    pub fn on_end(&self) {
        self.writer.on_end();
    }

    /// Whether everything that came from the client has been read, as its socket knows it now.
    pub fn is_silent(&self) -> bool {
        self.writer.is_silent()
    }
}
