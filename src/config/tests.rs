//! Settings as a whole: what the layers come to. Single values are tested beside their parsers.

use serde_json::{Value, json};

use super::layers::{Layer, environment, merge};
use super::*;
use crate::tools::example;

const HOST: Host = Host { parallelism: 8, open_files: Some(1 << 20), memory: Some(2 << 30), random: 41 };

/// A file and variables, on a machine of eight cores.
fn load_both(file: &str, variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), Problems> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let variables: Vec<(String, String)> = variables.iter().map(own).collect();
    let layers = vec![file::read("f", file), environment(&variables)];
    Config::build(&merge(layers)?, HOST)
}

fn good(file: &str) -> (Config, Vec<String>) {
    load_both(file, &[]).unwrap()
}

/// A configuration for the tests of other rooms.
pub(crate) fn tested(file: &str) -> Config {
    good(file).0
}

fn bad(file: &str) -> Vec<String> {
    load_both(file, &[]).unwrap_err().texts()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn usual_auth() -> Auth {
    Auth {
        timeout: seconds(60),
        max_commands: 1000,
        max_input: 256 << 10,
        max_output: 64 << 10,
        failures: Failures { delay: Duration::from_millis(100), delay_max: seconds(3), most: 10, window: seconds(60) },
        terminate: false,
        users: vec![],
        proxy_read: vec!["any".to_owned()],
        proxy_write: vec![],
    }
}

fn usual_client() -> Client {
    Client {
        max_connections: 10_000,
        accept_rate: 0,
        accept_burst: 2000,
        backlog: 1024,
        inflight_commands: 128,
        inflight_bytes: 1 << 20,
        request_timeout: Duration::ZERO,
        output_soft: 1 << 20,
        output_limit: 256 << 20,
        output_stall_time: seconds(60),
        pubsub_output_limit: 32 << 20,
        proxy_commands: true,
        query_buffer_limit: 1 << 30,
        max_per_source: None,
        partial_timeout: Duration::from_secs(30),
        max_age: Duration::ZERO,
        tcp_keepalive: seconds(300),
        verify_privileged: true,
    }
}

fn usual_upstream() -> Upstream {
    Upstream {
        endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 6379 },
        db: 0,
        username: None,
        password: None,
        max_connections: 32,
        connect_timeout: seconds(1),
        handshake_timeout: seconds(3),
        connect_wait: seconds(5),
        progress_timeout: seconds(10),
        idle_timeout: seconds(60),
        keepalive: seconds(30),
        suspect_after: seconds(2),
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_millis(1500),
        verified_after: seconds(10),
        circuit_failures: 5,
        auth_backoff_min: seconds(15),
        auth_backoff_max: seconds(300),
        connects_per_second: 50,
        on_loss: OnLoss::Close,
        tls: UpstreamTls::default(),
        retry_reads: false,
    }
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let (config, warnings) = good("");
    assert_eq!(warnings, Vec::<String>::new());
    let expected = Config {
        listen: vec![Listen::Tcp("127.0.0.1:6380".parse().unwrap())],
        workers: 4,
        coalesce: true,
        admin: Some("127.0.0.1:9380".parse().unwrap()),
        admin_token: None,
        handover: None,
        embedded: false,
        instance: 42,
        upstream: usual_upstream(),
        lane: Lane {
            max_command_bytes: 256 << 10,
            max_inflight_commands: 16_384,
            max_inflight_bytes: 8 << 20,
            canary_commands: 1024,
            canary_interval: seconds(1),
            busy_threshold: seconds(5),
        },
        pool: Pool { wait_timeout: seconds(5), max_waiters: 16_384, idle_transaction_timeout: seconds(60) },
        blocking: Blocking {
            max_connections: None,
            group_width: 1,
            poll_min: Duration::from_millis(5),
            poll_max: Duration::from_millis(50),
            give_back: true,
        },
        pubsub: Pubsub {
            shared: true,
            exact_resp3: false,
            output_soft: 8 << 20,
            output_soft_time: Duration::from_secs(60),
        },
        client: usual_client(),
        memory_limit: 512 << 20,
        // See the test on TLS and unix sockets.
        tls: config.tls.clone(),
        unix: config.unix.clone(),
        auth: usual_auth(),
        commands: Commands { deny: vec![], allow: vec![], exempt: vec![] },
        reload_poll: Duration::from_secs(10),
        pause_max: Duration::from_secs(60),
        drain: Drain { delay: Duration::ZERO, timeout: seconds(25), spread: seconds(10), endpoint: None },
        log: Log { level: "info".to_owned(), format: LogFormat::Auto },
        allow_remote_passwordless: false,
        integrity: Integrity::Normal,
        slowlog: Slowlog { threshold: Duration::from_millis(10), size: 128, keys: false },
        hotkeys: Hotkeys { sample: 0 },
        shown: ShownSettings::default(),
    };
    assert_eq!(config, expected);
}

#[test]
fn the_example_loads_as_the_defaults_and_has_every_key() {
    let example = example();
    assert_eq!(good(&example), good(""));
    // Also what it leaves commented out is valid, though not all at once.
    for key in KEYS.iter() {
        let (value, is_default) = key.example_toml();
        let (table, name) = key.table_and_name();
        let line = format!("{}{name} = {value}", if is_default { "" } else { "# " });
        assert!(example.lines().any(|l| l == line), "{line}");
        assert!(example.contains(&key.env()), "{}", key.path);
        let single = match table {
            "" => format!("{name} = {value}"),
            _ => format!("[{table}]\n{name} = {value}"),
        };
        assert!(merge(vec![file::read("f", &single)]).is_ok(), "{single}");
    }
    assert!(example.lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn every_key_reaches_the_configuration() {
    let (defaults, _) = good("");
    // Another valid value for each kind of key.
    for key in KEYS.iter() {
        let value = match key.path {
            "instance" => "7".to_owned(),
            "handover" => "/h".to_owned(),
            "workers" => "3".to_owned(),
            "admin" | "log.level" => "off".to_owned(),
            "listen" => "unix:/s".to_owned(),
            "upstream.url" => "redis://h/1".to_owned(),
            "upstream.db" => "5".to_owned(),
            "upstream.password" | "upstream.password_file" | "admin_token" | "admin_token_file" => "p".to_owned(),
            // Has no effect any more.
            "client.exact_connection_commands" => continue,
            // Needs a password to be valid: see the test on credentials.
            "upstream.username" => continue,
            // Valid in company only: see the test on TLS.
            "tls.client_auth" | "upstream.tls_cert_file" | "upstream.tls_key_file" => continue,
            "tls.cert_file" | "tls.key_file" | "tls.client_ca_file" | "upstream.tls_ca_file" => "/f".to_owned(),
            "upstream.tls_server_name" => "h".to_owned(),
            "drain.endpoint" => "h:1".to_owned(),
            "tls.min_version" => "1.3".to_owned(),
            "unix.mode" => "0600".to_owned(),
            "unix.allow_uids" => "1000".to_owned(),
            "upstream.on_loss" => "error".to_owned(),
            "integrity" => "strict".to_owned(),
            "log.format" => "json".to_owned(),
            "memory.limit" => "9MiB".to_owned(),
            "coalesce" | "client.verify_privileged" | "client.proxy_commands" | "blocking.give_back" => {
                "false".to_owned()
            }
            "blocking.max_connections" => "9".to_owned(),
            "blocking.poll_min" => "7ms".to_owned(),
            "auth.failure_delay" => "1s".to_owned(),
            "auth.proxy_read" | "auth.proxy_write" => "somebody".to_owned(),
            // These two need each other: see the tests on users.
            "auth.mode" | "auth.users" => continue,
            "commands.deny" | "commands.allow" | "commands.exempt" => "KEYS".to_owned(),
            "pubsub.mode" => "pinned".to_owned(),
            "pubsub.resp3" => "exact".to_owned(),
            path => match key.kind {
                Kind::Switch => "true".to_owned(),
                // Between the bounds of those that bound each other.
                Kind::Time { .. } if path == "upstream.backoff_min" => "1s".to_owned(),
                Kind::Time { .. } if path == "upstream.auth_backoff_max" => "1h".to_owned(),
                Kind::Time { .. } => "4s".to_owned(),
                Kind::Count { .. } => "1023".to_owned(),
                Kind::Size { .. } => "2MiB".to_owned(),
                _ => panic!("{path} needs a value here"),
            },
        };
        let raw = Raw::Untyped(value);
        let assignments = vec![Assignment { key, raw, origin: Origin::Flag(String::new()), is_old: false }];
        let layer = Layer { assignments, problems: vec![] };
        let (config, _) = Config::build(&merge(vec![layer]).unwrap(), HOST).unwrap();
        assert_ne!(config, defaults, "{}", key.path);
    }
}

#[test]
fn a_key_without_effect_is_named() {
    let (config, warnings) = good("client.exact_connection_commands = true");
    assert_eq!(config, good("").0);
    assert!(warnings[0].contains("client.exact_connection_commands has no effect any more"), "{warnings:?}");
}

#[test]
fn a_key_is_read_by_its_old_name_too_with_a_warning() {
    let (config, warnings) = good("blocking.fold_width = 3");
    assert_eq!(
        (config.blocking.group_width, config.shown.json()["blocking.group_width"]["value"].clone()),
        (3, 3.into())
    );
    let text =
        "blocking.fold_width is called blocking.group_width now; the old name will be unknown in the next version";
    assert_eq!(warnings, [format!("f:1:23: {text}")]);
    let (config, warnings) = load_both("blocking.group_width = 2", &[("RESPMUX_BLOCKING_FOLD_WIDTH", "4")]).unwrap();
    assert_eq!((config.blocking.group_width, warnings), (4, vec![format!("RESPMUX_BLOCKING_FOLD_WIDTH: {text}")]));
    let twice = bad("[blocking]\nfold_width = 3\ngroup_width = 4");
    assert_eq!(twice, ["f:3:15: blocking.group_width is also given by f:2:14"]);
}

#[test]
fn workers_fit_the_cap_unless_they_were_asked_for() {
    let workers = |file| good(file).0.workers;
    assert_eq!(workers("upstream.max_connections = 24"), 4);
    let (config, warnings) = good("upstream.max_connections = 23");
    assert_eq!((config.workers, config.division().total()), (3, 23));
    let expected = "workers lowered from 4 to 3: upstream.max_connections = 23 has room for 6 each; \
                    24 would be needed for 4";
    assert_eq!(warnings, [expected]);
    assert_eq!(workers("upstream.max_connections = 6"), 1);
    let explicit = bad("workers = 4\n[upstream]\nmax_connections = 23");
    assert!(explicit[0].starts_with("f:3:19, f:1:11: upstream.max_connections = 23 is"), "{explicit:?}");
    assert!(explicit[0].ends_with("to 24 or lower workers to 3"), "{explicit:?}");
    assert!(bad("upstream.max_connections = 5")[0].ends_with("raise upstream.max_connections to 6"));
}

#[test]
fn credentials_come_from_the_latest_layer() {
    let inline = |password: &str| Some(SecretSource::Inline(Secret::new(password.as_bytes())));
    let file = "upstream.url = 'redis://u:p@h/3'";
    let (config, warnings) = good(file);
    let Upstream { db, username, password, .. } = config.upstream;
    assert_eq!((db, username.as_deref(), password), (3, Some("u"), inline("p")));
    assert!(warnings[0].starts_with("f:1:16: upstream.url holds a password"), "{warnings:?}");

    let over =
        [("RESPMUX_UPSTREAM_USERNAME", "v"), ("RESPMUX_UPSTREAM_PASSWORD_FILE", "/q"), ("RESPMUX_UPSTREAM_DB", "4")];
    let upstream = load_both(file, &over).unwrap().0.upstream;
    assert_eq!(upstream.db, 4);
    assert_eq!(upstream.username.as_deref(), Some("v"));
    assert_eq!(upstream.password, Some(SecretSource::File("/q".into())));

    let over = [("RESPMUX_UPSTREAM", "redis://:new@h")];
    let upstream = load_both("upstream.password = 'old'", &over).unwrap().0.upstream;
    assert_eq!(upstream.password, inline("new"));
}

#[test]
fn credentials_given_twice_in_one_layer_are_refused() {
    let expected = "f:3:17: upstream.password_file: the password is also in upstream.url (f:2:7); keep one";
    let twice = bad("[upstream]\nurl = 'redis://:p@h'\npassword_file = '/p'");
    assert_eq!(twice, [expected]);
    assert_eq!(bad("[upstream]\nurl = 'redis://h/1'\ndb = 1").len(), 1);
    assert!(bad("upstream.username = 'u'")[0].contains("user name but no password"));
}

#[test]
fn embedded_and_a_url_exclude_each_other() {
    assert!(good("embedded = true").0.embedded);
    let both = bad("embedded = true\n[upstream]\nurl = 'redis://h'");
    let expected = "f:1:12: embedded = true starts an upstream, but f:3:7 names one: keep one";
    assert_eq!(both, [expected]);
    let (config, warnings) = load_both("embedded = true", &[("RESPMUX_UPSTREAM", "redis://h")]).unwrap();
    assert!(!config.embedded);
    assert_eq!(warnings, ["RESPMUX_UPSTREAM takes the place of embedded in f:1:12"]);
    let file = "[upstream]\nurl = 'redis://u:p@h/3'";
    let (config, warnings) = load_both(file, &[("RESPMUX_EMBEDDED", "1")]).unwrap();
    let upstream = &config.upstream;
    assert!(config.embedded && upstream.password.is_none() && upstream.username.is_none());
    assert_eq!(upstream.db, 0);
    assert!(warnings.contains(&"RESPMUX_EMBEDDED takes the place of upstream.url in f:2:7".to_owned()));
}

#[test]
fn other_machines_are_kept_from_a_local_upstream_without_password() {
    let remote = "listen = ['127.0.0.1:6381', '0.0.0.0:6380']\n";
    assert!(bad(remote)[0].starts_with("f:1:10: listen = 0.0.0.0:6380 lets other machines"));
    assert!(load_both(remote, &[("RESPMUX_EMBEDDED", "1")]).is_err());
    for remedy in
        ["allow_remote_passwordless = true", "upstream.url = 'redis://redis'", "upstream.password_file = '/p'"]
    {
        assert!(load_both(&format!("{remote}{remedy}"), &[]).is_ok(), "{remedy}");
    }
}

#[test]
fn one_setting_may_bound_another() {
    let file = "[upstream]\nbackoff_min = '6s'\n[lane]\nmax_inflight_bytes = '64KiB'\n\
                [client]\noutput_limit = '1KiB'";
    let expected = [
        "f:2:15: upstream.backoff_min = \"6s\" must not be above upstream.backoff_max = \"1500ms\"",
        "f:4:22: lane.max_command_bytes = \"256KiB\" must not be above lane.max_inflight_bytes = \"64KiB\"",
        "f:6:16: client.output_soft = \"1MiB\" must not be above client.output_limit = \"1KiB\"",
    ];
    assert_eq!(bad(file), expected);
}

#[test]
fn the_defaults_of_tls_and_unix_sockets() {
    let (config, _) = good("");
    let expected = Tls {
        cert_file: None,
        key_file: None,
        client_ca_file: None,
        client_auth: ClientAuth::No,
        min_version: TlsVersion::V1_2,
        handshake_timeout: seconds(5),
        max_handshakes: 512,
        reload_interval: seconds(5),
    };
    assert_eq!(config.tls, expected);
    assert_eq!(config.unix, Unix { mode: 0o660, allow_uids: None });
}

#[test]
fn tls_settings_belong_together() {
    let missing = bad("listen = ['tls:127.0.0.1:6390']");
    assert_eq!(missing, ["f:1:10: an address tls:IP:PORT needs tls.cert_file and tls.key_file"]);
    let (config, warnings) = good(
        "listen = ['tls:127.0.0.1:6390', '127.0.0.1:6380']\n[tls]\ncert_file = 'c'\nkey_file = 'k'\n\
         client_auth = 'optional'\nclient_ca_file = 'a'",
    );
    assert_eq!(config.listen[0], Listen::Tls("127.0.0.1:6390".parse().unwrap()));
    assert_eq!((config.tls.client_auth, warnings), (ClientAuth::Optional, vec![]));
    assert_eq!(
        bad("[tls]\nclient_auth = 'required'"),
        ["f:2:15: client certificates cannot be checked without tls.client_ca_file"]
    );
    let half = bad("[upstream]\nurl = 'rediss://h'\ntls_key_file = 'k'");
    assert_eq!(half, ["f:3:16: upstream.tls_cert_file and upstream.tls_key_file belong together"]);
    let (config, warnings) = good("upstream.url = 'rediss://h'\nupstream.tls_insecure_skip_verify = true");
    assert!(config.upstream.tls.enabled && warnings[0].contains("accepts any certificate"), "{warnings:?}");
    let (_, warnings) = good("upstream.tls_ca_file = 'a'");
    assert_eq!(warnings, ["upstream.tls_… is set, but upstream.url is no rediss:// URL: not used"]);
}

#[test]
fn what_cannot_be_handed_over() {
    assert_eq!(good("handover = '/h'").0.handover, Some("/h".into()));
    assert_eq!(
        bad("handover = '/h'\nembedded = true"),
        ["f:1:12: handover: the server of embedded = true cannot be handed over"]
    );
    assert_eq!(bad("handover = '/h'\nlisten = 'unix:/h'"), ["f:1:12: handover: clients listen on unix:/h already"]);
    assert!(bad(&format!("handover = '/{}'", "h".repeat(120)))[0].starts_with("f:1:12: handover: "));
}

#[test]
fn advice_is_given_where_it_is_due() {
    let (_, warnings) = good("lane.busy_threshold = '10s'\ndrain.delay = '6s'");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("lane.busy_threshold") && warnings[1].contains("exceed 30s"));
    let settings = merge(vec![]).unwrap();
    let open_files = |limit| Config::build(&settings, Host { open_files: Some(limit), ..HOST }).unwrap().1;
    assert_eq!(open_files(10_160), Vec::<String>::new());
    assert!(open_files(10_159)[0].contains("needs 10160 open files, the hard limit is 10159"));
}

#[test]
fn the_token_of_the_admin_port_is_given_once() {
    let inline = |text: &str| Some(SecretSource::Inline(Secret::new(text.as_bytes())));
    let (config, _) = good("admin_token = 'secret'");
    assert_eq!(config.admin_token, inline("secret"));
    let (config, _) = good("admin_token_file = '/t'");
    assert_eq!(config.admin_token, Some(SecretSource::File("/t".into())));
    let twice = bad("admin_token = 'secret'\nadmin_token_file = '/t'");
    assert_eq!(twice, ["f:2:20: admin_token_file: the token is also in admin_token (f:1:15); keep one"]);
}

#[test]
fn no_debug_output_holds_a_secret() {
    let file = "admin_token = 'hunter2'\n[upstream]\nurl = 'redis://u:hunter2@h'";
    let layer = file::read("f", file);
    let settings = merge(vec![layer]).unwrap();
    let (config, _) = Config::build(&settings, HOST).unwrap();
    let text = format!("{settings:?} {config:?}");
    assert!(text.contains("***") && !text.contains("hunter2"), "{text}");
}

#[test]
fn settings_are_shown_with_their_origin_and_without_secrets() {
    let (config, _) = load_both(
        "workers = 2\n[upstream]\nurl = 'redis://app:hunter2@h:1'\n[pool]\nwait_timeout = '2s'",
        &[("RESPMUX_LOG_LEVEL", "warn"), ("RESPMUX_AUTH_PROXY_READ", "a,b")],
    )
    .unwrap();
    let shown = |key: &str| config.shown.json()[key].clone();
    let parts = |value: Value, effective: Value, origin: &str| json!({"value": value, "effective": effective, "origin": origin});
    assert_eq!(shown("pool.wait_timeout"), parts("2s".into(), "2s".into(), "f:5:16"));
    assert_eq!(shown("log.level"), parts("warn".into(), "warn".into(), "variable RESPMUX_LOG_LEVEL"));
    assert_eq!(shown("workers"), parts(2.into(), 2.into(), "f:1:11"));
    assert_eq!(shown("coalesce"), parts(true.into(), true.into(), "default"));
    assert_eq!(shown("auth.proxy_read")["value"], json!(["a", "b"]));
    assert_eq!(shown("upstream.password"), parts(Value::Null, "***".into(), "default"));
    assert_eq!(shown("upstream.username"), parts(Value::Null, "app".into(), "default"));
    assert_eq!(shown("upstream.url")["value"], "redis://app:***@h:1");
    assert_eq!(shown("instance"), parts("random".into(), Value::Null, "default"));
    assert_eq!(shown("blocking.max_connections")["effective"].as_u64().map(|most| most > 0), Some(true));
    assert_eq!(config.shown.iter().count(), KEYS.len());
    let lines: Vec<String> = config.shown.iter().map(|setting| setting.line(setting.key)).collect();
    assert!(
        lines.contains(&"auth.proxy_read = [\"a\", \"b\"]  # variable RESPMUX_AUTH_PROXY_READ".to_owned()),
        "{lines:?}"
    );
    assert!(lines.contains(&"# upstream.db is not set  # default; in effect: 0".to_owned()), "{lines:?}");
    assert!(!format!("{lines:?} {}", config.shown.json()).contains("hunter2"));
    // Where a value was given makes no other configuration.
    let (by_variable, _) = load_both("", &[("RESPMUX_WORKERS", "2")]).unwrap();
    let (by_file, _) = good("workers = 2");
    assert_eq!(by_variable, by_file);
    assert_eq!(by_variable.fingerprint(), by_file.fingerprint());
}

/// What another key has taken the place of is no part of the configuration: the lines load as the same one.
#[test]
fn what_is_shown_loads_as_the_same_configuration() {
    for (file, variables) in [
        ("instance = 1", &[][..]),
        ("instance = 1\nembedded = true", &[]),
        ("instance = 1\nembedded = true", &[("RESPMUX_UPSTREAM", "redis://h")]),
        ("instance = 1\n[upstream]\nurl = 'redis://h'", &[("RESPMUX_EMBEDDED", "true")]),
        ("instance = 1\n[upstream]\ndb = 3\nurl = 'redis://h'", &[("RESPMUX_UPSTREAM", "redis://h/4")]),
        ("instance = 1\n[client]\nmax_per_source = 4\n[auth]\nproxy_read = ['a b', 'c']", &[]),
    ] {
        let (config, _) = load_both(file, variables).unwrap();
        let lines: Vec<String> = config.shown.iter().map(|setting| setting.line(setting.key)).collect();
        let again = good(&lines.join("\n")).0;
        assert_eq!(again, config, "{file} {variables:?}: {lines:#?}");
    }
}
