//! A rolling restart under load that nobody notices: three replicas behind a plain TCP balancer, each sent SIGTERM and
//! replaced in its turn, and callers of real client libraries that must not see one failed command.
//!
//! `cargo test --test rolling` does one round. `make prove WHAT=rolling` does `ROLLING_ROUNDS` (20) with `ROLLING_CALLERS` (6) in
//! each arm and prints one line of JSON: commands and failed commands by client and mode, and what the replicas counted.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests report, pace themselves and share by lock"
)]

mod balancer;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use balancer::{Door, Pool};
use kit::{Flavour, Progress, Proxy, ProxyOptions, RealRedis, eventually, path_of, setting};
use serde_json::{Value, json};

const REPLICAS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// Callers of one library in one mode.
#[derive(Clone, Copy)]
struct Arm {
    /// The library, and whether it asks for maintenance notifications ("told") or not.
    name: &'static str,
    script: &'static str,
    interpreter: &'static str,
    /// Bounds of the pause between two commands, milliseconds.
    pause: (u32, u32),
    /// Whether there must be no failed command.
    bar: bool,
}

/// As an application does that does something else, too. A machine that is so busy that packets take this long on it
/// would show what it does to the test, not what respmux does.
const STEADY: (u32, u32) = (15, 45);
/// The next command as soon as there is an answer.
const TIGHT: (u32, u32) = (0, 0);

const fn arm(name: &'static str, pause: (u32, u32)) -> Arm {
    match name.as_bytes()[0] {
        b'r' => Arm { name, script: "redis_py.py", interpreter: "PYTHON", pause, bar: true },
        _ => Arm { name, script: "callers.mjs", interpreter: "NODE", pause, bar: true },
    }
}

const CALLERS_THAT_PAUSE: [Arm; 5] = [
    arm("node-redis told", STEADY),
    arm("node-redis plain", STEADY),
    arm("redis-py told", STEADY),
    arm("redis-py plain", STEADY),
    arm("ioredis plain", STEADY),
];

const CALLERS_THAT_DO_NOT: [Arm; 5] = [
    arm("node-redis told", TIGHT),
    // It gives up a command that was written when the connection is closed, and here there is always one: shown only.
    Arm { bar: false, ..arm("node-redis plain", TIGHT) },
    arm("redis-py told", TIGHT),
    arm("redis-py plain", TIGHT),
    arm("ioredis plain", TIGHT),
];

/// One arm at work.
struct Callers {
    arm: Arm,
    door: Door,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Callers {
    fn start(arm: Arm, door: Door, callers: usize) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rolling");
        let mut command = Command::new(path_of(arm.interpreter));
        command.arg(folder.join(arm.script)).args(["--arm", arm.name, "--port", &door.address.port().to_string()]);
        command.args(["--callers", &callers.to_string()]);
        command.args(["--least", &arm.pause.0.to_string(), "--most", &arm.pause.1.to_string()]);
        command.env("NODE_PATH", path_of("NODE_PATH")).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the interpreter starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut callers = Self { arm, door, child, output };
        assert_eq!(callers.line(), "ready", "{}", arm.name);
        callers
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line.trim().to_owned()
    }

    /// Ends the work; what the callers saw.
    fn finish(mut self) -> (Arm, usize, Value) {
        drop(self.child.stdin.take());
        let line = self.line();
        let _ = self.child.wait();
        let seen = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line:?}", self.arm.name));
        (self.arm, self.door.connections(), seen)
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the replicas said of their ends, added up.
#[derive(Default)]
struct Ends(BTreeMap<String, f64>);

impl Ends {
    /// Waits for the end of `proxy`; notes what it counted last.
    fn watch(&mut self, proxy: &mut Proxy) {
        let mut last = BTreeMap::new();
        let status = eventually(PATIENCE, || {
            if let Ok((200, text)) = proxy.http("/metrics") {
                last = counted(&text);
            }
            if proxy.runs() { Err("the replica still runs") } else { Ok(proxy.wait_exit(PATIENCE)) }
        });
        assert!(status.success(), "a replica ended with {status}");
        for (series, value) in last {
            *self.0.entry(series).or_default() += value;
        }
    }
}

fn counted(text: &str) -> BTreeMap<String, f64> {
    let ours =
        ["respmux_client_handoffs_total", "respmux_client_connections_closed_total", "respmux_client_close_races"];
    let lines = text.lines().filter(|line| ours.iter().any(|name| line.starts_with(name)));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs
        .filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?)))
        .filter(|(_, v)| *v > 0.0)
        .collect()
}

fn start(redis: &RealRedis, endpoint: SocketAddr) -> Proxy {
    let endpoint = format!("drain.endpoint={endpoint}");
    let options = ProxyOptions::sized(2, 24).set("drain.delay=300ms").set("drain.timeout=6s").set(&endpoint);
    Proxy::start(redis, &options)
}

/// Plays `rounds` rolling restarts; gives the line of it and what was not as it must be.
fn roll(arms: &[Arm], callers: usize, rounds: usize) -> (Value, Vec<String>) {
    let redis = RealRedis::start(Flavour::Redis82, &[]);
    let pool = Pool::new();
    let doors: Vec<Door> = arms.iter().map(|_| Door::open(&pool)).collect();
    // redis-py takes the host alone from what it is told, node-redis the port, too: it must come back to its own door.
    let endpoint = doors[0].address;
    let mut replicas: Vec<Proxy> = (0..REPLICAS).map(|_| start(&redis, endpoint)).collect();
    for (index, replica) in replicas.iter().enumerate() {
        pool.place(index, replica.tcp_address(), replica.admin());
    }
    let all_ready = || {
        eventually(PATIENCE, || match pool.ready() {
            REPLICAS => Ok(()),
            ready => Err(format!("{ready} replicas are ready")),
        });
    };
    all_ready();
    let working: Vec<Callers> = arms.iter().zip(doors).map(|(arm, door)| Callers::start(*arm, door, callers)).collect();
    let mut ends = Ends::default();
    std::thread::sleep(Duration::from_millis(500));
    for _ in Progress::over("rolling: rounds", 0..rounds) {
        for (index, replica) in replicas.iter_mut().enumerate() {
            replica.signal("TERM");
            ends.watch(replica);
            *replica = start(&redis, endpoint);
            pool.place(index, replica.tcp_address(), replica.admin());
            all_ready();
        }
    }
    let seen: Vec<_> = working.into_iter().map(Callers::finish).collect();
    pool.stop();
    report(rounds, callers, &seen, &ends)
}

fn report(rounds: usize, callers: usize, seen: &[(Arm, usize, Value)], ends: &Ends) -> (Value, Vec<String>) {
    let by_arm: BTreeMap<&str, Value> = seen
        .iter()
        .map(|(arm, connections, seen)| {
            let mut seen = seen.clone();
            seen["connections"] = json!(connections);
            (arm.name, seen)
        })
        .collect();
    let mut complaints = Vec::new();
    for (arm, connections, seen) in seen {
        let bars = [
            ("commands were lost or ran twice", seen["wrong"] == 0),
            ("commands failed", seen["failed"] == 0 || !arm.bar),
            ("hardly anything was done", seen["commands"].as_u64() > Some(30)),
            ("nobody had to move", *connections > callers),
        ];
        let missed = bars.into_iter().filter(|(_, held)| !held);
        complaints.extend(missed.map(|(complaint, _)| format!("{}: {complaint}: {seen}", arm.name)));
    }
    if !ends.0.keys().any(|series| series.contains("handoffs") && series.contains("moved")) {
        complaints.push("nobody moved by itself".to_owned());
    }
    let line = json!({
        "rounds": rounds, "restarts": rounds * REPLICAS, "callers": callers, "arms": by_arm, "replicas": ends.0
    });
    (line, complaints)
}

#[test]
fn one_round() {
    let (line, complaints) = roll(&CALLERS_THAT_PAUSE, 3, 1);
    println!("{line}");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
#[ignore = "minutes: make prove WHAT=rolling"]
fn rolling_full() {
    let (rounds, callers) = (setting("ROLLING_ROUNDS", 20), setting("ROLLING_CALLERS", 6));
    let (steady, mut complaints) = roll(&CALLERS_THAT_PAUSE, callers, rounds);
    let (tight, more) = roll(&CALLERS_THAT_DO_NOT, callers, rounds.div_ceil(4));
    println!("{}", json!({ "with_pauses": steady, "without_pauses": tight }));
    complaints.extend(more);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
