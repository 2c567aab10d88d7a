//! Failed logins make the next ones of the same address slower, and then refused unseen.
//!
//! A *ledger* counts failures. An address has one for all users together; a user that has logged in from the address
//! has one of its own there from then on, and every success clears it. So
//!
//! * whoever guesses, at one user or at many, has `auth.max_failures` tries in a window from each address, and a few
//!   more for each user whose name it knows and who works from the same address;
//! * one client with an old password locks those behind the same NAT out only if they are the same user and none of
//!   them succeeds meanwhile, or have never succeeded; and then for one window at a time: after it everybody is looked
//!   at again, so a right password is never locked out for good.
//!
//! Whether a login is looked at must not depend on whether the password is right, or the refusal would be an oracle.
//!
//! Both tables are bounded. When one is full, the ledger that was used longest ago gives its place up (by the clock
//! algorithm, so approximately): what is forgotten is an address that has been quiet, or a success.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Failures;

/// Ledgers in each table, over all workers: about 2 MiB.
const MOST_LEDGERS: usize = 16_384;
/// Ledgers that are passed over for a fuller look before one that was used is dropped all the same.
const SECOND_CHANCES: usize = 16;

/// What to do with a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Look at it, after this pause (zero for most).
    After(Duration),
    /// Do not look at it; another one may be looked at after this time.
    Refused(Duration),
}

/// Failures within a window.
#[derive(Clone, Copy, Debug)]
struct Ledger {
    /// Failures since `began`.
    failures: usize,
    began: Instant,
    refused_until: Option<Instant>,
    /// Used since the clock's hand came by.
    used: bool,
}

impl Ledger {
    fn new(now: Instant) -> Self {
        Self { failures: 0, began: now, refused_until: None, used: true }
    }

    /// Forgets what is over.
    fn advance(&mut self, now: Instant, window: Duration) {
        match self.refused_until {
            Some(until) if now < until => {}
            Some(_) => *self = Self::new(now),
            None if now.duration_since(self.began) >= window => *self = Self::new(now),
            None => {}
        }
        self.used = true;
    }

    fn attempt(&self, now: Instant, settings: &Failures) -> Attempt {
        if let Some(until) = self.refused_until {
            return Attempt::Refused(until.saturating_duration_since(now));
        }
        let Some(doublings) = self.failures.checked_sub(1) else { return Attempt::After(Duration::ZERO) };
        let factor = 1u32.checked_shl(u32::try_from(doublings).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
        Attempt::After(settings.delay.saturating_mul(factor.max(1)).min(settings.delay_max))
    }

    fn on_failure(&mut self, now: Instant, settings: &Failures) {
        self.failures += 1;
        if settings.most > 0 && self.failures >= settings.most && self.refused_until.is_none() {
            self.refused_until = Some(now + settings.window);
        }
    }
}

/// A bounded map of ledgers.
struct LedgerTable<K> {
    ledgers: HashMap<K, Ledger>,
    hand: VecDeque<K>,
    most: usize,
}

impl<K: Copy + Eq + Hash> LedgerTable<K> {
    fn new(most: usize) -> Self {
        Self { ledgers: HashMap::new(), hand: VecDeque::new(), most }
    }

    fn find(&mut self, key: K, now: Instant, window: Duration) -> Option<&mut Ledger> {
        let ledger = self.ledgers.get_mut(&key)?;
        ledger.advance(now, window);
        Some(ledger)
    }

    fn enter(&mut self, key: K, now: Instant) -> &mut Ledger {
        if !self.ledgers.contains_key(&key) {
            if self.ledgers.len() >= self.most {
                self.drop_one();
            }
            self.hand.push_back(key);
        }
        self.ledgers.entry(key).or_insert_with(|| Ledger::new(now))
    }

    fn drop_one(&mut self) {
        for chance in 0..=SECOND_CHANCES {
            let Some(key) = self.hand.pop_front() else { return };
            match self.ledgers.get_mut(&key) {
                Some(ledger) if ledger.used && chance < SECOND_CHANCES => {
                    ledger.used = false;
                    self.hand.push_back(key);
                }
                _ => {
                    self.ledgers.remove(&key);
                    return;
                }
            }
        }
    }
}

/// The address as it is counted: an IPv6 host has a /64 to itself.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

struct LedgerTables {
    settings: Failures,
    addresses: LedgerTable<IpAddr>,
    users: LedgerTable<(IpAddr, u64)>,
}

/// The ledgers of the process.
#[derive(Clone)]
pub struct Throttle {
    /// Seeded, so that nobody can name users that collide.
    hasher: RandomState,
    tables: Arc<Mutex<LedgerTables>>,
}

impl Throttle {
    /// A throttle for which nobody has failed yet.
    #[must_use]
    pub fn new(settings: Failures) -> Self {
        Self::bounded(settings, MOST_LEDGERS)
    }

    fn bounded(settings: Failures, most: usize) -> Self {
        let tables = LedgerTables { settings, addresses: LedgerTable::new(most), users: LedgerTable::new(most) };
        Self { hasher: RandomState::new(), tables: Arc::new(Mutex::new(tables)) }
    }

    /// Other settings from here on; what was counted stays.
    pub fn change(&self, settings: Failures) {
        self.tables().settings = settings;
    }

    /// Whether a login as `user` from `address` may be looked at now.
    #[must_use]
    pub fn attempt(&self, address: Option<IpAddr>, user: &[u8], now: Instant) -> Attempt {
        let Some(address) = address.map(counted) else { return Attempt::After(Duration::ZERO) };
        let mut tables = self.tables();
        let LedgerTables { settings, addresses, users } = &mut *tables;
        let window = settings.window;
        let ledger = match users.find((address, self.hasher.hash_one(user)), now, window) {
            Some(own) => Some(own),
            None => addresses.find(address, now, window),
        };
        ledger.map_or(Attempt::After(Duration::ZERO), |ledger| ledger.attempt(now, settings))
    }

    /// A login was looked at.
    pub fn on_result(&self, address: Option<IpAddr>, user: &[u8], success: bool, now: Instant) {
        let Some(address) = address.map(counted) else { return };
        let pair = (address, self.hasher.hash_one(user));
        let mut tables = self.tables();
        let LedgerTables { settings, addresses, users } = &mut *tables;
        if success {
            *users.enter(pair, now) = Ledger::new(now);
            return;
        }
        match users.find(pair, now, settings.window) {
            Some(own) => own.on_failure(now, settings),
            None => {
                let ledger = addresses.enter(address, now);
                ledger.advance(now, settings.window);
                ledger.on_failure(now, settings);
            }
        }
    }

    fn tables(&self) -> MutexGuard<'_, LedgerTables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Failures = Failures {
        delay: Duration::from_millis(100),
        delay_max: Duration::from_secs(3),
        most: 10,
        window: Duration::from_secs(60),
    };

    fn home() -> Option<IpAddr> {
        Some([10, 0, 0, 1].into())
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn pause(ms: u64) -> Attempt {
        Attempt::After(Duration::from_millis(ms))
    }

    #[test]
    fn the_delay_doubles_to_its_maximum_and_then_the_address_is_refused_for_a_window() {
        let (throttle, now) = (Throttle::new(SETTINGS), Instant::now());
        for wanted in [0, 100, 200, 400, 800, 1600, 3000, 3000, 3000, 3000] {
            assert_eq!(throttle.attempt(home(), b"a", now), pause(wanted));
            throttle.on_result(home(), b"a", false, now);
        }
        assert_eq!(throttle.attempt(home(), b"a", now + secs(1)), Attempt::Refused(secs(59)));
        assert_eq!(throttle.attempt(home(), b"other", now), Attempt::Refused(secs(60)), "not only that user");
        assert_eq!(throttle.attempt(Some([10, 0, 0, 2].into()), b"a", now), pause(0), "not others");
        assert_eq!(throttle.attempt(home(), b"a", now + secs(60)), pause(0), "not for ever");
    }

    #[test]
    fn a_user_that_works_from_an_address_is_not_locked_out_by_others_there() {
        let (throttle, now) = (Throttle::new(SETTINGS), Instant::now());
        throttle.on_result(home(), b"good", true, now);
        for _ in 0..20 {
            throttle.on_result(home(), b"bad", false, now);
        }
        assert!(matches!(throttle.attempt(home(), b"bad", now), Attempt::Refused(_)));
        assert_eq!(throttle.attempt(home(), b"good", now), pause(0));
    }

    #[test]
    fn a_success_clears_only_its_own_user() {
        let (throttle, now) = (Throttle::new(SETTINGS), Instant::now());
        throttle.on_result(home(), b"mine", true, now);
        for _ in 0..9 {
            throttle.on_result(home(), b"mine", false, now);
            throttle.on_result(home(), b"victim", false, now);
        }
        throttle.on_result(home(), b"mine", true, now);
        assert_eq!(throttle.attempt(home(), b"mine", now), pause(0));
        assert_eq!(throttle.attempt(home(), b"victim", now), pause(3000), "a valid account buys no guesses at others");
    }

    #[test]
    fn failures_are_forgotten_after_their_window() {
        let (throttle, now) = (Throttle::new(SETTINGS), Instant::now());
        for second in 0..100 {
            throttle.on_result(home(), b"a", false, now + secs(second * 7));
        }
        assert!(matches!(throttle.attempt(home(), b"a", now + secs(700)), Attempt::After(_)));
    }

    #[test]
    fn an_ipv6_host_cannot_walk_through_its_network_and_a_mapped_one_is_ipv4() {
        let (throttle, now) = (Throttle::new(SETTINGS), Instant::now());
        for host in 0..10u16 {
            throttle.on_result(Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, host].into()), b"a", false, now);
        }
        let neighbour = |net: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, net, 9, 9, 9, 9]));
        assert!(matches!(throttle.attempt(neighbour(0), b"a", now), Attempt::Refused(_)));
        assert_eq!(throttle.attempt(neighbour(1), b"a", now), pause(0));
        throttle.on_result(Some([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1].into()), b"a", false, now);
        assert_eq!(throttle.attempt(home(), b"a", now), pause(100));
    }

    #[test]
    fn unix_sockets_and_a_limit_of_zero_are_never_refused() {
        let (throttle, now) = (Throttle::new(Failures { most: 0, ..SETTINGS }), Instant::now());
        for _ in 0..100 {
            throttle.on_result(None, b"a", false, now);
            throttle.on_result(home(), b"a", false, now);
        }
        assert_eq!(throttle.attempt(None, b"a", now), pause(0));
        assert_eq!(throttle.attempt(home(), b"a", now), pause(3000));
    }

    #[test]
    fn a_full_table_drops_an_address_that_was_quiet() {
        let (throttle, now) = (Throttle::bounded(SETTINGS, 8), Instant::now());
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        for n in 0..100 {
            throttle.on_result(address(n), b"a", false, now);
            // This one goes on.
            throttle.on_result(address(1 << 24), b"a", false, now);
            assert!(throttle.tables().addresses.ledgers.len() <= 8);
            assert!(throttle.tables().addresses.hand.len() <= 8);
        }
        assert!(matches!(throttle.attempt(address(1 << 24), b"a", now), Attempt::Refused(_)), "kept: it is used");
        assert_eq!(throttle.attempt(address(0), b"a", now), pause(0), "forgotten");
    }
}
