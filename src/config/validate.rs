//! Settings that each make sense become a configuration that does so as a whole.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{Endpoint, Listen, socket_path};
use super::budget::{Division, WORKER_MINIMUM};
use super::secret::SecretSource;
use super::settings::{Origin, Problem, Problems, Settings};
use super::value::Setting;
use super::values::Values;
use super::{Config, OnLoss, ShownSettings, Tls, Unix, Upstream, UpstreamTls, tls};

/// `workers = "auto"` takes no more cores than this: beyond it Redis' one thread is the limit.
const AUTO_WORKERS: usize = 4;

/// Bounds of `memory.limit = "auto"`, bytes.
const AUTO_MEMORY_MIN: u64 = 4 << 20;
const AUTO_MEMORY_MAX: u64 = 1 << 30;

/// Kubernetes' terminationGracePeriodSeconds unless changed.
const USUAL_GRACE: Duration = Duration::from_secs(30);

/// Descriptors beside those of clients and upstream connections: listeners, runtimes, logs, and the admin
/// listener's connections, which may be 64.
pub(crate) const SPARE_DESCRIPTORS: usize = 128;

/// What the configuration takes from the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// Cores this process may use.
    pub(crate) parallelism: usize,
    /// Hard limit on open files, if there is one.
    pub(crate) open_files: Option<u64>,
    /// Bytes of memory this process may use, if that is known.
    pub(crate) memory: Option<u64>,
    /// Picks the instance: any number.
    pub(crate) random: u64,
}

/// Builds the configuration and the warnings about it.
pub(super) fn validate(settings: &Settings, host: Host) -> Result<(Config, Vec<String>), Problems> {
    let values = Values(settings);
    let mut check = Check { values: &values, problems: Vec::new(), warnings: Vec::new() };
    let embedded = check.embedded();
    let workers = check.workers(host.parallelism);
    let mut config = Config {
        listen: values.listen(),
        workers,
        coalesce: values.switch("coalesce"),
        admin: match &values.entry("admin").setting {
            Setting::Address(address) => Some(*address),
            _ => None,
        },
        admin_token: check.admin_token(),
        handover: values.path("handover"),
        embedded,
        instance: match values.maybe_count("instance") {
            Some(number) => number as u64,
            None => host.random % 9000 + 1,
        },
        upstream: check.upstream(embedded),
        lane: values.lane(),
        pool: values.pool(),
        blocking: values.blocking(),
        pubsub: values.pubsub(),
        client: values.client(),
        memory_limit: values.maybe_count("memory.limit").unwrap_or_else(|| auto_memory(host.memory)),
        tls: Tls::of(&values),
        unix: Unix::of(&values),
        auth: values.auth(),
        commands: values.commands(),
        reload_poll: values.time("reload.poll"),
        pause_max: values.time("pause.max"),
        drain: values.drain(),
        log: values.log(),
        allow_remote_passwordless: values.switch("allow_remote_passwordless"),
        integrity: values.integrity(),
        slowlog: values.slowlog(),
        hotkeys: values.hotkeys(),
        shown: ShownSettings::default(),
    };
    check.relations(&config);
    check.remote_passwordless(&config);
    if let Some(reason) = config.drain.problem() {
        check.problems.push(Problem::at(check.origin("drain.endpoint").clone(), reason));
    }
    for (path, reason) in tls::problems(&config) {
        check.problems.push(Problem::at(check.origin(path).clone(), reason));
    }
    check.warnings.extend(tls::warnings(&config));
    check.users(&config);
    check.handover(&config);
    check.listeners(&config);
    check.advice(&config, host.open_files);
    match check.problems.is_empty() {
        true => {
            config.shown = ShownSettings::of(settings, &config);
            Ok((config, check.warnings))
        }
        false => Err(Problems(check.problems)),
    }
}

/// `memory.limit = "auto"`: a quarter of what there is leaves room for the copies, the sockets and the tasks that no
/// count covers.
fn auto_memory(available: Option<u64>) -> usize {
    let quarter = available.map_or(AUTO_MEMORY_MAX, |bytes| bytes / 4).clamp(AUTO_MEMORY_MIN, AUTO_MEMORY_MAX);
    usize::try_from(quarter).unwrap_or(usize::MAX)
}

struct Check<'a> {
    values: &'a Values<'a>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Check<'_> {
    fn origin(&self, path: &str) -> &Origin {
        &self.values.entry(path).origin
    }

    /// `embedded` and a URL exclude each other; the one given in the later layer holds.
    fn embedded(&mut self) -> bool {
        let (embedded, url) = (self.origin("embedded").clone(), self.origin("upstream.url").clone());
        if !self.values.switch("embedded") || url == Origin::Default {
            return self.values.switch("embedded");
        }
        if embedded.rank() == url.rank() {
            let reason = format!("embedded = true starts an upstream, but {url} names one: keep one");
            self.problems.push(Problem::at(embedded, reason));
            return true;
        }
        let holds = embedded.rank() > url.rank();
        let (winner, loser, without) = match holds {
            true => (embedded, url, "upstream.url"),
            false => (url, embedded, "embedded"),
        };
        self.warnings.push(format!("{winner} takes the place of {without} in {loser}"));
        holds
    }

    /// As many as asked for; if none were, as many as there are cores, and fewer where the cap on
    /// upstream connections does not reach. 0 only beside a problem.
    fn workers(&mut self, parallelism: usize) -> usize {
        let cap = self.values.count("upstream.max_connections");
        let asked = self.values.maybe_count("workers");
        let usual = parallelism.clamp(1, AUTO_WORKERS);
        let workers = asked.unwrap_or_else(|| usual.min(cap / WORKER_MINIMUM).max(1));
        if let Err(reason) = Division::of(cap, workers) {
            let mut origins = vec![];
            for path in ["upstream.max_connections", "workers"] {
                if self.origin(path) != &Origin::Default {
                    origins.push(self.origin(path).to_string());
                }
            }
            self.problems.push(Problem::general(format!("{}: {reason}", origins.join(", "))));
        } else if asked.is_none() && workers < usual {
            self.warnings.push(format!(
                "workers lowered from {usual} to {workers}: upstream.max_connections = {cap} has \
                 room for {WORKER_MINIMUM} each; {} would be needed for {usual}",
                usual * WORKER_MINIMUM
            ));
        }
        workers
    }

    fn upstream(&mut self, embedded: bool) -> Upstream {
        let values = self.values;
        let mut upstream = Upstream {
            endpoint: values.url().endpoint.clone(),
            db: self.db(),
            username: self.username(),
            password: self.password(),
            max_connections: values.count("upstream.max_connections"),
            connect_timeout: values.time("upstream.connect_timeout"),
            handshake_timeout: values.time("upstream.handshake_timeout"),
            connect_wait: values.time("upstream.connect_wait"),
            progress_timeout: values.time("upstream.progress_timeout"),
            idle_timeout: values.time("upstream.idle_timeout"),
            keepalive: values.time("upstream.keepalive"),
            suspect_after: values.time("upstream.suspect_after"),
            backoff_min: values.time("upstream.backoff_min"),
            backoff_max: values.time("upstream.backoff_max"),
            verified_after: values.time("upstream.verified_after"),
            circuit_failures: values.count("upstream.circuit_failures"),
            auth_backoff_min: values.time("upstream.auth_backoff_min"),
            auth_backoff_max: values.time("upstream.auth_backoff_max"),
            connects_per_second: values.count("upstream.connects_per_second"),
            retry_reads: values.switch("upstream.retry_reads"),
            on_loss: if values.is_word("upstream.on_loss", "error") { OnLoss::Error } else { OnLoss::Close },
            tls: UpstreamTls::of(values),
        };
        if embedded {
            if upstream.username.take().is_some() | upstream.password.take().is_some() {
                self.warnings.push("embedded = true: user and password are not used".to_owned());
            }
            (upstream.endpoint, upstream.db) = (Endpoint::Unix(PathBuf::new()), 0);
            upstream.tls.enabled = false;
        } else if upstream.username.is_some() && upstream.password.is_none() {
            self.problems
                .push(Problem::general("the upstream has a user name but no password: set upstream.password_file"));
        }
        upstream
    }

    fn db(&mut self) -> u32 {
        let key = self.values.maybe_count("upstream.db");
        let key = key.map(|db| u32::try_from(db).expect("the key's maximum is below"));
        let url = self.values.url().db;
        self.one_of("database", [("upstream.url", url), ("upstream.db", key)]).unwrap_or(0)
    }

    fn username(&mut self) -> Option<String> {
        let (url, key) = (self.values.url().username.clone(), self.values.text("upstream.username"));
        self.one_of("user name", [("upstream.url", url), ("upstream.username", key)])
    }

    fn password(&mut self) -> Option<SecretSource> {
        let url = self.values.url().password.clone().map(SecretSource::Inline);
        let key = match &self.values.entry("upstream.password").setting {
            Setting::Secret(secret) => Some(SecretSource::Inline(secret.clone())),
            _ => None,
        };
        let file = match &self.values.entry("upstream.password_file").setting {
            Setting::Path(path) => Some(SecretSource::File(path.clone())),
            _ => None,
        };
        for (path, source) in [("upstream.url", &url), ("upstream.password", &key)] {
            if source.is_some() {
                self.warnings.push(format!(
                    "{}: {path} holds a password; upstream.password_file keeps it out of \
                     configuration and process list",
                    self.origin(path)
                ));
            }
        }
        let sources = [("upstream.url", url), ("upstream.password", key), ("upstream.password_file", file)];
        self.one_of("password", sources)
    }

    fn admin_token(&mut self) -> Option<SecretSource> {
        let key = match &self.values.entry("admin_token").setting {
            Setting::Secret(secret) => Some(SecretSource::Inline(secret.clone())),
            _ => None,
        };
        let file = self.values.path("admin_token_file").map(SecretSource::File);
        self.one_of("token", [("admin_token", key), ("admin_token_file", file)])
    }

    /// What several keys can give: the one of the latest layer, and a problem if two are in it.
    fn one_of<T, const N: usize>(&mut self, what: &str, given: [(&str, Option<T>); N]) -> Option<T> {
        let mut kept: Option<(&str, T)> = None;
        for (path, value) in given {
            let Some(value) = value else { continue };
            let Some((other, _)) = &kept else {
                kept = Some((path, value));
                continue;
            };
            let (here, there) = (self.origin(path).clone(), self.origin(other).clone());
            if here.rank() == there.rank() {
                let reason = format!("{path}: the {what} is also in {other} ({there}); keep one");
                self.problems.push(Problem::at(here, reason));
            } else if here.rank() > there.rank() {
                kept = Some((path, value));
            }
        }
        kept.map(|(_, value)| value)
    }

    /// Pairs of settings of which one bounds the other.
    fn relations(&mut self, config: &Config) {
        let (upstream, lane, client) = (&config.upstream, &config.lane, &config.client);
        let pairs = [
            (upstream.backoff_min > upstream.backoff_max, "upstream.backoff_min", "upstream.backoff_max"),
            (
                upstream.auth_backoff_min > upstream.auth_backoff_max,
                "upstream.auth_backoff_min",
                "upstream.auth_backoff_max",
            ),
            (lane.max_command_bytes > lane.max_inflight_bytes, "lane.max_command_bytes", "lane.max_inflight_bytes"),
            (config.blocking.poll_min > config.blocking.poll_max, "blocking.poll_min", "blocking.poll_max"),
            (
                config.auth.failures.delay > config.auth.failures.delay_max,
                "auth.failure_delay",
                "auth.failure_delay_max",
            ),
            (client.output_soft > client.output_limit, "client.output_soft", "client.output_limit"),
        ];
        for (is_wrong, low, high) in pairs {
            if is_wrong {
                let show = |path| self.values.entry(path).setting.to_toml().unwrap_or_default();
                let reason = format!("{low} = {} must not be above {high} = {}", show(low), show(high));
                let given = if self.origin(low) == &Origin::Default { high } else { low };
                self.problems.push(Problem::at(self.origin(given).clone(), reason));
            }
        }
    }

    /// Rule A9, as far as it can be known without asking the upstream.
    fn remote_passwordless(&mut self, config: &Config) {
        let is_local = config.embedded || config.upstream.endpoint.is_local();
        if !config.auth.is_open() {
            return; // every client gives a password
        }
        if config.allow_remote_passwordless || config.upstream.password.is_some() || !is_local {
            return;
        }
        if let Some(listen) = config.listen.iter().find(|listen| listen.is_remote()) {
            let reason = format!(
                "listen = {listen} lets other machines use an upstream that is local and has no \
                 password configured: its protected mode would take them for local clients. Listen on \
                 127.0.0.1, give the upstream a password, or set allow_remote_passwordless = true"
            );
            self.problems.push(Problem::at(self.origin("listen").clone(), reason));
        }
    }

    fn users(&mut self, config: &Config) {
        if let Some(reason) = config.auth.problem() {
            self.problems.push(Problem::at(self.origin("auth.mode").clone(), reason));
        }
        if !config.auth.terminate && !config.auth.users.is_empty() {
            self.warnings.push("auth.users is not used: auth.mode is \"upstream\"".to_owned());
        }
    }

    /// A private server ends with the process that started it; its data would not go to the next one.
    fn handover(&mut self, config: &Config) {
        let Some(path) = &config.handover else { return };
        let reason = if config.embedded {
            "handover: the server of embedded = true cannot be handed over".to_owned()
        } else if config.listen.iter().any(|listen| *listen == Listen::Unix(path.clone())) {
            format!("handover: clients listen on unix:{} already", path.display())
        } else if let Err(reason) = socket_path(path) {
            format!("handover: {reason}")
        } else {
            return;
        };
        self.problems.push(Problem::at(self.origin("handover").clone(), reason));
    }

    /// Two listeners at one place, and an upstream that is respmux itself.
    fn listeners(&mut self, config: &Config) {
        let admin = config.admin.map(Listen::Tcp);
        for (position, listen) in config.listen.iter().enumerate() {
            if let Some(other) = config.listen[..position].iter().find(|other| listen.is_in_the_way_of(other)) {
                let reason = format!("listen: {other} and {listen} cannot be listened on at once");
                self.problems.push(Problem::at(self.origin("listen").clone(), reason));
            }
            if admin.as_ref().is_some_and(|admin| listen.is_in_the_way_of(admin)) {
                let reason = format!("admin: clients listen on {listen} already");
                self.problems.push(Problem::at(self.origin("admin").clone(), reason));
            }
            if !config.embedded && listen.answers(&config.upstream.endpoint) {
                let reason = format!(
                    "upstream.url: {} is where respmux itself listens (listen = {listen})",
                    config.upstream.endpoint
                );
                self.problems.push(Problem::at(self.origin("upstream.url").clone(), reason));
            }
        }
    }

    /// What works, but perhaps not as meant.
    fn advice(&mut self, config: &Config, open_files: Option<u64>) {
        let (upstream, drain) = (&config.upstream, &config.drain);
        if self.values.switch("client.exact_connection_commands") {
            let origin = self.origin("client.exact_connection_commands");
            self.warnings.push(format!(
                "{origin}: client.exact_connection_commands has no effect any more and will be unknown in the next \
                 version; the upstream is always asked whether the user may"
            ));
        }
        if upstream.progress_timeout <= config.lane.busy_threshold {
            self.warnings.push(
                "upstream.progress_timeout is not above lane.busy_threshold: connections are closed \
                 before they count as busy"
                    .to_owned(),
            );
        }
        if drain.delay + drain.timeout > USUAL_GRACE {
            self.warnings.push(
                "drain.delay and drain.timeout together exceed 30s: raise Kubernetes' \
                 terminationGracePeriodSeconds (30 unless set) above them"
                    .to_owned(),
            );
        }
        let needed = config.client.max_connections + upstream.max_connections + SPARE_DESCRIPTORS;
        if let Some(limit) = open_files.filter(|limit| *limit < needed as u64) {
            self.warnings.push(format!(
                "client.max_connections = {} needs {needed} open files, the hard limit is {limit} \
                 (ulimit -Hn): it will be lowered to fit",
                config.client.max_connections
            ));
        }
    }
}
