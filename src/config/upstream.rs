//! `[upstream]`: the Redis or Valkey behind, and connections to it. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{Endpoint, UpstreamUrl};
use super::check::Check;
use super::key::{Key, count, key, optional, switch, table, time, word, words};
use super::kind::Kind;
use super::secret::{Secret, SecretSource};
use super::settings::Settings;
use super::value::{FromSetting, Setting};

table! {
    /// The upstream, and what holds for every connection to it.
    pub struct Upstream = "upstream." {
        /// The Redis or Valkey behind: redis://[user[:password]@]host[:port][/db], valkey:// alike, rediss:// or
        /// valkeys:// with TLS, or unix:///path[?db=n]. Percent-encode special characters in user and password.
        url = key("redis://127.0.0.1:6379", Kind::Url).flag("upstream", "URL").short_env("RESPMUX_UPSTREAM");
        /// Database of clients that select none. May stand in the URL instead.
        db = optional("0", Kind::Count { min: 0, max: i32::MAX as usize });
        /// User for the upstream. May stand in the URL instead. Needs a password.
        username = optional("\"app\"", Kind::Text);
        /// Password for the upstream. Prefer upstream.password_file.
        password = optional("\"secret\"", Kind::Secret);
        /// File with the password, read at each login to the upstream, so that a rotated password takes effect. One
        /// newline at its end is dropped.
        password_file = optional("\"/run/secrets/redis-password\"", Kind::Path);
        /// Hard cap on connections to the upstream, over all workers and kinds. Each worker needs 6.
        max_connections: usize = count("32", 1, 100_000)
            .restart().flag("max-upstream-connections", "N").short_env("RESPMUX_MAX_UPSTREAM_CONNECTIONS");
        /// Time for one TCP or unix connect.
        connect_timeout: Duration = time("1s", 1);
        /// Time for HELLO, AUTH, SELECT and PING on a new connection.
        handshake_timeout: Duration = time("3s", 1);
        /// How long a command of which nothing was written yet waits for the upstream before it is answered with
        /// -LOADING.
        connect_wait: Duration = time("5s", 0);
        /// A connection that owes replies and sends not a single byte for this long is closed. Keep it above Redis'
        /// busy-reply-threshold (5s), so that -BUSY can be heard.
        progress_timeout: Duration = time("10s", 1);
        /// An upstream connection unused for this long is closed.
        idle_timeout: Duration = time("60s", 1);
        /// An open, silent upstream connection is sent a PING this often. Keep it below the upstream's `timeout`
        /// setting. 0s is never.
        keepalive: Duration = time("30s", 0);
        /// A connection that owes replies and is silent for this long is suspect: it is counted and logged, and, if the
        /// upstream answers on other connections meanwhile, it gets no further clients.
        suspect_after: Duration = time("2s", 1);
        /// Longest pause after the first failed connect; doubles with each further one. The actual pause is drawn at
        /// random between zero and that.
        backoff_min: Duration = time("50ms", 1);
        /// Longest pause between connects.
        backoff_max: Duration = time("1500ms", 1);
        /// How long commands must be answered before the pauses are short again.
        verified_after: Duration = time("10s", 0);
        /// After this many failed connects in a row, and once connect_wait has passed, commands no longer wait for the
        /// upstream: they are answered with -LOADING at once, until one attempt at a time finds it again. 0 is never.
        circuit_failures: usize = count("5", 0, 1_000_000);
        /// First pause after the upstream refused the configured user or password; doubles with each refusal. A changed
        /// secret is tried at once.
        auth_backoff_min: Duration = time("15s", 1);
        /// Longest such pause.
        auth_backoff_max: Duration = time("300s", 1);
        /// Connects to the upstream that may be tried per second, over all workers.
        connects_per_second: usize = count("50", 1, 100_000);
        /// What a client gets whose command was written to an upstream connection that broke before the reply came:
        /// "close" closes the client, as the loss of its own connection would; "error" answers that the outcome is
        /// unknown and keeps the client.
        on_loss: OnLoss = word("close", OnLoss::WORDS);
        /// Send a read that was written to a connection that broke once more, if its client waits for nothing else.
        /// Only commands of a list that change nothing; at most a fifth of the requests and 10 a second. Whichever
        /// server is the upstream then answers. Costs a copy of every request in flight.
        retry_reads: bool = switch("false");
    } with {
        /// Its address.
        endpoint: Endpoint,
        /// Database of clients that select none.
        db: u32,
        /// User; only with a password.
        username: Option<String>,
        /// Password, read anew at each login.
        password: Option<SecretSource>,
        /// Whether and how it speaks TLS.
        tls: UpstreamTls,
    }
}

table! {
    /// TLS to the upstream.
    #[derive(Default)]
    pub struct UpstreamTls = "upstream.tls_" {
        /// For a rediss:// URL: the authorities that may sign the upstream's certificate, PEM. Unset: those of the
        /// system. Like all certificates it is read again when it changes.
        ca_file: Option<PathBuf> = optional("\"/etc/respmux/upstream-ca.pem\"", Kind::Path);
        /// For a rediss:// URL: the name that the upstream's certificate must have, in place of the URL's host.
        server_name: Option<String> = optional("\"redis.example\"", Kind::Text);
        /// For a rediss:// URL: respmux' certificate towards the upstream, PEM. Needs upstream.tls_key_file.
        cert_file: Option<PathBuf> = optional("\"/etc/respmux/upstream-client.pem\"", Kind::Path);
        /// The key of upstream.tls_cert_file, PEM.
        key_file: Option<PathBuf> = optional("\"/etc/respmux/upstream-client.key\"", Kind::Path);
        /// For a rediss:// URL: accept any certificate. Whoever is in between can then read and change everything.
        insecure_skip_verify: bool = switch("false");
    } with {
        /// The URL says so.
        enabled: bool,
    }
}

words! {
    /// What a client gets when its upstream connection breaks after the command was written.
    pub enum OnLoss {
        /// The client is closed, as a lost Redis would do.
        Close = "close",
        /// An error that says the outcome is unknown; the client stays.
        Error = "error",
    }
}

impl Upstream {
    pub(super) const ORDERED: &[(&str, &str)] =
        &[("upstream.backoff_min", "upstream.backoff_max"), ("upstream.auth_backoff_min", "upstream.auth_backoff_max")];

    /// The address is empty, and there is no user, if the upstream is a private server.
    pub(super) fn of(check: &mut Check<'_>, embedded: bool) -> Self {
        let settings = check.settings;
        let url: UpstreamUrl = settings.get("upstream.url");
        let db = settings.get::<Option<usize>>("upstream.db").map(|db| db as u32); // its maximum is below
        let db = check.latest("database", [("upstream.url", url.db), ("upstream.db", db)]).unwrap_or(0);
        let names = [("upstream.url", url.username), ("upstream.username", settings.get("upstream.username"))];
        let username = check.latest("user name", names);
        let password = password(check, url.password);
        let tls = UpstreamTls::read(settings, url.tls && !embedded);
        if embedded {
            if username.is_some() || password.is_some() {
                check.warn("embedded = true: user and password are not used");
            }
            return Self::read(settings, Endpoint::Unix(PathBuf::new()), 0, None, None, tls);
        }
        if username.is_some() && password.is_none() {
            check.general("the upstream has a user name but no password: set upstream.password_file");
        }
        Self::read(settings, url.endpoint, db, username, password, tls)
    }
}

fn password(check: &mut Check<'_>, in_url: Option<Secret>) -> Option<SecretSource> {
    let settings = check.settings;
    let inline = settings.get::<Option<Secret>>("upstream.password").map(SecretSource::Inline);
    let file = settings.get::<Option<PathBuf>>("upstream.password_file").map(SecretSource::File);
    let sources = [
        ("upstream.url", in_url.map(SecretSource::Inline)),
        ("upstream.password", inline),
        ("upstream.password_file", file),
    ];
    for (path, _) in sources.iter().filter(|(_, source)| matches!(source, Some(SecretSource::Inline(_)))) {
        check.warn(format!(
            "{}: {path} holds a password; upstream.password_file keeps it out of configuration and process list",
            settings.origin(path)
        ));
    }
    check.latest("password", sources)
}

impl UpstreamTls {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        if self.cert_file.is_some() != self.key_file.is_some() {
            let given = if self.cert_file.is_some() { "upstream.tls_cert_file" } else { "upstream.tls_key_file" };
            check.problem(given, "upstream.tls_cert_file and upstream.tls_key_file belong together");
        }
        if self.enabled && self.insecure_skip_verify {
            check.warn(
                "upstream.tls_insecure_skip_verify = true accepts any certificate: whoever stands between can read and \
                 change everything",
            );
        }
        if !self.enabled && *self != Self::default() {
            check.warn("upstream.tls_… is set, but upstream.url is no rediss:// URL: not used");
        }
    }
}
