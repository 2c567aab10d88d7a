//! Transactions where a transcript is not enough: the line for connections, races (docs/design/semantics.md 8).

use std::time::Duration;

use kit::{Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, encode, eventually};

/// Scenario T-8g, rule M6: a WATCH that could not be had must not let its transaction run unguarded.
#[test]
fn a_watch_that_got_no_connection_makes_exec_nil() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("pool.wait_timeout=100ms"));
    let mut holders = take_all_connections(&proxy);
    let mut client = proxy.connect();
    for line in ["WATCH k", "MULTI", "SET k 2", "EXEC"] {
        client.send_command(&line.split(' ').collect::<Vec<_>>());
    }
    assert!(client.read_frame().is_error(), "WATCH");
    let (multi, queued) = (client.read_frame(), client.read_frame());
    let exec = client.read_frame();
    if multi.is_error() {
        // MULTI found no connection either.
        assert!(queued.is_error(), "{queued:?}");
        assert!(exec.as_str().starts_with("EXECABORT"), "{exec:?}");
    } else {
        assert_eq!((multi.as_str().as_str(), queued.as_str().as_str()), ("OK", "QUEUED"));
        assert!(exec.null, "{exec:?}");
    }
    assert!(redis.connect().ask("GET k").null, "the unguarded write was executed");
    // The next one, with connections to be had, is as usual.
    holders.clear();
    eventually(PATIENCE, || {
        let reply = client.ask("WATCH k");
        if reply.is_error() { Err(reply.as_str()) } else { Ok(()) }
    });
    assert_eq!(client.ask("MULTI").as_str(), "OK");
    assert_eq!(client.ask("SET k 3").as_str(), "QUEUED");
    assert_eq!(client.ask("EXEC").items.len(), 1);
    assert_eq!(redis.connect().ask("GET k").as_str(), "3");
}

/// Rule M6: a MULTI that could not be had must not let its body run at once.
#[test]
fn a_multi_that_got_no_connection_runs_nothing() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("pool.wait_timeout=100ms"));
    let _holders = take_all_connections(&proxy);
    let mut client = proxy.connect();
    // In pieces, so that it can not be a unit on a lane.
    assert!(client.ask("MULTI").is_error());
    assert!(client.ask("SET k 2").is_error());
    assert!(client.ask("INCR n").is_error());
    assert_eq!(client.ask("EXEC").as_str(), "EXECABORT Transaction discarded because of previous errors.");
    assert!(client.ask("GET k").null);
    assert!(client.ask("MULTI").is_error());
    assert_eq!(client.ask("DISCARD").as_str(), "OK");
    assert_eq!(client.ask("SET k 1").as_str(), "OK");
    // Plain commands of others never waited.
    assert_eq!(proxy.connect().ask("GET k").as_str(), "1");
}

/// Clients that watch until there is no connection left to lend.
fn take_all_connections(proxy: &Proxy) -> Vec<TestClient> {
    let mut holders = Vec::new();
    for _ in 0..20 {
        let mut holder = proxy.connect();
        if holder.ask("WATCH other").is_error() {
            return holders;
        }
        holders.push(holder);
    }
    panic!("twenty clients watch over six connections");
}

/// Waiting for a connection is first come, first served, and everybody's turn comes.
#[test]
fn a_line_of_transactions_moves_on() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::tight());
        let mut clients: Vec<_> = (0..60).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(
                &[encode(&["WATCH", "other"]), encode(&["GET", "n"]), encode(&["MULTI"]), encode(&["INCR", "n"])]
                    .concat(),
            );
            client.send_command(&["EXEC"]);
        }
        for client in &mut clients {
            client.expect(b"+OK\r\n");
            let _ = client.read_frame();
            client.expect(b"+OK\r\n+QUEUED\r\n*1\r\n");
            assert!(client.read_frame().as_int() <= 60);
        }
        assert_eq!(redis.connect().ask("GET n").as_int(), 60, "{}", flavour.name());
    }
}

/// The guard guards: concurrent increments by WATCH/GET/MULTI/SET/EXEC lose none.
#[test]
fn optimistic_increments_lose_none() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::sized(2, 16));
    redis.connect().ask("SET n 0");
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut client = proxy.connect();
                for _ in 0..50 {
                    while !increment(&mut client) {}
                }
            });
        }
    });
    assert_eq!(redis.connect().ask("GET n").as_int(), 300);
}

fn increment(client: &mut TestClient) -> bool {
    assert_eq!(client.ask("WATCH n").as_str(), "OK");
    let next = client.ask("GET n").as_int() + 1;
    client.send(&[encode(&["MULTI"]), encode(&["SET", "n", &next.to_string()]), encode(&["EXEC"])].concat());
    client.expect(b"+OK\r\n+QUEUED\r\n");
    !client.read_frame().null
}

/// Scenario T-8e at scale: whoever gets a connection that another left in MULTI or WATCH finds it clean.
#[test]
fn nothing_of_a_former_holder_remains() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut direct = redis.connect();
    let received = redis.info("total_connections_received");
    for round in 0..100 {
        let mut leaver = proxy.connect();
        leaver.ask("WATCH k");
        if round % 2 == 0 {
            leaver.ask("MULTI");
            leaver.ask("SET k leaked");
        }
        drop(leaver);
        direct.send_command(&["SET", "k", &round.to_string()]);
        direct.read_frame();
        let mut next = proxy.connect();
        next.ask("WATCH other");
        assert_eq!(next.ask("MULTI").as_str(), "OK");
        assert_eq!(next.ask("GET k").as_str(), "QUEUED");
        let reply = next.ask("EXEC");
        assert_eq!(reply.items[0].as_int(), round, "{reply:?}");
    }
    // Cleaned and lent again, not closed and opened again. The INFO calls count themselves.
    let opened = redis.info("total_connections_received") - received - 1;
    assert!(opened < 20, "{opened} connections opened for 200 transactions");
}

/// Scenarios T-7b and T-7c: a pop that races with its end is delivered once or stays in the list.
#[test]
fn an_element_is_delivered_or_kept() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let mut direct = redis.connect();
    let mut client = proxy.connect();
    for round in 0..60 {
        client.send_command(&["BLPOP", "q", "0.02"]);
        kit::pause(Duration::from_millis(18 + round % 8));
        direct.send_command(&["RPUSH", "q", "x"]);
        direct.read_frame();
        let got = client.read_frame();
        let left = direct.ask("LLEN q").as_int();
        assert_eq!(i64::from(!got.null) + left, 1, "round {round}: {got:?}, {left} left");
        direct.ask("DEL q");
    }
}

/// Rule M1: transactions that arrive whole need no connection, however many there are and whatever the pool lends.
#[test]
fn whole_transactions_cost_no_connection() {
    for flavour in Flavour::ALL {
        let redis = RealRedis::start(flavour, &[]);
        let proxy = Proxy::start(&redis, &ProxyOptions::tight().set("pool.wait_timeout=100ms"));
        let _holders = take_all_connections(&proxy);
        let opened = redis.info("total_connections_received");
        let mut clients: Vec<_> = (0..40).map(|_| proxy.connect()).collect();
        let unit = ["MULTI", "INCR n", "GET absent", "EXEC"].map(|line| encode(&words(line))).concat();
        for client in &mut clients {
            // Two in one packet, commands before, between and behind them.
            let ping = encode(&["PING"]);
            client.send(&[&ping[..], &unit, &ping, &unit, &ping].concat());
        }
        for client in &mut clients {
            for _ in 0..2 {
                client.expect(b"+PONG\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n");
                assert!(client.read_frame().as_int() <= 80);
                client.expect(b"$-1\r\n");
            }
            client.expect(b"+PONG\r\n");
        }
        assert_eq!(redis.connect().ask("GET n").as_str(), "80", "{}", flavour.name());
        proxy.becomes("respmux_lane_transactions_total", &[], |n| n == 80.0);
        assert!(redis.info("total_connections_received") - opened <= 4, "connections were opened");
    }
}

/// Rule M1: what MULTI can be followed by that needs a connection takes one, at every cut of the packet.
#[test]
fn both_roads_look_alike() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let bodies: &[&[&str]] = &[
        &["MULTI", "SET k 1", "INCR k", "EXEC", "GET k"],
        &["MULTI", "NOSUCH", "SET k 1", "EXEC", "PING"],
        &["MULTI", "GET", "SET k 1", "EXEC", "PING"],
        &["MULTI", "EXEC"],
        &["MULTI", "SET k 1", "DISCARD", "EXISTS k"],
        &["MULTI", "MULTI", "EXEC", "PING"],
        &["MULTI", "BLPOP q 0", "EXEC", "PING"],
        &["MULTI", "CLIENT GETNAME", "SELECT 1", "SET k 1", "EXEC", "EXISTS k", "SELECT 0"],
        &["CLIENT REPLY SKIP", "MULTI", "SET k 1", "EXEC", "PING"],
        &["SET k 5", "MULTI", "GET k", "EXEC x", "EXEC", "PING"],
        &["MULTI", "EVAL return{1,{2}} 0", "XREAD STREAMS s 0", "EXEC", "PING"],
    ];
    let (mut direct, mut proxied) = (redis.connect(), proxy.connect());
    for body in bodies {
        let input: Vec<u8> = body.iter().flat_map(|line| encode(&words(line))).collect();
        direct.ask("DEL k");
        direct.send(&input);
        direct.send_command(&["ECHO", "end"]);
        let wanted = until_end(&mut direct);
        for cut in 0..input.len() {
            direct.ask("DEL k");
            proxied.send(&input[..cut]);
            proxied.send(&input[cut..]);
            proxied.send_command(&["ECHO", "end"]);
            assert_eq!(until_end(&mut proxied), wanted, "{body:?} cut at {cut}");
        }
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Everything up to the reply of `ECHO end`.
fn until_end(client: &mut TestClient) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let frame = client.read_frame().to_bytes();
        if frame == b"$3\r\nend\r\n" {
            return bytes;
        }
        bytes.extend_from_slice(&frame);
    }
}

/// Rule I3: a transaction whose first part was written when the connection broke never runs its rest by itself, also
/// where clients are kept and told.
#[test]
fn the_rest_of_a_broken_transaction_does_not_run() {
    let mut redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::tight().set("upstream.on_loss=error").set("upstream.backoff_max=100ms");
    let proxy = Proxy::start(&redis, &options);
    let mut fillers: Vec<_> = (0..200).map(|_| proxy.connect()).collect();
    let mut client = proxy.connect();
    assert_eq!(client.ask("PING").as_str(), "PONG");
    redis.signal("STOP");
    // The socket to the stopped server fills up; somewhere among the transactions the writing stops.
    let big = "x".repeat(50_000);
    let unit = [encode(&["MULTI"]), encode(&["SET", "k", &big]), encode(&["INCR", "n"]), encode(&["EXEC"])].concat();
    for filler in &mut fillers {
        filler.send(&unit);
    }
    kit::pause(Duration::from_millis(300));
    redis.kill();
    redis.start_again();
    let told: usize = fillers
        .iter_mut()
        .map(|filler| {
            let frames: Vec<_> = (0..4).map(|_| filler.read_frame()).collect();
            let errors = frames.iter().filter(|frame| frame.is_error()).count();
            assert!(errors == 0 || errors == 4, "a part of a transaction was answered: {frames:?}");
            usize::from(errors == 4)
        })
        .sum();
    let run = redis.connect().ask("GET n");
    let run: usize = if run.null { 0 } else { run.as_str().parse().unwrap() };
    assert_eq!(run + told, 200, "{run} ran, {told} were told that nobody knows");
}
