//! Which keys are used most, for PROXY HOTKEYS: a sample of the commands on lanes, counted in a small table that forgets
//! the rare ones (Space-Saving, Metwally and others 2005). With N samples and [`TABLE`] places, every key with more than
//! N / TABLE samples is in it, and its count is too high by at most the error that stands beside it.
//!
//! Off costs one comparison for each command.

use std::cell::{Cell, RefCell};

/// Keys that a worker remembers.
const TABLE: usize = 64;
/// Bytes of a key that are remembered; longer ones with the same beginning are one.
const KEY_KEPT: usize = 256;

/// One key of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HotKey {
    pub db: u32,
    pub key: Vec<u8>,
    /// Samples, at most `error` of which were of other keys.
    pub count: u64,
    pub error: u64,
}

/// The sample of one worker.
pub(crate) struct Hotkeys {
    /// One command in so many; 0 is none.
    every: Cell<u32>,
    /// Commands until the next look.
    left: Cell<u32>,
    samples: Cell<u64>,
    table: RefCell<Vec<HotKey>>,
}

impl Hotkeys {
    pub(super) fn new(every: usize) -> Self {
        let every = u32::try_from(every).unwrap_or(u32::MAX);
        Self { every: Cell::new(every), left: Cell::new(every), samples: Cell::new(0), table: RefCell::default() }
    }

    /// One command in how many is looked at; 0 is none.
    pub(crate) fn every(&self) -> u32 {
        self.every.get()
    }

    /// Another sample, which begins from nothing: counts of two would not go together.
    pub(super) fn change(&self, every: usize) {
        let every = u32::try_from(every).unwrap_or(u32::MAX);
        if self.every.replace(every) != every {
            self.left.set(every);
            self.clear();
        }
    }

    /// A command is on its way: whether its key is to be counted.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.every.get() != 0 && self.count_down()
    }

    /// Pauses of random length, so that an application which does the same in turns shows all of it.
    fn count_down(&self) -> bool {
        let left = self.left.get();
        if left > 1 {
            self.left.set(left - 1);
            return false;
        }
        self.left.set(fastrand::u32(1..=self.every.get().saturating_mul(2).saturating_sub(1)));
        true
    }

    /// Counts a command; one without a key is a sample all the same.
    pub(crate) fn sample(&self, db: u32, key: Option<&[u8]>) {
        self.samples.set(self.samples.get() + 1);
        let Some(key) = key.map(|key| &key[..key.len().min(KEY_KEPT)]) else { return };
        let mut table = self.table.borrow_mut();
        if let Some(known) = table.iter_mut().find(|known| known.db == db && known.key == key) {
            known.count += 1;
        } else if table.len() < TABLE {
            table.push(HotKey { db, key: key.to_vec(), count: 1, error: 0 });
        } else if let Some(rarest) = table.iter_mut().min_by_key(|known| known.count) {
            let error = rarest.count;
            *rarest = HotKey { db, key: key.to_vec(), count: error + 1, error };
        }
    }

    /// How many commands were looked at, and what the table has.
    pub(crate) fn seen(&self) -> (u64, Vec<HotKey>) {
        (self.samples.get(), self.table.borrow().clone())
    }

    /// Forgets all of it.
    pub(crate) fn clear(&self) {
        self.samples.set(0);
        self.table.borrow_mut().clear();
    }
}

/// Puts the tables of several workers together, the most used first.
pub(crate) fn merged(tables: impl IntoIterator<Item = (u64, Vec<HotKey>)>) -> (u64, Vec<HotKey>) {
    let mut samples = 0;
    let mut all: Vec<HotKey> = Vec::new();
    for (seen, table) in tables {
        samples += seen;
        for hot in table {
            match all.iter_mut().find(|known| known.db == hot.db && known.key == hot.key) {
                Some(known) => (known.count, known.error) = (known.count + hot.count, known.error + hot.error),
                None => all.push(hot),
            }
        }
    }
    all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
    (samples, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_keys_stay_and_their_counts_are_bounded() {
        let hotkeys = Hotkeys::new(1);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut real = [0_u64; 2];
        for _ in 0..20_000 {
            let key = match rng.u32(0..100) {
                0..20 => "hot".to_owned(),
                20..25 => "warm".to_owned(),
                _ => format!("cold:{}", rng.u32(0..5_000)),
            };
            real[0] += u64::from(key == "hot");
            real[1] += u64::from(key == "warm");
            hotkeys.sample(0, Some(key.as_bytes()));
        }
        let (samples, table) = merged([hotkeys.seen()]);
        assert_eq!((samples, table.len()), (20_000, TABLE));
        for (position, name) in ["hot", "warm"].iter().enumerate() {
            let found = &table[position];
            assert_eq!(found.key, name.as_bytes());
            assert!(found.count >= real[position] && found.count - found.error <= real[position], "{found:?} {real:?}");
        }
        hotkeys.clear();
        assert_eq!(hotkeys.seen(), (0, Vec::new()));
    }

    #[test]
    fn one_in_so_many_is_looked_at_and_none_when_off() {
        let hotkeys = Hotkeys::new(10);
        let looked = (0..100_000).filter(|_| hotkeys.is_due()).count();
        assert!((9_000..11_000).contains(&looked), "{looked}");
        let off = Hotkeys::new(0);
        assert!(!(0..1_000).any(|_| off.is_due()));
        assert!((0..50).all(|_| Hotkeys::new(1).is_due()));
    }

    #[test]
    fn tables_of_workers_add_up() {
        let key = |key: &str, db, count| HotKey { db, key: key.into(), count, error: 1 };
        let (samples, all) =
            merged([(10, vec![key("a", 0, 3), key("b", 0, 4)]), (5, vec![key("a", 0, 2), key("a", 1, 9)])]);
        assert_eq!(samples, 15);
        let seen: Vec<_> = all.iter().map(|hot| (hot.db, hot.key.as_slice(), hot.count, hot.error)).collect();
        assert_eq!(seen, [(1, &b"a"[..], 9, 1), (0, b"a", 5, 2), (0, b"b", 4, 1)]);
    }
}
