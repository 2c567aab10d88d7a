//! What one worker counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::cells::{Count, Each, Level, Real};
use super::histogram::{HOLD, Histogram, LATENCY, SIZE};
use super::reasons::{
    AcceptError, AnomalyReason, BufferKind, CircuitState, ClientState, CloseReason, ConnectError, ElementVia,
    ErrorCode, HandoffResult, HandshakeResult, LatencyClass, LoginResult, LossVerdict, NameLookup, Origin, PinReason,
    RefuseReason, RejectReason, RequestOutcome, RetryOutcome, ShedStep, StallReason, UpstreamCloseReason, UpstreamKind,
    UpstreamState, WaiterState,
};

/// Reads of clients' sockets.
#[derive(Debug, Default)]
pub struct Reads {
    pub all: Count,
    /// Of clients that had been read a moment before.
    pub rapid: Count,
}

/// Sets of blocked clients that wait for the same.
#[derive(Debug, Default)]
pub struct WaitGroupLevels {
    pub all: Level,
    /// Those of them that wait in bundles.
    pub bundled: Level,
}

/// How often a limit of the pool was reached.
#[derive(Debug, Default)]
pub struct PoolLimits {
    /// Waits that timed out.
    pub timeouts: Count,
    /// Clients that found no place in the line.
    pub line_full: Count,
    /// Transactions whose connection was taken away because their client was silent.
    pub idle_transactions: Count,
}

/// The counters of one worker: written by its thread only, read by the admin thread.
///
/// Every field is one metric or one family of [`catalogue`](super::catalogue). Aligned so that two workers never write
/// to the same cache line.
#[repr(align(128))]
pub struct Shard {
    /// Accepted clients.
    pub client_opened: Count,
    /// Ended clients.
    pub client_closed: Each<CloseReason, Count>,
    /// Clients that were told where to go, by what became of them.
    pub handoffs: Each<HandoffResult, Count>,
    /// Clients that sent something while they were being closed at a request boundary; it was not carried out.
    pub close_races: Count,
    /// Clients refused right after accept; they are not in `client_opened`.
    pub client_rejected: Each<RejectReason, Count>,
    /// accept(2) failures.
    pub accept_errors: Each<AcceptError, Count>,
    /// Times the accept loop waited for its rate.
    pub accept_stalls: Count,
    /// Ended TLS handshakes of clients.
    pub handshakes: Each<HandshakeResult, Count>,
    /// TLS handshakes of clients going on, those in line included.
    pub handshaking: Level,
    /// Clients connected now.
    pub clients: Level,
    /// Clients that are not idle; the idle ones are what is left of `clients`.
    pub clients_by_state: Each<ClientState, Level>,
    /// Bytes read from clients.
    pub client_received_bytes: Count,
    /// Bytes written to clients.
    pub client_sent_bytes: Count,
    /// Bytes waiting to be written to clients.
    pub client_output_buffer_bytes: Level,
    /// Times the reading of a client was paused.
    pub client_stalls: Each<StallReason, Count>,
    /// Bytes of buffers.
    pub buffered: Each<BufferKind, Level>,
    /// What was done to keep them below the limit, by clients concerned.
    pub shed: Each<ShedStep, Count>,
    /// Logins of clients.
    pub logins: Each<LoginResult, Count>,
    /// Logins that had to wait because of failed ones before.
    pub logins_delayed: Count,
    /// Times a client was pinned; see [`Shard::pin_began`].
    pub pins: Each<PinReason, Count>,
    /// Clients pinned now.
    pub pinned: Each<PinReason, Level>,
    /// How long pins lasted, in nanoseconds.
    pub pin_duration: Each<PinReason, Histogram>,

    /// By command id; the last cell is for ids that the table does not have.
    commands: Box<[Count]>,
    /// Error replies to clients; see [`Shard::error`].
    pub command_errors: Each<Origin, Each<ErrorCode, Count>>,
    /// Commands the proxy refused; their error reply is counted in `command_errors` as well.
    pub commands_rejected: Each<RefuseReason, Count>,
    /// From parsed to reply queued, in nanoseconds.
    pub command_duration: Each<LatencyClass, Histogram>,

    /// Upstream connections now: each counts itself.
    pub upstream_connections: Each<UpstreamKind, Each<UpstreamState, Level>>,
    /// Upstream connections that finished their handshake.
    pub upstream_opened: Each<UpstreamKind, Count>,
    /// Upstream connections that ended after their handshake.
    pub upstream_closed: Each<UpstreamCloseReason, Count>,
    /// Upstream connections that did not finish their handshake.
    pub upstream_connect_errors: Each<ConnectError, Count>,
    /// Connect and handshake, in nanoseconds.
    pub upstream_connect_duration: Histogram,
    /// In which state the worker's circuit is: one of them is 1.
    pub circuit: Each<CircuitState, Level>,
    /// Times it opened.
    pub circuit_opened: Count,
    /// From written upstream to reply read, in nanoseconds.
    pub upstream_duration: Each<LatencyClass, Histogram>,
    /// Bytes read from the upstream.
    pub upstream_received_bytes: Count,
    /// Bytes written to the upstream.
    pub upstream_sent_bytes: Count,
    /// Commands that wait for an upstream reply.
    pub inflight: Level,
    /// When the oldest of them was sent: unix time in seconds; 0 if there is none.
    pub oldest_inflight_start: Real,
    /// Commands per write to the upstream.
    pub batch_commands: Histogram,

    /// Clients that wait for a dedicated connection.
    pub pool_waiters: Level,
    /// How long they waited, in nanoseconds; timed-out waits are included.
    pub pool_wait: Histogram,
    /// Its limits that were reached.
    pub pool_limits: PoolLimits,
    /// Dedicated connections made over for another identity, protocol or database.
    pub pool_switches: Count,

    /// Slots whose client left before the reply came (rule I6).
    pub lane_tombstones: Count,
    /// Canaries answered, well or not (rule L7).
    pub lane_canaries: Count,
    /// Canaries answered wrongly; each one kills its lane.
    pub lane_canary_failures: Count,
    /// Upstream connections killed because they could not be trusted (rule I5).
    pub integrity_violations: Each<UpstreamKind, Each<AnomalyReason, Count>>,
    /// Lanes that owe replies and have been silent for too long.
    pub lanes_suspect: Level,
    /// Lanes lost, anomalies left out.
    pub lane_losses: Each<LossVerdict, Count>,
    /// From the last sign of life of a lane that was given up to that decision, in nanoseconds.
    pub lane_detection: Histogram,
    /// Reads whose connection broke, with `upstream.retry_reads`.
    pub retries: Each<RetryOutcome, Count>,
    /// The upstream's name was looked up because a write was refused with -READONLY.
    pub readonly_lookups: Each<NameLookup, Count>,
    /// Requests given up after `client.request_timeout`.
    pub request_timeouts: Each<RequestOutcome, Count>,
    /// Commands for a lane that went over the pool because no lane was to be had.
    pub lane_overflow: Count,
    /// Transactions that rode a lane whole.
    pub units: Count,

    /// Blocked clients without a connection of their own.
    pub group_waiters: Each<WaiterState, Level>,
    /// Sets of blocked clients that wait for the same.
    pub wait_groups: WaitGroupLevels,
    /// Elements that went to such clients.
    pub group_elements: Each<ElementVia, Count>,
    /// Elements put back because their client had left.
    pub group_given_back: Count,
    /// Questions for blocked clients without a connection.
    pub group_polls: Count,
    /// UNBLOCKs that came too late: an element won.
    pub group_unblock_races: Count,
    /// Channels and patterns that the hubs are subscribed to.
    pub pubsub_channels: Level,
    /// Clients that subscribe through them.
    pub pubsub_subscribers: Level,
    /// Messages given to those clients.
    pub pubsub_messages: Count,

    /// Time the thread was busy, in seconds: from tokio's RuntimeMetrics.
    pub worker_busy_seconds: Real,
    /// Rests in which requests gathered (`coalesce`).
    pub coalesce_waits: Count,
    /// What decides about them.
    pub client_reads: Reads,
    /// Unix time in milliseconds of the last sign of life; 0 before the first.
    heartbeat: AtomicU64,
}

impl Shard {
    /// A shard for a command table of `commands` rows.
    pub fn new(commands: usize) -> Self {
        Self {
            client_opened: Count::default(),
            client_closed: Each::default(),
            handoffs: Each::default(),
            close_races: Count::default(),
            client_rejected: Each::default(),
            accept_errors: Each::default(),
            accept_stalls: Count::default(),
            handshakes: Each::default(),
            handshaking: Level::default(),
            clients: Level::default(),
            clients_by_state: Each::default(),
            client_received_bytes: Count::default(),
            client_sent_bytes: Count::default(),
            client_output_buffer_bytes: Level::default(),
            client_stalls: Each::default(),
            buffered: Each::default(),
            shed: Each::default(),
            logins: Each::default(),
            logins_delayed: Count::default(),
            pins: Each::default(),
            pinned: Each::default(),
            pin_duration: Each::filled(|| Histogram::new(&HOLD)),
            commands: (0..=commands).map(|_| Count::default()).collect(),
            command_errors: Each::default(),
            commands_rejected: Each::default(),
            command_duration: Each::filled(|| Histogram::new(&LATENCY)),
            upstream_connections: Each::default(),
            upstream_opened: Each::default(),
            upstream_closed: Each::default(),
            upstream_connect_errors: Each::default(),
            upstream_connect_duration: Histogram::new(&LATENCY),
            circuit: Each::default(),
            circuit_opened: Count::default(),
            upstream_duration: Each::filled(|| Histogram::new(&LATENCY)),
            upstream_received_bytes: Count::default(),
            upstream_sent_bytes: Count::default(),
            inflight: Level::default(),
            oldest_inflight_start: Real::default(),
            batch_commands: Histogram::new(&SIZE),
            pool_waiters: Level::default(),
            pool_wait: Histogram::new(&LATENCY),
            pool_limits: PoolLimits::default(),
            pool_switches: Count::default(),
            lane_tombstones: Count::default(),
            lane_canaries: Count::default(),
            lane_canary_failures: Count::default(),
            integrity_violations: Each::default(),
            lanes_suspect: Level::default(),
            lane_losses: Each::default(),
            lane_detection: Histogram::new(&HOLD),
            retries: Each::default(),
            readonly_lookups: Each::default(),
            request_timeouts: Each::default(),
            lane_overflow: Count::default(),
            units: Count::default(),
            group_waiters: Each::default(),
            wait_groups: WaitGroupLevels::default(),
            group_elements: Each::default(),
            group_given_back: Count::default(),
            group_polls: Count::default(),
            group_unblock_races: Count::default(),
            pubsub_channels: Level::default(),
            pubsub_subscribers: Level::default(),
            pubsub_messages: Count::default(),
            worker_busy_seconds: Real::default(),
            coalesce_waits: Count::default(),
            client_reads: Reads::default(),
            heartbeat: AtomicU64::new(0),
        }
    }

    /// A command was answered. `cmd` is its row in the command table; any other number counts as `other`.
    #[inline]
    pub fn command(&self, cmd: u16) {
        let other = self.commands.len() - 1;
        self.commands[usize::from(cmd).min(other)].inc();
    }

    /// How often the command with this id was answered; the number of rows stands for `other`.
    pub(super) fn commands(&self, id: usize) -> u64 {
        self.commands.get(id).map_or(0, Count::value)
    }

    /// How many commands were answered.
    pub(super) fn commands_total(&self) -> u64 {
        self.commands.iter().map(Count::value).sum()
    }

    /// An error reply went to a client. `first_word` may be the whole line.
    #[inline]
    pub fn error(&self, origin: Origin, first_word: &[u8]) {
        self.command_errors[origin][ErrorCode::of(first_word)].inc();
    }

    /// A command took `nanos` from parsed to reply queued.
    #[inline]
    pub fn latency(&self, class: LatencyClass, nanos: u64) {
        self.command_duration[class].record(nanos);
    }

    /// A command took `nanos` from written upstream to reply read.
    #[inline]
    pub fn upstream_latency(&self, class: LatencyClass, nanos: u64) {
        self.upstream_duration[class].record(nanos);
    }

    /// A client was accepted and let in.
    pub fn client_began(&self) {
        self.client_opened.inc();
        self.clients.add(1);
    }

    /// A client that [began](Self::client_began) ended. Its state must have been left before.
    pub fn client_ended(&self, reason: CloseReason) {
        self.client_closed[reason].inc();
        self.clients.sub(1);
    }

    /// A client was given an upstream connection of its own.
    pub fn pin_began(&self, reason: PinReason) {
        self.pins[reason].inc();
        self.pinned[reason].add(1);
    }

    /// A client gave it back after `nanos`. `reason` is the one the pin began with.
    pub fn pin_ended(&self, reason: PinReason, nanos: u64) {
        self.pinned[reason].sub(1);
        self.pin_duration[reason].record(nanos);
    }

    /// The worker is alive. Call it at least every few seconds.
    pub fn beat(&self, unix_millis: u64) {
        self.heartbeat.store(unix_millis, Relaxed);
    }

    /// Unix time in milliseconds of the last [`Shard::beat`]; 0 before the first.
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Relaxed)
    }

    /// Clients connected and in no [`ClientState`].
    pub fn idle_clients(&self) -> u64 {
        let busy: u64 = ClientState::ALL.iter().map(|state| self.clients_by_state[*state].value()).sum();
        // The cells are read one after the other while the worker goes on.
        self.clients.value().saturating_sub(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_commands_count_as_other() {
        let shard = Shard::new(2);
        for cmd in [0, 1, 1, 2, u16::MAX] {
            shard.command(cmd);
        }
        assert_eq!([0, 1, 2, 3].map(|id| shard.commands(id)), [1, 2, 2, 0]);
    }

    #[test]
    fn a_pin_moves_counter_level_and_duration() {
        let shard = Shard::new(0);
        shard.pin_began(PinReason::Watch);
        shard.pin_began(PinReason::Watch);
        shard.pin_ended(PinReason::Watch, 7);
        assert_eq!(shard.pins[PinReason::Watch].value(), 2);
        assert_eq!(shard.pinned[PinReason::Watch].value(), 1);
        assert_eq!(shard.pin_duration[PinReason::Watch].count(), 1);
        assert_eq!(shard.pins[PinReason::Wait].value(), 0);
    }

    #[test]
    fn idle_clients_are_what_is_left() {
        let shard = Shard::new(0);
        for _ in 0..3 {
            shard.client_began();
        }
        shard.clients_by_state[ClientState::Blocked].add(1);
        assert_eq!(shard.idle_clients(), 2);
        shard.client_ended(CloseReason::Quit);
        assert_eq!(shard.idle_clients(), 1);
        assert_eq!(shard.client_closed[CloseReason::Quit].value(), 1);
        assert_eq!(shard.client_opened.value(), 3);
    }

    #[test]
    fn errors_are_counted_by_origin_and_code() {
        let shard = Shard::new(0);
        shard.error(Origin::Upstream, b"-OOM command not allowed\r\n");
        shard.error(Origin::Proxy, b"ERR");
        assert_eq!(shard.command_errors[Origin::Upstream][ErrorCode::Oom].value(), 1);
        assert_eq!(shard.command_errors[Origin::Proxy][ErrorCode::Err].value(), 1);
        assert_eq!(shard.command_errors[Origin::Proxy][ErrorCode::Oom].value(), 0);
    }
}
