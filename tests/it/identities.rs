//! Proof T16: identities never share a connection. Clients of three users, and of nobody, switch between them with
//! AUTH, HELLO and RESET while others work on the same workers and upstream connections are killed; every reply must
//! be the one of the client's own user: its name, its rights, and its data.
//!
//! A short form runs with all tests; `make prove WHAT=identities` runs the long one. `IDENTITY_OPERATIONS` and `IDENTITY_SEED` set
//! how many operations and from which seed; each prints one line of JSON.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fastrand::Rng;

use kit::{
    Address, Flavour, Frame, PATIENCE, Progress, Proxy, ProxyOptions, ReadEnd, RealRedis, SetOnDrop, TestClient,
    encode, pause,
};

/// Each may touch keys and channels that begin with its name, and nothing else. The first needs no login.
const USERS: [&str; 4] = ["default", "ann", "bob", "cat"];
const THREADS: u64 = 4;
const CLIENTS: usize = 8;
/// Keys that a client uses of each user.
const KEYS: u8 = 3;

/// What a client asks for.
#[derive(Clone, Debug)]
enum Op {
    WhoAmI,
    Set(usize, u8, String),
    Get(usize, u8),
    Publish(usize),
    /// MULTI, ACL WHOAMI, a SET, EXEC; behind a WATCH it has a connection of its own.
    Transaction(usize, u8, String, bool),
    /// Of this user, with this protocol by HELLO, and with the right password.
    Login(usize, Option<u8>, bool),
    Reset,
}

/// Why a client goes no further.
#[derive(Debug)]
enum Stop {
    /// Closed, as when the upstream connection that owed it a reply was killed.
    Closed,
    Wrong(String),
}

#[derive(Debug, Default)]
struct Tally {
    operations: AtomicU64,
    switches: AtomicU64,
    names: AtomicU64,
    denied: AtomicU64,
    values: AtomicU64,
    transactions: AtomicU64,
    reconnects: AtomicU64,
    unavailable: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// One client and what it knows.
struct Switcher<'a> {
    client: TestClient,
    tally: &'a Tally,
    user: usize,
    /// No other client uses keys with this number.
    number: u64,
    values: HashMap<(usize, u8), String>,
    serial: u64,
}

impl<'a> Switcher<'a> {
    fn new(address: &Address, tally: &'a Tally, number: u64) -> Self {
        let client = TestClient::connect(address);
        Self { client, tally, user: 0, number, values: HashMap::new(), serial: 0 }
    }

    fn key(&self, user: usize, key: u8) -> String {
        format!("{}:{}:{key}", USERS[user], self.number)
    }

    /// Mostly what the user may do, as far as the client can know before the answers.
    fn choose(&mut self, rng: &mut Rng) -> Op {
        self.serial += 1;
        let user = if rng.u8(..4) == 0 { rng.usize(..USERS.len()) } else { self.user };
        let (key, value) = (rng.u8(..KEYS), format!("{}-{}-{}", USERS[user], self.number, self.serial));
        match rng.u8(..20) {
            0..=4 => Op::WhoAmI,
            5..=8 => Op::Set(user, key, value),
            9..=13 => Op::Get(user, key),
            14 => Op::Publish(user),
            15 => Op::Transaction(user, key, value, rng.bool()),
            16 => Op::Reset,
            _ => {
                let user = rng.usize(..USERS.len());
                // Any password is right for the first.
                let right = user == 0 || rng.u8(..5) > 0;
                Op::Login(user, [None, Some(2), Some(3)][rng.usize(..3)], right)
            }
        }
    }

    fn request(&self, op: &Op) -> Vec<u8> {
        let set = |user: &usize, key: &u8, value: &String| encode(&["SET", &self.key(*user, *key), value]);
        match op {
            Op::WhoAmI => encode(&["ACL", "WHOAMI"]),
            Op::Set(user, key, value) => set(user, key, value),
            Op::Get(user, key) => encode(&["GET", &self.key(*user, *key)]),
            Op::Publish(user) => encode(&["PUBLISH", &format!("{}:news", USERS[*user]), "x"]),
            Op::Transaction(user, key, value, watched) => {
                let watch = if *watched { encode(&["WATCH", &self.key(self.user, 0)]) } else { Vec::new() };
                let (multi, exec) = (encode(&["MULTI"]), encode(&["EXEC"]));
                [watch, multi, encode(&["ACL", "WHOAMI"]), set(user, key, value), exec].concat()
            }
            Op::Login(user, None, right) => encode(&["AUTH", USERS[*user], password(*user, *right)]),
            Op::Login(user, Some(version), right) => {
                let secret = password(*user, *right);
                encode(&["HELLO", &version.to_string(), "AUTH", USERS[*user], secret])
            }
            Op::Reset => encode(&["RESET"]),
        }
    }

    fn reply(&mut self) -> Result<Frame, Stop> {
        match self.client.try_read_frame(PATIENCE) {
            Ok(frame) => Ok(frame),
            Err(ReadEnd::Eof) => Err(Stop::Closed),
            Err(ReadEnd::TimedOut) => Err(Stop::Wrong("no answer".to_owned())),
        }
    }

    /// The next reply, if the upstream was there to give one.
    fn served(&mut self) -> Result<Option<Frame>, Stop> {
        let frame = self.reply()?;
        let away = frame.is_error() && frame.text.starts_with(b"LOADING");
        if away {
            count(&self.tally.unavailable);
        }
        Ok((!away).then_some(frame))
    }

    fn check(&self, right: bool, frame: &Frame) -> Result<(), Stop> {
        if right { Ok(()) } else { Err(Stop::Wrong(format!("as {}: {frame:?}", USERS[self.user]))) }
    }

    /// A reply to a command on keys or channels of `user`: `right` says what it is to those who may.
    fn by_rights(&self, user: usize, frame: &Frame, right: impl Fn(&Frame) -> bool) -> Result<(), Stop> {
        if user == self.user {
            return self.check(right(frame), frame);
        }
        count(&self.tally.denied);
        self.check(frame.is_error() && frame.text.starts_with(b"NOPERM"), frame)
    }

    fn is_name(&self, frame: &Frame) -> bool {
        count(&self.tally.names);
        frame.text == USERS[self.user].as_bytes()
    }

    fn on_reply(&mut self, op: Op) -> Result<(), Stop> {
        count(&self.tally.operations);
        if let Op::Transaction(user, key, value, watched) = op {
            return self.on_transaction(user, key, value, watched);
        }
        let Some(frame) = self.served()? else { return Ok(()) };
        match op {
            Op::WhoAmI => self.check(self.is_name(&frame), &frame),
            Op::Set(user, key, value) => {
                self.by_rights(user, &frame, |frame| frame.text == b"OK")?;
                if user == self.user {
                    self.values.insert((user, key), value);
                }
                Ok(())
            }
            Op::Get(user, key) => {
                count(&self.tally.values);
                self.by_rights(user, &frame, |frame| match self.values.get(&(user, key)) {
                    Some(value) => frame.text == value.as_bytes(),
                    None => frame.null,
                })
            }
            Op::Publish(user) => self.by_rights(user, &frame, |frame| frame.kind == b':'),
            Op::Login(user, _, right) => {
                self.check(frame.is_error() != right, &frame)?;
                if right {
                    self.user = user;
                    count(&self.tally.switches);
                } else {
                    self.check(frame.text.starts_with(b"WRONGPASS"), &frame)?;
                }
                Ok(())
            }
            Op::Reset => {
                self.user = 0;
                count(&self.tally.switches);
                self.check(frame.text == b"RESET", &frame)
            }
            Op::Transaction(..) => unreachable!("above"),
        }
    }

    fn on_transaction(&mut self, user: usize, key: u8, value: String, watched: bool) -> Result<(), Stop> {
        let watching = if watched { self.served()? } else { None };
        if let Some(frame) = watching {
            // The key was chosen before the logins that were sent with it were answered.
            let right = frame.text == b"OK" || frame.text.starts_with(b"NOPERM");
            self.check(right, &frame)?;
        }
        let begun = self.served()?.is_some();
        let (name, set) = (self.served()?, self.served()?);
        let Some(exec) = self.served()? else { return Ok(()) };
        if !begun {
            // What was to be queued has run by itself, if it has run.
            name.map_or(Ok(()), |name| self.check(self.is_name(&name), &name))?;
            if let Some(set) = set {
                self.by_rights(user, &set, |frame| frame.text == b"OK")?;
                if user == self.user {
                    self.values.insert((user, key), value);
                }
            }
            return self.check(exec.is_error(), &exec);
        }
        if let Some(set) = &set {
            self.by_rights(user, set, |frame| frame.text == b"QUEUED")?;
        }
        if name.is_none() || set.is_none() || user != self.user {
            return self.check(exec.is_error() && exec.text.starts_with(b"EXECABORT"), &exec);
        }
        let [name, done] = &exec.items[..] else { return self.check(false, &exec) };
        count(&self.tally.transactions);
        self.check(self.is_name(name) && done.text == b"OK", &exec)?;
        self.values.insert((user, key), value);
        Ok(())
    }
}

/// The password of a user, or a wrong one.
fn password(user: usize, right: bool) -> &'static str {
    if right { ["any", "ann-secret", "bob-secret", "cat-secret"][user] } else { "wrong" }
}

fn server() -> RealRedis {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut direct = redis.connect();
    for (number, user) in USERS.iter().enumerate() {
        let secret = if number == 0 { "nopass".to_owned() } else { format!(">{}", password(number, true)) };
        let rule = format!("ACL SETUSER {user} on {secret} resetkeys resetchannels ~{user}:* &{user}:* +@all");
        assert_eq!(direct.ask(&rule).as_str(), "OK");
    }
    redis
}

/// One thread's clients, in step: all have sent before the first is read.
fn play(address: &Address, tally: &Tally, thread: u64, seed: u64, most: u64, progress: &Progress) -> Vec<String> {
    let mut rng = Rng::with_seed(seed.wrapping_mul(1000) + thread);
    let mut number = thread << 32;
    let mut fresh = || {
        number += 1;
        Switcher::new(address, tally, number)
    };
    let mut switchers: Vec<_> = (0..CLIENTS).map(|_| fresh()).collect();
    let mut complaints = Vec::new();
    while tally.operations.load(Relaxed) < most && complaints.is_empty() {
        progress.reach(tally.operations.load(Relaxed));
        let batches: Vec<Vec<Op>> = switchers
            .iter_mut()
            .map(|switcher| {
                let batch: Vec<_> = (0..rng.usize(1..12)).map(|_| switcher.choose(&mut rng)).collect();
                let bytes: Vec<u8> = batch.iter().flat_map(|op| switcher.request(op)).collect();
                switcher.client.send(&bytes);
                batch
            })
            .collect();
        for (switcher, batch) in switchers.iter_mut().zip(batches) {
            let leaves = rng.u8(..50) == 0;
            let all = batch.len();
            let end =
                batch.into_iter().take(if leaves { all / 2 } else { all }).try_for_each(|op| switcher.on_reply(op));
            if let Err(Stop::Wrong(complaint)) = &end {
                complaints.push(complaint.clone());
            }
            if leaves || end.is_err() {
                count(&tally.reconnects);
                *switcher = fresh();
            }
        }
    }
    complaints
}

/// Cuts one of respmux' connections now and then.
fn disturb(redis: &RealRedis, stop: &AtomicBool, every: Duration, seed: u64) -> u64 {
    let (mut direct, mut rng, mut kills) = (redis.connect(), Rng::with_seed(seed), 0);
    while !stop.load(Relaxed) {
        pause(every);
        let list = direct.ask("CLIENT LIST").as_str();
        let ours = list.lines().filter(|line| line.contains(" name=respmux:"));
        let ids: Vec<_> = ours.filter_map(|line| line.strip_prefix("id=")?.split(' ').next()).collect();
        if let Some(id) = rng.choice(ids) {
            direct.ask(&format!("CLIENT KILL ID {id}"));
            kills += 1;
        }
    }
    kills
}

#[allow(clippy::print_stdout, reason = "the line is what the run is for")]
fn run(operations: u64, every: Duration) {
    let (most, seed): (u64, u64) = (kit::setting("IDENTITY_OPERATIONS", operations), kit::setting("IDENTITY_SEED", 1));
    let redis = server();
    let options = ProxyOptions::sized(2, 12).set("auth.max_failures=0").set("auth.failure_delay=0s");
    let proxy = Proxy::start(&redis, &options);
    let (tally, stop, address) = (Tally::default(), AtomicBool::new(false), proxy.address());
    let (began, progress) = (Instant::now(), Progress::new("identities: operations").of(most));
    let (complaints, kills) = std::thread::scope(|scope| {
        let end = SetOnDrop(&stop);
        let disturber = scope.spawn(|| disturb(&redis, &stop, every, seed));
        let (address, tally, progress) = (&address, &tally, &progress);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || play(address, tally, thread, seed, most, progress)))
            .collect();
        let complaints: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect();
        drop(end);
        (complaints, disturber.join().expect("it ends"))
    });
    let seen = |counter: &AtomicU64| counter.load(Relaxed);
    println!(
        "{{\"identities\":\"switching\",\"seed\":{seed},\"seconds\":{:.1},\"users\":{},\"clients\":{},\"operations\":{},\"switches\":{},\"names\":{},\"denied\":{},\"values\":{},\"transactions\":{},\"upstream_kills\":{kills},\"reconnects\":{},\"not_executed\":{},\"mismatches\":{}}}",
        began.elapsed().as_secs_f64(),
        USERS.len(),
        THREADS as usize * CLIENTS,
        seen(&tally.operations),
        seen(&tally.switches),
        seen(&tally.names),
        seen(&tally.denied),
        seen(&tally.values),
        seen(&tally.transactions),
        seen(&tally.reconnects),
        seen(&tally.unavailable),
        complaints.len()
    );
    assert!(complaints.is_empty(), "IDENTITY_SEED={seed}: {}", complaints.join("\n"));
    let least = [(&tally.switches, 10), (&tally.names, 10), (&tally.denied, 20), (&tally.values, 10)];
    for (counter, share) in least.into_iter().chain([(&tally.transactions, 100)]) {
        assert!(seen(counter) * share > most, "{tally:?}");
    }
    assert!(kills > 0 && seen(&tally.operations) >= most && seen(&tally.reconnects) > 0, "{tally:?}");
    assert_eq!(proxy.metric("respmux_integrity_violations_total", &[]), Some(0.0));
    the_check_can_fail(&proxy);
}

/// Somebody who takes itself for another is told so.
fn the_check_can_fail(proxy: &Proxy) {
    let tally = Tally::default();
    for op in [Op::WhoAmI, Op::Set(2, 0, String::new()), Op::Publish(1)] {
        let mut switcher = Switcher::new(&proxy.address(), &tally, 1);
        let login = Op::Login(1, None, true);
        switcher.client.send(&[switcher.request(&login), switcher.request(&op)].concat());
        switcher.on_reply(login).expect("it is served");
        switcher.user = 2;
        assert!(matches!(switcher.on_reply(op), Err(Stop::Wrong(_))));
    }
}

#[test]
fn every_reply_is_that_of_the_clients_own_user() {
    run(20_000, Duration::from_millis(100));
}

#[test]
#[ignore = "a million operations: make prove WHAT=identities"]
fn every_reply_is_that_of_the_clients_own_user_for_long() {
    run(1_000_000, Duration::from_millis(500));
}
