//! The slowest requests as respmux saw them, for PROXY SLOWLOG: how long each took and how much of that the upstream
//! had it. Never what was in them, but for the key where `slowlog.keys` allows it.
//!
//! A request that is not slow costs one comparison.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use super::Runtime;
use crate::base::nanos;
use crate::command::{CommandId, LatencyKind};
use crate::config::Slowlog as Settings;
use crate::telemetry::unix_millis;

/// Bytes of a key that are kept.
const KEY_KEPT: usize = 128;

/// One slow request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlowRequest {
    /// Unique in the process, growing in each worker.
    pub id: u64,
    /// When its reply came, unix time in milliseconds.
    pub unix_millis: u64,
    /// From its arrival to its reply.
    pub total: Duration,
    /// From its first byte to the upstream to its reply, as far as that is known.
    pub upstream: Duration,
    pub command: String,
    /// Arguments, the name included; 0 when not known.
    pub arguments: u32,
    /// Size of the request, bytes.
    pub bytes: u64,
    /// Its beginning, only with `slowlog.keys`.
    pub key: Option<Vec<u8>>,
    /// The virtual id of its client; 0 when it had left.
    pub client: u64,
    /// Filled in by those who know the clients.
    pub addr: String,
    pub user: Vec<u8>,
}

/// What is known of a slow request when its reply is there. Times are nanoseconds of the worker's clock.
pub(crate) struct Slow {
    pub command: CommandId,
    pub client: u64,
    pub asked: u64,
    /// When it was written to the upstream.
    pub written: u64,
    pub now: u64,
    pub arguments: u32,
    pub bytes: u64,
    pub key: Option<Vec<u8>>,
}

impl Runtime {
    /// A request took long. Those that wait on purpose do not count, nor do questions of respmux' own.
    #[cold]
    pub(crate) fn keep_slow(&self, slow: Slow) {
        let spec = self.table.spec(slow.command);
        let took = slow.now.saturating_sub(slow.asked);
        if slow.command == CommandId::OURS || spec.kind == LatencyKind::Blocking || !self.slowlog.is_slow(took) {
            return;
        }
        self.slowlog.keep(SlowRequest {
            id: 0,
            unix_millis: unix_millis(),
            total: Duration::from_nanos(took),
            upstream: Duration::from_nanos(slow.now.saturating_sub(slow.written)),
            command: spec.full_name(),
            arguments: slow.arguments,
            bytes: slow.bytes,
            key: slow.key,
            client: slow.client,
            addr: String::new(),
            user: Vec::new(),
        });
    }
}

/// The slow requests of one worker.
pub(crate) struct Slowlog {
    /// Nanoseconds; `u64::MAX` when none is kept.
    threshold: Cell<u64>,
    size: Cell<usize>,
    worker: u64,
    workers: u64,
    last: Cell<u64>,
    requests: RefCell<VecDeque<SlowRequest>>,
}

impl Slowlog {
    pub(super) fn new(settings: &Settings, worker: usize, workers: usize) -> Self {
        let log = Self {
            threshold: Cell::new(u64::MAX),
            size: Cell::new(settings.size),
            worker: worker as u64,
            workers: workers as u64,
            last: Cell::new(0),
            requests: RefCell::default(),
        };
        log.change(settings);
        log
    }

    /// Other settings; of what is kept the oldest go if there is less room now.
    pub(super) fn change(&self, settings: &Settings) {
        self.threshold.set(match settings.threshold.is_zero() {
            true => u64::MAX,
            false => nanos(settings.threshold),
        });
        self.size.set(settings.size);
        let mut requests = self.requests.borrow_mut();
        let surplus = requests.len().saturating_sub(settings.size);
        requests.drain(..surplus);
    }

    /// Whether a request that took so long is to be kept.
    #[inline]
    pub(crate) fn is_slow(&self, nanos: u64) -> bool {
        nanos >= self.threshold.get()
    }

    /// Keeps one; its id is given here.
    pub(super) fn keep(&self, mut request: SlowRequest) {
        request.id = self.last.get() * self.workers + self.worker;
        self.last.set(self.last.get() + 1);
        if let Some(key) = &mut request.key {
            key.truncate(KEY_KEPT);
        }
        let mut requests = self.requests.borrow_mut();
        if requests.len() == self.size.get() {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    /// A client leaves: who it was is written beside what it sent, as nobody can tell later.
    pub(crate) fn on_client_left(&self, client: u64, describe: impl Fn() -> (String, Vec<u8>)) {
        self.describe(|id| (id == client).then(&describe));
    }

    /// Fills in who sent what has no address yet.
    fn describe(&self, who: impl Fn(u64) -> Option<(String, Vec<u8>)>) {
        for request in self.requests.borrow_mut().iter_mut().filter(|request| request.addr.is_empty()) {
            if let Some((addr, user)) = who(request.client) {
                (request.addr, request.user) = (addr, user);
            }
        }
    }

    /// The newest `count`, newest first; `who` knows the clients that are connected.
    pub(crate) fn newest(&self, count: usize, who: impl Fn(u64) -> Option<(String, Vec<u8>)>) -> Vec<SlowRequest> {
        self.describe(who);
        self.requests.borrow().iter().rev().take(count).cloned().collect()
    }

    /// How many are kept.
    pub(crate) fn len(&self) -> usize {
        self.requests.borrow().len()
    }

    /// Forgets all of them; ids go on.
    pub(crate) fn clear(&self) {
        self.requests.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(threshold: u64, size: usize) -> Slowlog {
        Slowlog::new(&Settings { threshold: Duration::from_millis(threshold), size, keys: true }, 1, 3)
    }

    fn request(client: u64) -> SlowRequest {
        SlowRequest {
            id: 0,
            unix_millis: 0,
            total: Duration::ZERO,
            upstream: Duration::ZERO,
            command: "get".into(),
            arguments: 2,
            bytes: 20,
            key: Some(vec![b'k'; 500]),
            client,
            addr: String::new(),
            user: Vec::new(),
        }
    }

    #[test]
    fn the_newest_are_kept_and_know_who_sent_them() {
        let log = log(10, 3);
        assert!(log.is_slow(10_000_000) && !log.is_slow(9_999_999));
        for client in 0..5 {
            log.keep(request(client));
        }
        log.on_client_left(3, || ("gone:1".into(), b"u".to_vec()));
        let newest = log.newest(2, |id| (id == 4).then(|| ("here:1".to_owned(), b"v".to_vec())));
        let seen: Vec<_> = newest.iter().map(|r| (r.id, r.client, r.addr.as_str())).collect();
        assert_eq!(seen, [(13, 4, "here:1"), (10, 3, "gone:1")]);
        assert_eq!(newest[0].key.as_ref().map(Vec::len), Some(KEY_KEPT));
        assert_eq!(log.len(), 3);
        log.clear();
        assert_eq!((log.len(), log.newest(9, |_| None).len()), (0, 0));
        log.keep(request(9));
        assert_eq!(log.newest(9, |_| None)[0].id, 16, "ids go on");
    }

    #[test]
    fn no_threshold_keeps_none() {
        let log = log(0, 3);
        assert!(!log.is_slow(u64::MAX - 1));
    }
}
