//! PROXY: what an operator asks and changes over RESP, and `respmux top`, which shows it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use kit::{Flavour, Frame, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually, pause};

/// Everything may be asked and changed.
fn open(redis: &RealRedis, settings: &[&str]) -> Proxy {
    let options = settings.iter().fold(ProxyOptions::sized(2, 16), |options, setting| options.set(setting));
    Proxy::start(redis, &options.set("auth.proxy_write=any"))
}

fn lines(client: &mut TestClient, line: &str) -> Vec<String> {
    let frame = client.ask(line);
    assert!(!frame.is_error(), "{line}: {frame:?}");
    frame.items.iter().map(Frame::as_str).collect()
}

/// The value of `name=` in a line.
#[track_caller]
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name}= in {line}"))
}

#[track_caller]
fn number(line: &str, name: &str) -> f64 {
    field(line, name).parse().unwrap_or_else(|_| panic!("{name}= of {line} is no number"))
}

/// The pairs of a map, flat or not.
fn map(frame: &Frame) -> BTreeMap<String, String> {
    frame.items.as_chunks::<2>().0.iter().map(|[key, value]| (key.as_str(), value.as_str())).collect()
}

fn info(client: &mut TestClient, line: &str) -> BTreeMap<String, String> {
    let text = client.ask(line).as_str();
    let text = text.strip_prefix("txt:").unwrap_or(&text);
    text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Keeps a server busy for some milliseconds, as a slow command does.
fn slow_script(millis: u32) -> String {
    format!(
        "local t = redis.call('TIME'); local from = t[1] * 1000000 + t[2]; \
         repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] - from > {millis}000; return 'done'"
    )
}

#[test]
fn info_has_every_section_in_either_protocol() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &[]);
    let mut client = proxy.connect();
    for (hello, kind) in [("HELLO 2", b'$'), ("HELLO 3", b'=')] {
        assert!(!client.ask(hello).is_error());
        client.ask("SET k v");
        client.ask("INCRBY k x");
        client.ask("SYNC");
        assert_eq!(client.ask("PROXY INFO").kind, kind);
        let all = info(&mut client, "PROXY INFO");
        for (name, value) in [
            ("upstream_up", "1"),
            ("upstream_flavour", "redis"),
            ("upstream_version", "7.0"),
            ("upstream_circuit", "closed"),
            ("upstream_connections_max", "16"),
            ("clients", "1"),
            ("workers", "2"),
            ("draining", "0"),
            ("pool_waiting", "0"),
            ("pinned_watch", "0"),
            ("lent_watch", "0"),
            ("shed_state", "0"),
        ] {
            assert_eq!(all.get(name).map(String::as_str), Some(value), "{name} of {all:?}");
        }
        assert!(all["commands"].parse::<u64>().unwrap() >= 2, "{all:?}");
        assert!(all["class_write"].starts_with("calls="), "{all:?}");
        assert!(all.contains_key("errorstat_upstream_ERR") && all.contains_key("errorstat_proxy_ERR"), "{all:?}");
        let parts = info(&mut client, "PROXY INFO memory Pools");
        assert!(parts.contains_key("buffers_max") && parts.contains_key("pool_max") && !parts.contains_key("clients"));
        assert_eq!(info(&mut client, "PROXY INFO everything").len(), all.len());
    }
}

#[test]
fn clients_are_chosen_ordered_and_killed() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &[]);
    let mut client = proxy.connect();
    let (mut busy, mut watcher, mut blocked) = (proxy.connect(), proxy.connect(), proxy.connect());
    busy.ask("CLIENT SETNAME busy");
    busy.call(&["SET", "k", &"x".repeat(100_000)]);
    busy.ask("GET k");
    watcher.ask("WATCH k");
    blocked.send_command(&["BLPOP", "q", "0"]);
    eventually(PATIENCE, || {
        let waiting = lines(&mut client, "PROXY CLIENTS STATE blocked").len();
        if waiting == 1 { Ok(()) } else { Err(format!("{waiting} blocked")) }
    });
    let all = lines(&mut client, "PROXY CLIENTS");
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all.is_sorted_by_key(|line| field(line, "id").parse::<u64>().unwrap()));
    let first = &lines(&mut client, "PROXY CLIENTS SORT traffic LIMIT 1")[..];
    assert_eq!((first.len(), field(&first[0], "name")), (1, "busy"));
    assert!(number(&first[0], "tot-net-in") > 100_000.0 && number(&first[0], "tot-net-out") > 100_000.0, "{first:?}");
    assert_eq!((field(&first[0], "cmd"), field(&first[0], "route")), ("get", "lane"));
    let pinned = lines(&mut client, "PROXY CLIENTS PINNED watch");
    assert_eq!((pinned.len(), field(&pinned[0], "route"), field(&pinned[0], "pin")), (1, "pool", "watch"));
    assert_eq!(lines(&mut client, "PROXY CLIENTS PINNED yes STATE open").len(), 1);
    let address = busy.local_address();
    let by_address = lines(&mut client, &format!("PROXY CLIENTS ADDR {address} USER default NAME busy"));
    let id = field(&by_address[0], "id").to_owned();
    assert_eq!(lines(&mut client, &format!("PROXY CLIENTS ID {id} 7")), by_address);
    assert_eq!(lines(&mut client, "PROXY CLIENTS USER nobody").len(), 0);

    for nobody in ["7", "foo", "127.0.0.1:1", "-1", "99999999999999999999", ""] {
        assert_eq!(client.call(&["PROXY", "KILL", nobody]).as_str(), "ERR No such client", "{nobody}");
    }
    assert_eq!(client.ask(&format!("PROXY KILL {address}")).as_int(), 1);
    busy.expect_eof();
    let watcher_id = field(&pinned[0], "id");
    assert_eq!(client.ask(&format!("PROXY KILL {watcher_id}")).as_int(), 1);
    watcher.expect_eof();
    eventually(PATIENCE, || {
        let left = lines(&mut client, "PROXY CLIENTS").len();
        if left == 2 { Ok(()) } else { Err(format!("{left} clients")) }
    });
    let own = client.ask("CLIENT ID").as_int();
    assert_eq!(client.ask(&format!("PROXY KILL {own}")).as_int(), 1, "the answer comes before the close");
    client.expect_eof();
    let killed = proxy.metric("respmux_client_connections_closed_total", &[("reason", "killed")]);
    assert_eq!(killed, Some(3.0));
}

#[test]
fn lanes_and_servers_are_shown_as_they_are() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &["upstream.connect_wait=100ms"]);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    for one in [&mut client, &mut other] {
        one.ask("HELLO 3");
        one.ask("SELECT 5");
        one.ask("GET k");
    }
    let all = lines(&mut client, "PROXY LANES");
    let used: Vec<_> = all.iter().filter(|line| field(line, "db") == "5").collect();
    assert!(!used.is_empty(), "{all:?}");
    let clients: f64 = used.iter().map(|line| number(line, "clients")).sum();
    assert!((clients - 2.0).abs() < 0.1, "{used:?}");
    for line in &used {
        assert_eq!(
            (field(line, "user"), field(line, "resp"), field(line, "phase")),
            ("default", "3", "ready"),
            "{line}"
        );
        assert_eq!((field(line, "suspect"), field(line, "retired"), field(line, "mode")), ("0", "0", "none"), "{line}");
    }
    let listed = redis.connect().ask("CLIENT LIST").as_str();
    let upstream_id = field(used[0], "upstream_id");
    assert!(listed.lines().any(|line| line.starts_with(&format!("id={upstream_id} "))), "{upstream_id} in {listed}");

    // A request that takes long is in flight.
    other.send_command(&["EVAL", &slow_script(300), "0"]);
    eventually(PATIENCE, || {
        let lines = lines(&mut client, "PROXY LANES");
        let old = lines.iter().any(|line| number(line, "in_flight") > 0.0 && number(line, "oldest_ms") >= 20.0);
        if old { Ok(()) } else { Err(lines.join("\n")) }
    });
    assert_eq!(other.read_frame().as_str(), "done");

    let server = &lines(&mut client, "PROXY SERVERS")[0];
    assert_eq!(field(server, "endpoint"), format!("127.0.0.1:{}", redis.port()));
    for (name, value) in
        [("up", "1"), ("flavour", "redis"), ("version", "7.0"), ("circuit", "closed"), ("connect_errors", "0")]
    {
        assert_eq!(field(server, name), value, "{server}");
    }
    assert!(number(server, "lane") >= 1.0 && number(server, "control") >= 1.0, "{server}");
}

/// Who may change respmux can see it also when no server can be asked.
#[test]
fn a_server_that_is_away_is_shown_as_away() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &["upstream.connect_wait=100ms"]);
    let mut client = proxy.connect();
    client.ask("PING");
    proxy.becomes("respmux_upstream_up", &[], |up| up == 1.0);
    redis.kill();
    let line = eventually(PATIENCE, || {
        let line = lines(&mut client, "PROXY SERVERS").remove(0);
        let gone = field(&line, "up") == "0" && number(&line, "connect_errors") > 0.0;
        if gone && number(&line, "last_change_s") >= 0.0 { Ok(line) } else { Err(line) }
    });
    assert!(line.contains("last_error=\"") && number(&line, "last_error_s") >= 0.0, "{line}");
}

#[test]
fn pools_count_waits_and_timeouts() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::tight().set("pool.wait_timeout=1s").set("slowlog.threshold=50ms");
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    let pool = |client: &mut TestClient| {
        lines(client, "PROXY POOLS").into_iter().find(|line| field(line, "kind") == "pool").expect("there is a pool")
    };
    let max = field(&pool(&mut client), "max").parse::<usize>().unwrap();
    let mut watchers: Vec<_> = (0..max).map(|_| proxy.connect()).collect();
    for watcher in &mut watchers {
        assert_eq!(watcher.ask("WATCH k").as_str(), "OK");
    }
    let mut late = proxy.connect();
    late.send_command(&["WATCH", "k"]);
    eventually(PATIENCE, || {
        let line = pool(&mut client);
        let waits = field(&line, "waiting") == "1" && number(&line, "longest_wait_ms") >= 20.0;
        if waits { Ok(()) } else { Err(line) }
    });
    assert!(late.read_frame().is_error());
    let line = pool(&mut client);
    assert_eq!((field(&line, "waits"), field(&line, "timeouts"), field(&line, "waiting")), ("1", "1", "0"), "{line}");
    assert_eq!(field(&line, "in_use"), max.to_string(), "{line}");

    // A wait that ends well makes the request slow, and the upstream is not to blame.
    let mut patient = proxy.connect();
    patient.send_command(&["WATCH", "k"]);
    eventually(PATIENCE, || {
        let line = pool(&mut client);
        if number(&line, "longest_wait_ms") >= 60.0 { Ok(()) } else { Err(line) }
    });
    assert_eq!(watchers[0].ask("UNWATCH").as_str(), "OK");
    assert_eq!(patient.read_frame().as_str(), "OK");
    let slow = client.ask("PROXY SLOWLOG GET -1");
    let own = |one: &BTreeMap<String, String>| one["addr"] == patient.local_address();
    let watch = slow.items.iter().map(map).find(own).expect("it was slow");
    assert_eq!((watch["command"].as_str(), watch["arguments"].as_str()), ("watch", "2"), "{watch:?}");
    let micros = |name: &str| watch[name].parse::<u64>().unwrap();
    assert!(micros("duration_us") >= 50_000 && micros("upstream_us") < micros("duration_us") / 2, "{watch:?}");
}

#[test]
fn stats_are_counters_and_rates_of_the_last_seconds() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &[]);
    let mut client = proxy.connect();
    eventually(PATIENCE, || {
        for _ in 0..20 {
            client.ask("GET k");
        }
        client.ask("INCRBY k x");
        client.ask("SYNC");
        let lines = lines(&mut client, "PROXY STATS");
        let all = &lines[0];
        let read = lines.iter().find(|line| field(line, "class") == "read").expect("there is a line for reads");
        let good = number(all, "requests") > 20.0
            && number(all, "requests_per_s") > 1.0
            && number(all, "client_in_bytes_per_s") > 1.0
            && number(all, "client_out_bytes_per_s") > 1.0
            && number(all, "own_errors_per_s") > 0.0
            && number(all, "upstream_errors_per_s") > 0.0
            && number(read, "p50_us") > 0.0
            && number(read, "p50_us") <= number(read, "p99_us")
            && (0.1..12.0).contains(&number(all, "interval_s"));
        if good { Ok(()) } else { Err(lines.join("\n")) }
    });
}

#[test]
fn settings_are_shown_with_their_origin_and_never_a_secret() {
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", "s3same"]);
    let url = format!("redis://:s3same@127.0.0.1:{}", redis.port());
    let options = ProxyOptions { upstream: Some(url), ..ProxyOptions::tight() }.set("pool.wait_timeout=3s");
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    let found = client.ask("PROXY CONFIG GET pool.wait* workers");
    assert_eq!((found.kind, found.items.len()), (b'*', 4), "{found:?}");
    let wait = map(&found.items[3]);
    assert_eq!((wait["value"].as_str(), wait["origin"].as_str()), ("\"3s\"", "flag --set pool.wait_timeout"));
    assert_eq!(wait["effective"], wait["value"]);
    client.ask("HELLO 3");
    let found = client.ask("PROXY CONFIG GET upstream.url");
    assert_eq!((found.kind, found.items[1].kind), (b'%', b'%'), "{found:?}");
    assert_eq!(client.ask("PROXY CONFIG GET no.such").items.len(), 0);
    assert_eq!(client.ask("PROXY CONFIG").items.len(), client.ask("PROXY CONFIG LIST").items.len());
    assert!(!client.ask("PROXY SLOWLOG").is_error());
    let everything = format!("{found:?}{:?}{:?}", client.ask("PROXY CONFIG GET *"), client.ask("PROXY CONFIG LIST"));
    assert!(everything.contains("slowlog.threshold") && everything.contains("***"), "{everything}");
    assert!(!everything.contains("s3same"), "{everything}");
}

#[test]
fn slow_requests_are_kept_with_their_times_and_without_their_values() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &["slowlog.threshold=15ms", "slowlog.size=8"]);
    let (mut client, mut gone) = (proxy.connect(), proxy.connect());
    client.ask("SET k v");
    assert_eq!(client.call(&["EVAL", &slow_script(30), "1", "secret-key", "secret-value"]).as_str(), "done");
    client.call(&["BLPOP", "q", "0.1"]);
    let address = gone.local_address();
    gone.call(&["EVAL", &slow_script(30), "0"]);
    drop(gone);
    eventually(PATIENCE, || {
        let left = lines(&mut client, "PROXY CLIENTS").len();
        if left == 1 { Ok(()) } else { Err("it has not left") }
    });
    for (hello, kind) in [("HELLO 2", b'*'), ("HELLO 3", b'%')] {
        client.ask(hello);
        let slow = client.ask("PROXY SLOWLOG GET");
        assert_eq!(slow.items[0].kind, kind);
        let all: Vec<_> = slow.items.iter().map(map).collect();
        assert!(all.iter().all(|one| one["command"] != "blpop"), "it waits on purpose: {all:?}");
        // On a busy machine others may be slow, too.
        let evals: Vec<_> = all.into_iter().filter(|one| one["command"] == "eval").collect();
        let [newest, oldest] = &evals[..] else { panic!("two are slow: {evals:?}") };
        assert_eq!((newest["arguments"].as_str(), oldest["arguments"].as_str()), ("3", "5"));
        assert_eq!(oldest["addr"], client.local_address());
        assert_eq!((newest["addr"].as_str(), newest["user"].as_str()), (address.as_str(), "default"));
        for one in [newest, oldest] {
            let micros = |name: &str| one[name].parse::<u64>().unwrap();
            assert!((15_000..2_000_000).contains(&micros("duration_us")), "{one:?}");
            assert!(micros("upstream_us") <= micros("duration_us") && micros("upstream_us") >= 15_000, "{one:?}");
            assert!(micros("bytes") > 100 && micros("time") > 1_700_000_000, "{one:?}");
            assert!(!one.contains_key("key"), "{one:?}");
        }
        assert!(!format!("{slow:?}").contains("secret"), "{slow:?}");
        assert_eq!(client.ask("PROXY SLOWLOG GET 1").items.len(), 1);
        assert!(client.ask("PROXY SLOWLOG GET -1").items.len() >= 2);
    }
    assert_eq!(client.ask("PROXY SLOWLOG RESET").as_str(), "OK");
    assert_eq!(client.ask("PROXY SLOWLOG LEN").as_int(), 0);
    for _ in 0..10 {
        client.call(&["EVAL", &slow_script(16), "0"]);
    }
    assert_eq!(client.ask("PROXY SLOWLOG LEN").as_int(), 8, "the oldest gave way");
}

#[test]
fn keys_of_slow_requests_are_kept_where_that_is_wanted() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &["slowlog.threshold=15ms", "slowlog.keys=true"]);
    let mut client = proxy.connect();
    let script = slow_script(30);
    // Fast ones before and behind it, in one write: the key must be the right one.
    let request = |words: &[&str]| kit::encode(words);
    let batch =
        [request(&["SET", "fast", "v"]), request(&["EVAL", &script, "1", "slow\r\nkey", "value"]), request(&["PING"])];
    client.send(&batch.concat());
    for _ in 0..3 {
        client.read_frame();
    }
    let slow = client.ask("PROXY SLOWLOG GET");
    let eval = slow.items.iter().map(map).find(|one| one["command"] == "eval").expect("it was slow");
    assert_eq!(eval["key"], "\"slow\\r\\nkey\"", "{slow:?}");
    assert!(!format!("{slow:?}").contains("value"), "{slow:?}");
}

#[test]
fn hot_keys_are_sampled() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &["hotkeys.sample=2"]);
    let mut client = proxy.connect();
    for round in 0..400 {
        client.ask("GET hot");
        client.call(&["GET", &format!("cold:{round}")]);
        client.ask("PING");
    }
    client.call(&["INCR", "odd \"key\"\n"]);
    let found = lines(&mut client, "PROXY HOTKEYS 2");
    assert_eq!((found.len(), field(&found[0], "one_in")), (3, "2"), "{found:?}");
    assert!((450.0..750.0).contains(&number(&found[0], "samples")), "about half of 1201: {found:?}");
    assert!(found[1].starts_with("key=\"hot\" db=0 share="), "{found:?}");
    let share: f64 = field(&found[1], "share").trim_end_matches('%').parse().unwrap();
    assert!((25.0..42.0).contains(&share), "a third: {found:?}");
    assert_eq!(client.ask("PROXY HOTKEYS RESET").as_str(), "OK");
    let found = lines(&mut client, "PROXY HOTKEYS");
    assert_eq!((found.len(), field(&found[0], "samples")), (1, "0"), "{found:?}");
}

#[test]
fn who_may_only_read_is_refused_and_counted() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut direct = redis.connect();
    direct.ask("ACL SETUSER ops on >ops ~* &* +@all");
    direct.ask("SET k v");
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("auth.proxy_write=ops"));
    let (mut client, mut ops) = (proxy.connect(), proxy.connect());
    let victim = ops.ask("CLIENT ID").as_int();
    let writes = ["PROXY DRAIN", &format!("PROXY KILL {victim}"), "PROXY SLOWLOG RESET", "PROXY HOTKEYS RESET"];
    for hello in ["HELLO 2", "HELLO 3"] {
        client.ask(hello);
        for line in writes {
            let refused = client.ask(line).as_str();
            let expected = "NOPERM this user has no permissions to run the 'proxy' command \
                            (respmux: set auth.proxy_write = [\"default\"]";
            let http = if line == "PROXY DRAIN" { ", or POST /drain on the admin port)" } else { ")" };
            assert_eq!(refused, format!("{expected}{http}"), "{line}");
        }
        for line in
            ["INFO", "CLIENTS", "POOLS", "SERVERS", "LANES", "STATS", "CONFIG LIST", "SLOWLOG LEN", "WHOAMI", "HELP"]
        {
            assert!(!client.ask(&format!("PROXY {line}")).is_error(), "{line}");
        }
    }
    assert_eq!(ops.ask("PING").as_str(), "PONG", "nobody was killed");
    assert_eq!(proxy.metric("respmux_commands_rejected_total", &[("reason", "proxy_right")]), Some(8.0));
    ops.ask("AUTH ops ops");
    assert_eq!(ops.ask("PROXY SLOWLOG RESET").as_str(), "OK");
    assert_eq!(direct.ask("GET k").as_str(), "v", "nothing was carried out on the server");
}

fn url(proxy: &Proxy) -> String {
    let address = proxy.tcp_address();
    format!("redis://{address}")
}

#[test]
fn redis_cli_shows_every_answer_readably() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &["hotkeys.sample=1", "slowlog.threshold=10ms"]);
    let mut client = proxy.connect();
    client.ask("SET k v");
    client.call(&["EVAL", &slow_script(15), "0"]);
    for protocol in ["-2", "-3"] {
        for (words, wanted) in [
            ("HELP", "CLIENTS [<option> ...]\n"),
            ("INFO server", "# Server\nrespmux_version:"),
            ("CLIENTS", " route=lane cmd=eval "),
            ("POOLS", "worker=1 kind=pool max="),
            ("SERVERS", "up=1 flavour=redis version=7.0 circuit=closed"),
            ("LANES", "phase=ready suspect=0"),
            ("STATS", "class=all interval_s="),
            ("CONFIG GET pool.wait_timeout", "pool.wait_timeout"),
            ("SLOWLOG GET 1", "upstream_us"),
            ("HOTKEYS", "key=\"k\" db=0 share="),
        ] {
            let output = Command::new("redis-cli")
                .args(["-u", &url(&proxy), protocol, "PROXY"])
                .args(words.split(' '))
                .output()
                .expect("redis-cli runs");
            let text = String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n");
            assert!(
                output.status.success() && text.contains(wanted),
                "{protocol} {words}: {wanted:?} is not in\n{text}"
            );
        }
    }
}

fn top(proxy: &Proxy, more: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_respmux"))
        .args(["top", "--url", &url(proxy)])
        .args(more)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("it writes text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

#[test]
fn top_shows_the_proxy_once_and_as_json() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &["slowlog.threshold=10ms"]);
    let mut client = proxy.connect();
    client.ask("CLIENT SETNAME app");
    client.call(&["EVAL", &slow_script(15), "0"]);
    let (code, text, err) = top(&proxy, &["--once"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for wanted in
        ["2 clients, ", "redis 7.0 at 127.0.0.1:", "\nPools\n", "\nLanes\n", "\nClients\n", "\nSlow requests\n", "eval"]
    {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    assert!(text.contains(&client.local_address()), "{text}");
    let (code, text, _) = top(&proxy, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 0);
    assert_eq!(json["info"]["upstream_up"], 1, "{text}");
    assert_eq!(json["pools"].as_array().map(Vec::len), Some(10), "{text}");
    assert_eq!(json["slowlog"][0]["command"], "eval", "{text}");
    assert!(json["clients"].as_array().unwrap().iter().any(|one| one["name"] == "app"), "{text}");
    assert!(json["hotkeys"]["error"].as_str().unwrap().contains("hotkeys.sample"), "{text}");
    // Without a terminal there is no live view.
    let (code, _, err) = top(&proxy, &[]);
    assert_eq!((code, err.contains("--once")), (1, true), "{err}");
}

#[test]
fn top_needs_somebody_who_answers() {
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", "sesame"]);
    let server = redis.tcp_address();
    let run = |url: &str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_respmux")).args(["top", "--once", "--url", url]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = run(&format!("redis://:hunter2@{server}"));
    assert!(code == Some(1) && err.contains("WRONGPASS") && !err.contains("hunter2"), "{code:?} {err}");
    let (code, err) = run(&format!("redis://:sesame@{server}"));
    assert!(
        code == Some(1) && err.contains("unknown command") && !err.contains("sesame"),
        "a server is no proxy: {err}"
    );
    let (code, err) = run(&format!("redis://127.0.0.1:{}", kit::free_port()));
    assert!(code == Some(1) && err.contains("refused"), "{code:?} {err}");
    let usage = Command::new(env!("CARGO_BIN_EXE_respmux")).args(["top", "--sideways"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

/// In a pseudo terminal, as a person sees it.
#[test]
#[cfg(feature = "top")]
fn top_lives_in_a_terminal_until_q() {
    use std::io::Write as _;

    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = open(&redis, &[]);
    let mut client = proxy.connect();
    client.ask("GET k");
    let line = format!("stty rows 40 cols 150; {} top --url {} -i 0.1", env!("CARGO_BIN_EXE_respmux"), url(&proxy));
    let mut child = Command::new("script")
        .args(["-qfec", &line, "/dev/null"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux runs");
    let mut keys = child.stdin.take().unwrap();
    // Sorted, paused and on again; then the end.
    for (key, wait) in [("s", 400), ("p", 200), ("p", 200), ("q", 0)] {
        pause(Duration::from_millis(wait));
        keys.write_all(key.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    // Blanks are skipped over, not written.
    for wanted in
        ["Hclients", "Requests/s", "Pools (5)", "Lanes (1)", "Clients (1)", "Slow requests (", "unsent)", "PAUSED"]
    {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{}", text.escape_debug());
    }
    assert!(text.contains("\u{1b}[?1049h") && text.contains("\u{1b}[?1049l"), "the screen is given back");
}
