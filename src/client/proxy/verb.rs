//! The subcommands of PROXY: their words, their arguments, and what a client must be allowed for each.

use crate::client::error_reply;
use crate::client::request::Request;
use crate::command::token_is;
use crate::config::ProxyRight;
use crate::router::Args;

/// In the form in which servers answer HELP of a container.
pub(super) const HELP: &[&str] = &[
    "PROXY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CLIENTS [<option> ...]",
    "    Return one line for each client of this process, with what it is doing. Options are:",
    "    * ID <id> [<id> ...], ADDR <ip:port>, LADDR <ip:port>, USER <name>, NAME <name>",
    "      Only the clients that match.",
    "    * STATE (open|blocked|transaction|subscribed|monitor)",
    "      Only the clients in this state.",
    "    * PINNED (yes|no|<reason>)",
    "      Only the clients pinned to a connection of their own, only the others, or only those pinned for this reason.",
    "    * SORT (traffic|in|out|unsent|pending|idle|age)",
    "      Highest first.",
    "    * LIMIT <count>",
    "      At most this many lines. The default is all clients, of which there are at most client.max_connections.",
    "CONFIG GET <pattern> [<pattern> ...]",
    "    Return the settings whose names match: for each its value as written, the value in effect,",
    "    and where it was set.",
    "CONFIG [LIST]",
    "    Return all settings as lines of a configuration file.",
    "DRAIN",
    "    Let every client finish what it is doing, then end the process, as SIGTERM does.",
    "EXPLAIN <command> [<arg> ...]",
    "    Return which way the command would take from this connection now, and why. The command is not executed.",
    "HOTKEYS [<count>]",
    "    Return the most used keys of a sample (setting hotkeys.sample), at most 64 for each worker.",
    "HOTKEYS RESET",
    "    Start a new sample.",
    "INFO [<section> ...]",
    "    Return information and statistics in the format of INFO. Sections are: server, clients, upstreams, pools,",
    "    commands, errors, memory.",
    "KILL (<id>|<ip:port>)",
    "    Close this client. Return how many were closed; an error if there is no such client.",
    "LANES",
    "    Return one line for each shared connection.",
    "PAUSE [<milliseconds>]",
    "    Hold all commands of all clients, and return when nothing is in flight upstream. Open transactions may finish;",
    "    blocked pops are not waited for. If that takes longer than this (10 seconds unless given), return an error and",
    "    hold nothing. The pause ends with RESUME, or after pause.max.",
    "POOLS",
    "    Return, for each worker and kind of upstream connection, how many are allowed, open and waited for.",
    "RECONNECT",
    "    Replace every upstream connection: commands in flight finish on the old one, later ones use the new one.",
    "RELOAD",
    "    Read the configuration again, as SIGHUP does. Return what changed and what needs a restart.",
    "RESUME",
    "    End PAUSE: held commands go on, in the order of each client.",
    "SERVERS",
    "    Return one line for each upstream server: whether it is up, its version, connections, and the last error.",
    "SLOWLOG [GET [<count>]]",
    "    Return the newest slow requests (default 10, at most slowlog.size for each worker), each with its total time",
    "    and the part of it spent upstream.",
    "SLOWLOG LEN",
    "    Return the number of slow requests kept.",
    "SLOWLOG RESET",
    "    Forget all slow requests.",
    "STATS",
    "    Return counters, and rates over the last ten seconds, for each class of commands.",
    "WHOAMI",
    "    Return what respmux knows about this connection.",
    "HELP",
    "    Print this help.",
];

/// A subcommand of PROXY, by who answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Own(Own),
    Shown(Shown),
    /// Closes clients of any worker.
    Kill,
    Main(Main),
}

/// What tells a client of itself, and what the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Help,
    Whoami,
    Explain,
}

/// What other workers are asked for, and what they are to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Clients,
    Config,
    Hotkeys,
    HotkeysReset,
    Info,
    Lanes,
    Pools,
    Servers,
    Slowlog,
    SlowlogReset,
    Stats,
}

/// What the main thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Main {
    Drain,
    Reload,
    Pause,
    Resume,
    Reconnect,
}

/// Words and how many arguments there must be at least and at most, the name and the subcommand among them.
const VERBS: &[(&str, usize, usize, Verb)] = &[
    ("HELP", 2, 2, Verb::Own(Own::Help)),
    ("WHOAMI", 2, 2, Verb::Own(Own::Whoami)),
    ("EXPLAIN", 3, usize::MAX, Verb::Own(Own::Explain)),
    ("CLIENTS", 2, usize::MAX, Verb::Shown(Shown::Clients)),
    ("CONFIG", 2, usize::MAX, Verb::Shown(Shown::Config)),
    ("HOTKEYS", 2, usize::MAX, Verb::Shown(Shown::Hotkeys)),
    ("INFO", 2, usize::MAX, Verb::Shown(Shown::Info)),
    ("KILL", 3, 3, Verb::Kill),
    ("LANES", 2, 2, Verb::Shown(Shown::Lanes)),
    ("POOLS", 2, 2, Verb::Shown(Shown::Pools)),
    ("SERVERS", 2, 2, Verb::Shown(Shown::Servers)),
    ("SLOWLOG", 2, usize::MAX, Verb::Shown(Shown::Slowlog)),
    ("STATS", 2, 2, Verb::Shown(Shown::Stats)),
    ("DRAIN", 2, 2, Verb::Main(Main::Drain)),
    ("RELOAD", 2, 2, Verb::Main(Main::Reload)),
    ("PAUSE", 2, 3, Verb::Main(Main::Pause)),
    ("RESUME", 2, 2, Verb::Main(Main::Resume)),
    ("RECONNECT", 2, 2, Verb::Main(Main::Reconnect)),
];

impl Verb {
    /// The subcommand of a request.
    ///
    /// # Errors
    /// The line of the error: there is none, or it has other arguments.
    pub(super) fn find(request: &Request) -> Result<Self, Vec<u8>> {
        if request.count() == 1 {
            return Err(error_reply::wrong_arity("proxy"));
        }
        let Some((word, least, most, verb)) = VERBS.iter().find(|(word, ..)| token_is(request.nth(1), word)) else {
            return Err(error_reply::unknown_subcommand("PROXY", request));
        };
        if !(*least..=*most).contains(&request.count()) {
            return Err(error_reply::wrong_arity(&format!("proxy|{}", word.to_ascii_lowercase())));
        }
        // RESET is a verb of its own because it needs another right than to look.
        let reset = request.count() > 2 && token_is(request.nth(2), "RESET");
        Ok(match verb {
            Self::Shown(Shown::Slowlog) if reset => Self::Shown(Shown::SlowlogReset),
            Self::Shown(Shown::Hotkeys) if reset => Self::Shown(Shown::HotkeysReset),
            verb => *verb,
        })
    }

    /// What a client must be allowed for it. A verb that changes anything needs [`ProxyRight::Write`].
    pub(super) fn right(self) -> ProxyRight {
        match self {
            Self::Own(_) => ProxyRight::None,
            Self::Shown(Shown::HotkeysReset | Shown::SlowlogReset) | Self::Kill | Self::Main(_) => ProxyRight::Write,
            Self::Shown(_) => ProxyRight::Read,
        }
    }
}
