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
        /// Proves logins: who the client is, and what the upstream lets it do.
        Login = "login",
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
        /// Ready, and somebody's: of the pool, lent to a client or being cleaned behind one.
        Active = "active",
        /// Of the pool, and nobody holds it.
        Idle = "idle",
        /// Of no use any more; the upstream has not closed its side yet.
        Closing = "closing",
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
        /// Reading or writing failed; a reset by the upstream shows like this, too.
        IoError = "io_error",
        /// Killed because its replies could not be trusted.
        Anomaly = "anomaly",
        /// Did not answer in time.
        Timeout = "timeout",
        /// The connection could not be made clean, or not be made to serve another user or database; or DEBUG ran on
        /// it.
        Dirty = "dirty",
        /// The client that held the connection, or waited for it, has left.
        Client = "client",
        /// Another one takes its place: PROXY RECONNECT, or another upstream.
        Moved = "moved",
    }
}

labels! {
    /// Whether a worker tries to reach the upstream.
    CircuitState {
        /// Commands go to the upstream.
        Closed = "closed",
        /// Commands are answered at once, without the upstream.
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
        /// The repeated read was answered.
        Answered = "answered",
        /// The connection of the repeated read was lost, too.
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
        /// The command had been written.
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
        /// The lookup failed.
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
        /// The upstream is paused (CLIENT PAUSE, a failover): no failure.
        Paused = "paused",
        /// Any other unexpected handshake reply.
        Handshake = "handshake",
    }
}
