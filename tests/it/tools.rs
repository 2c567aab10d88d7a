//! What the program says of a running proxy, from outside.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use kit::{Address, Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually, free_port};

fn tool(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_respmux")).args(arguments).env_clear().output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("it writes text");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

fn url(proxy: &Proxy) -> String {
    let address = proxy.tcp_address();
    format!("redis://{address}")
}

#[test]
fn a_proxy_that_is_well_is_well_from_outside() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let admin = proxy.admin().to_string();
    let (code, out, err) = tool(&["ping", "--url", &url(&proxy)]);
    assert!(code == 0 && out.starts_with("PONG ") && out.ends_with(" ms\n"), "{code} {out:?} {err:?}");
    let listen = url(&proxy).replace("redis://", "");
    assert_eq!(tool(&["ping", "--listen", &listen]).0, 0);
    assert_eq!(tool(&["healthcheck", "--admin", &admin]), (0, "ok\n".to_owned(), String::new()));
    assert_eq!(tool(&["healthcheck", "--ready", "--admin", &admin]).0, 0);

    let mut client = proxy.connect();
    client.ask("SET k v");
    let (code, out, err) = tool(&["stat", "--admin", &admin, "-i", "0.2", "-n", "2"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert_eq!(&lines[0][..4], ["clients", "upstream", "cap", "up"]);
    assert_eq!((lines[1][0], lines[1][2], lines[1][3]), ("1", "6", "1"), "{out}");
}

#[test]
fn one_that_is_not_gives_exit_code_1_and_says_why() {
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", "sesame"]);
    let address = redis.tcp_address();
    let (code, _, err) = tool(&["ping", "--url", &format!("redis://{address}")]);
    assert_eq!((code, err.contains("-NOAUTH")), (1, true), "{err}");
    let (code, _, err) = tool(&["ping", "--url", &format!("redis://:hunter2@{address}")]);
    assert!(code == 1 && err.contains("-WRONGPASS") && !err.contains("hunter2"), "{err}");
    assert_eq!(tool(&["ping", "--url", &format!("redis://:sesame@{address}")]).0, 0);

    let nobody = format!("127.0.0.1:{}", free_port());
    for question in ["healthcheck", "stat"] {
        let (code, _, err) = tool(&[question, "--admin", &nobody]);
        assert_eq!((code, err.contains("refused")), (1, true), "{question}: {err}");
    }
    let (code, _, err) = tool(&["healthcheck", "--admin", "off"]);
    assert_eq!((code, err.as_str()), (1, "respmux: the admin endpoint is off\n"));
    assert_eq!(tool(&["ping", "--url", "redis://:hunter2@h:port"]).0, 1);
}

#[test]
fn documents_are_written() {
    for (arguments, wanted) in [
        (&["completions", "bash"][..], "complete -F"),
        (&["completions", "zsh"], "#compdef respmux"),
        (&["completions", "fish"], "complete -c respmux"),
        (&["man"], ".TH respmux 1"),
        (&["config", "schema"], "\"max_connections\""),
        (&["config", "reference"], "| `RESPMUX_UPSTREAM_MAX_CONNECTIONS`"),
    ] {
        let (code, out, err) = tool(arguments);
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        assert!(out.contains(wanted), "{arguments:?} has no {wanted:?}");
    }
}

/// A command in a terminal of its own, as a person has it.
fn on_terminal(line: &str) -> std::process::Child {
    Command::new("script")
        .args(["-qfec", line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux runs")
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let mut child = on_terminal(&format!("{} hash-password", env!("CARGO_BIN_EXE_respmux")));
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut text = Vec::new();
    let read = |screen: &mut std::process::ChildStdout, text: &mut Vec<u8>| {
        let mut chunk = [0; 512];
        let count = std::io::Read::read(screen, &mut chunk).unwrap();
        text.extend_from_slice(&chunk[..count]);
        count
    };
    while !String::from_utf8_lossy(&text).contains("Password: ") {
        assert!(read(&mut screen, &mut text) > 0, "no prompt");
    }
    keys.write_all(b"foobar\n").unwrap();
    while read(&mut screen, &mut text) > 0 {}
    assert!(child.wait().unwrap().success());
    let text = String::from_utf8_lossy(&text);
    // SHA-256 of it.
    assert!(text.contains("c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2"), "{text}");
    assert!(!text.contains("foobar"), "{text}");
}

#[test]
fn the_end_of_the_terminal_is_the_end_of_the_process() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let port = free_port();
    let line = format!(
        "{} run --admin off --listen 127.0.0.1:{port} --upstream {} --drain-delay 0s",
        env!("CARGO_BIN_EXE_respmux"),
        redis.url()
    );
    let mut terminal = on_terminal(&line);
    let address = Address::Tcp(([127, 0, 0, 1], port).into());
    let mut client = eventually(PATIENCE, || TestClient::try_connect(&address));
    let info = client.ask("PROXY INFO server").as_str();
    let id = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim().to_owned();
    drop(client);
    assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    assert!(terminal.wait().unwrap().success(), "it drains, as on SIGTERM");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut terminal.stdout.take().unwrap(), &mut text).unwrap();
    // A person sees how to connect, and nobody else does.
    assert!(text.contains("try: redis-cli -h 127.0.0.1 -p"), "{text}");
}

/// Every line of a JSON log is an object, and what is a number is one.
#[test]
fn logs_are_typed() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::sized(2, 16).set("auth.proxy_write=any").set("upstream.connect_wait=200ms");
    let options = ProxyOptions { unix: true, ..options.set("drain.delay=0s") };
    let mut proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    for line in ["PROXY PAUSE 50", "PROXY RESUME", "PROXY RECONNECT", "PROXY RELOAD"] {
        client.ask(line);
    }
    redis.kill();
    eventually(PATIENCE, || {
        let _ = proxy.connect().ask("GET k");
        if proxy.log().contains("circuit open") { Ok(()) } else { Err("the circuit is closed") }
    });
    redis.start_again();
    eventually(PATIENCE, || {
        let answer = proxy.connect().ask("PING");
        if answer.is_error() { Err(answer.as_str()) } else { Ok(()) }
    });
    client.ask("PROXY DRAIN");
    assert!(proxy.wait_exit(PATIENCE).success());
    let log = proxy.log();
    assert!(log.lines().count() >= 8, "{log}");
    for line in log.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line} is no JSON"));
        for (name, value) in object.as_object().expect("an object") {
            let Some(text) = value.as_str() else { continue };
            assert!(text.parse::<f64>().is_err() && !text.starts_with(['[', '{', '"']), "{name} of {line}");
        }
    }
}
