//! PROXY: what respmux tells about itself over the protocol.

use super::connection::{Client, Closed};
use super::request::Request;

impl Client {
    /// PROXY HELP, INFO, CLIENTS, POOLS, WHOAMI and EXPLAIN.
    pub(super) async fn proxy(&mut self, _request: &Request) -> Result<(), Closed> {
        self.reply_error(b"ERR not yet");
        Ok(())
    }
}
