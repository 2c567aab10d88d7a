//! Every label value the proxy knows in advance: why a client was closed, why it was pinned, ...
//!
//! One value serves the log field, the metric label and the test: write `reason.label()` (or `%reason` in a log line),
//! never the text. The sets are closed, so that every series exists with the value 0 from the start and the number of
//! series is bounded.

use std::fmt;

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// One `T` for each label value.
    type Array<T>: AsRef<[T]>;
    /// All values, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// The texts of [`Label::ALL`], in the same order.
    const LABELS: &'static [&'static str];

    /// The position of the value in [`Label::ALL`].
    fn index(self) -> usize;

    /// Makes one `T` for each label value.
    fn fill<T>(make: impl FnMut() -> T) -> Self::Array<T>;
}

/// Declares a [`Label`]: a row has the variant and its text.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident { $($(#[$why:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$why])* $variant,)+ }

        impl $name {
            /// All values, in the order of the declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The texts of all values, in the same order.
            pub const LABELS: &'static [&'static str] = &[$($text,)+];

            /// The text of this value: log field and metric label.
            pub fn label(self) -> &'static str {
                Self::LABELS[self as usize]
            }
        }

        impl Label for $name {
            type Array<T> = [T; Self::ALL.len()];
            const ALL: &'static [Self] = Self::ALL;
            const LABELS: &'static [&'static str] = Self::LABELS;

            #[inline]
            fn index(self) -> usize {
                self as usize
            }

            fn fill<T>(mut make: impl FnMut() -> T) -> Self::Array<T> {
                std::array::from_fn(|_| make())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

mod client;
mod upstream;

pub use client::{AcceptError, HandoffResult};
pub use upstream::{
    CircuitState, ConnectError, LossVerdict, NameLookup, RequestOutcome, RetryOutcome, UpstreamCloseReason,
    UpstreamKind, UpstreamState,
};

labels! {
    /// Why a client connection ended.
    CloseReason {
        /// The application closed it.
        Client = "client",
        /// QUIT.
        Quit = "quit",
        /// The client broke the protocol (docs/design/semantics.md 4.1).
        ProtocolError = "protocol_error",
        /// Too many unread reply bytes (rule I8).
        OutputLimit = "output_limit",
        /// Too many unread request bytes (docs/design/semantics.md 4.1).
        QueryBuffer = "query_buffer",
        /// A request that was begun and not ended in time.
        PartialRequest = "partial_request",
        /// All buffers together were at their limit, and this client held most.
        Memory = "memory",
        /// The clients' buffers together were at the upstream's `maxmemory-clients`, and this client held most.
        Evicted = "evicted",
        /// Idle for longer than the upstream's `timeout`.
        Idle = "idle",
        /// The upstream connection that owed a reply was lost (docs/design/semantics.md 10.1).
        UpstreamLost = "upstream_lost",
        /// The upstream connection that owed a reply was killed by us (rule I5).
        UpstreamAnomaly = "upstream_anomaly",
        /// CLIENT KILL.
        Killed = "killed",
        /// At a request boundary of a drain.
        Drain = "drain",
        /// At a request boundary after client.max_age.
        MaxAge = "max_age",
        /// Did not log in within auth.timeout.
        AuthTimeout = "auth_timeout",
        /// Too many commands without a login (auth.max_commands).
        AuthCommands = "auth_commands",
        /// Too much input without a login (auth.max_input).
        AuthInput = "auth_input",
        /// Cut at the end of a drain.
        DrainTimeout = "drain_timeout",
        /// Reading or writing the client's socket failed.
        IoError = "io_error",
        /// The client's identity is gone (rule A7).
        Auth = "auth",
        /// An HTTP request: `POST` or `Host:` (docs/design/semantics.md 3.4).
        CrossProtocol = "cross_protocol",
        /// A TLS ClientHello where no TLS is spoken.
        TlsHello = "tls_hello",
        /// Our own mistake; see the log.
        Internal = "internal",
    }
}

labels! {
    /// Why a client connection was refused right after accept.
    RejectReason {
        /// The client limit (rule F10).
        Limit = "limit",
        /// The client limit of one source.
        Source = "source",
        /// All buffers together are near their limit.
        Memory = "memory",
        /// A process of a user that may not use the unix socket.
        User = "user",
        /// Too many TLS handshakes at once.
        Handshakes = "handshakes",
        /// The system would not watch its socket; see the log.
        Internal = "internal",
    }
}

labels! {
    /// How a client's TLS handshake ended.
    HandshakeResult {
        /// The handshake succeeded.
        Ok = "ok",
        /// The client left, broke the protocol, or showed no good certificate.
        Failed = "failed",
        /// The handshake took too long.
        Timeout = "timeout",
    }
}

labels! {
    /// Towards whom a certificate is shown.
    TlsSide {
        /// Clients.
        Client = "client",
        /// The upstream.
        Upstream = "upstream",
    }
}

labels! {
    /// What became of changed certificate files.
    ReloadResult {
        /// The new files are in use.
        Success = "success",
        /// The new files cannot be used; the old ones stay.
        Failure = "failure",
    }
}

labels! {
    /// What a client that is not idle is doing. A client in none of these is idle and not counted.
    ClientState {
        /// Has requests that are not answered yet.
        Active = "active",
        /// Waits in a blocking command.
        Blocked = "blocked",
        /// In subscribed mode.
        Subscribed = "subscribed",
    }
}

labels! {
    /// Why a client holds an upstream connection of its own.
    PinReason {
        /// MULTI.
        Transaction = "transaction",
        /// WATCH.
        Watch = "watch",
        /// A blocking command.
        Blocking = "blocking",
        /// Subscriptions.
        Pubsub = "pubsub",
        /// CLIENT TRACKING.
        Tracking = "tracking",
        /// Other state of the session that lives in the upstream connection.
        Session = "session",
        /// MONITOR and other endless streams.
        Monitor = "monitor",
        /// A command that may change the connection (rules L5 and L6).
        Isolated = "isolated",
        /// A request too large for a lane (docs/design/semantics.md 3.4).
        Large = "large",
        /// WAIT and WAITAOF.
        Wait = "wait",
        /// CLIENT PAUSE may hold it back.
        Paused = "paused",
        /// No lane was free.
        Overflow = "overflow",
    }
}

labels! {
    /// Why the reading of a client was paused.
    StallReason {
        /// Too many unanswered requests of this client.
        Inflight = "inflight",
        /// Its lane has no room for another request.
        LaneFull = "lane_full",
        /// Too many reply bytes the client has not read: its requests wait.
        Output = "output",
        /// All buffers together are near their limit, and this client holds much.
        Memory = "memory",
    }
}

labels! {
    /// What buffered bytes are.
    BufferKind {
        /// Read from clients and not sent on.
        Input = "input",
        /// To be sent to clients.
        Output = "output",
        /// To be sent upstream, and parts of replies that are not complete.
        Upstream = "upstream",
        /// The TLS sessions of clients, an estimate for each.
        Tls = "tls",
        /// Empty, kept for the next use.
        Spare = "spare",
    }
}

labels! {
    /// What is done to keep all buffers together below their limit.
    ShedStep {
        /// A client that holds much is not read.
        Pause = "pause",
        /// A new client is refused.
        Refuse = "refuse",
        /// A client that holds most is closed.
        Close = "close",
    }
}

labels! {
    /// Why the proxy refused a command instead of carrying it.
    RefuseReason {
        /// Class `refused` (docs/design/semantics.md 10.2).
        Unsupported = "unsupported",
        /// A subcommand nobody knows (rule L4).
        UnknownSubcommand = "unknown_subcommand",
        /// Not possible in the client's state, e.g. inside MULTI (rule M7) or subscribed.
        State = "state",
        /// The client is not authenticated (rule A5).
        Auth = "auth",
        /// Forbidden by the configuration (commands.deny).
        Denied = "denied",
        /// PROXY by a user who may not (auth.proxy_read, auth.proxy_write).
        ProxyRight = "proxy_right",
        /// No dedicated connection became free in time (rule M6).
        Pool = "pool",
        /// The upstream is not there; not executed (docs/design/semantics.md 10.1).
        UpstreamDown = "upstream_down",
    }
}

labels! {
    /// What became of a login: AUTH, or HELLO with AUTH.
    LoginResult {
        /// Right.
        Ok = "ok",
        /// Wrong, or refused for another reason by who judged it.
        Failed = "failed",
        /// Not looked at: too many failures of its address (auth.max_failures).
        Throttled = "throttled",
        /// Not looked at: the upstream could not be asked.
        Unavailable = "unavailable",
    }
}

labels! {
    /// Who made an error reply.
    Origin {
        /// The proxy.
        Proxy = "proxy",
        /// The upstream.
        Upstream = "upstream",
    }
}

labels! {
    /// The first word of an error reply, as far as it is known.
    ErrorCode {
        /// The general one.
        Err = "ERR",
        /// Key of another type.
        WrongType = "WRONGTYPE",
        /// Not authenticated.
        NoAuth = "NOAUTH",
        /// Not allowed.
        NoPerm = "NOPERM",
        /// Out of memory.
        Oom = "OOM",
        /// Loading, or not executed because the upstream is away.
        Loading = "LOADING",
        /// Replica.
        ReadOnly = "READONLY",
        /// Cluster redirect.
        Moved = "MOVED",
        /// A script runs.
        Busy = "BUSY",
        /// Script not in the cache.
        NoScript = "NOSCRIPT",
        /// Transaction refused.
        ExecAbort = "EXECABORT",
        /// Timed out.
        Timeout = "TIMEOUT",
        /// Any other word: the text of modules and scripts is not bounded.
        Other = "other",
    }
}

impl ErrorCode {
    /// The code of an error reply, given its line or its first word, with or without the `-`.
    pub fn of(error: &[u8]) -> Self {
        let error = error.strip_prefix(b"-").unwrap_or(error);
        let end = memchr::memchr3(b' ', b'\r', b'\n', error).unwrap_or(error.len());
        let word = &error[..end];
        let known = Self::LABELS.iter().position(|label| label.as_bytes() == word);
        known.map_or(Self::Other, |index| Self::ALL[index])
    }
}

labels! {
    /// What kind of command a duration belongs to.
    LatencyClass {
        /// Reads.
        Read = "read",
        /// Writes.
        Write = "write",
        /// May wait for data; the wait is part of the duration.
        Blocking = "blocking",
        /// Publish, subscribe.
        Pubsub = "pubsub",
        /// Scripts and functions.
        Script = "script",
        /// MULTI, EXEC, WATCH, ...
        Transaction = "transaction",
        /// Server administration.
        Admin = "admin",
        /// Everything else.
        Other = "other",
    }
}

impl LatencyClass {
    /// Its answers do not wait for somebody else: what latencies of all classes together are made of.
    pub fn is_prompt(self) -> bool {
        !matches!(self, Self::Blocking | Self::Pubsub)
    }
}

labels! {
    /// What showed that an upstream connection can no longer be trusted (rule I5).
    AnomalyReason {
        /// A reply that nobody waits for.
        NoSlot = "no_slot",
        /// A reply of a type that its command never has.
        WrongType = "wrong_type",
        /// A push where nothing asked for one.
        Push = "push",
        /// A command of our own was answered wrongly.
        UnexpectedReply = "unexpected_reply",
        /// The canary came back wrong (rule L7).
        Canary = "canary",
        /// The reply stream does not parse.
        ParseError = "parse_error",
        /// The lane is no longer who we made it (rules L7 and K4).
        Identity = "identity",
    }
}

labels! {
    /// How a blocked client that holds no connection of its own is waited for.
    WaiterState {
        /// A connection that it shares waits on the server.
        Armed = "armed",
        /// The proxy asks in turns.
        Polling = "polling",
    }
}

labels! {
    /// How an element came to a client that was blocked together with others.
    ElementVia {
        /// Another client's first question won it.
        Probe = "probe",
        /// From the command that waits.
        Armed = "armed",
        /// From the question for all that wait.
        Burst = "burst",
        /// From a question in turns.
        Poll = "poll",
    }
}

labels! {
    /// The level of a log event.
    LogLevel {
        /// Error.
        Error = "error",
        /// Warning.
        Warn = "warn",
        /// Information.
        Info = "info",
        /// Debugging.
        Debug = "debug",
        /// Tracing.
        Trace = "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn check<E: Label + fmt::Debug + fmt::Display>() {
        assert_eq!(E::ALL.len(), E::LABELS.len());
        let texts: HashSet<_> = E::LABELS.iter().collect();
        assert_eq!(texts.len(), E::ALL.len(), "a label is used twice: {:?}", E::LABELS);
        for (index, value) in E::ALL.iter().enumerate() {
            assert_eq!(value.index(), index);
            assert_eq!(value.to_string(), E::LABELS[index]);
        }
    }

    #[test]
    fn values_texts_and_positions_agree() {
        check::<CloseReason>();
        check::<RejectReason>();
        check::<AcceptError>();
        check::<HandshakeResult>();
        check::<TlsSide>();
        check::<ReloadResult>();
        check::<ClientState>();
        check::<PinReason>();
        check::<StallReason>();
        check::<RefuseReason>();
        check::<HandoffResult>();
        check::<LoginResult>();
        check::<Origin>();
        check::<ErrorCode>();
        check::<LatencyClass>();
        check::<UpstreamKind>();
        check::<UpstreamState>();
        check::<UpstreamCloseReason>();
        check::<CircuitState>();
        check::<LossVerdict>();
        check::<RequestOutcome>();
        check::<NameLookup>();
        check::<RetryOutcome>();
        check::<ConnectError>();
        check::<AnomalyReason>();
        check::<BufferKind>();
        check::<ShedStep>();
        check::<WaiterState>();
        check::<ElementVia>();
        check::<LogLevel>();
    }

    #[test]
    fn an_error_reply_is_known_by_its_first_word() {
        assert_eq!(ErrorCode::of(b"ERR unknown command 'x'\r\n"), ErrorCode::Err);
        assert_eq!(ErrorCode::of(b"-WRONGTYPE Operation against"), ErrorCode::WrongType);
        assert_eq!(ErrorCode::of(b"EXECABORT"), ErrorCode::ExecAbort);
        assert_eq!(ErrorCode::of(b"-NOSCRIPT\r\n"), ErrorCode::NoScript);
        for other in [&b"ERRS x"[..], b"err lower case", b"other", b"BUSYGROUP x", b"-", b""] {
            assert_eq!(ErrorCode::of(other), ErrorCode::Other, "{other:?}");
        }
    }
}
