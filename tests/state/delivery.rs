//! Judges queues: every element once, to somebody, in order as far as one consumer can see it.

use std::collections::HashMap;

use crate::figures::Findings;

/// One element: who pushed it where, as that producer's how-manieth on this queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Element {
    pub(crate) queue: usize,
    pub(crate) producer: usize,
    pub(crate) sequence: u64,
}

/// What was pushed and who got what.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// How often each element was delivered.
    pushed: HashMap<Element, u32>,
    delivered: u64,
    /// The last sequence number that one consumer got of one producer on one queue.
    last: HashMap<(usize, usize, usize), u64>,
    findings: Findings,
}

impl Deliveries {
    /// `element` is about to be pushed.
    pub(crate) fn push(&mut self, element: Element) {
        self.pushed.insert(element, 0);
    }

    /// `consumer` got `element` out of `queue`.
    pub(crate) fn deliver(&mut self, consumer: usize, queue: usize, element: Element) {
        let wrong = element.queue != queue;
        self.findings.check(!wrong, "misdelivered", || format!("{element:?} came out of queue {queue}"));
        match self.pushed.get_mut(&element) {
            None => self.findings.add("phantom", || format!("{element:?} was never pushed")),
            Some(times @ 0) => {
                *times = 1;
                self.delivered += 1;
            }
            Some(times) => {
                *times += 1;
                self.findings.add("duplicate", || format!("{element:?} again, to consumer {consumer}"));
            }
        }
        let last = self.last.insert((consumer, element.queue, element.producer), element.sequence);
        let ordered = last.is_none_or(|last| last < element.sequence);
        self.findings.check(ordered, "misordered", || format!("consumer {consumer}: {element:?} after {last:?}"));
    }

    pub(crate) fn wrong(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        self.findings.add(kind, what);
    }

    /// Whether everything that was pushed was delivered.
    pub(crate) fn complete(&self) -> bool {
        self.delivered == self.pushed.len() as u64
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The verdict, once nothing can be under way any more.
    pub(crate) fn verdict(mut self) -> Findings {
        for (element, _) in self.pushed.iter().filter(|(_, times)| **times == 0) {
            self.findings.add("lost", || format!("{element:?}"));
        }
        self.findings
    }
}

#[cfg(test)]
fn history(delivered: &[(usize, usize, u64)]) -> Findings {
    let mut judge = Deliveries::default();
    let element = |sequence| Element { queue: 0, producer: 7, sequence };
    (0..3).for_each(|sequence| judge.push(element(sequence)));
    delivered.iter().for_each(|&(consumer, queue, sequence)| judge.deliver(consumer, queue, element(sequence)));
    judge.verdict()
}

#[test]
fn a_right_history_is_not_complained_about() {
    assert_eq!(history(&[(1, 0, 0), (2, 0, 1), (1, 0, 2)]).total(), 0);
    // Between two consumers nobody can see the order.
    assert_eq!(history(&[(1, 0, 1), (2, 0, 0), (1, 0, 2)]).total(), 0);
}

#[test]
fn each_kind_of_bad_history_is_found() {
    type Heard = &'static [(usize, usize, u64)];
    let bad: [(&str, Heard); 5] = [
        ("lost", &[(1, 0, 0), (1, 0, 2)]),
        ("duplicate", &[(1, 0, 0), (2, 0, 1), (3, 0, 1), (1, 0, 2)]),
        ("misordered", &[(1, 0, 1), (1, 0, 0), (2, 0, 2)]),
        ("misdelivered", &[(1, 0, 0), (1, 1, 1), (1, 0, 2)]),
        ("phantom", &[(1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 0, 3)]),
    ];
    for (kind, delivered) in bad {
        let findings = history(delivered);
        assert_eq!((findings.count(kind), findings.total()), (1, 1), "{kind}: {findings:?}");
    }
}
