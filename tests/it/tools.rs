//! What the program says of a running proxy, from outside.

use std::process::{Command, Output};

use crate::support::{Address, Flavour, Proxy, ProxyOptions, RealRedis, ports::free_port};

fn tool(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_respmux")).args(arguments).env_clear().output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("it writes text");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

fn url(proxy: &Proxy) -> String {
    let Address::Tcp(address) = proxy.address() else { panic!("the proxy listens on TCP") };
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
    let Address::Tcp(address) = redis.address() else { panic!("TCP") };
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
