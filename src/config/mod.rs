//! What the operator asked for: flags over `RESPMUX_*` over a TOML file over defaults, checked as a
//! whole, then never changed.
//!
//! The keys are rows of one table (`keys.rs`). A value passes `Raw` (as written), `Setting` (of the
//! right kind, within its bounds) and `Settings` (all layers merged, each value with its origin)
//! before it stands in [`Config`]. Each step is pure but [`load()`], which reads the file, the
//! environment and the machine.

mod address;
mod auth;
mod budget;
mod drain;
mod file;
mod insight;
mod key;
mod keys;
mod keys_client;
mod keys_integrity;
mod keys_reload;
mod keys_tls;
mod load;
mod machine;
mod print;
mod reload;
mod secret;
mod settings;
mod shown;
mod tls;
mod units;
mod users;
mod validate;
mod value;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use address::{Endpoint, Listen, read_upstream};
pub use auth::{Auth, Commands, Failures};
pub use budget::{Division, WorkerShare};
pub use drain::Drain;
pub use insight::{Hotkeys, Slowlog};
pub use reload::Source;
pub use secret::{Secret, SecretSource};
pub use settings::Problems;
pub use shown::{ShownSetting, ShownSettings};
pub use tls::{ClientAuth, Tls, TlsVersion, Unix, UpstreamTls};
pub use users::{ProxyRight, User};

pub(crate) use file::unknown as unknown_key;
pub(crate) use key::nearest;
pub(crate) use keys::{KEYS, Key, find as find_key};
pub(crate) use load::{Flags, Loaded, load};
pub(crate) use print::{example, merged, report_json, report_text};
pub(crate) use reload::Reread;
pub(crate) use settings::{Assignment, Origin, name_key};
pub(crate) use value::{Kind, Raw};

#[cfg(test)]
pub(crate) use tests::tested;

use settings::Settings;
pub(crate) use validate::SPARE_DESCRIPTORS;

use validate::Host;

/// A configuration that was checked as a whole. `respmux config example` documents each value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect; at least one.
    pub listen: Vec<Listen>,
    /// Threads, at least 1; [`Config::division`] has a share for each.
    pub workers: usize,
    /// Whether workers with many clients let requests gather.
    pub coalesce: bool,
    /// Where the admin HTTP listens; `None` is nowhere.
    pub admin: Option<SocketAddr>,
    /// Who shows it may change something over the admin HTTP from other machines; read at each request.
    pub admin_token: Option<SecretSource>,
    /// Where a process that starts asks the one that runs for its listening sockets; `None` is nowhere.
    pub handover: Option<PathBuf>,
    /// Start a private server and use it: `upstream.endpoint` is then empty until its address is
    /// known, and there is no user or password.
    pub embedded: bool,
    /// 1 to 9000: client ids start at this times 10^12.
    pub instance: u64,
    /// The Redis or Valkey behind, and connections to it.
    pub upstream: Upstream,
    /// Shared connections.
    pub lane: Lane,
    /// Lent connections.
    pub pool: Pool,
    /// Clients that wait on the server.
    pub blocking: Blocking,
    /// Clients with subscriptions.
    pub pubsub: Pubsub,
    /// Clients and their limits.
    pub client: Client,
    /// Bytes that all buffers may have together; what "auto" came to.
    pub memory_limit: usize,
    /// Clients that speak TLS.
    pub tls: Tls,
    /// Clients on unix sockets.
    pub unix: Unix,
    /// Clients before their login, and logins.
    pub auth: Auth,
    /// Commands that are refused.
    pub commands: Commands,
    /// Time between two looks at the configuration file; zero is never.
    pub reload_poll: Duration,
    /// Longest PROXY PAUSE.
    pub pause_max: Duration,
    /// The end of the process.
    pub drain: Drain,
    /// What is written to stderr.
    pub log: Log,
    /// Other machines may use a local upstream for which no password is configured (rule A9).
    pub allow_remote_passwordless: bool,
    /// How far replies are checked.
    pub integrity: Integrity,
    /// Slow requests that are kept.
    pub slowlog: Slowlog,
    /// Keys that are used most.
    pub hotkeys: Hotkeys,
    /// The settings behind all this, for people.
    pub shown: ShownSettings,
}

/// The upstream, and what holds for every connection to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its address.
    pub endpoint: Endpoint,
    /// Database of clients that select none.
    pub db: u32,
    /// User; only with a password.
    pub username: Option<String>,
    /// Password, read anew at each login.
    pub password: Option<SecretSource>,
    /// Hard cap over all workers and kinds.
    pub max_connections: usize,
    /// For one TCP or unix connect.
    pub connect_timeout: Duration,
    /// From the first byte to a proved connection.
    pub handshake_timeout: Duration,
    /// How long a command not yet written waits for the upstream; then `-LOADING`.
    pub connect_wait: Duration,
    /// A connection that owes replies and is silent this long is closed.
    pub progress_timeout: Duration,
    /// An unused connection is closed after this.
    pub idle_timeout: Duration,
    /// Time between PINGs on a silent connection; zero is never.
    pub keepalive: Duration,
    /// A connection that owes replies and is silent this long is suspect.
    pub suspect_after: Duration,
    /// Longest first pause after a failed connect.
    pub backoff_min: Duration,
    /// Longest pause; not below `backoff_min`.
    pub backoff_max: Duration,
    /// Service that makes the pauses short again.
    pub verified_after: Duration,
    /// Failures in a row that open the circuit; zero is never.
    pub circuit_failures: usize,
    /// First pause after the configured login was refused.
    pub auth_backoff_min: Duration,
    /// Longest such pause; not below `auth_backoff_min`.
    pub auth_backoff_max: Duration,
    /// Connect attempts a second over all workers.
    pub connects_per_second: usize,
    /// What becomes of clients whose command was written and not answered.
    pub on_loss: OnLoss,
    /// Whether and how it speaks TLS.
    pub tls: UpstreamTls,
    /// Reads that were written and not answered are sent once more.
    pub retry_reads: bool,
}

/// How far replies are checked before a client gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// By their position and by canaries, not by their type.
    Loose,
    /// Also by their type.
    Normal,
    /// Also by a canary behind each command, and no reply is given to a client before its canary is back.
    Strict,
}

/// What a client gets when its upstream connection breaks after the command was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// The client is closed, as a lost Redis would do.
    Close,
    /// An error that says the outcome is unknown; the client stays.
    Error,
}

/// Limits and checks of one shared connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Larger commands do not go over a shared connection. Not above `max_inflight_bytes`.
    pub max_command_bytes: usize,
    /// Commands without a reply.
    pub max_inflight_commands: usize,
    /// Bytes of commands queued.
    pub max_inflight_bytes: usize,
    /// Commands between canaries.
    pub canary_commands: usize,
    /// Longest time between canaries.
    pub canary_interval: Duration,
    /// A lane that owes a reply this long gets no further clients.
    pub busy_threshold: Duration,
}

/// Connections lent to one client at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How long a client waits for one.
    pub wait_timeout: Duration,
    /// Clients in line.
    pub max_waiters: usize,
    /// Silence inside MULTI or WATCH after which the client is closed; zero is never.
    pub idle_transaction_timeout: Duration,
}

/// Clients that wait for an element, an entry or a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Connections for it over all workers; `None` is all of each worker's pool but one.
    /// [`Config::blocking_share`] divides it.
    pub max_connections: Option<usize>,
    /// Connections for waiters with the same command.
    pub fold_width: usize,
    /// Shortest time between two polls for those without a connection.
    pub poll_min: Duration,
    /// Longest, as long as they are few.
    pub poll_max: Duration,
    /// Elements popped for a client that left go back.
    pub give_back: bool,
}

/// Subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pubsub {
    /// One upstream connection per worker and user; otherwise each subscriber is lent one.
    pub shared: bool,
    /// RESP3 subscribers are lent one all the same.
    pub exact_resp3: bool,
    /// Bytes of waiting messages above which a subscriber is closed after `output_soft_time`.
    pub output_soft: usize,
    /// How long that may last.
    pub output_soft_time: Duration,
}

/// Limits of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Clients at one time.
    pub max_connections: usize,
    /// Clients accepted a second; 0 is no limit.
    pub accept_rate: usize,
    /// Clients accepted at once after a quiet time.
    pub accept_burst: usize,
    /// Clients that wait to be accepted, for each address.
    pub backlog: usize,
    /// Commands of one client without a reply.
    pub inflight_commands: usize,
    /// The same in bytes.
    pub inflight_bytes: usize,
    /// A command on a lane is given up after this; zero is never.
    pub request_timeout: Duration,
    /// Bytes of waiting replies above which requests are not read.
    pub output_soft: usize,
    /// Bytes of waiting replies above which the client is closed. Not below `output_soft`.
    pub output_limit: usize,
    /// How long a client may take nothing while more than `output_soft` waits for it; zero is for ever.
    pub output_stall_time: Duration,
    /// The same with subscriptions.
    pub pubsub_output_limit: usize,
    /// Bytes of one unfinished request above which the client is closed.
    pub query_buffer_limit: usize,
    /// Answer PROXY.
    pub proxy_commands: bool,
    /// Clients of one IP address at one time; `None` is no limit.
    pub max_per_source: Option<usize>,
    /// How long a begun request may take; zero is for ever.
    pub partial_timeout: Duration,
    /// How long a client may stay; zero is for ever.
    pub max_age: Duration,
    /// TCP keepalive; zero is none.
    pub tcp_keepalive: Duration,
    /// Run twins of privileged CLIENT commands on the upstream (rule C1).
    pub verify_privileged: bool,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `level` or `target=level`, comma separated; checked.
    pub level: String,
    /// Form of a line.
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl LogFormat {
    /// Whether lines are JSON where they go to a terminal, or do not.
    pub(crate) fn is_json(self, is_terminal: bool) -> bool {
        match self {
            Self::Json => true,
            Self::Text => false,
            Self::Auto => !is_terminal,
        }
    }
}

impl Config {
    /// The configuration of a TOML text alone: no environment, no flags.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn from_toml(text: &str) -> Result<Self, Problems> {
        let settings = Settings::merge(vec![file::read("configuration", text)])?;
        validate::validate(&settings, Host::detect()).map(|(config, _)| config)
    }

    /// Names this configuration: equal for replicas that run the same one. Secrets take no part.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        let shown = format!("{:?}", Self { instance: 0, ..self.clone() });
        Sha256::digest(shown.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How the cap on upstream connections is divided over the workers.
    ///
    /// # Panics
    /// When `workers` or `upstream.max_connections` was changed by hand to what cannot work.
    pub fn division(&self) -> Division {
        Division::of(self.upstream.max_connections, self.workers).expect("a checked configuration can be divided")
    }
}

impl Config {
    /// How many connections of the pool of worker `index` blocked clients may use: at least one, and where the pool
    /// allows it one fewer than it has, so that they never keep transactions waiting.
    ///
    /// # Panics
    /// As [`Config::division`], and when there is no such worker.
    #[must_use]
    pub fn blocking_share(&self, index: usize) -> usize {
        let most = self.division().worker(index).pool.saturating_sub(1).max(1);
        let asked =
            self.blocking.max_connections.map(|all| all / self.workers + usize::from(index < all % self.workers));
        asked.map_or(most, |share| share.clamp(1, most))
    }
}

/// The defaults on this machine.
impl Default for Config {
    fn default() -> Self {
        Self::from_toml("").expect("the defaults are valid: tested")
    }
}

/// The parts of a `redis://` URL: address, user, password.
///
/// # Errors
/// What is wrong with it, without the password.
pub(crate) fn parse_url(text: &str) -> Result<(Endpoint, Option<String>, Option<Secret>), String> {
    let url = address::UpstreamUrl::parse(text)?;
    if url.tls {
        return Err("only redis:// here, without TLS".to_owned());
    }
    Ok((url.endpoint, url.username, url.password))
}

#[cfg(test)]
mod tests;
