//! Every option of every command that travels on a lent connection, with values that are meant to harm: clients on
//! shared connections lose nothing, no connection is distrusted, and the next borrower finds nothing of it.
//!
//! Which commands there are says the table; which options they have says the server (COMMAND DOCS); which form travels on a
//! lent connection says the router (PROXY EXPLAIN). Only the values are chosen here.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::*;
use kit::{Frame, PATIENCE, ReadEnd, SetOnDrop, eventually, pause};

/// How long a form may take that may wait for ever, if it says nothing.
const WAIT: Duration = Duration::from_millis(60);
/// What a command does to others by right, or to the server itself.
const NOT_HERE: &[&str] = &["CLIENT KILL", "CLIENT PAUSE", "SHUTDOWN", "FAILOVER", "REPLICAOF", "SLAVEOF", "PROXY"];

type Words = Vec<Vec<u8>>;

fn words(line: &str) -> Words {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// One argument as the server describes it.
struct Argument<'a>(&'a Frame);

impl<'a> Argument<'a> {
    fn field(&self, name: &str) -> Option<&'a Frame> {
        self.0.items.chunks(2).find(|pair| pair[0].as_str() == name).map(|pair| &pair[1])
    }

    fn text(&self, name: &str) -> String {
        self.field(name).map(Frame::as_str).unwrap_or_default()
    }

    fn has(&self, flag: &str) -> bool {
        self.field("flags").is_some_and(|flags| flags.items.iter().any(|item| item.as_str() == flag))
    }

    fn below(&self) -> Vec<Self> {
        self.field("arguments").map(|list| list.items.iter().map(Argument).collect()).unwrap_or_default()
    }

    /// The ways to write it; the first is harmless.
    fn forms(&self, values: &Values) -> Vec<Words> {
        let bare = match self.text("type").as_str() {
            "oneof" => self.below().iter().flat_map(|option| option.forms(values)).collect(),
            "block" => in_row(&self.below(), values),
            "pure-token" => return tokens(&self.text("token")),
            "key" => values.texts(b"lent:key"),
            "integer" | "double" | "unix-time" => values.numbers(),
            "pattern" => values.texts(b"*"),
            _ => values.texts(b"x"),
        };
        let mut forms = bare.clone();
        let token = self.text("token");
        if !token.is_empty() {
            forms = bare.iter().map(|value| [words(&token), value.clone()].concat()).collect();
            // In place of the value, nothing.
            forms.extend(tokens(&token));
            let odd = tokens(&token).pop().unwrap_or_default();
            forms.extend(bare.iter().map(|value| [odd.clone(), value.clone()].concat()));
        }
        if self.has("multiple") {
            forms.push([forms[0].clone(), forms[0].clone()].concat());
        }
        forms
    }
}

/// A word as it should be, and with what a C string comparison does not see.
fn tokens(token: &str) -> Vec<Words> {
    let odd = [token.to_lowercase().as_bytes(), b"\0x"].concat();
    vec![words(token), words(token).into_iter().rev().skip(1).rev().chain([odd]).collect()]
}

/// Arguments one behind the other: all harmless, then one of them otherwise, then all optional ones at once.
fn in_row(arguments: &[Argument<'_>], values: &Values) -> Vec<Words> {
    let forms: Vec<_> = arguments.iter().map(|argument| argument.forms(values)).collect();
    let usual = |at: usize| if arguments[at].has("optional") { Words::new() } else { forms[at][0].clone() };
    let row = |chosen: &dyn Fn(usize) -> Words| (0..arguments.len()).flat_map(chosen).collect::<Words>();
    let mut rows = vec![row(&usual)];
    for (at, ways) in forms.iter().enumerate() {
        let from = usize::from(!arguments[at].has("optional"));
        rows.extend(ways[from..].iter().map(|way| row(&|other| if other == at { way.clone() } else { usual(other) })));
    }
    rows.push(row(&|at| forms[at][0].clone()));
    rows
}

/// What is put in the place of values.
struct Values {
    /// Ids of the server's connections, lanes among them, and of other clients of the proxy.
    ids: Vec<String>,
}

impl Values {
    fn numbers(&self) -> Vec<Words> {
        let odd = ["1", "0", "-1", "9223372036854775807", "-9223372036854775808", "18446744073709551616", "1e300", "x"];
        let ids = self.ids.iter().map(String::as_str);
        odd.into_iter().chain(ids).map(|value| vec![value.as_bytes().to_vec()]).chain([vec![b"1\0".to_vec()]]).collect()
    }

    fn texts(&self, usual: &[u8]) -> Vec<Words> {
        let odd: [&[u8]; 6] = [usual, b"", b"a\0b", b"\r\n+OK\r\n", b"ON", b"respmux:0"];
        let long = vec![b'x'; 20_000];
        let ids = self.ids.iter().take(1).map(|id| id.clone().into_bytes());
        odd.into_iter().map(<[u8]>::to_vec).chain([long]).chain(ids).map(|value| vec![value]).collect()
    }
}

/// All forms of one command.
fn forms_of(name: &str, direct: &mut TestClient, values: &Values) -> Vec<Words> {
    let docs = direct.call(&["COMMAND", "DOCS", &name.to_lowercase().replace(' ', "|")]);
    let name = words(name);
    let Some(about) = docs.items.get(1) else { return vec![name] };
    let arguments = Argument(about).below();
    let mut forms: Vec<Words> =
        in_row(&arguments, values).into_iter().map(|row| [name.clone(), row].concat()).collect();
    // Too many, and a NUL byte in the name.
    forms.push([forms[0].clone(), words("one more")].concat());
    let mut odd = forms[0].clone();
    odd[name.len() - 1].extend_from_slice(b"\0x");
    forms.push(odd);
    forms
}

/// DEBUG has no COMMAND DOCS; its HELP says what there is. Without what ends or stops the server.
fn debugs(direct: &mut TestClient) -> Vec<Words> {
    let stops =
        ["SEGFAULT", "PANIC", "RESTART", "CRASH-AND-RECOVER", "ASSERT", "OOM", "LOADAOF", "RELOAD", "STRINGMATCH"];
    let help = direct.ask("DEBUG HELP");
    let lines =
        help.items.iter().map(Frame::as_str).filter(|line| !line.starts_with(' ') && !line.starts_with("DEBUG <"));
    let usable = lines.filter(|line| !stops.iter().any(|word| line.starts_with(word)));
    let form = |line: String| {
        let arguments = line.split_whitespace().skip(1).map(|word| if word.contains('<') { "0" } else { word });
        words("DEBUG")
            .into_iter()
            .chain(line.split(' ').take(1).chain(arguments).map(|word| word.as_bytes().to_vec()))
            .collect()
    };
    let kinds = "string integer double bignum null array set map attrib push verbatim true false";
    let protocol = kinds.split(' ').map(|kind| words(&format!("DEBUG PROTOCOL {kind}")));
    let errors = ["NOAUTH x", "READONLY x", "BUSY x", "LOADING x", "MASTERDOWN x", "UNBLOCKED force unblock", ""];
    let errors = errors.map(|error| vec![b"DEBUG".to_vec(), b"ERROR".to_vec(), error.as_bytes().to_vec()]);
    usable.map(form).chain(protocol).chain(errors).collect()
}

/// Whether a client without state gets this answered on its lane.
fn rides(form: &Words, client: &mut TestClient) -> bool {
    let asked = [words("PROXY EXPLAIN"), form.clone()].concat();
    let told = client.call(&asked);
    let route = told.items.iter().map(Frame::as_str).find(|line| line.starts_with("route: ")).unwrap_or_default();
    matches!(route.as_str(), "route: shared connection" | "route: refused")
}

/// Where a form is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Alone,
    /// On a connection that is the client's already, in RESP3.
    Tracking,
    Watching,
    InMulti,
}

const PLACES: [Place; 4] = [Place::Alone, Place::Tracking, Place::Watching, Place::InMulti];

/// Sends a form where it is to be, and hears it out, or leaves.
fn try_out(proxy: &Proxy, form: &Words, place: Place) {
    let mut client = proxy.connect();
    let mut packet = Vec::new();
    match place {
        Place::Alone => {}
        Place::Tracking => packet.extend([encode(&words("HELLO 3")), encode(&words("CLIENT TRACKING ON"))].concat()),
        Place::Watching => packet.extend(encode(&words("WATCH lent:watched"))),
        Place::InMulti => packet.extend([encode(&words("MULTI")), encode(&words("GET lent:key"))].concat()),
    }
    packet.extend(encode(form));
    if place == Place::InMulti {
        packet.extend(encode(&words("EXEC")));
    }
    // What is tracked then changes, and somebody is told.
    for line in ["GET lent:key", "SET lent:key 1", "GET lent:mark", "ECHO lent:end"] {
        packet.extend(encode(&words(line)));
    }
    client.send(&packet);
    while !client.received().ends_with(b"lent:end\r\n") {
        let before = client.received().len();
        match client.read_some(Instant::now() + WAIT) {
            Ok(()) if client.received().len() < 1 << 20 => {}
            Ok(()) | Err(ReadEnd::Eof) => return,
            // It waits, or streams.
            Err(ReadEnd::TimedOut) if client.received().len() == before => return,
            Err(ReadEnd::TimedOut) => {}
        }
    }
}

/// The next borrower: nobody's user, database, protocol, tracking or half a transaction is on its connection.
fn borrow(proxy: &Proxy, after: &str) {
    let mut client = proxy.connect();
    let tell = b"*5\r\n$1\r\n0\r\n$7\r\ndefault\r\n*6\r\n$5\r\nflags\r\n*1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n*0\r\n*0\r\n";
    for line in
        ["MULTI", "GET lent:mark", "ACL WHOAMI", "CLIENT TRACKINGINFO", "HGETALL lent:none", "SMEMBERS lent:none"]
    {
        let reply = client.ask(line);
        let right = reply.as_str() == "OK" || reply.as_str() == "QUEUED";
        assert!(right, "after {after}: {line}: {reply:?}");
    }
    client.send_command(&["EXEC"]);
    let told = client.try_read_frame(PATIENCE).unwrap_or_else(|end| panic!("after {after}: {end:?}"));
    assert_eq!(format!("{:?}", Shown(&told.to_bytes())), format!("{:?}", Shown(tell)), "after {after}");
}

/// A client on a lane that does nothing but look whether what it is told is true.
fn bystand(proxy: &Proxy, number: usize, over: &AtomicBool) -> u64 {
    let mut client = proxy.connect();
    if number % 2 == 1 {
        client.ask("HELLO 3");
    }
    let (key, mut rounds) = (format!("bystander:{number}"), 0);
    while !over.load(Ordering::Relaxed) {
        rounds += 1;
        let token = format!("{number}-{rounds}");
        client.send(&[encode(&["SET", &key, &token]), encode(&["GET", &key]), encode(&["ECHO", &token])].concat());
        client.expect(format!("+OK\r\n${0}\r\n{token}\r\n${0}\r\n{token}\r\n", token.len()).as_bytes());
        pause(Duration::from_millis(3));
    }
    client.expect_nothing(Duration::from_millis(5));
    rounds
}

/// Connections of respmux as the server lists them, those apart that are not like new. Only `direct` is none.
fn odd_connections(direct: &mut TestClient, lanes: &BTreeSet<String>) -> (usize, Vec<String>) {
    let own = format!("id={} ", direct.ask("CLIENT ID").as_str());
    let list = direct.ask("CLIENT LIST").as_str();
    let ours: Vec<_> = list.lines().filter(|line| !line.starts_with(&own)).collect();
    let field = |line: &str, name: &str| {
        let found = line.split(' ').find_map(|part| part.strip_prefix(name)).unwrap_or_default();
        found.to_owned()
    };
    let odd = ours.iter().filter(|line| {
        let flags = field(line, "flags=");
        let clean = [("sub=", "0"), ("psub=", "0"), ("redir=", "-1")];
        // NO-EVICT has every connection of respmux, NO-TOUCH and READONLY only a lane that is for such clients.
        let flags = if lanes.contains(&format!("upstream_{}", line.split(' ').next().unwrap_or_default())) {
            flags.replace(['T', 'r'], "")
        } else {
            flags
        };
        !flags.chars().all(|flag| "Ne".contains(flag))
            || clean.iter().any(|(name, wanted)| field(line, name) != *wanted)
    });
    (ours.len(), odd.map(ToString::to_string).collect())
}

fn lanes(proxy: &Proxy) -> BTreeSet<String> {
    let told = proxy.connect().ask("PROXY LANES");
    let id = |line: &Frame| line.as_str().split(' ').find(|part| part.starts_with("upstream_id=")).map(str::to_owned);
    told.items.iter().filter_map(id).collect()
}

#[allow(clippy::print_stdout, reason = "the line is what `make prove WHAT=hostile` is for")]
fn nobody_else_notices(flavour: Flavour) {
    let redis = RealRedis::start(flavour, &["--enable-debug-command", "yes"]);
    let options = ProxyOptions::sized(2, 32).set("auth.max_failures=0").set("auth.failure_delay=0s");
    let mut proxy = Proxy::start(&redis, &options);
    let mut direct = redis.connect();
    (0..16).for_each(|db| {
        direct.ask(&format!("SELECT {db}"));
        direct.ask(&format!("SET lent:mark {db}"));
    });
    direct.ask("SELECT 0");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A bystander that is never told to end would keep a failed test from ending.
        let end = SetOnDrop(&over);
        let bystanders: Vec<_> = (0..6)
            .map(|number| {
                let (proxy, over) = (&proxy, &over);
                scope.spawn(move || bystand(proxy, number, over))
            })
            .collect();
        let before = eventually(PATIENCE, || {
            let lanes = lanes(&proxy);
            // One that is not connected yet has no id.
            if lanes.len() >= 2 && !lanes.contains("upstream_id=0") { Ok(lanes) } else { Err(format!("{lanes:?}")) }
        });
        let mut ids: Vec<String> =
            before.iter().filter_map(|id| id.strip_prefix("upstream_id=")).map(str::to_owned).collect();
        ids.push(direct.ask("CLIENT ID").as_str());
        ids.push(proxy.connect().ask("CLIENT ID").as_str());
        let values = Values { ids };
        let mut asking = proxy.connect();
        let names: Vec<_> =
            commands().into_iter().map(|(name, _)| name).filter(|name| !NOT_HERE.contains(&name.as_str())).collect();
        let mut forms: Vec<_> = names.iter().flat_map(|name| forms_of(name, &mut direct, &values)).collect();
        forms.extend(debugs(&mut direct));
        forms.retain(|form| !rides(form, &mut asking));
        let heads: BTreeSet<_> = forms.iter().map(|form| form[0].to_ascii_uppercase()).collect();
        let tries: Vec<_> = forms.iter().flat_map(|form| PLACES.map(|place| (form, place))).collect();
        let done = catch_unwind(AssertUnwindSafe(|| {
            in_parallel("hostile: options", &tries, |(form, place)| try_out(&proxy, form, *place));
            for (number, (form, place)) in tries.iter().enumerate().filter(|(number, _)| number % 7 == 0) {
                try_out(&proxy, form, *place);
                borrow(&proxy, &format!("{number}: {place:?} {:?}", Shown(&encode(form))));
            }
        }));
        drop(end);
        let rounds: u64 =
            bystanders.into_iter().map(|bystander| bystander.join().expect("a bystander lost nothing")).sum();
        println!(
            "{{\"hostile\":\"lent\",\"server\":\"{}\",\"commands\":{},\"forms\":{},\"tries\":{},\"bystanders_rounds\":{rounds}}}",
            flavour.name(),
            heads.len(),
            forms.len(),
            tries.len()
        );
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(forms.len() > 300 && rounds > 100, "{} forms, {rounds} rounds", forms.len());
        let after = lanes(&proxy);
        assert!(before.is_subset(&after), "{before:?} and {after:?}");
    });
    let violations = proxy.metric("respmux_integrity_violations_total", &[]).unwrap_or_default();
    assert!(violations == 0.0 && !proxy.log().contains("panicked"), "{violations}: {}", proxy.log());
    eventually(PATIENCE, || match odd_connections(&mut direct, &lanes(&proxy)) {
        (0, _) => Err("the list shows none of ours".to_owned()),
        (_, odd) if odd.is_empty() => Ok(()),
        (_, odd) => Err(format!("{}\nclients: {}", odd.join("\n"), proxy.connect().ask("CLIENT LIST").as_str())),
    });
    assert!(proxy.runs());
}

#[test]
fn redis_7_0() {
    nobody_else_notices(Flavour::Redis70);
}

#[test]
fn redis_8_2() {
    nobody_else_notices(Flavour::Redis82);
}

#[test]
fn valkey_9() {
    nobody_else_notices(Flavour::Valkey9);
}

/// The text of an error that a client chooses says nothing about the connection on which it comes.
#[test]
fn errors_that_a_script_makes_up_prove_nothing() {
    let redis = RealRedis::start(Flavour::Redis70, &["--enable-debug-command", "yes"]);
    redis.connect().ask("ACL SETUSER app on >pw ~* &* +@all");
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("AUTH app pw").as_str(), "OK"));
    let before = lanes(&proxy);
    for text in ["NOAUTH Authentication required.", "READONLY x", "BUSY x", "LOADING x", "NOPERM x", "WRONGPASS x"] {
        let script = format!("return redis.error_reply('{text}')");
        assert_eq!(clients[0].call(&["EVAL", &script, "0"]).as_str(), text);
        let packet = [encode(&["MULTI"]), encode(&["EVAL", &script, "0"]), encode(&["EXEC"])].concat();
        clients[1].send(&packet);
        clients[1].expect(format!("+OK\r\n+QUEUED\r\n*1\r\n-{text}\r\n").as_bytes());
        clients.iter_mut().for_each(|client| assert_eq!(client.ask("PING").as_str(), "PONG", "{text}"));
    }
    assert!(before.is_subset(&lanes(&proxy)), "{before:?}");
    assert_eq!(proxy.metric("respmux_integrity_violations_total", &[]).unwrap_or_default(), 0.0);
}

/// Clients that wait on connections of respmux wait on, whatever is done to the ids and addresses of these.
#[test]
fn ids_of_our_own_connections_are_nobodys() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 16));
        let (mut direct, mut waiting, mut reading) = (redis.connect(), proxy.connect(), proxy.connect());
        waiting.send_command(&["BLPOP", "lent:queue", "0"]);
        reading.send_command(&["XREAD", "BLOCK", "0", "STREAMS", "lent:stream", "$"]);
        eventually(PATIENCE, || match direct.ask("INFO clients").as_str() {
            text if text.contains("blocked_clients:2") => Ok(()),
            text => Err(text),
        });
        let list = direct.ask("CLIENT LIST").as_str();
        let ours: Vec<_> = list.lines().filter(|line| line.contains(" name=respmux:")).collect();
        assert!(ours.len() >= 4, "{list}");
        let mut client = proxy.connect();
        for line in &ours {
            let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)).unwrap_or_default();
            let (id, addr) = (field("id="), field("addr="));
            for kill in [format!("UNBLOCK {id}"), format!("UNBLOCK {id} ERROR"), format!("KILL ID {id} SKIPME no")] {
                assert_eq!(client.ask(&format!("CLIENT {kill}")).as_int(), 0, "{kill}: {line}");
            }
            assert_eq!(client.ask(&format!("CLIENT KILL ADDR {addr}")).as_int(), 0, "{line}");
            assert_eq!(client.ask(&format!("CLIENT KILL {addr}")).as_str(), "ERR No such client", "{line}");
        }
        assert_eq!(client.ask("CLIENT UNBLOCK 1 BANANA").as_str(), direct.ask("CLIENT UNBLOCK 1 BANANA").as_str());
        let after = direct.ask("CLIENT LIST").as_str();
        for line in &ours {
            let id = line.split(' ').next().expect("it begins with the id");
            assert!(after.lines().any(|other| other.split(' ').next() == Some(id)), "{id} is gone");
        }
        direct.ask("RPUSH lent:queue served");
        direct.ask("XADD lent:stream 1-1 f v");
        assert_eq!(waiting.read_frame().items[1].as_str(), "served", "{}", flavour.name());
        assert_eq!(reading.read_frame().items.len(), 1, "{}", flavour.name());
    }
}
