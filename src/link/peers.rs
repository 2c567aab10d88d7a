//! Which addresses the connections to the upstream lead to.

use std::cell::RefCell;
use std::net::SocketAddr;

use crate::telemetry::NameLookup;

/// Addresses that are remembered; a name that leads to more is not one server's.
const MOST: usize = 64;

/// The addresses of one worker's connections since it moved last.
#[derive(Debug, Default)]
pub(super) struct Peers(RefCell<Vec<SocketAddr>>);

impl Peers {
    pub(super) fn on_connected(&self, peer: Option<SocketAddr>) {
        let mut known = self.0.borrow_mut();
        if let Some(peer) = peer.filter(|peer| !known.contains(peer) && known.len() < MOST) {
            known.push(peer);
        }
    }

    /// What it means that the name leads to `addresses` now. Where connections have to move, those that stand are
    /// forgotten.
    pub(super) fn compare(&self, addresses: &[SocketAddr]) -> NameLookup {
        let mut known = self.0.borrow_mut();
        if addresses.is_empty() || known.iter().all(|peer| addresses.contains(peer)) {
            return NameLookup::Same;
        }
        known.retain(|peer| addresses.contains(peer));
        NameLookup::Moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_an_address_that_the_name_has_left_must_move_once() {
        let peers = Peers::default();
        let [one, two] = ["10.0.0.1:6379", "10.0.0.2:6379"].map(|text| text.parse::<SocketAddr>().ok());
        let both: Vec<_> = [one, two].into_iter().flatten().collect();
        peers.on_connected(None);
        assert_eq!(peers.compare(&both), NameLookup::Same, "nothing stands");
        peers.on_connected(one);
        assert_eq!((peers.compare(&both), peers.compare(&both[..1])), (NameLookup::Same, NameLookup::Same));
        assert_eq!(peers.compare(&[]), NameLookup::Same, "no name");
        peers.on_connected(two);
        assert_eq!((peers.compare(&both[1..]), peers.compare(&both[1..])), (NameLookup::Moved, NameLookup::Same));
    }
}
