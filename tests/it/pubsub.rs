//! Subscriptions where a transcript is not enough: who is slow, what is lost, what comes in between
//! (docs/design/semantics.md 9).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kit::{Flavour, Frame, PATIENCE, Proxy, ProxyOptions, ReadEnd, RealRedis, TestClient, encode, eventually};

fn one_worker() -> ProxyOptions {
    ProxyOptions::sized(1, 16)
}

fn subscriber(proxy: &Proxy, channel: &str) -> TestClient {
    let mut client = proxy.connect();
    assert_eq!(client.call(&["SUBSCRIBE", channel]).items[0].text, b"subscribe");
    client
}

/// How many connections of the server have subscriptions.
fn pubsub_connections(redis: &RealRedis) -> usize {
    let list = redis.connect().ask("CLIENT LIST TYPE pubsub").as_str();
    list.lines().filter(|line| line.starts_with("id=")).count()
}

#[test]
fn one_connection_carries_all_subscriptions_of_a_worker() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    for workers in [1, 2] {
        let proxy = Proxy::start(&redis, &ProxyOptions::sized(workers, 20));
        let clients: Vec<_> = (0..50).map(|n| subscriber(&proxy, &format!("c{}", n % 7))).collect();
        assert_eq!(pubsub_connections(&redis), workers as usize);
        assert_eq!(proxy.connect().ask("PUBLISH c0 x").as_int(), 8);
        eventually(PATIENCE, || match proxy.metric("respmux_client_connections", &[("state", "subscribed")]) {
            Some(50.0) => Ok(()),
            other => Err(format!("{other:?} clients are subscribed")),
        });
        drop(clients);
        eventually(PATIENCE, || match redis.connect().ask("PUBSUB CHANNELS").items.len() {
            0 => Ok(()),
            left => Err(format!("{left} channels are left")),
        });
        assert_eq!(proxy.connect().ask("PUBLISH c0 x").as_int(), 0);
    }
}

#[test]
fn pinned_subscribers_have_their_own() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &one_worker().set("pubsub.mode=pinned"));
    let _clients = [subscriber(&proxy, "m"), subscriber(&proxy, "m")];
    assert_eq!(pubsub_connections(&redis), 2);
    assert_eq!(redis.connect().ask("PUBLISH m x").as_int(), 2);
}

/// Scenario T-9g, rule P5: who does not read is closed, and nobody else notices.
#[test]
fn a_slow_subscriber_is_closed_and_the_others_hear_everything() {
    const MESSAGES: usize = 3000;
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &one_worker().set("client.pubsub_output_limit=1MiB"));
    let mut slow = subscriber(&proxy, "m");
    let mut quick = subscriber(&proxy, "m");
    let mut publisher = redis.connect();
    let payload = "x".repeat(10_000);
    let reader = std::thread::spawn(move || {
        for n in 0..MESSAGES {
            let message = quick.read_frame();
            assert!(message.items[2].text.starts_with(format!("{n} ").as_bytes()), "message {n} is missing");
        }
    });
    for n in 0..MESSAGES {
        assert_eq!(publisher.call(&["PUBLISH", "m", &format!("{n} {payload}")]).as_int(), 1);
    }
    reader.join().expect("every message arrived, in order");
    assert!(slow.read_to_end(PATIENCE).len() < MESSAGES * 10_000);
    proxy.becomes("respmux_client_connections_closed_total", &[("reason", "output_limit")], |n| n == 1.0);
}

/// Rule P5: the soft limit has patience, then none.
#[test]
fn a_subscriber_above_the_soft_limit_is_closed_in_time() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = one_worker().set("pubsub.output_soft=64KiB").set("pubsub.output_soft_time=1s");
    let proxy = Proxy::start(&redis, &options);
    let mut slow = subscriber(&proxy, "m");
    let mut publisher = redis.connect();
    let payload = "x".repeat(100_000);
    // The sockets between them take the first megabytes.
    for _ in 0..200 {
        publisher.call(&["PUBLISH", "m", &payload]);
    }
    eventually(PATIENCE, || {
        match proxy.metric("respmux_client_connections_closed_total", &[("reason", "output_limit")]) {
            Some(1.0) => Ok(()),
            _ => Err("it is still there"),
        }
    });
    slow.read_to_end(PATIENCE);
}

/// Rule P7: a push never stands inside a reply, however long that is.
#[test]
fn no_message_inside_a_long_reply() {
    const ROUNDS: usize = 10;
    // However late this client reads.
    let redis = RealRedis::start(Flavour::Redis70, &["--client-output-buffer-limit", "pubsub 0 0 0"]);
    let proxy = Proxy::start(&redis, &one_worker().set("client.pubsub_output_limit=1GiB"));
    let mut direct = redis.connect();
    let big = "v".repeat(5 << 20);
    direct.call(&["SET", "big", &big]);
    let mut client = proxy.connect();
    client.ask("HELLO 3");
    client.ask("SUBSCRIBE m");
    let publisher = std::thread::spawn(move || {
        for n in 0..2000 {
            direct.call(&["PUBLISH", "m", &n.to_string()]);
        }
    });
    client.send(&encode(&["GET", "big"]).repeat(ROUNDS));
    let (mut replies, mut messages) = (0, 0);
    while replies < ROUNDS || messages < 2000 {
        let frame = client.read_frame();
        if frame.kind == b'>' {
            assert_eq!(frame.items[2].text, messages.to_string().as_bytes());
            messages += 1;
        } else {
            assert!(frame.text == big.as_bytes(), "a reply of {} bytes with something else in it", frame.text.len());
            replies += 1;
        }
    }
    publisher.join().expect("every PUBLISH was answered");
}

/// What a client saw of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Confirmed. From these numbers on, one for each publisher, everything was sent later: it must be heard.
    Joined([u64; 2]),
    /// Confirmed. Everything below these numbers was published before the UNSUBSCRIBE was sent: it must be heard.
    Left([u64; 2]),
    /// A message: its publisher and its number there.
    Message(usize, u64),
}

/// Judges one client's history of one channel: messages only between a confirmation and the next end, none missing and
/// none twice in between, each publisher in its order, and all that must be heard. How many were heard.
fn judge(history: &[Seen]) -> Result<u64, String> {
    let mut joined = None;
    let mut first = [None; 2];
    let mut next = [0; 2];
    let mut heard = 0;
    for (at, seen) in history.iter().enumerate() {
        match *seen {
            Seen::Joined(from) if joined.is_none() => (joined, first) = (Some(from), [None; 2]),
            Seen::Joined(_) => {} // a second SUBSCRIBE is confirmed again
            Seen::Left(below) => {
                let Some(from) = joined.take() else { continue };
                for publisher in 0..2 {
                    let (from, below) = (from[publisher], below[publisher]);
                    let begins = first[publisher].unwrap_or(u64::MAX);
                    if from < below && (begins > from || next[publisher] < below) {
                        return Err(format!("{from}..{below} of {publisher} must be heard before {at}"));
                    }
                }
            }
            Seen::Message(publisher, number) => {
                if joined.is_none() {
                    return Err(format!("{seen:?} at {at}, not subscribed"));
                }
                heard += 1;
                let expected = first[publisher].is_none() && number >= next[publisher] || number == next[publisher];
                if !expected {
                    return Err(format!("{seen:?} at {at} instead of {}", next[publisher]));
                }
                first[publisher].get_or_insert(number);
                next[publisher] = number + 1;
            }
        }
    }
    Ok(heard)
}

#[test]
fn the_judge_sees_what_is_wrong() {
    use Seen::{Joined, Left, Message};
    let good = [
        Joined([5, 2]),
        Message(1, 1),
        Message(0, 5),
        Message(1, 2),
        Message(0, 6),
        Left([7, 2]),
        Joined([9, 9]),
        Message(0, 9),
        Left([9, 9]),
        Left([10, 9]),
    ];
    assert_eq!(judge(&good), Ok(5));
    for wrong in [
        &[Message(1, 1)][..],
        &[Joined([0, 0]), Left([0, 0]), Message(1, 1)],
        &[Joined([0, 0]), Message(1, 1), Message(1, 3)],
        &[Joined([0, 0]), Message(1, 1), Message(1, 1)],
        &[Joined([0, 0]), Message(1, 2), Message(1, 1)],
        &[Joined([0, 0]), Message(1, 0), Message(1, 1), Left([0, 2]), Joined([0, 2]), Message(1, 1)],
        &[Joined([3, 0]), Left([4, 0])],
        &[Joined([3, 0]), Message(0, 4), Left([4, 0])],
        &[Joined([3, 0]), Message(0, 3), Left([5, 0])],
    ] {
        assert!(judge(wrong).is_err(), "{wrong:?}");
    }
}

const CHURN_CHANNELS: usize = 3;

/// How far the publishers are, for each channel and publisher: numbers that are sent (or about to be), and answered.
#[derive(Default)]
struct Progress {
    sent: [[AtomicU64; 2]; CHURN_CHANNELS],
    answered: [[AtomicU64; 2]; CHURN_CHANNELS],
}

fn read_both(numbers: &[AtomicU64; 2]) -> [u64; 2] {
    [numbers[0].load(Ordering::SeqCst), numbers[1].load(Ordering::SeqCst)]
}

/// Clients come and go while two publishers run: what each hears is an unbroken piece of what was published.
#[test]
fn nothing_is_lost_and_nothing_reordered_under_churn() {
    const CLIENTS: u64 = 200;
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 20));
    let stop = Instant::now() + Duration::from_secs(4);
    let progress = Progress::default();
    let heard: u64 = std::thread::scope(|scope| {
        let (progress, proxy) = (&progress, &proxy);
        for publisher in 0..2 {
            // One past the proxy, one through it.
            let mut client = if publisher == 0 { redis.connect() } else { proxy.connect() };
            scope.spawn(move || {
                for number in 0_u64.. {
                    for channel in 0..CHURN_CHANNELS {
                        if Instant::now() > stop {
                            return;
                        }
                        progress.sent[channel][publisher].store(number + 1, Ordering::SeqCst);
                        client.call(&["PUBLISH", &format!("c{channel}"), &format!("{publisher} {number}")]);
                        progress.answered[channel][publisher].store(number + 1, Ordering::SeqCst);
                    }
                }
            });
        }
        let groups: Vec<_> = (0..4)
            .map(|group| {
                scope.spawn(move || {
                    let new = |n| Churner::new(proxy, progress, group * 1000 + n);
                    let mut churners: Vec<_> = (0..CLIENTS / 4).map(new).collect();
                    while Instant::now() < stop {
                        churners.iter_mut().for_each(Churner::step);
                    }
                    churners.into_iter().map(Churner::finish).sum::<u64>()
                })
            })
            .collect();
        groups.into_iter().map(|group| group.join().expect("no client saw anything wrong")).sum()
    });
    assert!(heard > 1000, "only {heard} messages were heard");
}

/// A client that subscribes and unsubscribes at random.
struct Churner<'a> {
    client: TestClient,
    progress: &'a Progress,
    random: u64,
    history: [Vec<Seen>; CHURN_CHANNELS],
    /// A command is not confirmed; for UNSUBSCRIBE, what was answered before it was sent.
    waiting: Option<[u64; 2]>,
}

impl<'a> Churner<'a> {
    fn new(proxy: &Proxy, progress: &'a Progress, seed: u64) -> Self {
        let mut client = proxy.connect();
        if seed.is_multiple_of(2) {
            client.ask("HELLO 3");
        }
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { client, progress, random, history: Default::default(), waiting: None }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn step(&mut self) {
        if self.waiting.is_none() {
            let word = if self.next(2) == 0 { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
            let channel = self.next(CHURN_CHANNELS as u64) as usize;
            self.waiting = Some(read_both(&self.progress.answered[channel]));
            self.client.send_command(&[word, &format!("c{channel}")]);
        }
        self.take(Duration::from_micros(300));
    }

    fn take(&mut self, patience: Duration) {
        loop {
            match self.client.try_read_frame(patience) {
                Ok(frame) => self.on_frame(&frame),
                Err(ReadEnd::TimedOut) => return,
                Err(ReadEnd::Eof) => panic!("closed"),
            }
        }
    }

    fn on_frame(&mut self, frame: &Frame) {
        let text = |index: usize| String::from_utf8_lossy(&frame.items[index].text).into_owned();
        let channel: usize = text(1)[1..].parse().expect("a channel");
        let seen = match text(0).as_str() {
            "subscribe" => {
                self.waiting.take().expect("a command was sent");
                Seen::Joined(read_both(&self.progress.sent[channel]))
            }
            "unsubscribe" => Seen::Left(self.waiting.take().expect("a command was sent")),
            "message" => {
                let body = text(2);
                let (publisher, number) = body.split_once(' ').expect("two numbers");
                Seen::Message(publisher.parse().expect("a number"), number.parse().expect("a number"))
            }
            other => panic!("{other}: {frame:?}"),
        };
        self.history[channel].push(seen);
    }

    fn finish(mut self) -> u64 {
        let end = Instant::now() + PATIENCE;
        while self.waiting.is_some() && Instant::now() < end {
            self.take(Duration::from_millis(5));
        }
        assert!(self.waiting.is_none(), "the last command was never confirmed");
        let judged = self.history.iter().enumerate();
        judged.map(|(channel, seen)| judge(seen).unwrap_or_else(|error| panic!("c{channel}: {error}"))).sum()
    }
}

/// Rule P8: a PUBLISH sent after a client has its confirmation counts it, over all workers.
#[test]
fn a_publish_counts_whoever_has_a_confirmation() {
    let redis = RealRedis::start(Flavour::Valkey9, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 20));
    let mut publisher = proxy.connect();
    let mut clients = Vec::new();
    for count in 1..=20 {
        clients.push(subscriber(&proxy, "m"));
        assert_eq!(publisher.ask("PUBLISH m x").as_int(), count);
        // As a part of a transaction, and pipelined behind other commands.
        publisher.send(&[encode(&["SET", "k", "1"]), encode(&["PUBLISH", "m", "x"]), encode(&["GET", "k"])].concat());
        assert_eq!(publisher.read_frame().as_str(), "OK");
        assert_eq!(publisher.read_frame().as_int(), count);
        assert_eq!(publisher.read_frame().as_str(), "1");
        publisher.send(&[encode(&["MULTI"]), encode(&["PUBLISH", "m", "x"]), encode(&["EXEC"])].concat());
        assert_eq!((publisher.read_frame().as_str(), publisher.read_frame().as_str()), ("OK".into(), "QUEUED".into()));
        assert_eq!(publisher.read_frame().items[0].as_int(), count);
    }
}

/// Rule P6, and AUTH in the middle: what is heard stays, nothing is added.
#[test]
fn another_user_cannot_add_to_subscriptions() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let mut direct = redis.connect();
    direct.ask("ACL SETUSER u on >u ~* &* +@all");
    let proxy = Proxy::start(&redis, &one_worker());
    let mut client = proxy.connect();
    client.ask("HELLO 3");
    client.ask("SUBSCRIBE m");
    assert_eq!(client.ask("AUTH u u").as_str(), "OK");
    assert!(client.ask("SUBSCRIBE n").as_str().contains("unsubscribe first"));
    direct.ask("PUBLISH m x");
    assert_eq!(client.read_frame().items[2].text, b"x");
    assert_eq!(client.ask("UNSUBSCRIBE m").items[0].text, b"unsubscribe");
    assert_eq!(client.ask("SUBSCRIBE n").items[0].text, b"subscribe");
}

/// Nobody there: nothing was written, and the client is told so.
#[test]
fn a_subscription_without_an_upstream_is_refused() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = one_worker().set("upstream.connect_wait=300ms").set("upstream.backoff_max=100ms");
    let proxy = Proxy::start(&redis, &options);
    let mut client = proxy.connect();
    client.ask("PING");
    redis.kill();
    let refused = client.ask("SUBSCRIBE m").as_str();
    assert!(refused.starts_with("LOADING"), "{refused}");
    redis.start_again();
    eventually(PATIENCE, || {
        let reply = client.ask("SUBSCRIBE m");
        if reply.is_error() { Err(reply.as_str()) } else { Ok(()) }
    });
}
