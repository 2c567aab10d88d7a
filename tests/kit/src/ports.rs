//! Free loopback ports.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, OnceLock};

/// A port that nobody listens on and that this process has not handed out before. Another process may still take it
/// first: whoever starts a server on it must be ready to try again.
pub fn free_port() -> u16 {
    static TAKEN: OnceLock<Mutex<HashSet<u16>>> = OnceLock::new();
    let taken = TAKEN.get_or_init(Mutex::default);
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        if taken.lock().expect("no test panics while it holds this").insert(port) {
            return port;
        }
    }
}
