//! What a pause of the server (CLIENT PAUSE, a failover) means for one command.

use std::time::Duration;

use super::{Args, FreeRoute, Local, PinReason};
use crate::command::{CommandTable, Lookup, Pausing, token_is};

/// What a pause holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Whatever may write or be replicated.
    Write,
    All,
}

/// A word of the server's about its pause, which passed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseChange {
    /// CLIENT PAUSE was accepted.
    Begun(Extent, Duration),
    /// CLIENT UNPAUSE was accepted.
    Ended,
}

/// How a command passes while the server is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// The server answers it.
    Free,
    /// The server holds it back, or decides by what only it knows. On a connection of its own only its client waits.
    Apart,
    /// The server would hold it back.
    Wait,
}

/// How a command of a client that is pinned to no connection passes.
pub fn passage(extent: Extent, table: &CommandTable, lookup: Lookup, route: FreeRoute, args: &impl Args) -> Passage {
    match route {
        FreeRoute::Refuse(_) | FreeRoute::Quit | FreeRoute::Drop | FreeRoute::Local(Local::Proxy) => {
            return Passage::Free;
        }
        _ => {}
    }
    let refused = matches!(lookup, Lookup::Known(id) if !table.spec(id).arity_fits(args.count()));
    match extent {
        // Servers look at the number of arguments first.
        Extent::All if refused && route.rides() => Passage::Free,
        Extent::All => Passage::Wait,
        Extent::Write if refused => Passage::Free,
        Extent::Write => match route {
            FreeRoute::Ask => Passage::Apart,
            FreeRoute::Lane
            | FreeRoute::Publish
            | FreeRoute::WaitGroup
            | FreeRoute::Pin(PinReason::Blocking | PinReason::Isolated | PinReason::Large | PinReason::Overflow) => {
                match lookup {
                    Lookup::Known(id) if table.spec(id).pausing != Pausing::Never => Passage::Apart,
                    _ => Passage::Free,
                }
            }
            _ => Passage::Free,
        },
    }
}

/// What CLIENT PAUSE or UNPAUSE asks for, by its words behind CLIENT; nothing for what the server refuses.
#[must_use]
pub fn pause_change(words: &[&[u8]]) -> Option<PauseChange> {
    let (name, arguments) = words.split_first()?;
    if token_is(name, "UNPAUSE") {
        return arguments.is_empty().then_some(PauseChange::Ended);
    }
    let millis: u64 = std::str::from_utf8(arguments.first()?).ok()?.parse().ok()?;
    let extent = match arguments.get(1) {
        Some(mode) if token_is(mode, "WRITE") => Extent::Write,
        Some(mode) if !token_is(mode, "ALL") => return None,
        _ => Extent::All,
    };
    Some(PauseChange::Begun(extent, Duration::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Policy;
    use crate::router::{Facts, SubscriptionView, route_free};
    use crate::session::TransactionGuard;

    struct Words(Vec<Vec<u8>>);

    impl Args for Words {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn nth(&self, index: usize) -> &[u8] {
            self.0.get(index).map_or(&[], |word| word)
        }
    }

    fn passes(extent: Extent, line: &str) -> Passage {
        let table = CommandTable::new();
        let words = Words(line.split(' ').map(|word| word.as_bytes().to_vec()).collect());
        let second = (words.count() > 1).then(|| words.nth(1));
        let lookup = table.lookup(words.nth(0), second);
        let facts = Facts {
            authenticated: true,
            guard: TransactionGuard::Intact,
            subscriptions: SubscriptionView::Off,
            policy: Policy::default(),
            debug: true,
        };
        let route = route_free(&table, lookup, facts, &words);
        passage(extent, &table, lookup, route, &words)
    }

    #[test]
    fn a_pause_of_writes_holds_what_servers_hold() {
        for line in ["GET k", "PING", "INFO", "MULTI", "WATCH k", "SELECT 1", "SUBSCRIBE c", "CLIENT UNPAUSE"]
            .into_iter()
            .chain([
                "EVAL_RO x 0",
                "SCRIPT LOAD x",
                "XREAD STREAMS s 0",
                "XREAD BLOCK 0 STREAMS s 0",
                "SET k",
                "AUTH p",
            ])
            .chain(["CLIENT PAUSE 1 WRITE", "CLIENT LIST", "CONFIG SET a b", "EXEC", "HELLO 3", "QUIT", "DBSIZE"])
        {
            assert_eq!(passes(Extent::Write, line), Passage::Free, "{line}");
        }
        for line in ["SET k v", "PFCOUNT k", "PUBLISH c m", "SPUBLISH c m", "EVAL x 0", "EVALSHA x 0", "FCALL f 0"]
            .into_iter()
            .chain(["BLPOP k 0", "BLMOVE a b LEFT LEFT 0", "XREADGROUP GROUP g c STREAMS s >", "FLUSHALL", "GETEX k"])
            .chain(["XREADGROUP GROUP g c BLOCK 0 STREAMS s >", "SORT k", "NO.SUCH.COMMAND", "FUNCTION LOAD x"])
        {
            assert_eq!(passes(Extent::Write, line), Passage::Apart, "{line}");
        }
    }

    #[test]
    fn a_pause_of_all_holds_everything_but_errors() {
        for line in ["GET k", "PING", "MULTI", "SELECT 1", "CLIENT UNPAUSE", "AUTH p", "CLIENT ID", "SUBSCRIBE c"] {
            assert_eq!(passes(Extent::All, line), Passage::Wait, "{line}");
        }
        for line in ["GET", "SET k", "SYNC", "PROXY INFO", "QUIT"] {
            assert_eq!(passes(Extent::All, line), Passage::Free, "{line}");
        }
    }

    #[test]
    fn the_words_of_a_pause() {
        let change = |line: &str| pause_change(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        let begun = |extent, millis| Some(PauseChange::Begun(extent, Duration::from_millis(millis)));
        assert_eq!(change("PAUSE 100"), begun(Extent::All, 100));
        assert_eq!(change("pause 0 all"), begun(Extent::All, 0));
        assert_eq!(change("PAUSE 9223372036854775807 write"), begun(Extent::Write, u64::MAX >> 1));
        assert_eq!(change("unpause"), Some(PauseChange::Ended));
        for line in ["PAUSE", "PAUSE x", "PAUSE -1", "PAUSE 1 both", "PAUSE 1.5", "UNPAUSE now"] {
            assert_eq!(change(line), None, "{line}");
        }
    }
}
