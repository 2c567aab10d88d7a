//! Labels of what happens on the way to the upstream.

use std::fmt;

use super::Label;

labels! {
    /// What an upstream connection is used for.
    UpstreamKind {
        /// Carries the commands of many clients.
        Lane = "lane",
        /// Lent to one client at a time.
        Pool = "pool",
        /// Proves identities, answers twins.
        Scratch = "scratch",
        /// Health, COMMAND, out-of-band commands.
        Control = "control",
        /// Carries the subscriptions of many clients.
        Hub = "hub",
    }
}

labels! {
    /// Where an upstream connection is in its life.
    UpstreamState {
        /// Connect and handshake.
        Connecting = "connecting",
        /// In use, or ready with requests.
        Active = "active",
        /// Open with nothing to do.
        Idle = "idle",
    }
}

labels! {
    /// Why an upstream connection ended.
    UpstreamCloseReason {
        /// Idle for too long.
        Idle = "idle",
        /// Gave its place in the budget to another identity or database.
        Evicted = "evicted",
        /// The upstream closed it.
        Upstream = "upstream",
        /// Reading or writing failed.
        IoError = "io_error",
        /// Killed on an anomaly (I5).
        Anomaly = "anomaly",
        /// Did not answer in time.
        Timeout = "timeout",
        /// A lent connection that could not be cleaned, or not cheaply (M4).
        Dirty = "dirty",
        /// The client that held it is gone.
        Client = "client",
        /// The proxy is draining.
        Drain = "drain",
        /// Another one takes its place: PROXY RECONNECT, or another upstream.
        Moved = "moved",
    }
}

labels! {
    /// Whether a worker tries to reach the upstream.
    CircuitState {
        /// It does.
        Closed = "closed",
        /// Not now; commands are answered without waiting.
        Open = "open",
        /// One attempt at a time.
        HalfOpen = "half_open",
    }
}

labels! {
    /// How a lane was lost that nothing was wrong with.
    LossVerdict {
        /// The connection ended.
        Dead = "dead",
        /// The connection stands, owes replies and says nothing.
        Hung = "hung",
        /// Most of what it owes is for nobody any more.
        Abandoned = "abandoned",
    }
}

labels! {
    /// What became of reads whose connection broke.
    RetryOutcome {
        /// Sent once more.
        Resent = "resent",
        /// And answered.
        Answered = "answered",
        /// And lost again.
        Lost = "lost",
        /// Not sent again: too many are.
        OverBudget = "over_budget",
    }
}

labels! {
    /// What is known of a request that was given up.
    RequestOutcome {
        /// Not a byte of it was written.
        NotExecuted = "not_executed",
        /// It was written.
        Unknown = "unknown",
    }
}

labels! {
    /// Where the upstream's name leads after a write was refused with -READONLY.
    NameLookup {
        /// To where the connections lead.
        Same = "same",
        /// Elsewhere: the connections move.
        Moved = "moved",
        /// Nobody knows.
        Failed = "failed",
    }
}

labels! {
    /// Why an upstream connection could not be opened.
    ConnectError {
        /// Nobody listens.
        Refused = "refused",
        /// No answer in time, connect or handshake.
        Timeout = "timeout",
        /// The name does not resolve.
        Dns = "dns",
        /// Any other failure of the socket.
        Io = "io",
        /// AUTH or HELLO was refused.
        Auth = "auth",
        /// No TLS, or no certificate that is trusted.
        Tls = "tls",
        /// The upstream has too many clients.
        MaxClients = "max_clients",
        /// The upstream is loading its data.
        Loading = "loading",
        /// Any other unexpected handshake reply.
        Handshake = "handshake",
    }
}
