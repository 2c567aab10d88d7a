//! `[unix]`: clients on unix sockets. Pure.

use super::key::{Key, key, optional, table};
use super::kind::Kind;
use super::settings::Settings;

table! {
    /// Unix sockets for clients.
    pub struct Unix = "unix." {
        /// Permissions of the socket files of unix:PATH in `listen`, octal.
        mode: u32 = key("0660", Kind::Mode).restart();
        /// User ids whose processes may connect to unix sockets. Unset: all that the permissions of the file let in.
        allow_uids: Option<Vec<u32>> = optional("\"0,1000\"", Kind::Uids);
    }
}
