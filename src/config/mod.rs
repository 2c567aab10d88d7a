//! What the operator asked for: flags over `RESPMUX_*` over a TOML file over defaults, checked as a whole, then never
//! changed.
//!
//! Each TOML table has a file with its keys, its struct and its checks; `keys` lists the tables. A value passes `Raw`
//! (as written), `Setting` (of the right `Kind`, within its bounds) and `Settings` (all layers merged, each value with
//! its origin) before it stands in [`Config`]. Each step is pure but [`load()`], which reads the file, the environment
//! and the machine. Every room may read the configuration; `cli` loads it, and `lifecycle` loads it again.

mod address;
mod auth;
mod blocking;
mod budget;
mod check;
mod client;
mod commands;
mod drain;
mod file;
mod insight;
mod key;
mod keys;
mod kind;
mod lane;
mod layers;
mod load;
mod log;
mod machine;
mod pool;
mod print;
mod process;
mod pubsub;
mod raw;
mod reload;
mod secret;
mod settings;
mod shown;
mod tls;
mod units;
mod unix;
mod upstream;
mod users;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use address::{Endpoint, Listen, read_upstream};
pub use auth::{Auth, Failures};
pub use blocking::Blocking;
pub use budget::{Division, WorkerShare};
pub use client::Client;
pub use commands::Commands;
pub use drain::Drain;
pub use insight::{Hotkeys, Slowlog};
pub use lane::Lane;
pub use log::Log;
pub use pool::Pool;
pub use process::Integrity;
pub use pubsub::Pubsub;
pub use reload::Source;
pub use secret::{Secret, SecretSource};
pub use settings::Problems;
pub use shown::{ShownSetting, ShownSettings};
pub use tls::{ClientAuth, Tls, TlsVersion};
pub use unix::Unix;
pub use upstream::{OnLoss, Upstream, UpstreamTls};
pub use users::{ProxyRight, User};

pub(crate) use address::parse_url;
pub(crate) use key::Key;
pub(crate) use keys::{KEYS, find as find_key, nearest, unknown as unknown_key};
pub(crate) use kind::Kind;
pub(crate) use layers::{Assignment, name_key};
pub(crate) use load::{Flags, Loaded, load};
pub(crate) use print::{merged, report_json, report_text};
pub(crate) use process::SPARE_DESCRIPTORS;
pub(crate) use raw::Raw;
pub(crate) use reload::Reread;
pub(crate) use settings::Origin;

#[cfg(test)]
pub(crate) use {log::LogFormat, tests::tested};

use check::Check;
use machine::Host;
use settings::Settings;

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
    /// Start a private server and use it: `upstream.endpoint` is then empty until its address is known, and there is no
    /// user or password.
    pub embedded: bool,
    /// 1 to 9000: client ids start at this times 10^12.
    pub instance: u64,
    /// Bytes that all buffers may have together; what "auto" came to.
    pub memory_limit: usize,
    /// Time between two looks at the configuration file; zero is never.
    pub reload_poll: Duration,
    /// Longest PROXY PAUSE.
    pub pause_max: Duration,
    /// Other machines may use a local upstream for which no password is configured (rule A9).
    pub allow_remote_passwordless: bool,
    /// How far replies are checked.
    pub integrity: Integrity,
    // The tables.
    pub upstream: Upstream,
    pub lane: Lane,
    pub pool: Pool,
    pub blocking: Blocking,
    pub pubsub: Pubsub,
    pub client: Client,
    pub tls: Tls,
    pub unix: Unix,
    pub auth: Auth,
    pub commands: Commands,
    pub drain: Drain,
    pub log: Log,
    pub slowlog: Slowlog,
    pub hotkeys: Hotkeys,
    /// The settings behind all this, for people.
    pub shown: ShownSettings,
}

impl Config {
    /// The configuration of a TOML text alone: no environment, no flags.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn from_toml(text: &str) -> Result<Self, Problems> {
        let settings = layers::merge(vec![file::read("configuration", text)])?;
        Self::build(&settings, Host::detect()).map(|(config, _)| config)
    }

    /// Settings that each make sense become a configuration that does so as a whole; with it, the warnings about it.
    fn build(settings: &Settings, host: Host) -> Result<(Self, Vec<String>), Problems> {
        let mut check = Check::new(settings);
        let embedded = process::embedded(&mut check);
        let mut config = Self {
            listen: settings.get("listen"),
            workers: process::workers(&mut check, host.parallelism),
            coalesce: settings.get("coalesce"),
            admin: settings.get("admin"),
            admin_token: process::admin_token(&mut check),
            handover: settings.get("handover"),
            embedded,
            instance: settings.get::<Option<usize>>("instance").map_or(host.random % 9000 + 1, |number| number as u64),
            upstream: Upstream::of(&mut check, embedded),
            lane: Lane::read(settings),
            pool: Pool::read(settings),
            blocking: Blocking::read(settings),
            pubsub: Pubsub::of(settings),
            client: Client::read(settings),
            memory_limit: process::memory_limit(settings, host.memory),
            tls: Tls::read(settings),
            unix: Unix::read(settings),
            auth: Auth::of(settings),
            commands: Commands::read(settings),
            reload_poll: settings.get("reload.poll"),
            pause_max: settings.get("pause.max"),
            drain: Drain::read(settings),
            log: Log::read(settings),
            allow_remote_passwordless: settings.get("allow_remote_passwordless"),
            integrity: settings.get("integrity"),
            slowlog: Slowlog::read(settings),
            hotkeys: Hotkeys::read(settings),
            shown: ShownSettings::default(),
        };
        config.check(&mut check, host);
        let warnings = check.finish()?;
        config.shown = ShownSettings::of(settings, &config);
        Ok((config, warnings))
    }

    fn check(&self, check: &mut Check<'_>, host: Host) {
        let tables = [Upstream::ORDERED, Lane::ORDERED, Blocking::ORDERED, Auth::ORDERED, Client::ORDERED];
        for (low, high) in tables.into_iter().flatten() {
            check.ordered(low, high);
        }
        process::check_passwords(self, check);
        self.tls.check(&self.listen, check);
        self.upstream.tls.check(check);
        self.auth.check(check);
        process::check_handover(self, check);
        process::check_listeners(self, check);
        Client::check(check);
        self.lane.check(self.upstream.progress_timeout, check);
        self.drain.check(check);
        process::check_descriptors(self, host.open_files, check);
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
        let division = Division::of(self.upstream.max_connections, self.workers, budget::NODES);
        division.expect("a checked configuration can be divided")
    }

    /// How many connections of the pool of worker `index` blocked clients may use.
    ///
    /// # Panics
    /// As [`Config::division`], and when there is no such worker.
    #[must_use]
    pub fn blocking_share(&self, index: usize) -> usize {
        self.blocking.share(self.division().worker(index).pool, index, self.workers)
    }
}

/// The defaults on this machine.
impl Default for Config {
    fn default() -> Self {
        Self::from_toml("").expect("the defaults are valid: tested")
    }
}

#[cfg(test)]
mod tests;
