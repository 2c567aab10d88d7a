//! The process as a whole: keys without a table, and the tables of one key.

use super::Config;
use super::address::{Listen, socket_path};
use super::budget::{Division, NODES, WorkerShare};
use super::check::Check;
use super::key::{GIB, Key, MIB, key, optional, switch, table, time, word, words};
use super::kind::Kind;
use super::secret::SecretSource;
use super::settings::{Origin, Settings};
use super::value::{FromSetting, Setting};

/// `workers = "auto"` takes no more cores than this: beyond it Redis' one thread is the limit.
const AUTO_WORKERS: usize = 4;

/// Bounds of `memory.limit = "auto"`, bytes.
const AUTO_MEMORY_MIN: u64 = 4 << 20;
const AUTO_MEMORY_MAX: u64 = 1 << 30;

/// Descriptors beside those of clients and upstream connections: listeners, runtimes, logs, and the admin
/// listener's connections, which may be 64.
pub(crate) const SPARE_DESCRIPTORS: usize = 128;

table! {
    const PROCESS = "" {
        /// Where clients connect: IP:PORT, tls:IP:PORT or unix:PATH. May be repeated; in a variable, separated by
        /// commas.
        listen = key("127.0.0.1:6380", Kind::Listen).restart().flag("listen", "ADDR|tls:ADDR|unix:PATH");
        /// Threads, each with its share of the clients and of the upstream connections. "auto" is one per core, at most
        /// 4, and fewer when upstream.max_connections is too small for that many.
        workers = key("auto", Kind::Or("auto", &Kind::Count { min: 1, max: 1024 })).restart().flag("workers", "N");
        /// While many clients send much, wait about 0.1 ms before the sockets are looked at again, so that one write
        /// carries more. That saves respmux and Redis a good part of their CPU time. A few clients, or a light load,
        /// are never held up.
        coalesce = switch("true").restart();
        /// Where HTTP is served: the status page on /, and /metrics, /status.json, /livez, /readyz and /startupz. "off"
        /// for nowhere.
        admin = key("127.0.0.1:9380", Kind::Or("off", &Kind::Address)).restart().flag("admin", "ADDR");
        /// A peer that sends it as `Authorization: Bearer` may also POST /drain and the like, and read /config and
        /// /clients.json, from other machines. From this machine no token is needed. Prefer admin_token_file.
        admin_token = optional("\"secret\"", Kind::Secret);
        /// File with that token, read at each request. One newline at its end is dropped.
        admin_token_file = optional("\"/run/secrets/respmux-admin-token\"", Kind::Path);
        /// Unix socket over which a starting respmux takes the listening sockets from the running one, so that no
        /// connect is refused; the running one then lets its clients finish and exits. Only the same user, or root, may
        /// do so. Until it has exited both have upstream connections: up to twice upstream.max_connections.
        handover = optional("\"/run/respmux/handover.sock\"", Kind::Path).restart().flag("handover", "PATH");
        /// Start a private valkey-server or redis-server from PATH and use it as the upstream. It persists nothing and
        /// ends with respmux.
        embedded = switch("false").restart().flag("embedded", "BOOL");
        /// Keeps the client ids of several respmux in front of one upstream apart: ids start at instance * 10^12.
        instance = key("random", Kind::Or("random", &Kind::Count { min: 1, max: 9000 })).restart();
        /// How strictly replies on shared connections are checked. "normal": a reply whose type does not fit its
        /// command, like one that nobody waits for, closes that connection and all clients on it. "strict": in
        /// addition, each command is followed by a check of its own, and its reply is held back until that is right.
        /// "loose": types are not checked, for servers that answer known commands in ways of their own.
        integrity = word("normal", Integrity::WORDS);
        /// Accept clients of other machines in front of a local upstream for which no password is configured. The
        /// upstream takes all of them for local clients, so its protected mode does not see them. Set it when clients
        /// give their own password, or when the network is trusted.
        allow_remote_passwordless = switch("false");
    }
}

table! {
    const MEMORY = "memory." {
        /// Bytes that all buffers for clients and the upstream may have together; the session of a TLS client counts as
        /// 12KiB. "auto" is a quarter of the memory that the process may use (of the cgroup, else of the machine), at
        /// most 1GiB. From 75% on the clients with the largest buffers are not read, from 90% on new clients are
        /// refused, from 95% on the clients with the most unread replies are closed until 90% is reached. When somebody
        /// was not read or refused for 2s, they are closed until 75% is reached. No request may be larger than 75% of
        /// it.
        limit = key("auto", Kind::Or("auto", &Kind::Size { min: 4 * MIB, max: 1024 * GIB }));
    }
}

table! {
    const RELOAD = "reload." {
        /// How often the configuration file is looked at. When its content has changed, it is read as on SIGHUP or
        /// PROXY RELOAD; the swap of a Kubernetes ConfigMap is seen, too. A wrong file changes nothing. 0s is never.
        poll = time("10s", 0);
    }
}

table! {
    const PAUSE = "pause." {
        /// Longest PROXY PAUSE. After that clients are served again without a PROXY RESUME, and the log says so.
        max = time("60s", 1);
    }
}

words! {
    /// How far replies are checked before a client gets them.
    pub enum Integrity {
        /// By their position and by canaries, not by their type.
        Loose = "loose",
        /// Also by their type.
        Normal = "normal",
        /// Also by a canary behind each command, and no reply is given to a client before its canary is back.
        Strict = "strict",
    }
}

/// `embedded` and a URL exclude each other; the one given in the later layer holds.
pub(super) fn embedded(check: &mut Check<'_>) -> bool {
    let settings = check.settings;
    let (embedded, url) = (settings.origin("embedded"), settings.origin("upstream.url"));
    if !settings.get::<bool>("embedded") || *url == Origin::Default {
        return settings.get("embedded");
    }
    if embedded.rank() == url.rank() {
        check.problem("embedded", format!("embedded = true starts an upstream, but {url} names one: keep one"));
        return true;
    }
    let holds = embedded.rank() > url.rank();
    check.warn(match holds {
        true => format!("{embedded} takes the place of upstream.url in {url}"),
        false => format!("{url} takes the place of embedded in {embedded}"),
    });
    holds
}

/// As many as asked for; if none were, as many as there are cores, and fewer where the cap on upstream connections does
/// not reach. 0 only beside a problem.
pub(super) fn workers(check: &mut Check<'_>, parallelism: usize) -> usize {
    let settings = check.settings;
    let (cap, asked) = (settings.get("upstream.max_connections"), settings.get::<Option<usize>>("workers"));
    let usual = parallelism.clamp(1, AUTO_WORKERS);
    let each = WorkerShare::minimum(NODES).total();
    let workers = asked.unwrap_or_else(|| usual.min(cap / each).max(1));
    if let Err(reason) = Division::of(cap, workers, NODES) {
        let origins = ["upstream.max_connections", "workers"].map(|path| settings.origin(path));
        let given = origins.into_iter().filter(|origin| **origin != Origin::Default).map(Origin::to_string);
        check.general(format!("{}: {reason}", given.collect::<Vec<_>>().join(", ")));
    } else if asked.is_none() && workers < usual {
        check.warn(format!(
            "workers lowered from {usual} to {workers}: upstream.max_connections = {cap} has room for {each} each; {} \
             would be needed for {usual}",
            usual * each
        ));
    }
    workers
}

/// `memory.limit = "auto"`: a quarter of what there is leaves room for the copies, the sockets and the tasks that no
/// count covers.
pub(super) fn memory_limit(settings: &Settings, available: Option<u64>) -> usize {
    let quarter = available.map_or(AUTO_MEMORY_MAX, |bytes| bytes / 4).clamp(AUTO_MEMORY_MIN, AUTO_MEMORY_MAX);
    let auto = || usize::try_from(quarter).unwrap_or(usize::MAX);
    settings.get::<Option<usize>>("memory.limit").unwrap_or_else(auto)
}

pub(super) fn admin_token(check: &mut Check<'_>) -> Option<SecretSource> {
    let inline = check.settings.get::<Option<_>>("admin_token").map(SecretSource::Inline);
    let file = check.settings.get::<Option<_>>("admin_token_file").map(SecretSource::File);
    check.latest("token", [("admin_token", inline), ("admin_token_file", file)])
}

/// Rule A9, as far as it can be known without asking the upstream.
pub(super) fn check_passwords(config: &Config, check: &mut Check<'_>) {
    let is_local = config.embedded || config.upstream.endpoint.is_local();
    let is_open = config.auth.is_open() && config.upstream.password.is_none(); // else every client gives a password
    if !is_local || !is_open || config.allow_remote_passwordless {
        return;
    }
    if let Some(listen) = config.listen.iter().find(|listen| listen.is_remote()) {
        let reason = format!(
            "listen = {listen} lets other machines use an upstream that is local and has no password configured: its \
             protected mode would take them for local clients. Listen on 127.0.0.1, give the upstream a password, or \
             set allow_remote_passwordless = true"
        );
        check.problem("listen", reason);
    }
}

/// A private server ends with the process that started it; its data would not go to the next one.
pub(super) fn check_handover(config: &Config, check: &mut Check<'_>) {
    let Some(path) = &config.handover else { return };
    if config.embedded {
        check.problem("handover", "handover: the server of embedded = true cannot be handed over");
    } else if config.listen.contains(&Listen::Unix(path.clone())) {
        check.problem("handover", format!("handover: clients listen on unix:{} already", path.display()));
    } else if let Err(reason) = socket_path(path) {
        check.problem("handover", format!("handover: {reason}"));
    }
}

/// Two listeners at one place, and an upstream that is respmux itself.
pub(super) fn check_listeners(config: &Config, check: &mut Check<'_>) {
    let (admin, upstream) = (config.admin.map(Listen::Tcp), &config.upstream.endpoint);
    for (position, listen) in config.listen.iter().enumerate() {
        if let Some(other) = config.listen[..position].iter().find(|other| listen.is_in_the_way_of(other)) {
            check.problem("listen", format!("listen: {other} and {listen} cannot be listened on at once"));
        }
        if admin.as_ref().is_some_and(|admin| listen.is_in_the_way_of(admin)) {
            check.problem("admin", format!("admin: clients listen on {listen} already"));
        }
        if !config.embedded && listen.answers(upstream) {
            let reason = format!("upstream.url: {upstream} is where respmux itself listens (listen = {listen})");
            check.problem("upstream.url", reason);
        }
    }
}

pub(super) fn check_descriptors(config: &Config, open_files: Option<u64>, check: &mut Check<'_>) {
    let clients = config.client.max_connections;
    let needed = clients + config.upstream.max_connections + SPARE_DESCRIPTORS;
    if let Some(limit) = open_files.filter(|limit| *limit < needed as u64) {
        check.warn(format!(
            "client.max_connections = {clients} needs {needed} open files, the hard limit is {limit} (ulimit -Hn): it \
             will be lowered to fit"
        ));
    }
}
