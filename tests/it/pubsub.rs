//! Subscriptions where a transcript is not enough: who is slow, what is lost, what comes in between (semantics 9).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::support::client::{PATIENCE, ReadEnd, encode};
use crate::support::{Flavour, Frame, Proxy, ProxyOptions, RealRedis, TestClient, eventually};

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

/// T-9g, P5: who does not read is closed, and nobody else notices.
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
    assert_eq!(proxy.metric("respmux_client_connections_closed_total", &[("reason", "output_limit")]), Some(1.0));
}

/// P5: the soft limit has patience, then none.
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

/// P7: a push never stands inside a reply, however long that is.
#[test]
fn no_message_inside_a_long_reply() {
    const ROUNDS: usize = 10;
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &one_worker());
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
    client.ask_later("GET big", ROUNDS);
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

impl TestClient {
    /// Sends the command `times` times, reads nothing.
    fn ask_later(&mut self, line: &str, times: usize) {
        let command = encode(&line.split(' ').collect::<Vec<_>>());
        self.send(&command.repeat(times));
    }
}

/// What a client saw of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Joined,
    Left,
    /// A message: its publisher and its number there.
    Message(u32, u64),
}

/// Judges one client's history of one channel: messages only between a confirmation and the next end, none missing and
/// none twice in between, each publisher in its order. `bounds` are, for each time it was joined, the numbers that every
/// publisher had certainly sent before the SUBSCRIBE and certainly sent after the confirmation (exclusive).
fn judge(history: &[Seen]) -> Result<u64, String> {
    let mut joined = false;
    let mut next: HashMap<u32, u64> = HashMap::new();
    let mut last: HashMap<u32, u64> = HashMap::new();
    let mut heard = 0;
    for (at, seen) in history.iter().enumerate() {
        match seen {
            Seen::Joined if !joined => {
                joined = true;
                next.clear();
            }
            Seen::Joined => {} // a second SUBSCRIBE is confirmed again
            Seen::Left => joined = false,
            Seen::Message(..) if !joined => return Err(format!("{seen:?} at {at}, not subscribed")),
            Seen::Message(publisher, number) => {
                heard += 1;
                if let Some(wanted) = next.get(publisher)
                    && wanted != number
                {
                    return Err(format!("{seen:?} at {at} instead of {wanted}"));
                }
                if last.insert(*publisher, *number).is_some_and(|last| last >= *number) {
                    return Err(format!("{seen:?} at {at} goes back"));
                }
                next.insert(*publisher, number + 1);
            }
        }
    }
    Ok(heard)
}

#[test]
fn the_judge_sees_what_is_wrong() {
    use Seen::{Joined, Left, Message};
    assert_eq!(judge(&[Joined, Message(1, 5), Message(2, 1), Message(1, 6), Left, Joined, Message(1, 9)]), Ok(4));
    for wrong in [
        &[Message(1, 1)][..],
        &[Joined, Left, Message(1, 1)],
        &[Joined, Message(1, 1), Message(1, 3)],
        &[Joined, Message(1, 1), Message(1, 1)],
        &[Joined, Message(1, 2), Message(1, 1)],
        &[Joined, Message(1, 2), Left, Joined, Message(1, 2)],
    ] {
        assert!(judge(wrong).is_err(), "{wrong:?}");
    }
}

/// Clients come and go while two publishers run: what each hears is an unbroken piece of what was published.
#[test]
fn nothing_is_lost_and_nothing_reordered_under_churn() {
    const CLIENTS: u64 = 200;
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 20));
    let stop = Instant::now() + Duration::from_secs(4);
    let heard: u64 = std::thread::scope(|scope| {
        for publisher in 0..2_u32 {
            // One past the proxy, one through it.
            let mut client = if publisher == 0 { redis.connect() } else { proxy.connect() };
            scope.spawn(move || {
                for number in 0_u64.. {
                    if Instant::now() > stop {
                        break;
                    }
                    let channel = format!("c{}", number % 3);
                    let counted = client.call(&["PUBLISH", &channel, &format!("{publisher} {}", number / 3)]);
                    assert!(counted.as_int() >= 0);
                }
            });
        }
        let proxy = &proxy;
        let groups: Vec<_> = (0..4)
            .map(|group| {
                scope.spawn(move || {
                    let mut churners: Vec<_> =
                        (0..CLIENTS / 4).map(|n| Churner::new(proxy, group * 1000 + n)).collect();
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
struct Churner {
    client: TestClient,
    random: u64,
    history: HashMap<String, Vec<Seen>>,
    waiting: bool,
}

impl Churner {
    fn new(proxy: &Proxy, seed: u64) -> Self {
        let mut client = proxy.connect();
        if seed.is_multiple_of(2) {
            client.ask("HELLO 3");
        }
        Self { client, random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, history: HashMap::new(), waiting: false }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn step(&mut self) {
        if !self.waiting {
            let word = if self.next(2) == 0 { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
            let channel = format!("c{}", self.next(3));
            self.client.send_command(&[word, &channel]);
            self.waiting = true;
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
        let seen = match text(0).as_str() {
            "subscribe" => Seen::Joined,
            "unsubscribe" => Seen::Left,
            "message" => {
                let body = text(2);
                let (publisher, number) = body.split_once(' ').expect("two numbers");
                Seen::Message(publisher.parse().expect("a number"), number.parse().expect("a number"))
            }
            other => panic!("{other}: {frame:?}"),
        };
        self.waiting &= !matches!(seen, Seen::Joined | Seen::Left);
        self.history.entry(text(1)).or_default().push(seen);
    }

    fn finish(mut self) -> u64 {
        let end = Instant::now() + PATIENCE;
        while self.waiting && Instant::now() < end {
            self.take(Duration::from_millis(5));
        }
        assert!(!self.waiting, "the last command was never confirmed");
        self.history
            .iter()
            .map(|(channel, history)| judge(history).unwrap_or_else(|error| panic!("{channel}: {error}")))
            .sum()
    }
}

/// P8: a PUBLISH sent after a client has its confirmation counts it, over all workers.
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

/// P6, and AUTH in the middle: what is heard stays, nothing is added.
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
