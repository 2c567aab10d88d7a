//! What is simulated, by its seed.

use super::cancel::Cancel;

/// What changes how lanes and lent connections answer for what they lose.
const SETTINGS: [&str; 8] = [
    "",
    "integrity = \"strict\"\n",
    "upstream.on_loss = \"error\"\n",
    "upstream.retry_reads = true\n",
    "client.request_timeout = \"1ms\"\n",
    "integrity = \"strict\"\nupstream.on_loss = \"error\"\nupstream.retry_reads = true\nlane.canary_commands = 3\n",
    "pool.wait_timeout = \"2ms\"\nblocking.group_width = 2\n",
    "pubsub.resp3 = \"exact\"\npool.wait_timeout = \"1ms\"\nblocking.max_connections = 1\n",
];

/// What is simulated.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) clients: usize,
    pub(super) rounds: usize,
    pub(super) kills: bool,
    /// Upstream connections are told to move, and clients are held, again and again.
    pub(super) moves: bool,
    /// The server is paused now and then, by clients and by others.
    pub(super) pauses: bool,
    /// The worker drains meanwhile; nothing else disturbs the clients, and none of them may lose a request.
    pub(super) drains: bool,
    /// Not the defaults.
    pub(super) settings: &'static str,
    /// For the first client; the others draw theirs.
    pub(super) victim: Option<Cancel>,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let (kills, moves) = (!seed.is_multiple_of(3), seed.is_multiple_of(4));
        let clients = 3 + (seed % 6) as usize;
        let settings = SETTINGS[(seed / 12) as usize % SETTINGS.len()];
        let pauses = seed % 5 == 1;
        Self { seed, clients, rounds: 6, kills, moves, pauses, drains: false, settings, victim: None }
    }

    /// What a client does in this place. Somebody works, whoever else there is; a victim is each in turn.
    pub(super) fn role(self, number: u64) -> Role {
        match (self.victim, number) {
            (Some(_), 0) => [Role::Life, Role::Listener, Role::Waiter][(self.seed % 3) as usize],
            (Some(_), _) | (None, 0) => Role::Life,
            // Who only listens is sent away with nothing to say.
            (None, _) if self.drains => Role::Life,
            (None, _) => match fastrand::u8(..8) {
                0..=3 => Role::Life,
                4 | 5 => Role::Listener,
                _ => Role::Waiter,
            },
        }
    }
}

/// What a client is.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// One that asks and checks the answers.
    Life,
    Listener,
    Waiter,
}
