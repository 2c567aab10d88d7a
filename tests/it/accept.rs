//! Who is let in, how fast, and what happens when there are no descriptors left.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use kit::{Address, Flavour, PATIENCE, Proxy, ProxyOptions, RealRedis, TestClient, eventually, pause};

const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// CPU time of a process so far.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Proof T19, first half: with 256 descriptors 1,000 clients are not too few or too many, but those that fit.
#[test]
fn clients_fit_the_descriptors() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let wrapper = ["bash", "-c", "ulimit -n 256; exec \"$@\"", "bash"].map(str::to_owned).to_vec();
    let proxy = Proxy::start(&redis, &ProxyOptions { wrapper, ..ProxyOptions::tight() });
    let limit = proxy.metric("respmux_client_connections_max", &[]).unwrap() as usize;
    assert_eq!(limit, 256 - 128 - 6);
    assert!(proxy.log().contains("client.max_connections lowered"), "{}", proxy.log());
    let mut early: Vec<_> = (0..50).map(|_| proxy.connect()).collect();
    let mut late: Vec<_> = (0..950).map(|_| proxy.connect()).collect();
    let mut refused = 0;
    for client in &mut late {
        client.send(b"PING\r\n");
        let frame = client.try_read_frame(PATIENCE).expect("an answer or a refusal");
        if frame.is_error() {
            assert_eq!([b"-", &frame.text[..], b"\r\n"].concat(), TOO_MANY);
            refused += 1;
        }
    }
    assert_eq!(refused, 1000 - limit);
    for client in &mut early {
        assert_eq!(client.ask("ECHO e").as_str(), "e");
    }
    drop(late);
    eventually(PATIENCE, || match proxy.connect().ask("PING").as_str() {
        text if text == "PONG" => Ok(()),
        text => Err(text),
    });
    assert_eq!(proxy.metric("respmux_client_accept_errors_total", &[]), Some(0.0));
}

/// Proof T19, second half: the limit shrinks under the process. Those who are in notice nothing.
#[test]
fn without_descriptors_clients_wait_and_nobody_suffers() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    let limit = |soft: usize| {
        let process = proxy.process_id().to_string();
        let done = Command::new("prlimit").args(["--pid", &process, &format!("--nofile={soft}:")]).status();
        assert!(done.unwrap().success());
    };
    let mut inside: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    inside.iter_mut().for_each(|client| assert_eq!(client.ask("PING").as_str(), "PONG"));
    limit(20);
    let mut waiting: Vec<_> = (0..30).map(|_| proxy.connect()).collect();
    eventually(PATIENCE, || proxy.log().contains("accept failed").then_some(()).ok_or("no error yet"));
    let (before, began) = (cpu(proxy.process_id()), Instant::now());
    while began.elapsed() < Duration::from_secs(1) {
        inside.iter_mut().for_each(|client| assert_eq!(client.ask("ECHO e").as_str(), "e"));
        pause(Duration::from_millis(50));
    }
    let spent = cpu(proxy.process_id()) - before;
    assert!(spent < Duration::from_millis(250), "{spent:?} of CPU in a second of want");
    let lines = proxy.log().matches("accept failed").count();
    assert!((1..=4).contains(&lines), "{lines} lines of log in about a second");
    limit(1024);
    let began = Instant::now();
    waiting.iter_mut().for_each(|client| assert_eq!(client.ask("PING").as_str(), "PONG"));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let errors = proxy.metric("respmux_client_accept_errors_total", &[("reason", "descriptors")]).unwrap();
    assert!((5.0..60.0).contains(&errors), "{errors}");
}

#[test]
fn too_few_descriptors_for_one_client_are_an_error() {
    let command = "ulimit -n 100; exec \"$0\" run --listen 127.0.0.1:0 --admin off";
    let run = Command::new("bash").args(["-c", command, env!("CARGO_BIN_EXE_respmux")]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && said.contains("too few file descriptors"), "{said}");
}

#[test]
fn clients_come_in_at_the_rate() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions::tight().set("client.accept_rate=100").set("client.accept_burst=20");
    let proxy = Proxy::start(&redis, &options);
    let began = Instant::now();
    let mut clients: Vec<_> = (0..100).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(b"PING\r\n"));
    clients.iter_mut().for_each(|client| assert_eq!(client.read_frame().as_str(), "PONG"));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(700), "{took:?} for 100 clients, 20 at once and 100 a second");
    assert!(proxy.metric("respmux_client_accept_stalls_total", &[]) > Some(0.0));
    let off = Proxy::start(&redis, &ProxyOptions::tight().set("client.accept_rate=0"));
    let mut clients: Vec<_> = (0..100).map(|_| off.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("PING").as_str(), "PONG"));
    assert_eq!(off.metric("respmux_client_accept_stalls_total", &[]), Some(0.0));
}

/// A crowd at one address does not keep the others waiting.
#[test]
fn addresses_take_turns() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = ProxyOptions { unix: true, ..ProxyOptions::tight() };
    let proxy = Proxy::start(&redis, &options.set("client.accept_rate=100").set("client.accept_burst=1"));
    let crowd: Vec<_> = (0..300).map(|_| TcpStream::connect(proxy.tcp_address()).unwrap()).collect();
    let began = Instant::now();
    assert_eq!(TestClient::connect(&proxy.unix_address()).ask("PING").as_str(), "PONG");
    let took = began.elapsed();
    drop(crowd);
    assert!(took < Duration::from_secs(1), "{took:?} behind 300 others");
}

#[test]
fn users_of_a_unix_socket() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let id = Command::new("id").arg("-u").output().unwrap();
    let me: u32 = String::from_utf8(id.stdout).unwrap().trim().parse().unwrap();
    let options =
        |users: String| ProxyOptions { unix: true, ..ProxyOptions::tight() }.set(&users).set("unix.mode=0600");
    let proxy = Proxy::start(&redis, &options(format!("unix.allow_uids={},{me}", me + 1)));
    let Address::Unix(path) = proxy.unix_address() else { unreachable!("it has one") };
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = TestClient::connect(&proxy.unix_address());
    let line = client.ask("PROXY CLIENTS").items[0].as_str();
    assert!(line.contains(&format!(" via=unix uid={me} pid={} ", std::process::id())), "{line}");
    let proxy = Proxy::start(&redis, &options(format!("unix.allow_uids={}", me + 1)));
    let mut stranger = TestClient::connect(&proxy.unix_address());
    stranger.expect(b"-DENIED the user of this process may not connect to this socket\r\n");
    stranger.expect_eof();
    assert_eq!(proxy.connect().ask("PING").as_str(), "PONG", "TCP is not concerned");
    let refused = proxy.metric("respmux_client_connections_rejected_total", &[("reason", "user")]);
    assert_eq!(refused, Some(1.0));
}
