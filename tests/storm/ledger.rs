//! The ledger of writes: what may, must and must not be in the lists when the storm is over.

use std::collections::HashMap;

use crate::op::{EntryRef, Key, Names};
use crate::tally::{Finding, Tally};
use crate::token::Token;
use kit::resp::Value;

/// What the client knows of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Sent, no reply: it may be there, at most once.
    Unknown,
    /// Sent by a client that left without reading on: as unknown, and its reply may have been a refusal.
    Unread,
    /// The reply says it was executed: exactly once.
    Executed,
    /// Its reply was suppressed, and a later command of the connection was answered: at most once, as a refusal would
    /// have been suppressed too.
    Silent,
    /// Declared not executed, or never sent whole: not there.
    Refused,
}

#[derive(Clone, Debug)]
struct Entry {
    token: Token,
    /// Entries of one transaction share a number that is not 0: all of them are there or none.
    unit: u32,
    fate: Fate,
}

/// One list of one life, which one connection writes.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) key: Key,
    entries: Vec<Entry>,
}

/// The lists of one life.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lists: Vec<List>,
    by_key: HashMap<Key, usize>,
}

impl Ledger {
    /// Notes a write that is about to be sent.
    pub(crate) fn intend(&mut self, key: Key, token: Token, unit: u32) -> EntryRef {
        let list = *self.by_key.entry(key).or_insert_with(|| {
            self.lists.push(List { key, entries: Vec::new() });
            self.lists.len() - 1
        });
        let entries = &mut self.lists[list].entries;
        entries.push(Entry { token, unit, fate: Fate::Unknown });
        EntryRef { list, entry: entries.len() - 1 }
    }

    /// The client left without reading on.
    pub(crate) fn leave_unread(&mut self, at: EntryRef) {
        let fate = &mut self.lists[at.list].entries[at.entry].fate;
        if *fate == Fate::Unknown {
            *fate = Fate::Unread;
        }
    }

    pub(crate) fn set(&mut self, at: EntryRef, fate: Fate) {
        self.lists[at.list].entries[at.entry].fate = fate;
    }

    /// The lists with names, for the audit.
    pub(crate) fn into_lists(self) -> Vec<List> {
        self.lists
    }
}

impl List {
    /// Compares what the server holds with what was promised.
    pub(crate) fn audit(&self, names: &Names, end: &str, content: &[Value], tally: &mut Tally) {
        let places: HashMap<Token, usize> = self.entries.iter().enumerate().map(|(at, e)| (e.token, at)).collect();
        let mut seen = vec![0_u32; self.entries.len()];
        let mut last = 0;
        for item in content {
            let token = if let Value::Bulk(text) = item { Token::whole(text, names.seed) } else { None };
            match token.and_then(|token| places.get(&token)) {
                None => tally.found(Finding::Stray, || format!("{} holds {item:?}", names.key(self.key))),
                Some(&place) => {
                    seen[place] += 1;
                    if place < last {
                        tally.found(Finding::Misordered, || format!("{} holds {item:?} too late", names.key(self.key)));
                    }
                    last = last.max(place);
                }
            }
        }
        self.compare(names, &seen, tally);
        self.gaps_and_units(names, end, &seen, tally);
    }

    fn compare(&self, names: &Names, seen: &[u32], tally: &mut Tally) {
        for (entry, &times) in self.entries.iter().zip(seen) {
            tally.ledger_writes += 1;
            let wrong = match (entry.fate, times) {
                (Fate::Refused, 1..) => Some(Finding::Phantom),
                (_, 2..) => Some(Finding::Duplicated),
                (Fate::Executed, 0) => Some(Finding::Lost),
                (Fate::Unknown | Fate::Unread | Fate::Silent, 0) => {
                    tally.unknown_absent += 1;
                    None
                }
                (Fate::Unknown | Fate::Unread, _) => {
                    tally.unknown_present += 1;
                    None
                }
                _ => None,
            };
            if let Some(finding) = wrong {
                tally.found(finding, || {
                    format!(
                        "{} in {}: {:?}, {times} times",
                        entry.token.text(names.seed),
                        names.key(self.key),
                        entry.fate
                    )
                });
            }
        }
    }

    /// One connection's commands run in its order: a write is not there although a later one is. Not so for a write of
    /// a transaction, which may have been discarded or met a changed key in a reply that never came.
    fn gaps_and_units(&self, names: &Names, end: &str, seen: &[u32], tally: &mut Tally) {
        let last_present = seen.iter().rposition(|&times| times > 0).unwrap_or(0);
        for (place, entry) in self.entries.iter().enumerate().take(last_present) {
            if entry.unit != 0 || seen[place] != 0 {
                continue;
            }
            if entry.fate == Fate::Unread {
                tally.unread_gaps += 1;
            }
            if entry.fate == Fate::Unknown {
                tally.found(Finding::Gap, || {
                    let (token, key) = (entry.token.text(names.seed), names.key(self.key));
                    format!("{token} is not in {key}, a later one is; {end}")
                });
            }
        }
        let mut units: HashMap<u32, (u32, u32)> = HashMap::new();
        for (entry, &times) in self.entries.iter().zip(seen).filter(|(entry, _)| entry.unit != 0) {
            let unit = units.entry(entry.unit).or_default();
            *(if times > 0 { &mut unit.0 } else { &mut unit.1 }) += 1;
        }
        for (unit, (there, missing)) in units {
            if there > 0 && missing > 0 {
                tally.found(Finding::Split, || {
                    format!("transaction {unit} of {}: {there} writes there, {missing} not", names.key(self.key))
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Kind;

    const NAMES: Names = Names { seed: 3, who: 1, life: 0 };

    fn token(sequence: u64) -> Token {
        Token { who: 1, life: 0, sequence }
    }

    /// Audits a list with these fates against the sequences that are there.
    fn audit(fates: &[(u32, Fate)], there: &[u64]) -> Tally {
        let key = Key { db: 0, kind: Kind::Ledger, number: 0 };
        let mut ledger = Ledger::default();
        for (sequence, (unit, fate)) in fates.iter().enumerate() {
            let at = ledger.intend(key, token(sequence as u64), *unit);
            ledger.set(at, *fate);
        }
        let content: Vec<_> = there.iter().map(|sequence| Value::text(&token(*sequence).text(NAMES.seed))).collect();
        let mut tally = Tally::default();
        ledger.into_lists()[0].audit(&NAMES, "", &content, &mut tally);
        tally
    }

    #[test]
    fn what_was_promised_is_no_finding() {
        use Fate::{Executed, Refused, Silent, Unknown};
        let fates = [(0, Executed), (0, Refused), (0, Silent), (0, Executed), (0, Unknown), (0, Unknown)];
        let tally = audit(&fates, &[0, 3, 4]);
        assert_eq!(tally.wrong(), 0);
        assert_eq!(audit(&[(7, Unknown), (0, Unknown)], &[1]).wrong(), 0, "the transaction was discarded");
        assert_eq!((tally.unknown_present, tally.unknown_absent), (1, 2));
    }

    #[test]
    fn whoever_leaves_may_not_have_read_a_refusal() {
        use Fate::Unread;
        let tally = audit(&[(0, Unread), (0, Unread), (0, Unread)], &[1]);
        assert_eq!((tally.wrong(), tally.unread_gaps), (0, 1));
        assert_eq!(audit(&[(0, Unread)], &[0, 0]).count(Finding::Duplicated), 1);
        assert_eq!(audit(&[(7, Unread), (7, Unread)], &[0]).count(Finding::Split), 1);
    }

    #[test]
    fn each_wrong_has_its_name() {
        use Fate::{Executed, Refused, Unknown};
        assert_eq!(audit(&[(0, Executed)], &[]).count(Finding::Lost), 1);
        assert_eq!(audit(&[(0, Executed)], &[0, 0]).count(Finding::Duplicated), 1);
        assert_eq!(audit(&[(0, Unknown)], &[0, 0]).count(Finding::Duplicated), 1);
        assert_eq!(audit(&[(0, Refused)], &[0]).count(Finding::Phantom), 1);
        assert_eq!(audit(&[(0, Executed), (0, Executed)], &[1, 0]).count(Finding::Misordered), 1);
        assert_eq!(audit(&[(0, Unknown), (0, Unknown)], &[1]).count(Finding::Gap), 1);
        assert_eq!(audit(&[(7, Unknown), (7, Unknown)], &[0]).count(Finding::Split), 1);
        assert_eq!(audit(&[(0, Executed)], &[0, 9]).count(Finding::Stray), 1);
    }
}
