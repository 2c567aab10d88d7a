//! Logins that respmux judges itself, by the users of its configuration.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use kit::{Flavour, Frame, Proxy, ProxyOptions, RealRedis, TestClient};

/// What `respmux hash-password` prints for `password`.
fn hash(password: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_respmux"))
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("respmux starts");
    writeln!(child.stdin.take().expect("piped"), "{password}").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8(output.stdout).expect("hexadecimal").trim().to_owned()
}

/// A locked server with a service user, and respmux with users of its own in front of it.
struct Stage {
    redis: RealRedis,
    proxy: Proxy,
    _directory: tempfile::TempDir,
}

fn stage(flavour: Flavour, more: &str) -> Stage {
    let redis = RealRedis::start(flavour, &["--requirepass", "service-secret"]);
    let mut direct = redis.connect();
    assert_eq!(direct.ask("AUTH service-secret").as_str(), "OK");
    assert_eq!(direct.ask("ACL SETUSER reader on >reader-secret ~* &* +@read +@connection").as_str(), "OK");
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (service, reader) = (file("service", "service-secret\n"), file("reader", "reader-secret\n"));
    let mut text =
        format!("[upstream]\npassword_file = '{service}'\n[auth]\nmode = 'terminate'\nfailure_delay = '0s'\n");
    let user = |name: &str, rest: &str| format!("[[auth.users]]\nname = '{name}'\n{rest}\n");
    let (old, new) = (hash("old"), hash("new"));
    let _ = write!(text, "{}", user("app", &format!("password_sha256 = ['{old}', '{new}']\nproxy = 'none'")));
    let _ = write!(text, "{}", user("twin", &format!("password_sha256 = '{new}'\ndeny = ['FLUSHALL', 'ACL']")));
    let rest = format!("password_sha256 = '{new}'\nupstream_user = 'reader'\nupstream_password_file = '{reader}'");
    text.push_str(&user("reader-of-ours", &rest));
    text.push_str(more);
    let config = file("respmux.toml", &text);
    let options = ProxyOptions { arguments: vec!["--config".to_owned(), config], ..ProxyOptions::sized(1, 12) };
    let proxy = Proxy::start(&redis, &options);
    Stage { redis, proxy, _directory: directory }
}

fn wrong(frame: &Frame) -> bool {
    frame.as_str() == "WRONGPASS invalid username-password pair or user is disabled."
}

fn logged_in(proxy: &Proxy, user: &str, password: &str) -> TestClient {
    let mut client = proxy.connect();
    assert_eq!(client.ask(&format!("AUTH {user} {password}")).as_str(), "OK");
    client
}

fn users_of_the_configuration(flavour: Flavour) {
    let Stage { redis, proxy, .. } = &stage(flavour, "");
    let mut client = proxy.connect();
    for line in ["PING", "GET k", "CLIENT LIST", "PROXY INFO"] {
        assert_eq!(client.ask(line).as_str(), "NOAUTH Authentication required.", "{line}");
    }
    assert!(client.ask("HELLO 3").as_str().starts_with("NOAUTH HELLO must be called"));
    // Neither the upstream's users, nor wrong ones, nor hashes.
    for line in ["AUTH service-secret", "AUTH default service-secret", "AUTH reader reader-secret"] {
        assert!(wrong(&client.ask(line)), "{line}");
    }
    for line in [format!("AUTH app {}", hash("new")), "HELLO 3 AUTH app nearly".to_owned()] {
        assert!(wrong(&client.ask(&line)), "{line}");
    }
    assert_eq!(client.ask("PING").as_str(), "NOAUTH Authentication required.", "a failure changes nothing");
    assert_eq!(client.ask("AUTH app old").as_str(), "OK");
    assert_eq!(client.ask("SET k 1").as_str(), "OK");
    // HELLO with AUTH: another user, another protocol, and the reply is the server's.
    let hello = client.ask("HELLO 3 AUTH twin new SETNAME mine");
    assert!(!hello.is_error(), "{hello:?}");
    assert_eq!(client.ask("CLIENT GETNAME").as_str(), "mine");
    assert!(client.ask("FLUSHALL").as_str().starts_with("NOPERM"));
    assert!(client.ask("ACL WHOAMI").as_str().starts_with("NOPERM"));
    assert_eq!(client.ask("GET k").as_str(), "1");
    // A user with rights of its own upstream.
    let mut reader = logged_in(proxy, "reader-of-ours", "new");
    assert_eq!(reader.ask("GET k").as_str(), "1");
    assert!(reader.ask("SET k 2").as_str().starts_with("NOPERM"));
    assert_eq!(reader.ask("RESET").as_str(), "RESET");
    assert_eq!(reader.ask("GET k").as_str(), "NOAUTH Authentication required.");
    // The users of the configuration are not those of the server: it has judged no password of a client.
    let mut direct = redis.connect();
    assert_eq!(direct.ask("AUTH service-secret").as_str(), "OK");
    assert!(!direct.ask("INFO errorstats").as_str().contains("WRONGPASS"));
    let ok = proxy.metric("respmux_client_logins_total", &[("result", "ok")]);
    let failed = proxy.metric("respmux_client_logins_total", &[("result", "failed")]);
    assert_eq!((ok, failed), (Some(3.0), Some(5.0)));
}

#[test]
fn on_redis_7_0() {
    users_of_the_configuration(Flavour::Redis70);
}

#[test]
fn on_valkey_9() {
    users_of_the_configuration(Flavour::Valkey9);
}

/// `app` and `twin` are the same user upstream, and still no connection serves both.
#[test]
fn two_users_never_share_a_connection() {
    let Stage { proxy, .. } = &stage(Flavour::Redis70, "");
    let (mut app, mut twin) = (logged_in(proxy, "app", "new"), logged_in(proxy, "twin", "new"));
    for client in [&mut app, &mut twin] {
        client.ask("PING");
    }
    let lanes: Vec<_> = twin.ask("PROXY LANES").items.iter().map(Frame::as_str).collect();
    for name in ["user=app ", "user=twin "] {
        assert_eq!(lanes.iter().filter(|line| line.contains(name)).count(), 1, "{lanes:?}");
    }
}

/// AUTH while a connection is held is judged here too; its password is not the upstream's business.
#[test]
fn a_held_connection_stays_its_users() {
    let Stage { proxy, .. } = &stage(Flavour::Redis70, "");
    let mut client = logged_in(proxy, "app", "new");
    assert_eq!(client.ask("WATCH k").as_str(), "OK");
    assert!(wrong(&client.ask("AUTH default service-secret")));
    assert!(wrong(&client.ask("HELLO 3 AUTH reader reader-secret")));
    assert_eq!(client.ask("AUTH app old").as_str(), "OK");
    assert!(client.ask("AUTH twin new").as_str().starts_with("ERR another user cannot log in"));
    assert_eq!(client.ask("ACL WHOAMI").as_str(), "default");
    assert_eq!(client.ask("UNWATCH").as_str(), "OK");
    assert_eq!(client.ask("AUTH twin new").as_str(), "OK");
}

#[test]
fn an_open_default_user_and_rights_to_proxy() {
    let more = "[[auth.users]]\nname = 'default'\nnopass = true\ndeny = ['@dangerous']\n";
    let Stage { proxy, .. } = &stage(Flavour::Redis70, more);
    let mut client = proxy.connect();
    assert_eq!(client.ask("PING").as_str(), "PONG");
    assert!(client.ask("FLUSHALL").as_str().starts_with("NOPERM"));
    assert!(client.ask("AUTH x").as_str().starts_with("ERR AUTH <password> called without any password"));
    assert!(!client.ask("PROXY WHOAMI").is_error());
    assert_eq!(client.ask("AUTH app new").as_str(), "OK");
    for line in ["PROXY INFO", "PROXY CLIENTS", "PROXY DRAIN"] {
        assert!(client.ask(line).as_str().starts_with("NOPERM"), "{line}");
    }
    for line in ["PROXY WHOAMI", "PROXY HELP", "PROXY EXPLAIN GET k"] {
        assert!(!client.ask(line).is_error(), "{line} needs no right");
    }
    assert_eq!(client.ask("FLUSHALL").as_str(), "OK", "commands.deny is empty");
}

/// The same rights where the upstream judges.
#[test]
fn proxy_rights_are_by_user() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    redis.connect().ask("ACL SETUSER eve on >eve ~* &* +@all");
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("auth.proxy_read=eve"));
    let mut client = proxy.connect();
    assert!(client.ask("PROXY INFO").as_str().starts_with("NOPERM"));
    assert_eq!(client.ask("AUTH eve eve").as_str(), "OK");
    assert!(!client.ask("PROXY INFO").is_error());
}
