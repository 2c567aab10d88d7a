//! Every key there is, one row each: name, default, kind, flag, variable, meaning.
//!
//! Loading, printing, the example and the command line are all driven by this table, so that they
//! cannot disagree. A key without a row does not exist.

use super::value::{Kind, Raw, Setting};

/// One row of [`KEYS`].
#[derive(Debug)]
pub(crate) struct Key {
    /// As in the file, with dots: `upstream.max_connections`.
    pub(crate) path: &'static str,
    /// As in a variable; `None` when the key has no value until somebody gives one.
    default: Option<&'static str>,
    /// A value for the example where there is no default.
    example: &'static str,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// Long flag without dashes, and what its value is called in the help.
    pub(crate) flag: Option<(&'static str, &'static str)>,
    /// A second, shorter variable.
    pub(crate) short_env: Option<&'static str>,
    /// What it is for, with what happens at the bound.
    pub(crate) doc: &'static str,
}

impl Key {
    /// The variable every key has: `RESPMUX_` and the path in capitals, dots as underscores.
    pub(crate) fn env(&self) -> String {
        format!("RESPMUX_{}", self.path.to_ascii_uppercase().replace('.', "_"))
    }

    /// The value when nobody gives one.
    pub(crate) fn default_setting(&self) -> Setting {
        let Some(text) = self.default else {
            return Setting::Unset;
        };
        self.kind.parse(&Raw::Untyped(text.to_owned())).expect("every default is valid: tested")
    }

    /// The default as a flag or variable would give it.
    pub(crate) fn default_text(&self) -> &'static str {
        self.default.unwrap_or("none")
    }

    /// The value that the example shows, as TOML, and whether it is the default.
    pub(crate) fn example_toml(&self) -> (String, bool) {
        match self.default_setting().to_toml() {
            Some(text) => (text, true),
            None => (self.example.to_owned(), false),
        }
    }

    /// Table and name: `("upstream", "url")`, `("", "listen")`.
    pub(crate) fn table_and_name(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    const fn flag(mut self, name: &'static str, value: &'static str) -> Self {
        self.flag = Some((name, value));
        self
    }

    const fn short_env(mut self, name: &'static str) -> Self {
        self.short_env = Some(name);
        self
    }
}

const fn key(path: &'static str, default: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, default: Some(default), example: "", kind, flag: None, short_env: None, doc }
}

const fn optional(path: &'static str, example: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, default: None, example, kind, flag: None, short_env: None, doc }
}

/// A time up to a day, from `min` milliseconds.
const fn time(min: u64) -> Kind {
    Kind::Time { min, max: 86_400_000 }
}

const fn size(min: usize, max: usize) -> Kind {
    Kind::Size { min, max }
}

const fn count(min: usize, max: usize) -> Kind {
    Kind::Count { min, max }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// The row of a key.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The candidate that looks most like `word`, if one does.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::osa_distance(word, candidate);
    let best = candidates.min_by_key(distance)?;
    (distance(&best) <= (word.len() / 4).max(1)).then_some(best)
}

/// The keys that an unknown path may have meant: those of the same name in other tables, else one
/// that looks like it, else those whose name does.
pub(crate) fn suggestions(path: &str) -> Vec<&'static str> {
    let named = |name: &str| -> Vec<&'static str> {
        let same = KEYS.iter().filter(|key| key.table_and_name().1 == name);
        same.map(|key| key.path).collect()
    };
    let name = path.rsplit('.').next().unwrap_or(path);
    let same = named(name);
    if !same.is_empty() {
        return same;
    }
    if let Some(best) = nearest(path, KEYS.iter().map(|key| key.path)) {
        return vec![best];
    }
    nearest(name, KEYS.iter().map(|key| key.table_and_name().1)).map_or_else(Vec::new, named)
}

/// In the order of the example: keys without a table first, as TOML wants them.
pub(crate) static KEYS: &[Key] = &[
    key(
        "listen",
        "127.0.0.1:6380",
        Kind::Listen,
        "Where clients connect: IP:PORT or unix:PATH. May be repeated; in a variable, comma separated.",
    )
    .flag("listen", "ADDR|unix:PATH"),
    key(
        "workers",
        "auto",
        Kind::CountOr { word: "auto", min: 1, max: 1024 },
        "Threads, each with its share of the clients and of the upstream connections. \"auto\" is one \
         a core, at most 4, and fewer when upstream.max_connections is too small for that many.",
    )
    .flag("workers", "N"),
    key(
        "admin",
        "127.0.0.1:9380",
        Kind::AddressOrOff,
        "Where HTTP for /metrics, /livez, /readyz and /startupz is served; \"off\" for nowhere.",
    )
    .flag("admin", "ADDR"),
    key(
        "embedded",
        "false",
        Kind::Switch,
        "Start a private valkey-server or redis-server from PATH and use it as the upstream. It keeps \
         nothing and ends with respmux.",
    )
    .flag("embedded", "BOOL"),
    key(
        "instance",
        "random",
        Kind::CountOr { word: "random", min: 1, max: 9000 },
        "Sets the client ids of several respmux on one upstream apart: ids start at instance * 10^12.",
    ),
    key(
        "integrity",
        "normal",
        Kind::Word(&["loose", "normal", "strict"]),
        "How far replies on connections that clients share are checked. \"normal\": a reply whose type does not fit its \
         command, like one that nobody waits for, closes that connection and all clients on it. \"strict\": besides, \
         each command is followed by a check of its own, and its reply is kept back until that is right. \"loose\": \
         types are not checked, for servers that answer known commands in ways of their own.",
    ),
    key(
        "allow_remote_passwordless",
        "false",
        Kind::Switch,
        "Accept clients of other machines in front of an upstream that is local and for which no \
         password is configured. The upstream takes all of them for local clients: its protected mode \
         does not see them. Set it when clients give their own password, or when the network is trusted.",
    ),
    key(
        "upstream.url",
        "redis://127.0.0.1:6379",
        Kind::Url,
        "The Redis or Valkey behind: redis://[user[:password]@]host[:port][/db], valkey:// alike, or \
         unix:///path[?db=n]. Percent-encode special characters in user and password.",
    )
    .flag("upstream", "URL")
    .short_env("RESPMUX_UPSTREAM"),
    optional(
        "upstream.db",
        "0",
        Kind::Count { min: 0, max: i32::MAX as usize },
        "Database of clients that select none. May stand in the URL instead.",
    ),
    optional(
        "upstream.username",
        "\"app\"",
        Kind::Text,
        "User for the upstream. May stand in the URL instead. Needs a password.",
    ),
    optional(
        "upstream.password",
        "\"secret\"",
        Kind::Secret,
        "Password for the upstream. Prefer upstream.password_file.",
    ),
    optional(
        "upstream.password_file",
        "\"/run/secrets/redis-password\"",
        Kind::Path,
        "File with the password, read at each login to the upstream, so that a rotated password is \
         taken up. One line end after the password is dropped.",
    ),
    key(
        "upstream.max_connections",
        "32",
        count(1, 100_000),
        "Hard cap on connections to the upstream, over all workers and kinds. Each worker needs 6.",
    )
    .flag("max-upstream-connections", "N")
    .short_env("RESPMUX_MAX_UPSTREAM_CONNECTIONS"),
    key("upstream.connect_timeout", "1s", time(1), "Time for one TCP or unix connect."),
    key("upstream.handshake_timeout", "3s", time(1), "Time for HELLO, AUTH, SELECT and PING on a new connection."),
    key(
        "upstream.connect_wait",
        "5s",
        time(0),
        "How long a command that was not yet written waits for the upstream to be there before it is \
         answered with -LOADING.",
    ),
    key(
        "upstream.progress_timeout",
        "10s",
        time(1),
        "A connection that owes replies and sends not one byte for this long is closed. Keep it above \
         Redis' busy-reply-threshold (5s), so that -BUSY can be heard.",
    ),
    key("upstream.idle_timeout", "60s", time(1), "An upstream connection unused for this long is closed."),
    key(
        "upstream.keepalive",
        "30s",
        time(0),
        "An open, silent upstream connection is sent a PING this often. Keep it below the upstream's \
         `timeout` setting. 0s is never.",
    ),
    key("upstream.backoff_min", "50ms", time(1), "First pause after a failed connect; doubles, with jitter."),
    key("upstream.backoff_max", "5s", time(1), "Longest pause between connects."),
    key(
        "upstream.connects_per_second",
        "50",
        count(1, 100_000),
        "Connects to the upstream that may be tried a second, over all workers.",
    ),
    key(
        "upstream.on_loss",
        "close",
        Kind::Word(&["close", "error"]),
        "What a client gets whose command was written to an upstream connection that broke before the \
         reply: \"close\" closes the client, as a lost Redis would; \"error\" answers that the outcome \
         is unknown and keeps the client.",
    ),
    key(
        "lane.max_command_bytes",
        "256KiB",
        size(KIB, 512 * MIB),
        "A larger command does not go over a shared connection, where others would wait behind it.",
    ),
    key(
        "lane.max_inflight_commands",
        "16384",
        count(1, 1_000_000),
        "Commands on one shared connection whose replies are outstanding; then its clients are not read.",
    ),
    key(
        "lane.max_inflight_bytes",
        "8MiB",
        size(KIB, GIB),
        "Bytes of commands queued on one shared connection; then its clients are not read.",
    ),
    key(
        "lane.canary_commands",
        "1024",
        count(1, 1_000_000),
        "Commands between two checks that replies still match commands.",
    ),
    key("lane.canary_interval", "1s", time(1), "Longest time between two such checks while there is traffic."),
    key(
        "lane.busy_threshold",
        "5s",
        time(1),
        "A shared connection that owes a reply for this long gets no further clients.",
    ),
    key(
        "pool.wait_timeout",
        "5s",
        time(0),
        "How long a client waits for a connection of its own (transactions, blocking commands).",
    ),
    key(
        "pool.max_waiters",
        "16384",
        count(0, 1_000_000),
        "Clients in that line; further ones are answered with an error at once.",
    ),
    key(
        "pool.idle_transaction_timeout",
        "60s",
        time(0),
        "A client that says nothing inside MULTI or WATCH for this long is closed. 0s is never.",
    ),
    key(
        "blocking.max_connections",
        "auto",
        Kind::CountOr { word: "auto", min: 1, max: 100_000 },
        "Connections of the pool on which blocked clients may wait (BLPOP and relatives, XREAD BLOCK, WAIT), over all \
         workers. \"auto\" leaves one of each worker's pool to transactions. Beyond them the proxy asks in turns.",
    ),
    key(
        "blocking.fold_width",
        "1",
        count(1, 1024),
        "Connections on which clients that wait with the same command may wait together. More than one gives them a \
         fairer share against clients that are connected to the upstream directly.",
    ),
    key(
        "blocking.poll_min",
        "5ms",
        time(1),
        "Shortest time between two questions for clients that wait without a connection.",
    ),
    key(
        "blocking.poll_max",
        "50ms",
        time(1),
        "Longest time between two such questions; more waiting clients make it longer still, so that the questions \
         stay below some thousands a second.",
    ),
    key(
        "blocking.give_back",
        "true",
        Kind::Switch,
        "An element that was popped for a client which has left goes back to the end it came from. \"false\" drops \
         it, as a server does that has written it to a dead connection.",
    ),
    key(
        "pubsub.mode",
        "shared",
        Kind::Word(&["shared", "pinned"]),
        "\"shared\": one upstream connection per worker and user carries all subscriptions. \"pinned\": each \
         subscriber has one of its own from the pool, so that PUBLISH and NUMSUB count exactly over several instances.",
    ),
    key(
        "pubsub.resp3",
        "shared",
        Kind::Word(&["shared", "exact"]),
        "\"exact\" gives each RESP3 client with subscriptions a connection of its own, so that messages and replies \
         keep the upstream's order between them.",
    ),
    key(
        "pubsub.output_soft",
        "8MiB",
        size(KIB, 64 * GIB),
        "Messages waiting for one subscriber above which it is closed after pubsub.output_soft_time.",
    ),
    key("pubsub.output_soft_time", "60s", time(1), "How long a subscriber may stay above pubsub.output_soft."),
    key(
        "client.max_connections",
        "10000",
        count(1, 10_000_000),
        "Clients at one time; further ones get -ERR max number of clients reached.",
    ),
    key(
        "client.inflight_commands",
        "128",
        count(1, 1_000_000),
        "Commands of one client without a reply; then it is not read until replies come.",
    ),
    key("client.inflight_bytes", "1MiB", size(KIB, GIB), "The same in bytes of commands."),
    key(
        "client.output_soft",
        "1MiB",
        size(KIB, GIB),
        "Replies waiting for one client above which its requests are not read.",
    ),
    key(
        "client.output_limit",
        "256MiB",
        size(KIB, 64 * GIB),
        "Replies waiting for one client above which it is closed.",
    ),
    key("client.pubsub_output_limit", "32MiB", size(KIB, 64 * GIB), "The same for a client with subscriptions."),
    key(
        "client.query_buffer_limit",
        "1GiB",
        size(MIB, 64 * GIB),
        "Size of one unfinished request above which the client is closed.",
    ),
    key(
        "client.proxy_commands",
        "true",
        Kind::Switch,
        "Answer PROXY HELP, INFO, CLIENTS, POOLS, WHOAMI and EXPLAIN. Never for clients that have not logged in where \
         the upstream wants a login.",
    ),
    key("client.tcp_keepalive", "300s", time(0), "TCP keepalive towards clients. 0s is none."),
    key(
        "client.verify_privileged",
        "true",
        Kind::Switch,
        "Ask the upstream whether the user may, before CLIENT LIST, KILL, UNBLOCK, PAUSE and NO-EVICT \
         are answered here.",
    ),
    key(
        "client.exact_connection_commands",
        "false",
        Kind::Switch,
        "Ask the upstream also before CLIENT ID, GETNAME, SETNAME and SETINFO are answered here. One \
         more round trip each.",
    ),
    key("drain.delay", "0s", time(0), "After SIGTERM, how long new clients are still accepted while /readyz says no.")
        .flag("drain-delay", "TIME"),
    key(
        "drain.timeout",
        "25s",
        time(0),
        "After SIGTERM and drain.delay, how long clients may take to finish their requests.",
    )
    .flag("drain-timeout", "TIME"),
    key(
        "log.level",
        "info",
        Kind::LogFilter,
        "off, error, warn, info, debug or trace; with target=level after commas for single parts.",
    )
    .flag("log-level", "LEVEL"),
    key(
        "log.format",
        "auto",
        Kind::Word(&["auto", "text", "json"]),
        "\"auto\" is text on a terminal and JSON elsewhere.",
    )
    .flag("log-format", "FORMAT"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_default_and_example_is_valid_and_prints_itself() {
        for key in KEYS {
            let (text, _) = key.example_toml();
            let file = format!("v = {text}");
            let value: toml::Table = file.parse().unwrap();
            let raw = match &value["v"] {
                toml::Value::String(text) => Raw::Text(text.clone()),
                toml::Value::Integer(number) => Raw::Integer(*number),
                toml::Value::Boolean(on) => Raw::Boolean(*on),
                toml::Value::Array(list) => Raw::List(list.iter().map(|v| v.as_str().unwrap().to_owned()).collect()),
                other => panic!("{}: {other}", key.path),
            };
            let setting = key.kind.parse(&raw).unwrap();
            if key.default.is_some() {
                assert_eq!(setting, key.default_setting(), "{}", key.path);
            }
        }
    }

    #[test]
    fn no_name_is_used_twice_and_tables_stay_together() {
        let mut names = HashSet::new();
        for key in KEYS {
            assert!(names.insert(key.path.to_owned()), "{}", key.path);
            assert!(names.insert(key.env()), "{}", key.path);
            for name in [key.short_env, key.flag.map(|(flag, _)| flag)].into_iter().flatten() {
                assert!(name == key.path || names.insert(name.to_owned()), "{name}");
            }
            assert!(key.doc.ends_with('.'), "{}", key.path);
        }
        let mut tables: Vec<&str> = KEYS.iter().map(|key| key.table_and_name().0).collect();
        tables.dedup();
        assert_eq!(tables, ["", "upstream", "lane", "pool", "blocking", "pubsub", "client", "drain", "log"]);
    }

    #[test]
    fn suggestions_find_slips_and_wrong_tables() {
        assert_eq!(suggestions("wait_timeout"), ["pool.wait_timeout"]);
        assert_eq!(suggestions("pool.wait_timout"), ["pool.wait_timeout"]);
        assert_eq!(suggestions("wait_timout"), ["pool.wait_timeout"]);
        assert_eq!(suggestions("upstream.max_conections"), ["upstream.max_connections"]);
        assert_eq!(suggestions("worker"), ["workers"]);
        assert_eq!(
            suggestions("max_connections"),
            ["upstream.max_connections", "blocking.max_connections", "client.max_connections"]
        );
        assert_eq!(suggestions("bananas"), Vec::<&str>::new());
    }
}
