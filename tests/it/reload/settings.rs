//! Which settings a reload puts in force, what becomes of a bad file, and what waits for a restart.

use std::io::Write as _;
use std::time::Duration;

use super::{Configured, lines, reload};
use kit::{Flavour, PATIENCE, RealRedis, TestClient, eventually, pause};

#[test]
fn a_reload_puts_limits_rights_and_lists_in_force_for_clients_that_are_connected() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "");
    let (mut admin, mut client) = (it.proxy.connect(), it.proxy.connect());
    assert_eq!(client.ask("KEYS *").items.len(), 0);
    let before = it.hash();

    it.write(&redis.url(), "commands.deny = 'KEYS'\nclient.max_connections = 3\nmemory.limit = '33MiB'\n");
    reload(&mut admin, "client.max_connections, memory.limit, commands.deny");
    assert!(client.ask("KEYS *").as_str().starts_with("NOPERM"));
    assert_eq!(it.metric("respmux_client_connections_max"), 3.0);
    assert_eq!(it.metric("respmux_buffered_bytes_max"), f64::from(33 << 20));
    let mut third = it.proxy.connect();
    assert_eq!(third.ask("PING").as_str(), "PONG");
    let mut fourth = it.proxy.connect();
    assert_eq!(fourth.read_frame().as_str(), "ERR max number of clients reached");
    assert_ne!(it.hash(), before);

    // Every one of these is read at its use or handed on; one observable fact each.
    it.write(&redis.url(), "client.proxy_commands = false\n");
    assert!(!admin.ask("PROXY RELOAD").is_error());
    assert!(admin.ask("PROXY HELP").is_error());
    assert_eq!(client.ask("KEYS *").items.len(), 0, "the list is empty again");
    it.write(&redis.url(), "");
    it.proxy.signal("HUP");
    eventually(PATIENCE, || if admin.ask("PROXY HELP").is_error() { Err("still off") } else { Ok(()) });
    // It is in force before the metrics say so.
    eventually(PATIENCE, || if it.hash() == before { Ok(()) } else { Err("another name") });
    assert_eq!(it.proxy.metrics().matches("respmux_config_hash_info{").count(), 1);

    it.write(&redis.url(), "client.query_buffer_limit = '1MiB'\nclient.partial_timeout = '1s'\n");
    reload(&mut admin, "client.query_buffer_limit, client.partial_timeout");
    client.send(b"*2\r\n$4\r\nECHO\r\n$3000000\r\n");
    client.send(&vec![b'x'; 2 << 20]);
    client.expect_eof();
    third.send(b"*2\r\n$4\r\nECHO\r\n$10\r\nxx");
    third.expect_eof();
}

#[test]
fn logs_pools_and_times_change_too() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "log.level = 'warn'\n");
    let mut admin = it.proxy.connect();
    assert!(!it.proxy.log().contains("client left"));
    it.write(&redis.url(), "log.level = 'debug'\npool.idle_transaction_timeout = '200ms'\n");
    reload(&mut admin, "pool.idle_transaction_timeout, log.level");
    drop(it.proxy.connect());
    eventually(PATIENCE, || if it.proxy.log().contains("client left") { Ok(()) } else { Err("no debug line") });
    let mut idle = it.proxy.connect();
    assert_eq!(idle.ask("MULTI").as_str(), "OK");
    pause(Duration::from_millis(600));
    assert!(idle.ask("EXEC").is_error(), "the transaction was given up");
    // The end of a stall: a circuit that opens after one failure answers at once.
    it.write("redis://127.0.0.1:1", "upstream.connect_wait = '0s'\nupstream.circuit_failures = 1\n");
    assert!(!admin.ask("PROXY RELOAD").is_error());
    let answer = admin.ask("GET k").as_str();
    assert!(answer.starts_with("LOADING"), "{answer}");
    it.write(&redis.url(), "");
    assert!(!admin.ask("PROXY RELOAD").is_error());
    assert!(!admin.ask("SET k v").is_error());
}

#[test]
fn users_their_passwords_and_rights_change_and_those_of_deleted_users_are_closed() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let user = |name: &str, password: &str, more: &str| {
        use sha2::{Digest, Sha256};
        let hash: String = Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[auth.users]]\nname = '{name}'\npassword_sha256 = '{hash}'\n{more}")
    };
    let boss = user("boss", "b", "proxy = 'write'\n");
    let mode = "auth.mode = 'terminate'\n";
    let it = Configured::start(&redis, &format!("{mode}{boss}{}", user("old", "o", "proxy = 'read'\n")));
    let (mut admin, mut old) = (it.proxy.connect(), it.proxy.connect());
    assert_eq!(admin.ask("AUTH boss b").as_str(), "OK");
    assert_eq!(old.ask("AUTH old o").as_str(), "OK");
    assert!(old.ask("PROXY RELOAD").as_str().starts_with("NOPERM"));
    it.write(&redis.url(), &format!("{mode}{boss}{}", user("new", "n", "deny = ['GET']\n")));
    reload(&mut admin, "auth.users");
    old.expect_eof();
    let mut new = it.proxy.connect();
    assert!(new.ask("AUTH old o").is_error());
    assert_eq!(new.ask("AUTH new n").as_str(), "OK");
    assert!(new.ask("GET k").as_str().starts_with("NOPERM"));
    assert_eq!(new.ask("SET k v").as_str(), "OK");
}

#[test]
fn a_bad_file_changes_nothing_and_says_where() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "reload.poll = '50ms'\n");
    let mut admin = it.proxy.connect();
    let (before, loaded) = (it.hash(), it.metric("respmux_config_last_reload_success_timestamp_seconds"));
    assert_eq!(it.metric("respmux_config_last_reload_successful"), 1.0);
    it.write_raw("workers = 2\nclient.max_connections = 3\nclient.max_conections = 3\n");
    eventually(PATIENCE, || match it.metric("respmux_config_last_reload_successful") {
        0.0 => Ok(()),
        other => Err(format!("{other}")),
    });
    let error = admin.ask("PROXY RELOAD").as_str();
    assert!(error.contains("respmux.toml:3:") && error.contains("did you mean"), "{error}");
    for text in ["client.max_connections = [", "commands.deny = 'BANANAS'\n", "[upstream]\ntls_ca_file = 3\n"] {
        it.write_raw(text);
        assert!(admin.ask("PROXY RELOAD").as_str().starts_with("ERR "), "{text}");
    }
    assert_eq!((it.hash(), it.metric("respmux_config_last_reload_success_timestamp_seconds")), (before, loaded));
    assert_eq!(it.metric("respmux_client_connections_max"), 10000.0);
    // A file that is away for a moment is no reason for anything.
    std::fs::remove_file(&it.file).unwrap();
    pause(Duration::from_millis(200));
    assert_eq!(admin.ask("PING").as_str(), "PONG");
    it.write(&redis.url(), "client.max_connections = 99\n");
    eventually(PATIENCE, || match it.metric("respmux_client_connections_max") {
        99.0 => Ok(()),
        other => Err(format!("{other}")),
    });
    eventually(PATIENCE, || match it.metric("respmux_config_last_reload_successful") {
        1.0 => Ok(()),
        other => Err(format!("{other}")),
    });
    assert!(it.metric("respmux_config_last_reload_success_timestamp_seconds") > loaded);
    assert!(it.proxy.log().contains("the file has changed"));
}

#[test]
fn what_needs_a_restart_is_named_and_kept() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let it = Configured::start(&redis, "");
    let mut admin = it.proxy.connect();
    let answer = lines(&admin.ask("PROXY RELOAD"));
    assert_eq!(answer, ["changed:nothing", "pending_restart:nothing"]);
    let text = "tls.handshake_timeout = '9s'\nclient.max_per_source = 1\nblocking.max_connections = 2\n";
    it.write(&redis.url(), text);
    let answer = lines(&admin.ask("PROXY RELOAD"));
    assert_eq!(
        answer,
        ["changed:client.max_per_source", "pending_restart:blocking.max_connections, tls.handshake_timeout"]
    );
    assert_eq!(it.metric("respmux_config_pending_restart_keys"), 2.0);
    assert!(it.proxy.log().contains("need a restart"));
    // Those who were here before are not counted.
    let (mut second, mut third) = (it.proxy.connect(), it.proxy.connect());
    assert_eq!(second.ask("PING").as_str(), "PONG");
    assert_eq!(third.read_frame().as_str(), "ERR max number of clients reached");
    it.write(&redis.url(), "");
    reload(&mut admin, "client.max_per_source");
    assert_eq!(it.metric("respmux_config_pending_restart_keys"), 0.0);
}

#[test]
fn only_users_with_the_right_may() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let proxy = kit::Proxy::start(&redis, &kit::ProxyOptions::tight());
    let mut client = proxy.connect();
    for line in ["PROXY RELOAD", "PROXY PAUSE", "PROXY RESUME", "PROXY RECONNECT"] {
        assert!(client.ask(line).as_str().starts_with("NOPERM"), "{line}");
    }
}

/// As Kubernetes does it: the directory behind the name is another one.
#[test]
fn the_swap_of_a_config_map_is_seen() {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let directory = tempfile::tempdir().unwrap();
    let version = |name: &str, text: &str| {
        let folder = directory.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut file = std::fs::File::create(folder.join("respmux.toml")).unwrap();
        file.write_all(super::content(&redis.url(), text).as_bytes()).unwrap();
        let link = directory.path().join("new");
        std::os::unix::fs::symlink(name, &link).unwrap();
        std::fs::rename(&link, directory.path().join("..data")).unwrap();
    };
    version("one", "reload.poll = '50ms'\n");
    let file = directory.path().join("respmux.toml");
    std::os::unix::fs::symlink("..data/respmux.toml", &file).unwrap();
    let options = kit::ProxyOptions { config: Some(file), ..Default::default() };
    let proxy = kit::Proxy::start(&redis, &options);
    version("two", "client.max_connections = 55\n");
    eventually(PATIENCE, || match proxy.metric("respmux_client_connections_max", &[]) {
        Some(55.0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut client: TestClient = proxy.connect();
    assert_eq!(client.ask("PING").as_str(), "PONG");
}
