//! Routes in words, for people: PROXY EXPLAIN.

use super::{Local, PinReason, Refusal, Route, Switch};

impl Route {
    /// The way in a word or two, and the reason for it.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Lane => ("lane", "it leaves no state behind and never waits: shared with other clients, pipelined"),
            Self::Publish => (
                "lane",
                "clients of this process subscribe through shared connections: the count in the reply is corrected for them",
            ),
            Self::Hub => ("hub", "all subscribers of this user on this worker share one connection"),
            Self::Relay(_) => ("held connection", "this client holds a connection of its own, and it runs there"),
            Self::Pin(reason) => (pin_way(reason), pin_why(reason)),
            Self::Fold => (
                "fold",
                "asked once without waiting on the lane; then the client waits together with all that wait for the same",
            ),
            Self::Switch(switch) => ("switch of lane", switch_why(switch)),
            Self::Login(_) => ("scratch", "the upstream itself proves the login, on a connection that is reset before"),
            Self::Local(Local::Proxy) => ("local", "it is a question to respmux"),
            Self::Local(Local::Wait) => (
                "local",
                "answered from the replicas' offsets, asked for on a connection of respmux's own; nothing is lent",
            ),
            Self::Local(_) => ("local", "it is about the client's own connection, which ends at respmux"),
            Self::Refuse(refusal) => ("refused", refusal_why(refusal)),
            Self::Ask => {
                ("lane or lent connection", "respmux does not know the name and asks COMMAND INFO which it is")
            }
            Self::Quit => ("local", "answered, then the connection is closed"),
            Self::Drop => ("close", "this is an HTTP request, and a server closes the connection, too"),
        }
    }
}

fn pin_way(reason: PinReason) -> &'static str {
    match reason {
        PinReason::Transaction => "lane or lent connection",
        _ => "lent connection",
    }
}

fn pin_why(reason: PinReason) -> &'static str {
    match reason {
        PinReason::Transaction => {
            "with its EXEC in the same packet it rides the lane as one unit; otherwise a connection is lent until EXEC"
        }
        PinReason::Watch => {
            "the server remembers watched keys with the connection: lent until EXEC, DISCARD or UNWATCH"
        }
        PinReason::Blocking => "it waits on the server and cannot share its wait: lent until it is answered",
        PinReason::Wait => "it counts replicas for the writes of its connection: lent until it is answered",
        PinReason::Subscribe => "subscriptions have a connection of their own here: lent until the last one ends",
        PinReason::Monitor => "an endless stream: lent until the client leaves",
        PinReason::Tracking => {
            "the server remembers the keys that were read with the connection: lent until OFF or RESET"
        }
        PinReason::Session => "it leaves state that only RESET or the end of the connection removes: lent until then",
        PinReason::Isolated => "it may leave state or must not wait behind others: lent for this command, then reset",
        PinReason::OutOfBand => {
            "it must get through while everybody else is stopped: lent for this command, then reset"
        }
        PinReason::Paused => {
            "the server is paused and may hold it back: lent for this command, so that nobody waits behind it"
        }
        PinReason::Large => "too large to let others wait behind it: lent for this command",
        PinReason::Overflow => "no lane is free for this user, protocol and database: lent for a few commands",
    }
}

fn switch_why(switch: Switch) -> &'static str {
    match switch {
        Switch::Select => "it runs on a lane that is in that database already; the client's next commands go there",
        Switch::Hello => "it runs on a lane that speaks that protocol already; the client's next commands go there",
        Switch::Readonly(_) | Switch::NoTouch => "the client's next commands go to a lane in that mode",
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
