//! Proofs T10 and T15: whatever is sent, the proxy says what the server says, lives, and stays small; and of a client
//! that has not logged in nothing reaches the upstream but the question whether it may.
//!
//! A short form runs with all tests; `make prove WHAT=hostile` sends more. `HOSTILE_INPUTS` and `HOSTILE_SEED` set how many and
//! from which seed; each test prints one line of JSON.

mod handshake;
mod inputs;
mod lent;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::relay::Relay;
use inputs::Input;
use kit::{Address, Flavour, Progress, Proxy, ProxyOptions, RealRedis, Shown, TestClient, encode, setting};

/// Inputs of the short form.
const SHORT: usize = 4000;
/// Conversations at one time.
const THREADS: usize = 8;
/// How long one conversation may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the process may grow by, however many bad inputs it has seen, KiB. Debug builds and the buffers that are kept
/// for reuse included.
const MOST_GROWTH: u64 = 16 << 10;

/// Runs `act` on every item, some at a time; `what` they are is told while it takes.
fn in_parallel<T: Sync>(what: &str, items: &[T], act: impl Fn(&T) + Sync) {
    let progress = Progress::new(what).of(items.len() as u64);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    act(item);
                    progress.add(1);
                }
            });
        }
    });
}

/// Sends everything, says that there is no more, and takes what comes until the close.
fn converse(address: &Address, bytes: &[u8]) -> Vec<u8> {
    let mut client = TestClient::connect(address);
    client.send(bytes);
    client.shut_write();
    client.read_to_end(PATIENCE)
}

/// What is said to `bytes`, as far as it must be the same on both sides.
fn said(address: &Address, bytes: &[u8]) -> Vec<u8> {
    without_id(converse(address, bytes))
}

const IN_MULTI: &[u8] = b"not allowed inside a transaction through this proxy";

/// The id in a HELLO reply is the client's own.
fn without_id(mut bytes: Vec<u8>) -> Vec<u8> {
    const NAME: &[u8] = b"$2\r\nid\r\n:";
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(NAME.len()).position(|text| text == NAME) {
        from += at + NAME.len();
        let digits = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        bytes.drain(from..from + digits);
    }
    bytes
}

/// Resident memory of a process, KiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// One arm: a server, and the proxy in front of it.
struct Arm {
    name: &'static str,
    redis: RealRedis,
    proxy: Proxy,
}

fn arms() -> [Arm; 2] {
    [("open", &[][..]), ("locked", &["--requirepass", "right"])].map(|(name, arguments)| {
        let redis = RealRedis::start(Flavour::Redis70, arguments);
        let options = ProxyOptions::sized(2, 12).set("auth.max_failures=0").set("auth.failure_delay=0s");
        let proxy = Proxy::start(&redis, &options.set("auth.max_commands=1000000"));
        Arm { name, redis, proxy }
    })
}

#[test]
fn bad_inputs_are_answered_as_the_server_answers_them() {
    let seed = setting("HOSTILE_SEED", 1);
    let count = setting("HOSTILE_INPUTS", SHORT);
    let mut arms = arms();
    let (compared, mut growth) = (AtomicUsize::new(0), 0);
    let (differences, cut) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let inputs = inputs::corpus(seed, count / arms.len());
    for Arm { name, redis, proxy } in &mut arms {
        // What is allocated once and kept is not growth.
        in_parallel("hostile: inputs", &inputs[..inputs.len() / 4], |input| {
            drop(converse(&proxy.address(), &input.bytes))
        });
        let before = resident(proxy.process_id());
        in_parallel("hostile: inputs", &inputs, |input| {
            let Input { about, bytes, comparable } = input;
            let heard = said(&proxy.address(), bytes);
            // A known deviation: logins cannot be queued (rule M7).
            if !comparable || heard.windows(IN_MULTI.len()).any(|text| text == IN_MULTI) {
                return;
            }
            let wanted = said(&redis.address(), bytes);
            compared.fetch_add(1, Ordering::Relaxed);
            // A server that closes drops what it has not written yet: an HTTP request, or much output before a login.
            if heard.len() > wanted.len() && heard.starts_with(&wanted) {
                cut.fetch_add(1, Ordering::Relaxed);
            } else if wanted.starts_with(&heard)
                && heard != wanted
                && (0..5).any(|_| said(&proxy.address(), bytes) == wanted)
            {
                // Input that nobody reads makes the close a reset, and that may overtake the last bytes here, too.
                cut.fetch_add(1, Ordering::Relaxed);
            } else if heard != wanted {
                let complaint = format!(
                    "{name}, {about}: {:?}\n    server {:?}\n    proxy  {:?}",
                    Shown(bytes),
                    Shown(&wanted),
                    Shown(&heard)
                );
                differences.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
            }
        });
        growth = growth.max(resident(proxy.process_id()).saturating_sub(before));
        assert!(proxy.runs(), "{name}: the proxy crashed:\n{}", proxy.log());
        assert!(!proxy.log().contains("panicked"), "{name}: {}", proxy.log());
        let reply = proxy.connect().ask("PING").as_str();
        assert!(reply == "PONG" || reply.starts_with("NOAUTH"), "{name}: {reply}");
    }
    let compared = compared.into_inner();
    let differences = differences.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{{\"hostile\":\"inputs\",\"seed\":{seed},\"inputs\":{},\"compared\":{compared},\"cut_by_the_server\":{},\"differences\":{},\"crashes\":0,\"rss_growth_kib\":{growth}}}",
        inputs.len() * arms.len(),
        cut.load(Ordering::Relaxed),
        differences.len()
    );
    let shown = differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} inputs differ (HOSTILE_SEED={seed}):\n{shown}", differences.len());
    assert!(compared * 10 > inputs.len() * arms.len() * 9, "most inputs are compared");
    assert!(cut.load(Ordering::Relaxed) * 5 < compared, "most comparisons are whole");
    assert!(growth <= MOST_GROWTH, "grew by {growth} KiB");
}

/// A case of the gate: what is sent, and what may be in the answer.
struct Case {
    about: String,
    bytes: Vec<u8>,
    /// Replies before the command's own.
    before: &'static str,
}

impl Case {
    /// Closed, refused, or one of the four that everybody may: nothing else has an answer.
    fn is_refused(&self, heard: &[u8]) -> bool {
        heard.strip_prefix(self.before.as_bytes()).is_some_and(|rest| {
            rest.is_empty()
                || rest.starts_with(b"-")
                || rest.starts_with(b"+RESET\r\n-")
                || rest == b"+RESET\r\n"
                || rest == b"+OK\r\n"
        })
    }
}

const MARK: &str = "hostilemark";
const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// The commands of the table, subcommands as two words.
fn commands() -> Vec<(String, usize)> {
    let table = include_str!("../../src/command/commands.tsv");
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.starts_with('<'));
    rows.filter_map(|row| {
        let columns: Vec<_> = row.split('\t').collect();
        let arity = columns.get(5).and_then(|arity| arity.parse::<i32>().ok()).unwrap_or(-1);
        Some(((*columns.first()?).to_owned(), arity.unsigned_abs() as usize))
    })
    .collect()
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, arity) in commands() {
        let mut words: Vec<String> = name.split(' ').map(str::to_owned).collect();
        while words.len() < arity {
            words.push(format!("{MARK}{}", words.len()));
        }
        let (array, inline) = (encode(&words), format!("{}\r\n", words.join(" ")).into_bytes());
        let lower = encode(&words.iter().map(|word| word.to_lowercase()).collect::<Vec<_>>());
        let with = |before: &[u8]| [before, &array].concat();
        let auth = encode(&["AUTH", "wrong"]);
        let reset = encode(&["RESET"]);
        let login_and_reset = [encode(&["AUTH", "right"]), reset.clone()].concat();
        let transaction = [encode(&["MULTI"]), array.clone(), encode(&["EXEC"])].concat();
        let forms = [
            ("array", array.clone(), ""),
            ("lower case", lower, ""),
            ("inline", inline, ""),
            ("behind a failing AUTH", with(&auth), WRONG),
            ("after RESET", with(&reset), "+RESET\r\n"),
            ("after a login and RESET", with(&login_and_reset), "+OK\r\n+RESET\r\n"),
            ("in a transaction", transaction, "-NOAUTH Authentication required.\r\n"),
        ];
        cases.extend(forms.map(|(form, bytes, before)| Case { about: format!("{name}, {form}"), bytes, before }));
    }
    cases
}

/// What respmux itself says to the upstream, and what a login asks.
fn is_own(command: &[Vec<u8>]) -> bool {
    let words: Vec<String> = command.iter().map(|word| String::from_utf8_lossy(word).to_ascii_uppercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.iter().any(|word| word.contains(&MARK.to_ascii_uppercase()) && words[0] != "AUTH" && words[0] != "HELLO") {
        return false;
    }
    match words[..] {
        ["RESET" | "PING" | "GET"] | ["PING", _] | ["CLIENT", "ID"] | ["CLIENT", "NO-EVICT", "ON"] => true,
        ["CLIENT", "SETNAME", name] => name.starts_with("RESPMUX:"),
        ["AUTH", ..] | ["HELLO", ..] => true,
        ["INFO", "SERVER"]
        | ["CONFIG", "GET", "BUSY-REPLY-THRESHOLD" | "PROTO-MAX-BULK-LEN" | "ENABLE-DEBUG-COMMAND"] => true,
        _ => false,
    }
}

#[test]
fn nothing_of_an_unauthenticated_client_reaches_the_upstream() {
    let redis = RealRedis::start(Flavour::Redis70, &["--requirepass", "right"]);
    let relay = Relay::start(&redis);
    let options = ProxyOptions {
        upstream: Some(format!("redis://{}", relay.address())),
        ..ProxyOptions::sized(2, 12).set("auth.max_failures=0").set("auth.failure_delay=0s")
    };
    let mut proxy = Proxy::start(&redis, &options);
    let cases = cases();
    let served = Mutex::new(Vec::new());
    in_parallel("hostile: commands before login", &cases, |case| {
        let heard = converse(&proxy.address(), &case.bytes);
        if !case.is_refused(&heard) {
            let complaint = format!("{}: {:?}", case.about, Shown(&heard));
            served.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
        }
    });
    let (commands, bytes) = relay.commands();
    let strays: Vec<_> = commands.iter().filter(|command| !is_own(command)).collect();
    let stray_bytes: usize = strays.iter().flat_map(|command| command.iter().map(Vec::len)).sum();
    println!(
        "{{\"hostile\":\"gate\",\"commands\":{},\"cases\":{},\"upstream_bytes_seen\":{bytes},\"upstream_bytes_caused\":{stray_bytes},\"served\":{}}}",
        self::commands().len(),
        cases.len(),
        served.lock().unwrap_or_else(PoisonError::into_inner).len()
    );
    assert!(bytes > 10_000, "the relay saw the logins: {bytes} bytes");
    assert!(strays.is_empty(), "{} commands reached the upstream: {:?}", strays.len(), &strays[..strays.len().min(20)]);
    let served = served.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(served.is_empty(), "{} were served:\n{}", served.len(), served[..served.len().min(20)].join("\n"));
    assert!(proxy.runs());
    // The check can fail: a client with a login is seen.
    let mut client = proxy.connect();
    assert_eq!(client.ask("AUTH right").as_str(), "OK");
    client.ask(&format!("GET {MARK}"));
    assert!(relay.commands().0.iter().any(|command| !is_own(command)));
}
