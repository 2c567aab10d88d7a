//! Every key there is, one row each: name, default, kind, flag, variable, meaning.
//!
//! Loading, printing, the example and the command line are all driven by this table, so that they
//! cannot disagree. A key without a row does not exist.

use super::key::{GIB, KIB, MIB, count, key, optional, size, time};
use super::value::Kind;
use super::{auth, drain, insight, keys_client, keys_integrity, keys_reload, keys_tls};

pub(crate) use super::key::{Key, find, nearest, suggestions};

/// In the order of the example: keys without a table first, as TOML wants them.
pub(crate) static KEYS: &[Key] = &auth::joined::<
    { FIRST.len() + keys_client::KEYS.len() + AFTER.len() + auth::KEYS.len() },
>([FIRST, keys_client::KEYS, AFTER, auth::KEYS]);

const FIRST: &[Key] = &[
    key(
        "listen",
        "127.0.0.1:6380",
        Kind::Listen,
        "Where clients connect: IP:PORT, tls:IP:PORT or unix:PATH. May be repeated; in a variable, comma separated.",
    ).restart()
    .flag("listen", "ADDR|tls:ADDR|unix:PATH"),
    key(
        "workers",
        "auto",
        Kind::CountOr { word: "auto", min: 1, max: 1024 },
        "Threads, each with its share of the clients and of the upstream connections. \"auto\" is one \
         a core, at most 4, and fewer when upstream.max_connections is too small for that many.",
    ).restart()
    .flag("workers", "N"),
    key(
        "coalesce",
        "true",
        Kind::Switch,
        "Rest for about 0.1 ms before the sockets are looked at again while many clients send much: one write \
         carries more then, which saves respmux and Redis a good part of their CPU. Few clients, or little load, are \
         never held up.",
    ).restart(),
    key(
        "admin",
        "127.0.0.1:9380",
        Kind::AddressOrOff,
        "Where HTTP is served: a status page on /, /metrics, /status.json, /livez, /readyz and /startupz; \"off\" for \
         nowhere.",
    )
    .restart()
    .flag("admin", "ADDR"),
    optional(
        "admin_token",
        "\"secret\"",
        Kind::Secret,
        "Who sends it as `Authorization: Bearer` may also POST /drain and the like, and read /config and /clients.json, \
         from other machines. From this machine that needs no token. Prefer admin_token_file.",
    ),
    optional(
        "admin_token_file",
        "\"/run/secrets/respmux-admin-token\"",
        Kind::Path,
        "File with that token, read at each request. One line end after it is dropped.",
    ),
    keys_tls::HANDOVER,
    key(
        "embedded",
        "false",
        Kind::Switch,
        "Start a private valkey-server or redis-server from PATH and use it as the upstream. It keeps \
         nothing and ends with respmux.",
    ).restart()
    .flag("embedded", "BOOL"),
    key(
        "instance",
        "random",
        Kind::CountOr { word: "random", min: 1, max: 9000 },
        "Sets the client ids of several respmux on one upstream apart: ids start at instance * 10^12.",
    ).restart(),
    keys_integrity::INTEGRITY,
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
        "The Redis or Valkey behind: redis://[user[:password]@]host[:port][/db], valkey:// alike, rediss:// or valkeys:// with TLS, or \
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
    ).restart()
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
    key(
        "upstream.suspect_after",
        "2s",
        time(1),
        "A connection that owes replies and is silent this long is suspect: counted, told in the log, and, if the \
         upstream answers others meanwhile, left to those who wait on it.",
    ),
    key(
        "upstream.backoff_min",
        "50ms",
        time(1),
        "Longest first pause after a failed connect; doubles with each. The pause is drawn between zero and that.",
    ),
    key("upstream.backoff_max", "1500ms", time(1), "Longest pause between connects."),
    key("upstream.verified_after", "10s", time(0), "Time of answered commands before the pauses are short again."),
    key(
        "upstream.circuit_failures",
        "5",
        count(0, 1_000_000),
        "After so many failed connects in a row, when connect_wait is over too, commands do not wait for the upstream: \
         they are answered with -LOADING at once, until one attempt at a time finds it again. 0 is never.",
    ),
    key(
        "upstream.auth_backoff_min",
        "15s",
        time(1),
        "First pause after the upstream refused the configured user or password; doubles. A changed secret is \
         tried at once.",
    ),
    key("upstream.auth_backoff_max", "300s", time(1), "Longest such pause."),
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
    keys_tls::UPSTREAM_CA_FILE,
    keys_tls::UPSTREAM_SERVER_NAME,
    keys_tls::UPSTREAM_CERT_FILE,
    keys_tls::UPSTREAM_KEY_FILE,
    keys_tls::UPSTREAM_INSECURE_SKIP_VERIFY,
    key(
        "upstream.retry_reads",
        "false",
        Kind::Switch,
        "Send reads that were written to a connection that broke once more, if the client waits for nothing else. Only \
         commands of a list that change nothing; at most a fifth of the requests and 10 a second. Whoever is the \
         upstream then answers. Costs a copy of every request in flight.",
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
    keys_integrity::CANARY_COMMANDS,
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
    ).restart(),
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
];

const AFTER: &[Key] = &[
    key(
        "memory.limit",
        "auto",
        Kind::SizeOr { word: "auto", min: 4 * MIB, max: 1024 * GIB },
        "Bytes that all buffers for clients and the upstream may have together; the session of a client with TLS counts \
         as 12KiB. \"auto\" is a quarter of the memory that the process may use (cgroup, else the machine), at most 1GiB. \
         At 75% the clients that hold most are not read, at 90% new clients are refused, at 95% the clients with most \
         unread replies are closed until it is 90%; and when somebody was not read or refused for 2s they are closed \
         until it is 75%. No request may be larger than 75% of it.",
    ),
    keys_tls::CERT_FILE,
    keys_tls::KEY_FILE,
    keys_tls::CLIENT_CA_FILE,
    keys_tls::CLIENT_AUTH,
    keys_tls::MIN_VERSION,
    keys_tls::HANDSHAKE_TIMEOUT,
    keys_tls::MAX_HANDSHAKES,
    keys_tls::RELOAD_INTERVAL,
    keys_tls::UNIX_MODE,
    keys_tls::UNIX_ALLOW_UIDS,
    keys_reload::POLL,
    keys_reload::PAUSE_MAX,
    drain::DELAY,
    drain::TIMEOUT,
    drain::SPREAD,
    drain::ENDPOINT,
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
    .restart()
    .flag("log-format", "FORMAT"),
    insight::SLOWLOG_THRESHOLD,
    insight::SLOWLOG_SIZE,
    insight::SLOWLOG_KEYS,
    insight::HOTKEYS_SAMPLE,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::value::Raw;
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
                // The tables of auth.users: see there.
                toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => continue,
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
        assert_eq!(
            tables,
            [
                "", "upstream", "lane", "pool", "blocking", "pubsub", "client", "memory", "tls", "unix", "reload",
                "pause", "drain", "log", "slowlog", "hotkeys", "auth", "commands"
            ]
        );
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
