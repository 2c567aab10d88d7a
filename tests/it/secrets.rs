//! Proof T27: known passwords in every place; nothing that the process prints or serves holds one.

use std::process::Command;

use kit::{Flavour, Frame, Proxy, ProxyOptions, RealRedis};

/// Each is somewhere; none may be seen.
const SECRETS: [&str; 6] =
    ["upstream-s3cret", "acl-s3cret", "wrong-s3cret", "hello-s3cret", "inline-s3cret", "migrate-s3cret"];

fn show(frame: &Frame) -> String {
    format!("{frame:?}")
}

#[test]
fn passwords_are_nowhere_in_what_the_process_prints_and_serves() {
    let mut redis = RealRedis::start(Flavour::Redis70, &["--requirepass", SECRETS[0]]);
    let mut direct = redis.connect();
    assert_eq!(direct.ask("AUTH upstream-s3cret").as_str(), "OK");
    direct.ask("ACL SETUSER eve on >acl-s3cret ~* &* +@all");
    let url = format!("redis://:{}@127.0.0.1:{}", SECRETS[0], redis.port());
    let options = ProxyOptions { upstream: Some(url.clone()), ..ProxyOptions::tight() }
        .set("log.level=trace")
        .set("auth.failure_delay=0s");
    let proxy = Proxy::start(&redis, &options);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    let mut seen = Vec::new();
    for line in [
        "AUTH eve wrong-s3cret",
        "AUTH wrong-s3cret",
        "HELLO 3 AUTH eve hello-s3cret",
        "HELLO 2 AUTH eve acl-s3cret SETNAME me",
        "MIGRATE 127.0.0.1 1 k 0 10 AUTH migrate-s3cret",
        "WATCH k",
        "AUTH eve wrong-s3cret",
        "UNWATCH",
        "PING",
    ] {
        seen.push(show(&client.ask(line)));
    }
    other.send(b"AUTH eve inline-s3cret\r\nPING\r\n");
    seen.extend([other.read_frame(), other.read_frame()].iter().map(show));
    for line in [
        "PROXY INFO",
        "PROXY CLIENTS",
        "PROXY POOLS",
        "PROXY WHOAMI",
        "PROXY CONFIG LIST",
        "PROXY CONFIG GET *",
        "CLIENT LIST",
        "PROXY EXPLAIN GET k",
    ] {
        seen.push(show(&client.ask(line)));
    }
    // Errors of the log: the upstream away, a login refused because the password was changed.
    direct.ask("CONFIG SET requirepass changed");
    direct.ask("CLIENT KILL TYPE normal SKIPME yes");
    other.send(b"PING\r\n");
    redis.kill();
    client.send(b"PING\r\n");
    for page in
        ["/metrics", "/readyz", "/livez", "/startupz", "/", "/status.json", "/config", "/clients.json", "/certs"]
    {
        seen.push(proxy.http(page).map(|(_, body)| body).unwrap_or_default());
    }
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_respmux")).args(arguments).output().expect("respmux starts");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    seen.push(run(&["config", "print", "--upstream", &url]));
    seen.push(run(&["check", "--json", "--upstream", &url]));
    seen.push(run(&["check", "--upstream", &format!("{url}/x"), "--workers", "many"]));
    seen.push(run(&["--set", &format!("upstream.pasword={}", SECRETS[0])]));
    let log = proxy.log();
    assert!(log.contains("\"level\":\"TRACE\"") || log.contains("\"level\":\"DEBUG\""), "the log says much: {log}");
    seen.push(log);
    for text in &seen {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} in: {text}");
        }
    }
    assert!(seen.len() > 20 && seen.iter().map(String::len).sum::<usize>() > 10_000, "there was something to look at");
}

/// Rule A9: other machines are not let through to a server that trusts its own.
#[test]
fn an_open_listener_before_a_passwordless_local_server_is_refused() {
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_respmux")).arg("check").args(arguments).output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, text) = run(&["--listen", "0.0.0.0:6380"]);
    assert!(code == Some(78) && text.contains("lets other machines use an upstream that is local"), "{code:?} {text}");
    for address in ["[::]:6380", "10.1.2.3:6380"] {
        assert_eq!(run(&["--listen", address]).0, Some(78), "{address}");
    }
    for good in [
        &[][..],
        &["--listen", "127.0.0.1:6380"],
        &["--listen", "[::1]:6380"],
        &["--listen", "0.0.0.0:6380", "--upstream", "redis://10.0.0.1"],
        &["--listen", "0.0.0.0:6380", "--upstream", "redis://:p@127.0.0.1"],
        &["--listen", "0.0.0.0:6380", "--set", "allow_remote_passwordless=true"],
    ] {
        let (code, text) = run(good);
        assert_eq!(code, Some(0), "{good:?}: {text}");
    }
    // The default is the loopback.
    assert!(run(&[]).1.contains("127.0.0.1:6380"));
}
