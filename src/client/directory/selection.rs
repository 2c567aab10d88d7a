//! Which clients PROXY CLIENTS shows. Each worker chooses among its own, so that few lines travel where few are wanted.

use std::rc::Rc;

use crate::client::activity::STATES;
use crate::client::directory::line::ClientLine;
use crate::client::directory::record::ClientRecord;
use crate::client::directory::table::ClientTable;
use crate::client::error_reply;
use crate::client::request::{Request, number};
use crate::command::token_is;
use crate::router::Args;
use crate::telemetry::PinReason;

/// By what clients are ordered, most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SortBy {
    Traffic,
    In,
    Out,
    Unsent,
    Pending,
    Idle,
    Age,
}

const ORDERS: &[(&str, SortBy)] = &[
    ("TRAFFIC", SortBy::Traffic),
    ("IN", SortBy::In),
    ("OUT", SortBy::Out),
    ("UNSENT", SortBy::Unsent),
    ("PENDING", SortBy::Pending),
    ("IDLE", SortBy::Idle),
    ("AGE", SortBy::Age),
];

/// Whether a client holds a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PinnedFilter {
    Any,
    No,
    For(PinReason),
}

/// A choice of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// With any of them only these are looked up, and no table is walked.
    ids: Vec<u64>,
    user: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    addr: Option<Vec<u8>>,
    laddr: Option<Vec<u8>>,
    /// A word of `STATES`.
    state: Option<&'static str>,
    pinned: Option<PinnedFilter>,
    /// Without one it is the order of the ids, in which the clients came.
    order: Option<SortBy>,
    limit: Option<usize>,
}

impl Selection {
    /// The client with this id, or from this address.
    pub(in crate::client) fn one(who: &[u8]) -> Self {
        match number(who) {
            Some(id) => Self { ids: vec![id], ..Self::default() },
            None => Self { addr: Some(who.to_vec()), ..Self::default() },
        }
    }

    /// The options of PROXY CLIENTS.
    ///
    /// # Errors
    /// The line of the error.
    pub(in crate::client) fn parse(request: &Request) -> Result<Self, Vec<u8>> {
        let mut selection = Self::default();
        let mut at = 2;
        while at < request.count() {
            let (name, value) = (request.nth(at), request.nth(at + 1));
            // Every option has a value.
            if at + 1 == request.count() {
                return Err(error_reply::SYNTAX.to_vec());
            }
            if token_is(name, "ID") {
                // As many as there are: the word behind them is the next option.
                let ids: Vec<u64> = request.args_from(at + 1).map_while(number).collect();
                if ids.is_empty() {
                    return Err(b"ERR Invalid client ID".to_vec());
                }
                at += 1 + ids.len();
                selection.ids.extend(ids);
            } else {
                selection.set(name, value)?;
                at += 2;
            }
        }
        Ok(selection)
    }

    /// One option other than ID. Given twice, its last value counts.
    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), Vec<u8>> {
        let refuse = |text: &str| Err(text.as_bytes().to_vec());
        if token_is(name, "USER") {
            self.user = Some(value.to_vec());
        } else if token_is(name, "NAME") {
            self.name = Some(value.to_vec());
        } else if token_is(name, "ADDR") {
            self.addr = Some(value.to_vec());
        } else if token_is(name, "LADDR") {
            self.laddr = Some(value.to_vec());
        } else if token_is(name, "STATE") {
            self.state = STATES.iter().copied().find(|state| token_is(value, state));
            if self.state.is_none() {
                return refuse("ERR Unknown state, try PROXY HELP.");
            }
        } else if token_is(name, "PINNED") {
            let reason = || PinReason::ALL.iter().find(|reason| token_is(value, reason.label()));
            self.pinned = match () {
                () if token_is(value, "YES") => Some(PinnedFilter::Any),
                () if token_is(value, "NO") => Some(PinnedFilter::No),
                () => Some(PinnedFilter::For(*reason().ok_or(b"ERR Unknown reason for pinning, try PROXY HELP.")?)),
            };
        } else if token_is(name, "SORT") {
            self.order = ORDERS.iter().find(|(word, _)| token_is(value, word)).map(|(_, order)| *order);
            if self.order.is_none() {
                return refuse("ERR Unknown order, try PROXY HELP.");
            }
        } else if token_is(name, "LIMIT") {
            self.limit = number(value).filter(|limit| *limit > 0);
            if self.limit.is_none() {
                return refuse("ERR value is out of range, must be positive");
            }
        } else {
            return Err(error_reply::SYNTAX.to_vec());
        }
        Ok(())
    }

    /// The lines of a worker's clients; `now` is in nanoseconds of its clock.
    pub(in crate::client) fn of(&self, clients: &ClientTable, now: u64) -> Vec<ClientLine> {
        let mut chosen: Vec<Rc<ClientRecord>> = match self.ids.is_empty() {
            true => clients.all(),
            false => self.ids.iter().filter_map(|id| clients.find(*id)).collect(),
        };
        // Filtered before lines are made: a line costs a dozen allocations, and most clients are not meant.
        chosen.retain(|record| self.fits(record));
        if let (Some(order), Some(limit)) = (self.order, self.limit)
            && chosen.len() > limit
        {
            // Each worker sends its first few; `merge` takes the first few of those.
            chosen.sort_by_cached_key(|record| std::cmp::Reverse(order.of_record(record, now)));
            chosen.truncate(limit);
        }
        chosen.iter().map(|record| record.line(now)).collect()
    }

    /// Whether all that was asked for is so. Looked at in the record, without its line.
    fn fits(&self, record: &ClientRecord) -> bool {
        let session = record.session.borrow();
        self.user.as_ref().is_none_or(|user| user == session.key.identity.name())
            && self.name.as_ref().is_none_or(|name| name == session.name())
            && self.addr.as_ref().is_none_or(|addr| addr == record.address.to_string().as_bytes())
            && self.laddr.as_ref().is_none_or(|laddr| laddr == record.local_address().as_bytes())
            && self.state.is_none_or(|state| state == record.state())
            && self.pinned.is_none_or(|pinned| pinned.fits(record.activity.pinned().map(|pinned| pinned.reason.into())))
    }

    /// Puts the lines of several workers together.
    pub(in crate::client) fn merge(&self, mut lines: Vec<ClientLine>) -> Vec<ClientLine> {
        match self.order {
            // Equal ones stand in the order of their ids, so that two looks at the same clients show the same list.
            Some(order) => lines.sort_by_key(|line| (std::cmp::Reverse(order.of_line(line)), line.id)),
            None => lines.sort_by_key(|line| line.id),
        }
        lines.truncate(self.limit.unwrap_or(usize::MAX));
        lines
    }
}

impl PinnedFilter {
    fn fits(self, pin: Option<PinReason>) -> bool {
        match self {
            Self::Any => pin.is_some(),
            Self::No => pin.is_none(),
            Self::For(reason) => pin == Some(reason),
        }
    }
}

impl SortBy {
    /// Before there are lines: each worker chooses its own first few by it.
    fn of_record(self, record: &ClientRecord, now: u64) -> u64 {
        let (received, sent) = (record.received.get(), record.outbox.total_sent());
        match self {
            Self::Traffic => received + sent,
            Self::In => received,
            Self::Out => sent,
            Self::Unsent => record.outbox.unsent() as u64,
            Self::Pending => record.outbox.pending().into(),
            Self::Idle => now.saturating_sub(record.active.get()),
            Self::Age => crate::base::since(record.connected).as_secs(),
        }
    }

    /// What lines of all workers are put together by; the same as in the record, but for the units.
    fn of_line(self, line: &ClientLine) -> u64 {
        match self {
            Self::Traffic => line.received + line.sent,
            Self::In => line.received,
            Self::Out => line.sent,
            Self::Unsent => line.unsent,
            Self::Pending => line.pending.into(),
            Self::Idle => line.idle,
            Self::Age => line.age,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::request::Scanned;
    use crate::command::Lookup;
    use crate::resp::{RequestLimits, RequestScanner, Scan};

    fn request(line: &str) -> Request {
        let text = format!("{line}\r\n");
        let mut scanner = RequestScanner::new();
        let limits = RequestLimits { max_bulk: 1 << 20, max_args: 1 << 20, authenticated: true };
        let Scan::Complete { len, canonical } = scanner.scan(text.as_bytes(), &mut None, &limits) else {
            panic!("{line}")
        };
        Request::take(&Scanned { scanner: &scanner, buf: text.as_bytes() }, len, canonical, Lookup::Unknown)
    }

    #[test]
    fn options_are_understood_or_refused() {
        let parse = |options: &str| Selection::parse(&request(&format!("PROXY CLIENTS {options}")));
        let all = parse("id 1 2 ADDR a:1 state Blocked PINNED watch SORT out LIMIT 3 USER u NAME n").unwrap();
        assert_eq!(all.ids, [1, 2]);
        assert_eq!((all.state, all.pinned), (Some("blocked"), Some(PinnedFilter::For(PinReason::Watch))));
        assert_eq!((all.order, all.limit), (Some(SortBy::Out), Some(3)));
        for (options, error) in [
            ("ID", "ERR syntax error"),
            ("ID x", "ERR Invalid client ID"),
            ("FOO bar", "ERR syntax error"),
            ("USER", "ERR syntax error"),
            ("STATE asleep", "ERR Unknown state"),
            ("PINNED why", "ERR Unknown reason"),
            ("SORT size", "ERR Unknown order"),
            ("LIMIT 0", "ERR value is out of range"),
            ("LIMIT -1", "ERR value is out of range"),
        ] {
            let line = String::from_utf8(parse(options).unwrap_err()).unwrap();
            assert!(line.starts_with(error), "{options}: {line}");
        }
        assert_eq!(Selection::one(b"12").ids, [12]);
        assert_eq!(Selection::one(b"+12").addr.as_deref(), Some(&b"+12"[..]));
    }
}
