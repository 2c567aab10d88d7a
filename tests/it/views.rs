//! What respmux shows of itself in several places is the same everywhere: the settings, and its clients.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::{Map, Value};

use crate::admin::json;
use kit::{Flavour, Frame, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually, path_of};

const SECRETS: [&str; 2] = ["upstream-s3cret", "t0ken-s3cret"];

fn lines(client: &mut TestClient, line: &str) -> Vec<String> {
    let frame = client.ask(line);
    assert!(!frame.is_error() && !frame.items.is_empty(), "{line}: {frame:?}");
    frame.items.iter().map(Frame::as_str).collect()
}

/// The pairs of a map, in either protocol.
fn pairs(frame: &Frame) -> impl Iterator<Item = (String, &Frame)> {
    frame.items.as_chunks::<2>().0.iter().map(|[key, value]| (key.as_str(), value))
}

/// A TOML literal as JSON.
fn typed(literal: &str) -> Value {
    toml::from_str::<Value>(&format!("v = {literal}")).unwrap_or_else(|error| panic!("{literal}: {error}"))["v"].clone()
}

/// PROXY CONFIG GET *, its literals read as TOML.
fn got(client: &mut TestClient) -> Map<String, Value> {
    let part = |(name, frame): (String, &Frame)| {
        let value = match frame.null {
            true => Value::Null,
            false if name == "origin" => frame.as_str().into(),
            false => typed(&frame.as_str()),
        };
        (name, value)
    };
    let frame = client.ask("PROXY CONFIG GET *");
    pairs(&frame).map(|(key, parts)| (key, pairs(parts).map(part).collect::<Map<_, _>>().into())).collect()
}

/// The line that stands for a setting in text.
fn line(name: &str, setting: &Value) -> String {
    let literal = |value: &Value| serde_json::from_value::<toml::Value>(value.clone()).unwrap().to_string();
    let (value, effective) = (&setting["value"], &setting["effective"]);
    let mut line = match value {
        Value::Null => format!("# {name} is not set"),
        value => format!("{name} = {}", literal(value)),
    };
    line += &format!("  # {}", setting["origin"].as_str().unwrap());
    if effective != value && !effective.is_null() {
        line += &format!("; in effect: {}", literal(effective));
    }
    line
}

/// Lines of `config print` under their whole names.
fn with_tables(printed: &str) -> Vec<String> {
    let (mut table, mut lines) = (String::new(), Vec::new());
    for line in printed.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(name) => table = format!("{name}."),
            None => match line.strip_prefix("# ") {
                Some(rest) => lines.push(format!("# {table}{rest}")),
                None => lines.push(format!("{table}{line}")),
            },
        }
    }
    lines
}

/// The same command line as the proxy's, for another task.
fn ask(task: &[&str], proxy: &Proxy, file: &str) -> String {
    let (listen, admin) = (proxy.tcp_address().to_string(), proxy.admin().to_string());
    let arguments = ["--listen", &listen, "--config", file, "--admin", &admin, "--set", "client.backlog=77"];
    let output = Command::new(env!("CARGO_BIN_EXE_respmux")).args(task).args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{task:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn one_configuration_has_one_form_in_all_places() {
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", SECRETS[0]]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("r.toml");
    let text = format!(
        "instance = 5\nadmin_token = '{}'\n[upstream]\nurl = 'redis://:{}@127.0.0.1:{}'\nmax_connections = 16\n[memory]\n\
         limit = '96MiB'\n[log]\nformat = 'json'\n[client]\nmax_connections = 100\n[auth]\nproxy_read = ['any']\n",
        SECRETS[1],
        SECRETS[0],
        redis.port()
    );
    fs::write(&file, text).expect("the file is written");
    let options = ProxyOptions { config: Some(file.clone()), ..ProxyOptions::default() }.set("client.backlog=77");
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    client.ask(&format!("AUTH {}", SECRETS[0]));
    let listed = lines(&mut client, "PROXY CONFIG LIST");
    let in_two = got(&mut client);
    client.ask("HELLO 3");
    let page = json(&proxy, "/config");
    let settings = page["settings"].as_object().expect("an object");
    let file = file.to_str().expect("a path in UTF-8");
    let report: Value = serde_json::from_str(&ask(&["check", "--json"], &proxy, file)).expect("it is JSON");
    let printed = with_tables(&ask(&["config", "print"], &proxy, file));

    assert!(settings.len() > 100, "{page}");
    for (key, setting) in settings {
        let names: BTreeSet<_> = setting.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(["value", "effective", "origin"]), "{key}");
        assert_eq!(in_two.get(key), Some(setting), "{key} in RESP2");
        assert_eq!(&report["config"][key], setting, "{key} in check --json");
        let place = listed.iter().position(|line| line.trim_start_matches("# ").split(' ').next() == Some(key));
        let shown = &listed[place.unwrap_or_else(|| panic!("{key} is not in {listed:#?}"))];
        let expected = line(key, setting);
        match shown.ends_with("; redacted") {
            true => assert_eq!(shown, &format!("# {expected}; redacted"), "{key}"),
            false => assert_eq!(shown, &expected, "{key}"),
        }
    }
    assert_eq!(got(&mut client), in_two, "RESP3 and RESP2");
    assert_eq!(report["config"].as_object().map(Map::len), Some(settings.len()));
    assert_eq!(listed, printed);
    // What is no comment loads, each value with its type.
    let table: Value = toml::from_str(&listed.join("\n")).expect("it is TOML");
    assert_eq!((&table["coalesce"], &table["client"]["max_connections"]), (&Value::from(true), &Value::from(100)));
    for (key, value, effective, origin) in [
        ("coalesce", Value::from(true), Value::from(true), "default"),
        (
            "listen",
            vec![proxy.tcp_address().to_string()].into(),
            vec![proxy.tcp_address().to_string()].into(),
            "flag --listen",
        ),
        ("memory.limit", "96MiB".into(), "96MiB".into(), &format!("{file}:7:9")),
        ("client.backlog", 77.into(), 77.into(), "flag --set client.backlog"),
        ("upstream.db", Value::Null, 0.into(), "default"),
        ("upstream.password", Value::Null, "***".into(), "default"),
        ("admin_token", "***".into(), "***".into(), &format!("{file}:2:15")),
    ] {
        let expected = serde_json::json!({"value": value, "effective": effective, "origin": origin});
        assert_eq!(settings[key], expected, "{key}");
    }
    assert_eq!(settings["workers"]["value"], "auto");
    assert!(settings["workers"]["effective"].as_u64().is_some_and(|workers| workers > 0));
    let everything = format!("{listed:?} {in_two:?} {page} {report} {printed:?}");
    assert!(SECRETS.iter().all(|secret| !everything.contains(secret)), "{everything}");
}

#[test]
fn what_a_start_decides_is_in_effect_also_after_a_reload() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("r.toml");
    fs::write(&file, "embedded = true\nworkers = 1\n[auth]\nproxy_write = ['any']\n").expect("the file is written");
    // A server in PATH, under a name that is looked for.
    std::os::unix::fs::symlink(path_of("REDIS70"), directory.path().join("redis-server")).expect("a link");
    let path = format!("PATH={}:/usr/bin:/bin", directory.path().display());
    let wrapper = vec!["/usr/bin/env".to_owned(), path];
    let options = ProxyOptions { config: Some(file.clone()), wrapper, ..ProxyOptions::default() };
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    let socket = client.ask("CONFIG GET unixsocket").items[1].as_str();
    let clients = |most: u32, client: &mut TestClient| {
        let settings = json(&proxy, "/config")["settings"].clone();
        assert_eq!(Value::from(got(client)), settings);
        assert_eq!(settings["client.max_connections"]["effective"], most);
        let url = &settings["upstream.url"];
        assert_eq!((&url["value"], &url["origin"]), (&"redis://127.0.0.1:6379".into(), &"default".into()), "{url}");
        assert_eq!(url["effective"], format!("unix://{socket}"));
        assert_eq!(settings["log.format"]["effective"], "json");
        assert_eq!(settings["admin"]["effective"], proxy.admin().to_string());
        settings["instance"]["effective"].as_u64().expect("a number was chosen")
    };
    let instance = clients(10_000, &mut client);
    let shown =
        format!("# upstream.url = \"redis://127.0.0.1:6379\"  # default; not used; in effect: \"unix://{socket}\"");
    assert!(lines(&mut client, "PROXY CONFIG").contains(&shown), "{shown}");
    let more = "embedded = true\nworkers = 1\n[auth]\nproxy_write = ['any']\n[client]\nmax_connections = 55\n";
    fs::write(&file, more).expect("the file is written");
    assert!(!client.ask("PROXY RELOAD").is_error());
    assert_eq!(clients(55, &mut client), instance);
}

#[test]
fn clients_are_the_same_over_http_and_over_the_protocol() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions { unix: true, ..ProxyOptions::sized(1, 12) });
    let (mut asking, mut plain, mut open) = (proxy.connect(), proxy.connect(), proxy.connect());
    let (mut blocked, mut subscribed) = (proxy.connect(), proxy.connect());
    let mut local = TestClient::connect(&proxy.unix_address());
    plain.ask("CLIENT SETNAME plain");
    plain.ask("CLIENT SETINFO LIB-NAME lib");
    plain.ask("SELECT 3");
    plain.ask("GET k");
    open.ask("WATCH k");
    open.ask("MULTI");
    open.ask("GET k");
    local.ask("HELLO 3");
    subscribed.ask("SUBSCRIBE a");
    blocked.send(b"BLPOP nothing 0\r\n");
    let own = asking.ask("CLIENT ID").as_int();
    let states = eventually(PATIENCE, || {
        let lines = lines(&mut asking, "PROXY CLIENTS");
        let page = json(&proxy, "/clients.json");
        let page = page.as_array().expect("an array");
        assert_eq!(lines.len(), page.len(), "{lines:#?}\n{page:#?}");
        let mut states = BTreeSet::new();
        for line in lines {
            let said: BTreeMap<_, _> = line.split(' ').filter_map(|pair| pair.split_once('=')).collect();
            let client =
                page.iter().find(|client| client["id"].as_u64() == said["id"].parse().ok()).expect("it is there, too");
            let client = client.as_object().expect("an object");
            assert!(said.keys().copied().eq(client.keys().map(String::as_str)), "{line}\n{client:?}");
            for (name, value) in said {
                let other = client[name].as_str().map_or_else(|| client[name].to_string(), str::to_owned);
                // Time goes on between the two, and the question itself is traffic.
                let same = other == value || ["age", "idle"].contains(&name) || client["id"] == own;
                assert!(same, "{name}: {value} and {other}");
            }
            states.insert(format!("{} {} {}", client["state"], client["pin"], client["cmd"]).replace('"', ""));
        }
        if states.iter().any(|state| state.starts_with("blocked")) { Ok(states) } else { Err(format!("{states:?}")) }
    });
    for expected in ["open no get", "transaction watch get", "blocked", "subscribed no subscribe", "open no hello"] {
        assert!(states.iter().any(|state| state.starts_with(expected)), "{expected}: {states:?}");
    }
    let page = json(&proxy, "/clients.json");
    let by_unix =
        page.as_array().expect("an array").iter().find(|client| client["via"] == "unix").expect("there is one");
    assert_eq!(by_unix["pid"], std::process::id());
}
