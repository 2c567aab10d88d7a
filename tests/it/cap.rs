//! The cap: however many clients do whatever, the upstream never sees more connections than it was promised.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kit::{Flavour, Pki, Proxy, ProxyOptions, ReadEnd, RealRedis, TestClient, encode, free_port, info_field, pause};

const THREADS: u64 = 12;
/// Clients that one thread keeps connected at a time.
const CLIENTS: usize = 25;
const DURATION: Duration = Duration::from_secs(4);
/// A reply may take as long as the line for lent connections is, and that has a deadline of its own.
const PATIENT: Duration = Duration::from_secs(30);

/// What the clients of a storm do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mix {
    /// Every kind of route, one user, one database, one protocol.
    Routes,
    /// All that, for several users, in all databases, in both protocols.
    Everything,
}

#[derive(Default)]
struct Count {
    commands: AtomicUsize,
    clients: AtomicUsize,
    /// Clients told that the line for a lent connection was too long.
    turned_away: AtomicUsize,
}

/// What the sampler saw while the storm went on.
struct Seen {
    most: i64,
    samples: usize,
    opened: i64,
}

/// One client for the length of a few commands. An `Err` is what was not as it must be.
struct Stormer<'a> {
    client: TestClient,
    random: &'a mut fastrand::Rng,
    count: &'a Count,
    key: String,
}

/// The client was turned away by a full line, as docs/design/semantics.md 10.2 allows: it leaves.
struct TurnedAway;

impl Stormer<'_> {
    fn ask(&mut self, line: &str) -> Result<String, TurnedAway> {
        self.client.send(&encode(&line.split(' ').collect::<Vec<_>>()));
        self.reply(line)
    }

    fn reply(&mut self, line: &str) -> Result<String, TurnedAway> {
        self.count.commands.fetch_add(1, Ordering::Relaxed);
        let frame = match self.client.try_read_frame(PATIENT) {
            Ok(frame) => frame,
            Err(ReadEnd::Eof) => panic!("{line}: closed"),
            Err(ReadEnd::TimedOut) => panic!("{line}: no reply within {PATIENT:?}"),
        };
        let text = frame.as_str();
        if frame.is_error() && text.ends_with("connection available, command was not executed, try again") {
            self.count.turned_away.fetch_add(1, Ordering::Relaxed);
            return Err(TurnedAway);
        }
        assert!(!frame.is_error(), "{line}: {text}");
        Ok(if frame.items.is_empty() { text } else { format!("{frame:?}") })
    }

    fn one_thing(&mut self, mix: Mix) -> Result<(), TurnedAway> {
        let key = self.key.clone();
        let number = self.random.u32(..1_000_000).to_string();
        match self.random.u32(..if mix == Mix::Everything { 13 } else { 10 }) {
            0 | 1 => {
                self.ask(&format!("SET {key} {number}"))?;
                assert_eq!(self.ask(&format!("GET {key}"))?, number, "{key}");
            }
            2 => {
                self.client.send(&encode(&["ECHO", &number]).repeat(30));
                for _ in 0..30 {
                    assert_eq!(self.reply("ECHO")?, number);
                }
            }
            3 => {
                let unit =
                    [encode(&["MULTI"]), encode(&["SET", &key, &number]), encode(&["GET", &key]), encode(&["EXEC"])];
                self.client.send(&unit.concat());
                for _ in 0..3 {
                    self.reply("MULTI…")?;
                }
                assert_eq!(self.reply("EXEC")?, format!("*[+OK, ${number}]"));
            }
            4 => {
                self.ask("MULTI")?;
                self.ask(&format!("SET {key} {number}"))?;
                pause(Duration::from_micros(self.random.u64(..500)));
                assert_eq!(self.ask("EXEC")?, "*[+OK]");
            }
            5 => {
                self.ask(&format!("WATCH {key}"))?;
                self.ask("MULTI")?;
                self.ask(&format!("SET {key} {number}"))?;
                assert_eq!(self.ask("EXEC")?, "*[+OK]", "nobody else writes {key}");
            }
            6 => {
                self.ask(&format!("RPUSH {key}:q {number}"))?;
                let popped = self.ask(&format!("BLPOP {key}:q 0"))?;
                assert!(popped.ends_with(&format!(", ${number}]")), "{popped}");
            }
            7 => {
                self.ask(&format!("BLPOP {key}:none 0.01"))?;
            }
            8 => {
                self.ask(&format!("SUBSCRIBE {key}:c"))?;
                self.ask(&format!("UNSUBSCRIBE {key}:c"))?;
            }
            9 => {
                self.ask(&format!("EVAL return(ARGV[1]) 0 {number}"))?;
                self.ask("CLIENT ID")?;
            }
            _ => self.one_identity(&key, &number)?,
        }
        Ok(())
    }

    /// What makes a client need another lane: a database, a user, a protocol.
    fn one_identity(&mut self, key: &str, number: &str) -> Result<(), TurnedAway> {
        match self.random.u32(..3) {
            0 => {
                let database = self.random.u32(..16);
                self.ask(&format!("SELECT {database}"))?;
                self.ask(&format!("SET {key} {number}"))?;
                assert_eq!(self.ask(&format!("GET {key}"))?, number, "{key}");
            }
            1 => {
                let user = self.random.u32(1..5);
                self.ask(&format!("AUTH u{user} pw"))?;
                assert_eq!(self.ask("ACL WHOAMI")?, format!("u{user}"));
            }
            _ => {
                let version = self.random.u32(2..4);
                self.ask(&format!("HELLO {version}"))?;
                assert_eq!(self.ask(&format!("ECHO {number}"))?, number);
            }
        }
        Ok(())
    }

    /// Leaves in the middle of something.
    fn leave(mut self) {
        let last: &[&str] = [
            &["GET", "x"][..],
            &["MULTI"],
            &["WATCH", "w"],
            &["BLPOP", "nothing", "0"],
            &["SUBSCRIBE", "c"],
            &["MONITOR"],
        ][self.random.usize(..6)];
        self.client.send_command(last);
        match self.random.u32(..3) {
            0 => self.client.reset(),
            1 => self.client.shut_write(),
            _ => {}
        }
    }
}

/// Keeps clients connected, each doing a few things, until `end`.
fn storm(proxy: &Proxy, mix: Mix, seed: u64, end: Instant, count: &Count) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut clients: Vec<Option<TestClient>> = (0..CLIENTS).map(|_| None).collect();
    let mut serial = 0;
    while Instant::now() < end {
        let place = random.usize(..CLIENTS);
        let client = clients[place].take().unwrap_or_else(|| {
            count.clients.fetch_add(1, Ordering::Relaxed);
            proxy.connect()
        });
        serial += 1;
        let mut stormer = Stormer { client, random: &mut random, count, key: format!("k{seed}:{serial}") };
        let things = stormer.random.u32(1..4);
        let outcome = (0..things).try_for_each(|_| stormer.one_thing(mix));
        if outcome.is_err() || stormer.random.u32(..8) == 0 {
            stormer.leave();
        } else {
            clients[place] = Some(stormer.client);
        }
    }
}

/// Asks the server itself, all the time, how many are connected.
fn sample(redis: &RealRedis, done: &AtomicBool, most: &AtomicI64) -> Seen {
    let mut direct = TestClient::connect(&redis.unix_address());
    let before = info_field(&direct.ask("INFO stats").as_str(), "total_connections_received");
    let mut samples = 0;
    while !done.load(Ordering::Relaxed) {
        let connected = info_field(&direct.ask("INFO clients").as_str(), "connected_clients");
        most.fetch_max(connected - 1, Ordering::Relaxed);
        samples += 1;
        pause(Duration::from_micros(500));
    }
    let after = info_field(&direct.ask("INFO stats").as_str(), "total_connections_received");
    Seen { most: most.load(Ordering::Relaxed), samples, opened: after - before }
}

fn weather(redis: &RealRedis, options: &ProxyOptions, mix: Mix) -> (Seen, Count) {
    let mut direct = redis.connect();
    for user in 1..5 {
        assert!(!direct.ask(&format!("ACL SETUSER u{user} on >pw ~* &* +@all")).is_error());
    }
    drop(direct);
    let proxy = Proxy::start(redis, options);
    let (count, done, most) = (Count::default(), AtomicBool::new(false), AtomicI64::new(0));
    let end = Instant::now() + DURATION;
    let seen = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(redis, &done, &most));
        let threads: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (proxy, count) = (&proxy, &count);
                scope.spawn(move || storm(proxy, mix, seed, end, count))
            })
            .collect();
        let ends: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        let seen = sampler.join().unwrap();
        for ended in ends {
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        seen
    });
    // After the storm everybody is served at once: nothing was lost in it.
    let mut calm = proxy.connect();
    for line in ["PING", "WATCH k", "MULTI", "EXEC", "BLPOP none 0.01"] {
        let reply = calm.ask(line);
        assert!(!reply.is_error(), "after the storm, {line}: {reply:?}");
    }
    (seen, count)
}

fn holds(options: &ProxyOptions, cap: i64, mix: Mix) {
    holds_on(&RealRedis::start(Flavour::Redis70, &[]), options, cap, mix);
}

fn holds_on(redis: &RealRedis, options: &ProxyOptions, cap: i64, mix: Mix) {
    let (seen, count) = weather(redis, options, mix);
    let (commands, clients) = (count.commands.into_inner(), count.clients.into_inner());
    let turned_away = count.turned_away.into_inner();
    let Seen { most, samples, opened } = seen;
    eprintln!(
        "cap {cap}: at most {most} in {samples} samples, {opened} opened; {commands} commands of {clients} clients, {turned_away} turned away"
    );
    assert!(most <= cap, "{most} upstream connections, promised {cap}");
    assert!(samples > 100 && commands > 1000, "{samples} samples of {commands} commands show nothing");
    assert!(turned_away * 20 < commands, "{turned_away} of {commands} turned away");
    let most_opened = match mix {
        // One identity, one database, one protocol: nothing has to give way. What clients leave in a MULTI, a MONITOR
        // or a BLPOP is cleaned and lent again; a few connections may be lost to it, not one a client.
        Mix::Routes => 4 * cap as usize,
        // Sixteen databases, five users and two protocols take turns on a few connections.
        Mix::Everything => commands / 20,
    };
    assert!(opened as usize <= most_opened, "{opened} connections opened by {commands} commands of {clients} clients");
}

#[test]
fn six_connections_one_worker_every_route() {
    holds(&ProxyOptions::tight(), 6, Mix::Routes);
}

#[test]
fn six_connections_one_worker_everything() {
    holds(&ProxyOptions::tight(), 6, Mix::Everything);
}

#[test]
fn twelve_connections_two_workers_everything() {
    holds(&ProxyOptions::sized(2, 12), 12, Mix::Everything);
}

#[test]
fn the_default_everything() {
    holds(&ProxyOptions::default(), 32, Mix::Everything);
}

/// A goodbye of TLS is not yet the end of a connection.
#[test]
fn six_connections_with_tls_on_both_sides_everything() {
    let pki = Pki::new();
    let port = free_port();
    let redis = RealRedis::start_tls(Flavour::Redis70, &pki, port, &["--tls-auth-clients", "no"]);
    let upstream = Some(format!("rediss://127.0.0.1:{port}"));
    let options = ProxyOptions { tls: Some(pki.clone()), upstream, ..ProxyOptions::tight() };
    holds_on(&redis, &options.set(&format!("upstream.tls_ca_file={}", pki.ca().display())), 6, Mix::Everything);
}

/// Plain commands of many clients cost a handful of connections, not a share of the cap.
#[test]
fn many_plain_clients_use_few_connections() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 32));
    let mut clients: Vec<_> = (0..500).map(|_| proxy.connect()).collect();
    for round in 0..5 {
        for client in &mut clients {
            client.send_command(&["ECHO", &round.to_string()]);
        }
        for client in &mut clients {
            assert_eq!(client.read_frame().as_int(), round);
        }
    }
    // Ours is one of them. Per worker: a lane or two, control, login.
    let connected = redis.info("connected_clients") - 1;
    assert!(connected <= 10, "{connected} connections for 500 clients");
    assert!(redis.info("total_connections_received") <= 20, "connections were opened and closed again");
}
