//! Free loopback ports.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, OnceLock};

/// A port free at this moment and not handed out before by this process. Somebody else may still take it first:
/// whoever binds it must be ready to ask again.
pub(crate) fn free_port() -> u16 {
    static TAKEN: OnceLock<Mutex<HashSet<u16>>> = OnceLock::new();
    let taken = TAKEN.get_or_init(Mutex::default);
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        if taken.lock().expect("nobody panics while holding it").insert(port) {
            return port;
        }
    }
}
