//! Requests of many clients gather for one write (`coalesce`), those of a few are never held up.

use std::time::{Duration, Instant};

use kit::{Flavour, Proxy, ProxyOptions, RealRedis, TestClient};

/// So many clients take turns, and so many of them wait for an answer at a time.
const CLIENTS: usize = 300;
const UNDER_WAY: usize = 8;

/// Each client asks once and is answered, one behind the other.
fn round(clients: &mut [TestClient]) {
    for at in 0..clients.len() + UNDER_WAY {
        if let Some(client) = clients.get_mut(at) {
            client.send(b"*1\r\n$4\r\nPING\r\n");
        }
        if let Some(client) = at.checked_sub(UNDER_WAY).and_then(|at| clients.get_mut(at)) {
            assert_eq!(client.read_frame().as_str(), "PONG");
        }
    }
}

/// Rests of a proxy until there is one, or rounds for `time`.
fn rests(proxy: &Proxy, clients: usize, time: Duration) -> f64 {
    let mut clients: Vec<_> = (0..clients).map(|_| proxy.connect()).collect();
    let began = Instant::now();
    loop {
        (0..20).for_each(|_| round(&mut clients));
        let rests = proxy.metric("respmux_worker_coalesce_waits_total", &[]).expect("it is always there");
        if rests > 0.0 || began.elapsed() > time {
            return rests;
        }
    }
}

#[test]
fn only_the_requests_of_many_clients_gather() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let options = || ProxyOptions::sized(1, 6);
    let few = Proxy::start(&redis, &options());
    assert_eq!(rests(&few, 4, Duration::from_millis(300)), 0.0, "four clients wait for nothing but us");
    let off = Proxy::start(&redis, &options().set("coalesce=false"));
    assert_eq!(rests(&off, CLIENTS, Duration::from_millis(300)), 0.0, "not with coalesce = false");
    let many = Proxy::start(&redis, &options());
    assert!(rests(&many, CLIENTS, Duration::from_secs(60)) > 0.0, "many never rested");
}
