//! Unix sockets on both sides.

use kit::{Flavour, Proxy, ProxyOptions, RealRedis, TestClient};

#[test]
fn clients_and_upstream_on_unix_sockets() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let kit::Address::Unix(path) = redis.unix_address() else { unreachable!("it has one") };
    let upstream = Some(format!("unix://{}", path.display()));
    let proxy = Proxy::start(&redis, &ProxyOptions { unix: true, upstream, ..ProxyOptions::tight() });
    let mut local = TestClient::connect(&proxy.unix_address());
    assert_eq!(local.ask("SET a 1").as_str(), "OK");
    assert_eq!(proxy.connect().ask("GET a").as_str(), "1");
    assert_eq!(local.ask("MULTI").as_str(), "OK");
    assert_eq!(local.ask("GET a").as_str(), "QUEUED");
    assert_eq!(local.ask("EXEC").items[0].as_str(), "1");
    assert!(local.ask("CLIENT INFO").as_str().contains(" addr="));
    drop(local);
    // A password in the URL is the identity of clients that give none (checked by what the server says).
    let locked = RealRedis::start(Flavour::Redis70, &["--requirepass", "s"]);
    let upstream = Some(format!("redis://:s@127.0.0.1:{}/2", locked.port()));
    let proxy = Proxy::start(&locked, &ProxyOptions { upstream, ..ProxyOptions::tight() });
    let mut client = proxy.connect();
    assert!(client.ask("PING").as_str().len() >= 4);
}
