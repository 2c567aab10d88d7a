//! The upstream is not there, goes, hangs, comes back, refuses (docs/design/semantics.md 10): each client gets the
//! outcome that is true.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kit::{Flavour, Frame, PATIENCE, Proxy, ProxyOptions, ReadEnd, RealRedis, TestClient, encode, eventually, pause};

const NOT_EXECUTED: &str = "LOADING upstream is not available, command was not executed";
const UNKNOWN_OUTCOME: &str = "ERR upstream connection lost, the command may have been executed";

fn quick_to_reconnect() -> ProxyOptions {
    ProxyOptions::tight().set("upstream.connect_wait=1s").set("upstream.backoff_max=200ms")
}

/// Asks until the reply is not the one for an upstream that is away; the connection must stay open all the time.
fn served(client: &mut TestClient, line: &str) -> Frame {
    eventually(PATIENCE, || {
        let reply = client.ask(line);
        if reply.as_str() == NOT_EXECUTED { Err(reply.as_str()) } else { Ok(reply) }
    })
}

#[test]
fn not_there_at_start() {
    let mut redis = RealRedis::prepare(Flavour::Redis70, &[]);
    // Its commands wait for connect_wait, however long nobody has been there.
    let patient = quick_to_reconnect().set("upstream.circuit_failures=0");
    let proxy = Proxy::start(&redis, &ProxyOptions { start_unready: true, ..patient });
    let mut early = proxy.connect();
    let asked = Instant::now();
    assert_eq!(early.ask("SET a 1").as_str(), NOT_EXECUTED);
    assert!(asked.elapsed() < Duration::from_secs(5), "connect_wait is a second, not {:?}", asked.elapsed());
    // One that asks while nobody is there yet is served by who comes in time.
    let mut waiting = proxy.connect();
    waiting.send(b"*1\r\n$6\r\nDBSIZE\r\n");
    redis.start_again();
    assert_eq!(waiting.read_frame().as_int(), 0, "the first SET was not executed, as it was told");
    assert_eq!(served(&mut early, "SET a 2").as_str(), "OK");
    assert_eq!(redis.connect().ask("GET a").as_str(), "2");
}

/// Nobody is there for the first client's probe either: pinned routes and logins are answered, not kept waiting.
#[test]
fn every_route_is_answered_while_nobody_is_there() {
    let redis = RealRedis::prepare(Flavour::Redis70, &[]);
    let options = ProxyOptions { start_unready: true, ..quick_to_reconnect() };
    let proxy = Proxy::start(&redis, &options);
    for line in
        ["GET a", "MULTI", "WATCH a", "BLPOP q 0", "SUBSCRIBE c", "AUTH a b", "SELECT 3", "CLIENT LIST", "NOSUCH"]
    {
        let mut client = proxy.connect();
        client.send_command(&line.split(' ').collect::<Vec<_>>());
        match client.try_read_frame(PATIENCE) {
            Ok(reply) => assert!(reply.is_error(), "{line}: {reply:?}"),
            Err(end) => assert_eq!(end, ReadEnd::Eof, "{line} was left without an answer"),
        }
    }
}

/// The beginning of a transaction comes while nobody is there, the rest when somebody is: none of it runs.
#[test]
fn the_rest_of_a_refused_transaction_does_not_run_by_itself() {
    let mut redis = RealRedis::prepare(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions { start_unready: true, ..quick_to_reconnect() });
    let [mut client, mut watching, mut piped] = [(); 3].map(|()| proxy.connect());
    assert_eq!(client.ask("MULTI").as_str(), NOT_EXECUTED);
    assert_eq!(watching.ask("WATCH n").as_str(), NOT_EXECUTED);
    assert_eq!(piped.ask("WATCH n").as_str(), NOT_EXECUTED);
    redis.start_again();
    served(&mut proxy.connect(), "PING");
    let body = served(&mut client, "INCR n");
    assert!(body.as_str().contains("MULTI was not started"), "{body:?}");
    assert!(client.ask("ECHO x").is_error());
    assert_eq!(client.ask("EXEC").as_str(), "EXECABORT Transaction discarded because of previous errors.");
    assert!(client.ask("GET n").null, "a part of the transaction was executed");
    assert_eq!(client.ask("INCR n").as_int(), 1);
    // What the lost WATCH should have guarded is not executed either.
    assert_eq!(served(&mut watching, "MULTI").as_str(), "OK");
    assert_eq!(watching.ask("INCR n").as_str(), "QUEUED");
    assert!(watching.ask("EXEC").null);
    // A body that is wrong as well aborts, as on a server, also where EXEC was sent before the error was known.
    let pipeline = [&["MULTI"][..], &["INCR", "n"], &["NOSUCH"], &["EXEC"]].map(encode).concat();
    piped.send(&pipeline);
    let replies: Vec<_> = (0..4).map(|_| piped.read_frame().as_str()).collect();
    assert_eq!(replies[..2], ["OK", "QUEUED"]);
    assert_eq!(replies[3], "EXECABORT Transaction discarded because of previous errors.", "{replies:?}");
    assert_eq!(client.ask("GET n").as_str(), "1");
}

/// What is pipelined behind a SELECT or a login was meant for another state: it is not executed in the old one. Whoever
/// turns replies off reads none for that.
#[test]
fn who_cannot_switch_is_closed() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &quick_to_reconnect());
    let mut known: Vec<_> = (0..5).map(|_| proxy.connect()).collect();
    known.iter_mut().for_each(|client| assert_eq!(client.ask("PING").as_str(), "PONG"));
    let mut waiting = proxy.connect();
    redis.kill();
    let unknown = (0..5).map(|_| proxy.connect());
    let lines = ["SELECT 3", "HELLO 3", "AUTH a b", "CLIENT REPLY OFF", "CLIENT REPLY SKIP"];
    let mut clients: Vec<_> = known.into_iter().chain(unknown).zip(lines.iter().cycle()).collect();
    for (client, line) in &mut clients {
        client.send_command(&line.split(' ').collect::<Vec<_>>());
        client.send_command(&["SET", "a", "1"]);
    }
    for (client, line) in &mut clients {
        assert_eq!(client.read_frame().as_str(), NOT_EXECUTED, "{line}");
        client.expect_eof();
    }
    redis.start_again();
    assert_eq!(served(&mut waiting, "DBSIZE").as_int(), 0);
}

#[test]
fn gone_in_mid_flight() {
    for flavour in Flavour::ALL {
        let mut redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &quick_to_reconnect());
        let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.ask(&format!("SET k{index} old")).as_str(), "OK");
        }
        let [mut idle, mut written, mut piped, mut watching] =
            <[TestClient; 4]>::try_from(clients).unwrap_or_else(|_| unreachable!("four were connected"));
        assert_eq!(watching.ask("WATCH k").as_str(), "OK");
        redis.signal("STOP");
        written.send_command(&["SET", "k1", "new"]);
        piped.send_command(&["GET", "k2"]);
        piped.send_command(&["SET", "k2", "new"]);
        // The server can not read, so the requests are surely written and not answered.
        written.expect_nothing(Duration::from_millis(100));
        redis.kill();
        written.expect_eof();
        piped.expect_eof();
        watching.expect_eof();
        // Not written: kept, and served when the server is back in time.
        let mut unwritten = proxy.connect();
        unwritten.send(b"*3\r\n$3\r\nSET\r\n$4\r\nlate\r\n$1\r\n1\r\n");
        redis.start_again();
        let reply = unwritten.read_frame().as_str();
        assert!(reply == "OK" || reply == NOT_EXECUTED, "{}: {reply}", flavour.name());
        let late = served(&mut idle, "GET late");
        assert_eq!(late.null, reply != "OK", "{}: told {reply:?}, found {late:?}", flavour.name());
        assert_eq!(served(&mut idle, "SET k0 again").as_str(), "OK");
    }
}

#[test]
fn lent_connections_take_their_clients_along() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(1, 16).set("upstream.backoff_max=200ms"));
    let starts: [(&[&str], usize); 5] =
        [(&["MULTI"], 1), (&["WATCH k"], 1), (&["BLPOP q 0"], 0), (&["SUBSCRIBE c"], 1), (&["MONITOR"], 1)];
    let mut clients: Vec<_> = starts
        .iter()
        .map(|(lines, replies)| {
            let mut client = proxy.connect();
            for line in *lines {
                client.send_command(&line.split(' ').collect::<Vec<_>>());
            }
            (0..*replies).for_each(|_| drop(client.read_frame()));
            client
        })
        .collect();
    let mut idle = proxy.connect();
    idle.ask("PING");
    eventually(PATIENCE, || if redis.info("blocked_clients") == 1 { Ok(()) } else { Err("BLPOP has not arrived") });
    redis.kill();
    for client in &mut clients {
        // MONITOR may have shown something before.
        client.read_to_end(PATIENCE);
    }
    redis.start_again();
    assert_eq!(served(&mut idle, "SET a 1").as_str(), "OK");
    assert_eq!(served(&mut proxy.connect(), "GET a").as_str(), "1");
}

#[test]
fn a_loss_may_be_told_instead() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &quick_to_reconnect().set("upstream.on_loss=error"));
    let mut client = proxy.connect();
    assert_eq!(client.ask("SET a 1").as_str(), "OK");
    redis.signal("STOP");
    client.send_command(&["SET", "a", "2"]);
    client.send_command(&["GET", "a"]);
    client.expect_nothing(Duration::from_millis(100));
    redis.kill();
    assert_eq!(client.read_frame().as_str(), UNKNOWN_OUTCOME);
    assert_eq!(client.read_frame().as_str(), UNKNOWN_OUTCOME);
    redis.start_again();
    assert_eq!(served(&mut client, "PING").as_str(), "PONG");
}

#[test]
fn a_hung_server_is_waited_for() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut clients: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.ask("PING");
    }
    redis.signal("STOP");
    for (index, client) in clients.iter_mut().enumerate() {
        client.send_command(&["ECHO", &format!("a{index}")]);
        client.send_command(&["ECHO", &format!("b{index}")]);
    }
    clients[0].expect_nothing(Duration::from_millis(500));
    redis.signal("CONT");
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read_frame().as_str(), format!("a{index}"));
        assert_eq!(client.read_frame().as_str(), format!("b{index}"));
    }
}

/// A server that answers nothing any more is given up after `upstream.progress_timeout`, and found again.
#[test]
fn a_server_that_stays_hung_is_given_up() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &quick_to_reconnect().set("upstream.progress_timeout=700ms"));
    let (mut client, mut idle) = (proxy.connect(), proxy.connect());
    client.ask("PING");
    idle.ask("PING");
    redis.signal("STOP");
    client.send_command(&["SET", "a", "1"]);
    client.expect_eof();
    redis.signal("CONT");
    assert_eq!(served(&mut idle, "PING").as_str(), "PONG");
}

/// One writer: its own key counts up; what the server acknowledged is remembered.
struct Writer {
    key: String,
    acknowledged: i64,
    sent: i64,
    reconnects: usize,
}

impl Writer {
    fn run(&mut self, proxy: &Proxy, end: Instant) {
        let mut client = proxy.connect();
        while Instant::now() < end {
            self.sent += 1;
            client.send_command(&["SET", &self.key, &self.sent.to_string()]);
            match client.try_read_frame(PATIENCE) {
                Ok(reply) if reply.text == b"OK" => self.acknowledged = self.sent,
                Ok(reply) => assert!(reply.as_str().starts_with("LOADING"), "{}: {reply:?}", self.key),
                Err(ReadEnd::Eof) => {
                    self.reconnects += 1;
                    client = proxy.connect();
                }
                Err(ReadEnd::TimedOut) => {
                    panic!("{} {} got no outcome at all", self.key, self.sent)
                }
            }
        }
    }
}

#[test]
fn a_restart_under_load_loses_no_acknowledged_write() {
    let mut redis = RealRedis::start(Flavour::Redis70, &["--appendonly", "yes", "--appendfsync", "always"]);
    let mut proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 12).set("upstream.backoff_max=200ms"));
    let end = Instant::now() + Duration::from_secs(5);
    let writers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (proxy, writers) = (&proxy, &writers);
            scope.spawn(move || {
                let mut writer = Writer { key: format!("w{thread}"), acknowledged: 0, sent: 0, reconnects: 0 };
                writer.run(proxy, end);
                writers.lock().unwrap().push(writer);
            });
        }
        for _ in 0..3 {
            pause(Duration::from_millis(900));
            redis.kill();
            pause(Duration::from_millis(100));
            redis.start_again();
        }
    });
    assert!(proxy.runs(), "respmux ended");
    let mut direct = redis.connect();
    let writers = writers.into_inner().unwrap();
    for writer in &writers {
        let found = direct.ask(&format!("GET {}", writer.key)).as_int();
        // Later ones than the last acknowledged may have been executed: their clients were told so by the close.
        assert!(
            found >= writer.acknowledged,
            "{}: {found} in the server, {} acknowledged",
            writer.key,
            writer.acknowledged
        );
        assert!(writer.acknowledged > 50, "{} was served {} times only", writer.key, writer.acknowledged);
    }
    let reconnects: usize = writers.iter().map(|writer| writer.reconnects).sum();
    assert!(reconnects > 0, "no kill ever met a request in flight: the test shows nothing");
}

#[test]
fn a_server_that_is_full_is_waited_for() {
    let redis = RealRedis::start(Flavour::Redis70, &["--maxclients", "12"]);
    let mut direct = redis.connect();
    let proxy = Proxy::start(&redis, &quick_to_reconnect());
    let mut client = proxy.connect();
    client.ask("PING");
    // Nothing of the proxy may stay connected, then others take every place.
    let mut hogs = Vec::new();
    direct.ask("CLIENT KILL TYPE normal SKIPME yes");
    eventually(PATIENCE, || {
        direct.ask("CLIENT KILL TYPE normal SKIPME yes");
        hogs.clear();
        hogs.extend((0..11).map(|_| redis.connect()));
        let refused = hogs.iter_mut().any(|hog| hog.ask("PING").is_error());
        if refused { Err("the proxy took a place") } else { Ok(()) }
    });
    assert_eq!(client_or_new(client, &proxy).as_str(), NOT_EXECUTED);
    drop(hogs);
    let mut client = proxy.connect();
    assert_eq!(served(&mut client, "PING").as_str(), "PONG");
}

/// The reply of a client that was idle when its lane went, or of a new one if it had a request under way.
fn client_or_new(mut client: TestClient, proxy: &Proxy) -> Frame {
    client.send_command(&["PING"]);
    client.try_read_frame(PATIENCE).unwrap_or_else(|_| proxy.connect().ask("PING"))
}
