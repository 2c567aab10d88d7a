//! Conversations with the proxy, byte for byte: `tests/transcripts/<topic>/<case>.txt`.
//!
//! # Notation
//!
//! Each line is a step; steps happen in order. `#` starts a comment. Clients are `C1`, `C2`, …; connections to the
//! server itself, past the proxy, are `D`, `D2`, …. A connection opens when it is first named.
//!
//! | line | meaning |
//! |---|---|
//! | `C1> SET k 1 / GET k` | sends these commands as multibulk in one packet. `"a b"` quotes, `\0 \xHH \n` escape, `{x*9}` repeats, `<$n>` is what was captured as `n` |
//! | `C1>> *1/$4/PING/` | sends these bytes; `/` is CRLF (`\/` a slash, `\s` a space after one) |
//! | `C1< +OK/ $1/1/` | receives exactly these bytes next; white space after `/` is layout. `EOF` at the end: then the connection closes |
//! | `C1<~ :1/ \|\| :2/` | receives all of these, in any order |
//! | `@until D LLEN q = :0/` | asks until the whole reply is this |
//! | `@quiet C1 50ms` | receives nothing, stays connected |
//! | `@open C1 resp3`, `@close C1`, `@shutdown C1`, `@reset C1` | opens (and says HELLO), closes, half closes, closes with a reset |
//! | `@pause 1100ms` | lets time pass that the product may take |
//!
//! Holes in what is received: `<int>`, `<int=n>` (captured as `n`), `<line:glob>` (to the line's end), `<bulk:glob>`,
//! `<verb:glob>`, `<frame>`, `<frame*14>`, `<skip:glob>` (lines up to one like this), `<$n>`.
//!
//! A step may start with a condition: `[7.0]`, `[!7.0]`, `[8.2 valkey9]`, `[direct]`, `[proxy]`. A `[proxy]` step beside
//! a `[direct]` one is a documented deviation.
//!
//! For the whole file: `@flavours 7.0 valkey9`; `@direct no: reason` (every other file runs against the bare server too,
//! as the proof that the expectation is true); `@redis ARGUMENTS`, `@proxy ARGUMENTS` (servers of its own);
//! `@needs 9` (upstream connections; above six the smallest proxy does not play it); `@slow` (servers of its own for
//! every round, no rounds for every split).
//!
//! # Rounds
//!
//! Each file is played whole, with every byte as a packet of its own, and cut once at each byte of its longest write (at
//! 40 places of a long one; `TRANSCRIPT_SPLITS=all` at all), on each flavour. `TRANSCRIPT=login/` plays only the files
//! whose name contains that.

mod parse;
mod pattern;
mod play;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use kit::{Flavour, Pki, Proxy, ProxyOptions, RealRedis, TestClient, eventually, pause};

use parse::{Action, Arm, SendPiece, Transcript};
use play::{Play, Split};

/// Files played at the same time, each with servers of its own: a transcript mostly waits.
const LANES: usize = 3;
/// Cuts of a long write.
const MOST_SPLITS: usize = 40;

/// Topics that are played over TLS too: where it matters when bytes come and when a connection ends.
const OVER_TLS: [&str; 6] = ["order/", "busy-scripts/", "closing/", "replies-off/", "blocking/", "pubsub/"];

/// What a row of rounds is played through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Server,
    /// One worker and six upstream connections.
    TightProxy,
    /// The defaults.
    DefaultProxy,
    /// The defaults, with clients that speak TLS.
    TlsProxy,
}

/// A server, perhaps with a proxy in front, that one transcript after the other is played on.
struct Stage {
    redis: RealRedis,
    control: TestClient,
    proxy: Option<Proxy>,
    /// Set for one file, with the configuration that it asks for.
    own: bool,
}

impl Stage {
    fn set(flavour: Flavour, through: Through, transcript: Option<&Transcript>) -> Self {
        let arguments = transcript.map_or(&[][..], |transcript| &transcript.redis);
        let own = transcript.is_some();
        let redis = RealRedis::start(flavour, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let mut control = TestClient::connect(&redis.unix_address());
        if let Some(at) = arguments.iter().position(|argument| argument == "--requirepass") {
            control.call(&["AUTH", &arguments[at + 1]]);
        }
        let mut options = match through {
            Through::Server => {
                return Self { redis, control, proxy: None, own };
            }
            Through::TightProxy => ProxyOptions::tight(),
            Through::DefaultProxy => ProxyOptions::default(),
            Through::TlsProxy => ProxyOptions { tls: Some(Pki::new()), ..ProxyOptions::default() },
        };
        if let Some(own) = transcript.and_then(|transcript| transcript.proxy.as_ref()) {
            options.settings.clone_from(&own.settings);
            options.arguments.clone_from(&own.arguments);
            options.workers = own.workers.or(options.workers);
            options.max_upstream_connections = own.max_upstream_connections.or(options.max_upstream_connections);
        }
        // One proxy plays many transcripts, each with logins that fail.
        for setting in ["auth.failure_delay=0s", "auth.max_failures=0"] {
            if !options.settings.iter().any(|own| own.starts_with("auth.")) {
                options.arguments.extend(["--set".to_owned(), setting.to_owned()]);
            }
        }
        let proxy = Some(Proxy::start(&redis, &options));
        Self { redis, control, proxy, own }
    }

    fn play(&mut self, transcript: &Transcript, split: Split) -> Result<(), String> {
        // A transcript may have killed every connection of the server, this one too.
        if !self.control.is_open() {
            self.control = TestClient::connect(&self.redis.unix_address());
        }
        let reset = if self.own { RealRedis::empty } else { RealRedis::reset };
        if reset(&mut self.control) {
            self.let_lanes_go();
        }
        let (arm, target) = match &self.proxy {
            Some(proxy) => (Arm::Proxy, proxy.address()),
            None => (Arm::Direct, self.redis.address()),
        };
        let play = Play { transcript, flavour: self.redis.flavour(), arm, split, target, server: self.redis.address() };
        let outcome = catch_unwind(AssertUnwindSafe(|| play.run())).unwrap_or_else(|panic| Err(panic_text(&*panic)));
        if outcome.is_ok() {
            self.let_clients_go();
        }
        outcome.map_err(|complaint| format!("{complaint}{}", self.tail_of_log()))
    }

    /// The clients of this round are closed; what they left in the proxy must not run into the next round.
    fn let_clients_go(&self) {
        let Some(proxy) = &self.proxy else { return };
        for _ in 0..200 {
            if proxy.metric("respmux_client_connections", &[]).unwrap_or(0.0) == 0.0 {
                return;
            }
            pause(Duration::from_millis(1));
        }
    }

    /// Users of the round before are deleted, and the server has closed their lanes. That must not be noticed in the
    /// middle of this round: who wrote before a loss and then asks WAIT is closed (rule W4).
    fn let_lanes_go(&self) {
        let Some(proxy) = &self.proxy else { return };
        let mut client = proxy.connect();
        eventually(Duration::from_secs(4), || {
            let mut lanes = client.ask("PROXY LANES").items.into_iter().map(|lane| lane.as_str());
            lanes.find(|lane| !lane.contains(" user=default ")).map_or(Ok(()), Err)
        });
    }

    fn tail_of_log(&self) -> String {
        let log = self.proxy.as_ref().map(Proxy::log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(5)..];
        tail.iter().map(|line| format!("\n      log: {line}")).collect()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    format!("panic: {}", text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?"))
}

/// All transcripts, by name.
fn load() -> Vec<Transcript> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files = Vec::new();
    for topic in std::fs::read_dir(&root).expect("tests/transcripts exists") {
        let topic = topic.expect("readable").path();
        for file in std::fs::read_dir(&topic).expect("a folder for each topic") {
            files.push(file.expect("readable").path());
        }
    }
    files.sort();
    let mut transcripts = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "txt")) {
        let name = file.strip_prefix(&root).expect("found below it").display().to_string();
        let text = std::fs::read_to_string(file).expect("readable");
        transcripts.push(parse::parse(&name, &text).unwrap_or_else(|error| panic!("{error}")));
    }
    transcripts
}

fn rounds(transcript: &Transcript, through: Through) -> Vec<Split> {
    let mut rounds = vec![Split::Whole, Split::Bytewise];
    if through == Through::TightProxy && !transcript.slow {
        let longest = longest_write(transcript);
        let all = std::env::var("TRANSCRIPT_SPLITS").is_ok_and(|value| value == "all");
        let step = if all { 1 } else { longest.div_ceil(MOST_SPLITS).max(1) };
        rounds.extend((1..longest).step_by(step).map(Split::At));
    }
    rounds
}

/// In bytes; captured values and repeated sends are as good as nothing.
fn longest_write(transcript: &Transcript) -> usize {
    let writes = transcript.steps.iter().filter_map(|step| match &step.action {
        Action::Send(who, pieces) if who.starts_with('C') => Some(pieces.iter().map(size).sum()),
        _ => None,
    });
    writes.max().unwrap_or(0)
}

fn size(piece: &SendPiece) -> usize {
    match piece {
        SendPiece::Bytes(bytes) => bytes.len(),
        SendPiece::Captured(_) => 0,
        SendPiece::Command(arguments) => 4 + arguments.iter().flatten().map(|piece| size(piece) + 6).sum::<usize>(),
    }
}

/// Plays every file that is meant for `flavour` and `through`, and fails with the list of those that went wrong.
fn play_all(flavour: Flavour, through: Through) {
    let only = std::env::var("TRANSCRIPT").unwrap_or_default();
    let chosen = load().into_iter().filter(|transcript| {
        let fits = through != Through::TightProxy || transcript.needs <= 6;
        let told = through != Through::Server || transcript.direct;
        let over_tls = OVER_TLS.iter().any(|topic| transcript.name.starts_with(topic))
            // A client that is refused before its handshake cannot be told why, here as with a server.
            && !transcript.name.contains("too-many-clients");
        let chosen = through != Through::TlsProxy || over_tls;
        transcript.flavours.contains(&flavour) && fits && told && chosen && transcript.name.contains(&only)
    });
    let queue: Mutex<VecDeque<_>> = Mutex::new(chosen.collect());
    let count = queue.lock().unwrap().len();
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                let mut stage = None;
                while let Some(transcript) = { queue.lock().unwrap().pop_front() } {
                    if let Err(failure) = play_file(&transcript, flavour, through, &mut stage) {
                        // Whatever state the round left: the next file starts on fresh ground.
                        stage = None;
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    assert!(failures.is_empty(), "{} of {count} transcripts failed:\n\n{}\n", failures.len(), failures.join("\n\n"));
}

/// Plays the rounds of one file until one goes wrong. `shared` is this thread's stage for files that need none of
/// their own.
fn play_file(
    transcript: &Transcript,
    flavour: Flavour,
    through: Through,
    shared: &mut Option<Stage>,
) -> Result<(), String> {
    let own = transcript.slow || !transcript.redis.is_empty() || transcript.proxy.is_some();
    let mut own_stage = None;
    for split in rounds(transcript, through) {
        if transcript.slow {
            own_stage = None;
        }
        let stage = if own { &mut own_stage } else { &mut *shared };
        let set = || Stage::set(flavour, through, own.then_some(transcript));
        if stage.is_none() {
            let set = catch_unwind(AssertUnwindSafe(set));
            *stage = Some(set.map_err(|panic| format!("{}: {}", transcript.name, panic_text(&*panic)))?);
        }
        stage.as_mut().expect("set above").play(transcript, split)?;
    }
    Ok(())
}

/// The runner itself: what is not so must not pass.
mod the_runner {
    use super::{Flavour, Split, Stage, Through, parse};

    /// What goes wrong with `text` against a server, if anything.
    fn played(text: &str) -> Result<(), String> {
        let transcript = parse::parse("t", text).unwrap();
        Stage::set(Flavour::Redis70, Through::Server, None).play(&transcript, Split::Whole)
    }

    #[test]
    fn passes_what_is_true() {
        assert_eq!(played("C1> SET k 1 / GET k\nC1< +OK/ $1/1/\nC1> QUIT\nC1< +OK/ EOF"), Ok(()));
        assert_eq!(played("@open C1 resp3\nC1> GET no\nC1< _/\n[7.0] D> DBSIZE\nD< :0/\n@quiet C1 5ms"), Ok(()));
    }

    #[test]
    fn fails_on_what_is_not_and_says_where() {
        let wrong = [
            ("C1> GET k\nC1< +OK/", "t:2 "),
            ("C1> GET k\n\nC1< $-1/ $-1/", "t:3 "),
            ("C1> PING / PING\nC1< +PONG/", "more than expected"),
            ("C1> PING\nC1< +PONG/ EOF", "stayed open"),
            ("C1> QUIT\nC1< +OK/ +OK/", "Eof"),
            ("C1> PING\n@quiet C1 20ms", "wanted nothing"),
            ("C1> PING\nC1<~ +PONG/ || +OK/", "t:2 "),
            ("@until D DBSIZE = :1/", "still"),
            ("[8.2] C1> PING\nC1< +PONG/", "t:2 "),
        ];
        for (text, part) in wrong {
            let complaint = played(text).expect_err(text);
            assert!(complaint.contains(part), "{text:?}: {complaint}");
        }
    }
}

/// The control: what the transcripts say is what the servers do.
mod against_the_server {
    use super::{Flavour, Through, play_all};

    #[test]
    fn redis_7_0() {
        play_all(Flavour::Redis70, Through::Server);
    }

    #[test]
    fn redis_8_2() {
        play_all(Flavour::Redis82, Through::Server);
    }

    #[test]
    fn valkey_9() {
        play_all(Flavour::Valkey9, Through::Server);
    }
}

/// One worker, six upstream connections: nearly every route has to wait for another.
mod through_the_smallest_proxy {
    use super::{Flavour, Through, play_all};

    #[test]
    fn redis_7_0() {
        play_all(Flavour::Redis70, Through::TightProxy);
    }

    #[test]
    fn redis_8_2() {
        play_all(Flavour::Redis82, Through::TightProxy);
    }

    #[test]
    fn valkey_9() {
        play_all(Flavour::Valkey9, Through::TightProxy);
    }
}

/// As most people run it.
mod through_the_default_proxy {
    use super::{Flavour, Through, play_all};

    #[test]
    fn redis_7_0() {
        play_all(Flavour::Redis70, Through::DefaultProxy);
    }

    #[test]
    fn redis_8_2() {
        play_all(Flavour::Redis82, Through::DefaultProxy);
    }

    #[test]
    fn valkey_9() {
        play_all(Flavour::Valkey9, Through::DefaultProxy);
    }
}

/// The same over TLS: a stream is a stream.
mod through_tls {
    use super::{Flavour, Through, play_all};

    #[test]
    fn redis_7_0() {
        play_all(Flavour::Redis70, Through::TlsProxy);
    }
}
