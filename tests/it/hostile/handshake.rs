//! Proof T15 on a TLS listener: of a client whose handshake is not done nothing is looked at, however much of it
//! there is, and one that is not finished ends in time. Behind the handshake the gate is the same as without TLS.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion};

use super::*;
use crate::relay::Relay;
use kit::{PATIENCE, Pki, SetOnDrop, eventually, pause, setting};

fn session(config: Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config, IpAddr::from([127, 0, 0, 1]).into()).expect("a good name")
}

/// A client's first flight.
fn hello(pki: &Pki) -> Vec<u8> {
    let mut bytes = Vec::new();
    session(pki.client(None)).write_tls(&mut bytes).expect("memory takes all");
    bytes
}

fn record(kind: u8, length: usize, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3, (length >> 8) as u8, length as u8][..], body].concat()
}

/// What is sent to the listener in place of a handshake, or for as much of one as there is. None of it is one.
fn openings(pki: &Pki, seed: u64, most: usize) -> Vec<Vec<u8>> {
    let hello = hello(pki);
    let mut rng = Rng::with_seed(seed);
    let mut all: Vec<_> = (0..hello.len()).map(|cut| hello[..cut].to_vec()).collect();
    let bare: Vec<_> = cases().into_iter().map(|case| case.bytes).collect();
    for command in &bare {
        let cut = rng.usize(..=hello.len());
        all.push(command.clone());
        // In the middle of a hello, behind one, and dressed up as a record.
        all.push([&hello[..cut], command.as_slice(), &hello[cut..]].concat());
        all.push([hello.as_slice(), command.as_slice()].concat());
        all.push(record([0, 20, 21, 22, 23, 24, 255][rng.usize(..7)], command.len(), command));
    }
    for _ in 0..1000 {
        let mut bytes = hello.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len());
            bytes[at] ^= 1 << rng.u8(..8);
        }
        all.push(bytes);
        let noise: Vec<u8> = (0..rng.usize(1..300)).map(|_| rng.u8(..)).collect();
        all.push([&[22, 3, 1][..], &noise].concat());
    }
    for kind in [20, 21, 22, 23, 24] {
        for length in [0, 1, 2, 16384, 16385, 18432, 18433, 65535] {
            all.push(record(kind, length, &[]));
            all.push(record(kind, length, &vec![1; length]));
        }
        all.push(record(kind, 0, &[]).repeat(2000));
    }
    // A hello of 16 MiB, in records of 16 KiB.
    let long = record(22, 16384, &[&[1, 255, 255, 255][..], &[3; 16380]].concat());
    all.push([long, record(22, 16384, &[3; 16384]).repeat(100)].concat());
    all.push(b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10".to_vec()); // SSL 2
    all.extend(inputs::corpus(seed, 500).into_iter().map(|input| input.bytes));
    rng.shuffle(&mut all);
    all.truncate(most);
    all
}

/// How the end of a handshake is missing.
#[derive(Clone, Copy, Debug)]
enum Gap {
    /// A command as it is, where the client's last message belongs.
    Plain13,
    Plain12,
    /// An encrypted command; the last message is left out, or is not the right one.
    NoFinished,
    WrongFinished,
}

/// A handshake up to the server's flight, and what the client says then, record by record, with `data` encrypted behind
/// it if the protocol has come so far.
fn half(proxy: &Proxy, config: Arc<ClientConfig>, data: &[u8]) -> (TcpStream, Vec<Vec<u8>>) {
    let mut stream = TcpStream::connect(proxy.tcp_address()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut session = session(config);
    session.write_tls(&mut stream).expect("the hello is sent");
    let is_older = |session: &ClientConnection| session.protocol_version() == Some(ProtocolVersion::TLSv1_2);
    while session.is_handshaking() && !(is_older(&session) && session.wants_write()) {
        assert!(session.read_tls(&mut stream).expect("the server's flight") > 0, "closed in the handshake");
        session.process_new_packets().expect("a good certificate");
    }
    session.writer().write_all(data).expect("memory takes all");
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).expect("memory takes all");
    }
    let mut records = Vec::new();
    while let [_, _, _, high, low, ..] = bytes[..] {
        records.push(bytes.drain(..5 + usize::from(high) * 256 + usize::from(low)).collect());
    }
    (stream, records)
}

/// Sends a command behind a handshake that is not finished; what is answered, up to the close.
fn unfinished(proxy: &Proxy, pki: &Pki, gap: Gap, command: &[u8]) -> Vec<u8> {
    let versions: &[_] = match gap {
        Gap::Plain12 => &[&rustls::version::TLS12],
        _ => &[&rustls::version::TLS13],
    };
    let (mut stream, mut records) = half(proxy, pki.client_of(None, versions), command);
    let finished = records.iter().position(|record| record[0] == 23);
    let bytes = match (gap, finished) {
        (Gap::NoFinished, Some(at)) => {
            records.remove(at);
            records.concat()
        }
        (Gap::WrongFinished, Some(at)) => {
            records[at][9] ^= 1;
            records.concat()
        }
        _ => command.to_vec(),
    };
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    // A reset instead of an end is an end.
    let _ = stream.read_to_end(&mut heard);
    heard
}

/// Waits until each of so many workers has its control connection, and asks nothing new on it.
fn settled(relay: &Relay, workers: usize) -> usize {
    eventually(PATIENCE, || {
        // The last of the questions with which it begins.
        let is_last = |command: &&Vec<Vec<u8>>| command.last().is_some_and(|word| word == b"enable-debug-command");
        let asked = relay.commands().0.iter().filter(is_last).count();
        match relay.connections() {
            connections if connections == workers && asked == workers => Ok(caused(relay)),
            connections => Err(format!("{connections} connections, {asked} questions")),
        }
    })
}

/// The commands that the relay has seen, but for those that respmux sends now and then, whether there are clients or
/// not.
fn caused(relay: &Relay) -> usize {
    let own = |command: &Vec<Vec<u8>>| command[0] == b"PING" || command[0] == b"CONFIG";
    relay.commands().0.iter().filter(|command| !own(command)).count()
}

fn options(relay: &Relay, pki: &Arc<Pki>) -> ProxyOptions {
    let upstream = Some(format!("redis://{}", relay.address()));
    ProxyOptions { upstream, tls: Some(Arc::clone(pki)), ..ProxyOptions::sized(2, 12) }
}

#[test]
fn nothing_reaches_the_upstream_before_a_tls_handshake_is_done() {
    let seed = setting("HOSTILE_SEED", 1);
    let most = setting("HOSTILE_INPUTS", SHORT);
    // It wants no login: nothing but the handshake stands between a client and its data.
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let relay = Relay::start(&redis);
    let mut proxy = Proxy::start(&redis, &options(&relay, &pki).set("client.accept_rate=0"));
    let before = settled(&relay, 2);
    let openings = openings(&pki, seed, most);
    let answered = AtomicUsize::new(0);
    let talk = |bytes: &Vec<u8>| {
        let heard = converse(&Address::Tcp(proxy.tcp_address()), bytes);
        // Alerts, and the server's flight where there was a hello.
        assert!(heard.is_empty() || matches!(heard[0], 21 | 22), "{:?}: {:?}", Shown(bytes), Shown(&heard));
        answered.fetch_add(usize::from(!heard.is_empty()), Ordering::Relaxed);
    };
    in_parallel("hostile: openings of TLS", &openings[..openings.len() / 4], talk);
    let memory = resident(proxy.process_id());
    in_parallel("hostile: openings of TLS", &openings, talk);
    let gaps = [Gap::Plain13, Gap::Plain12, Gap::NoFinished, Gap::WrongFinished];
    let commands: Vec<_> = cases().into_iter().step_by(7).zip(gaps.into_iter().cycle()).collect();
    in_parallel("hostile: commands before TLS", &commands, |(case, gap)| {
        let heard = unfinished(&proxy, &pki, *gap, &case.bytes);
        // In the clear, or sealed: two bytes, their kind, and the seal.
        let alert = heard.is_empty() || heard[0] == 21 || heard.starts_with(&[23, 3, 3, 0, 19]) && heard.len() == 24;
        assert!(alert, "{gap:?}, {}: {:?}", case.about, Shown(&heard));
    });
    let growth = resident(proxy.process_id()).saturating_sub(memory);
    let done = |result| proxy.metric("respmux_tls_handshakes_total", &[("result", result)]);
    println!(
        "{{\"hostile\":\"tls\",\"seed\":{seed},\"openings\":{},\"unfinished\":{},\"answered_with_an_alert\":{},\"handshakes_done\":{},\"upstream_connections_caused\":{},\"upstream_commands_caused\":{},\"rss_growth_kib\":{growth}}}",
        openings.len(),
        commands.len(),
        answered.load(Ordering::Relaxed),
        done("ok").unwrap_or_default(),
        relay.connections() - 2,
        caused(&relay) - before
    );
    assert_eq!((done("ok"), done("timeout")), (Some(0.0), Some(0.0)));
    assert!(done("failed") >= Some((openings.len() + commands.len()) as f64));
    assert_eq!((relay.connections(), caused(&relay)), (2, before), "{:?}", relay.commands().0);
    assert!(answered.into_inner() * 4 > openings.len(), "the listener was heard");
    assert!(proxy.runs() && !proxy.log().contains("panicked"), "{}", proxy.log());
    assert!(growth <= MOST_GROWTH, "grew by {growth} KiB");
}

/// Every command, each in another of the forms, in the first records of a client that is who it should be to TLS and
/// nobody to Redis.
#[test]
fn the_gate_is_the_same_behind_tls() {
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &["--requirepass", "right"]), Pki::new());
    let relay = Relay::start(&redis);
    let options = options(&relay, &pki).set("auth.max_failures=0").set("auth.failure_delay=0s");
    let proxy = Proxy::start(&redis, &options);
    let all = cases();
    let cases: Vec<_> = all.iter().enumerate().filter(|(n, _)| n % 7 == (n / 7) % 7).collect();
    in_parallel("hostile: commands before login", &cases, |(_, case)| {
        let heard = converse(&proxy.address(), &case.bytes);
        assert!(case.is_refused(&heard), "{}: {:?}", case.about, Shown(&heard));
    });
    let done = proxy.metric("respmux_tls_handshakes_total", &[("result", "ok")]);
    assert_eq!(done, Some(cases.len() as f64));
    let (commands, _) = relay.commands();
    let strays: Vec<_> = commands.iter().filter(|command| !is_own(command)).collect();
    assert!(strays.is_empty(), "{} commands reached the upstream: {:?}", strays.len(), &strays[..strays.len().min(20)]);
}

/// However far a handshake has come, it has its time from the accept on, and one that is not finished takes a place
/// among `tls.max_handshakes`: what is beyond them is closed at once.
#[test]
fn half_finished_handshakes_end_in_time_and_are_limited() {
    const EACH: usize = 8;
    const MOST: usize = 40;
    const TIME: Duration = Duration::from_secs(3);
    let (redis, pki) = (RealRedis::start(Flavour::Redis70, &[]), Pki::new());
    let relay = Relay::start(&redis);
    let options = ProxyOptions { workers: Some(1), ..options(&relay, &pki) };
    let options = options.set("tls.handshake_timeout=3s").set(&format!("tls.max_handshakes={MOST}"));
    let mut proxy = Proxy::start(&redis, &options);
    let before = settled(&relay, 1);
    let (began, hello) = (Instant::now(), hello(&pki));
    let mut open = Vec::new();
    for _ in 0..EACH {
        for start in [&[][..], &hello[..1], &hello[..5], &hello[..hello.len() / 2], &hello[..]] {
            let mut stream = TcpStream::connect(proxy.tcp_address()).expect("it listens");
            stream.write_all(start).expect("the socket takes it");
            open.push(stream);
        }
    }
    assert_eq!(open.len(), MOST);
    let metric = |name, labels: &[(&str, &str)]| proxy.metric(name, labels).unwrap_or_default();
    eventually(TIME / 2, || match metric("respmux_tls_handshakes_in_progress", &[]) {
        going if going == MOST as f64 => Ok(()),
        going => Err(format!("{going} in progress")),
    });
    // Those beyond are not even listened to.
    for _ in 0..EACH {
        let mut beyond = TcpStream::connect(proxy.tcp_address()).expect("it listens");
        beyond.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = beyond.write_all(&hello);
        assert_eq!(beyond.read(&mut [0; 8]).unwrap_or(0), 0, "closed without a word");
    }
    let refused = metric("respmux_client_connections_rejected_total", &[("reason", "handshakes")]);
    assert_eq!(refused, EACH as f64);
    assert!(began.elapsed() < TIME, "too slow a machine for this test: {:?}", began.elapsed());
    // A byte now and then changes nothing.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&stop);
        let (stop, slow) = (&stop, &open[..]);
        scope.spawn(move || {
            for byte in &hello[hello.len() / 2..] {
                // Of each round the fourth has half a hello.
                for mut stream in slow.iter().skip(3).step_by(5) {
                    let _ = stream.write_all(&[*byte]);
                }
                pause(Duration::from_millis(30));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for mut stream in &open {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            while let Ok(1..) = stream.read(&mut [0; 4096]) {}
        }
    });
    let took = began.elapsed();
    assert!(took >= TIME && took < TIME + Duration::from_secs(3), "all are closed after {took:?}");
    let ended = metric("respmux_tls_handshakes_total", &[("result", "timeout")]);
    assert_eq!((ended, metric("respmux_tls_handshakes_in_progress", &[])), (MOST as f64, 0.0));
    assert_eq!((relay.connections(), caused(&relay)), (1, before), "{:?}", relay.commands().0);
    assert_eq!(proxy.connect().ask("PING").as_str(), "PONG");
    assert!(proxy.runs());
}
