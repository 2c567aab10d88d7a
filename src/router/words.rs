//! Routes in words, for people: PROXY EXPLAIN.

use super::{FreeRoute, Local, PinReason, Refusal, Switch};

impl FreeRoute {
    /// The way in a word or two, and the reason for it.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Lane => (
                "shared connection",
                "it leaves no state behind and never waits: pipelined with those of other clients",
            ),
            Self::Publish => (
                "shared connection",
                "clients of this process share subscription connections: the count in the reply is corrected for them",
            ),
            Self::Hub => {
                ("subscription connection", "it carries the subscriptions of all clients of this user on this worker")
            }
            Self::Pin(reason) => (pin_way(reason), pin_why(reason)),
            Self::WaitGroup => (
                "group of blocked clients",
                "asked once without waiting, over the shared connection; then the client waits together with all that wait \
                 for the same",
            ),
            Self::Switch(switch) => ("another shared connection", switch_why(switch)),
            Self::Login(_) => {
                ("login connection", "the upstream itself proves the login, on a connection that is reset before")
            }
            Self::Local(Local::Proxy) => ("local", "it is a question to respmux"),
            Self::Local(Local::Wait) => (
                "local",
                "answered from the replicas' offsets, asked for on a connection of respmux's own; nobody is pinned",
            ),
            Self::Local(_) | Self::Pause | Self::Unpause => {
                ("local", "it is about the client's own connection, which ends at respmux")
            }
            Self::Refuse(refusal) => ("refused", refusal_why(refusal)),
            Self::Ask => (SHARED_OR_PINNED, "respmux does not know the name and asks COMMAND INFO which it is"),
            Self::Quit => ("local", "answered, then the connection is closed"),
            Self::Drop => ("close", "this is an HTTP request, and a server closes the connection, too"),
        }
    }
}

const SHARED_OR_PINNED: &str = "shared or pinned connection";

fn pin_way(reason: PinReason) -> &'static str {
    match reason {
        PinReason::Transaction => SHARED_OR_PINNED,
        _ => "pinned connection",
    }
}

fn pin_why(reason: PinReason) -> &'static str {
    match reason {
        PinReason::Transaction => {
            "with its EXEC in the same packet it goes over the shared connection whole; otherwise pinned until EXEC"
        }
        PinReason::Watch => {
            "the server remembers watched keys with the connection: pinned until EXEC, DISCARD or UNWATCH"
        }
        PinReason::Blocking => "it waits on the server and cannot share its wait: pinned until it is answered",
        PinReason::Wait => "it counts replicas for the writes of its connection: pinned until it is answered",
        PinReason::Subscribe => "subscriptions have a connection of their own here: pinned until the last one ends",
        PinReason::Monitor => "an endless stream: pinned until the client leaves",
        PinReason::Tracking => {
            "the server remembers the keys that were read with the connection: pinned until OFF or RESET"
        }
        PinReason::Session => "it leaves state that only RESET or the end of the connection removes: pinned until then",
        PinReason::Isolated => "it may leave state or must not wait behind others: pinned for this command, then reset",
        PinReason::OutOfBand => {
            "it must get through while everybody else is stopped: pinned for this command, then reset"
        }
        PinReason::Paused => {
            "the server is paused and may hold it back: pinned for this command, so that nobody waits behind it"
        }
        PinReason::Large => "too large to let others wait behind it: pinned for this command",
        PinReason::Overflow => {
            "no shared connection is free for this user, protocol and database: pinned for a few commands"
        }
    }
}

fn switch_why(switch: Switch) -> &'static str {
    match switch {
        Switch::Select => "it runs on a shared connection in that database; the client's next commands go there",
        Switch::Hello => {
            "it runs on a shared connection that speaks that protocol; the client's next commands go there"
        }
        Switch::Readonly(_) | Switch::NoTouch => "the client's next commands go over a shared connection in that mode",
    }
}

fn refusal_why(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotAuthenticated => "the client has not logged in",
        Refusal::Denied => "the configuration of respmux forbids it to this user (commands.deny)",
        Refusal::NotSupported => "it cannot be carried by a proxy that shares connections",
        Refusal::Debug => {
            "the server lets only local clients (enable-debug-command local), and this client is on another machine"
        }
        Refusal::Module => "a server allows it to local clients at most, and respmux is one for everybody",
        Refusal::ScriptDebug => "it would stop the server for everybody, and its dialogue is no RESP",
        Refusal::UnknownSubcommand => "respmux answers CLIENT itself and does not know this subcommand",
        Refusal::UnknownCommand => "a load balancer begins a connection like that, and no server knows the name",
        Refusal::WrongArity(_) => "wrong number of arguments",
        Refusal::Subscribed(_) => "a RESP2 client with subscriptions may only change them, and PING, RESET and QUIT",
        Refusal::InTransaction => "it cannot be queued in a transaction through respmux",
        Refusal::Poisoned => "the transaction before it was lost; send DISCARD or EXEC first",
    }
}
