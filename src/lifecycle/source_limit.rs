//! How many clients each address has: `client.max_per_source`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Addresses without a client are forgotten when so many were added since the last time.
const TIDY_EVERY: usize = 1024;

/// Counts clients by address. Only the acceptor asks; workers count a client out when it has left.
#[derive(Default)]
pub(super) struct SourceLimit {
    inner: RefCell<SourceCounts>,
}

#[derive(Default)]
struct SourceCounts {
    clients: HashMap<IpAddr, Arc<AtomicUsize>>,
    /// Addresses that are kept until the next tidying.
    tidy_at: usize,
}

impl SourceLimit {
    /// One more client of `source`, unless it has `most`. The count falls when the client is done with what is given
    /// here: see [`Leave`](crate::worker::Leave).
    pub(super) fn enter(&self, source: IpAddr, most: usize) -> Option<Arc<AtomicUsize>> {
        let mut inner = self.inner.borrow_mut();
        if inner.clients.len() >= inner.tidy_at {
            inner.clients.retain(|_, count| count.load(Relaxed) > 0);
            inner.tidy_at = inner.clients.len() + TIDY_EVERY;
        }
        // An IPv4 client is the same on a listener for both.
        let count = inner.clients.entry(source.to_canonical()).or_default();
        if count.load(Relaxed) >= most {
            return None;
        }
        count.fetch_add(1, Relaxed);
        Some(Arc::clone(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_gets_places_back() {
        let limit = SourceLimit::default();
        let [one, two]: [IpAddr; 2] = ["10.0.0.1", "::1"].map(|text| text.parse().unwrap());
        let first = limit.enter(one, 2).unwrap();
        assert!(limit.enter("::ffff:10.0.0.1".parse().unwrap(), 2).is_some());
        assert!(limit.enter(one, 2).is_none());
        assert!(limit.enter(two, 2).is_some());
        first.fetch_sub(1, Relaxed);
        assert!(limit.enter(one, 2).is_some());
        assert!(limit.enter(one, 2).is_none());
    }

    #[test]
    fn addresses_without_clients_are_forgotten() {
        let limit = SourceLimit::default();
        for number in 0..10 * TIDY_EVERY as u32 {
            let left = limit.enter(IpAddr::V4(number.into()), 1).unwrap();
            left.fetch_sub(1, Relaxed);
        }
        assert!(limit.inner.borrow().clients.len() <= 2 * TIDY_EVERY);
    }
}
