//! Where a scenario plays: a server, with or without the proxy in front, and what is measured around it.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, LocalSet};
use tokio::time::sleep;

use crate::settings;
use kit::resp::Value;
use kit::wire::Wire;
use kit::{Flavour, Proxy, ProxyOptions, RealRedis};

/// Workers of the proxy.
pub(crate) const WORKERS: u32 = 2;

/// A server, and the proxy in front of it unless the clients go straight to the server.
pub(crate) struct Stage {
    pub(crate) server: RealRedis,
    pub(crate) proxy: Option<Proxy>,
    server_process: u32,
}

impl Stage {
    pub(crate) fn direct(flavour: Flavour) -> Self {
        // Room for more clients than the default, and for our own connections.
        let server = RealRedis::start(flavour, &["--maxclients", "15000"]);
        let server_process = u32::try_from(server.info("process_id")).expect("a process id");
        Self { server, proxy: None, server_process }
    }

    pub(crate) fn proxied(flavour: Flavour, settings: &[&str]) -> Self {
        Self::proxied_by(WORKERS, flavour, settings)
    }

    /// The same, with so many workers.
    pub(crate) fn proxied_by(workers: u32, flavour: Flavour, settings: &[&str]) -> Self {
        let mut stage = Self::direct(flavour);
        let mut options = ProxyOptions::sized(workers, settings::cap());
        options.settings.extend(settings.iter().map(ToString::to_string));
        options.settings.extend(settings::extra());
        stage.proxy = Some(Proxy::start(&stage.server, &options));
        stage
    }

    /// The stages of both arms that are wanted, one after the other.
    pub(crate) fn each(flavour: Flavour, settings: &[&str], mut play: impl FnMut(&Self)) {
        if settings::wanted("direct") {
            play(&Self::direct(flavour));
        }
        if settings::wanted("respmux") {
            play(&Self::proxied(flavour, settings));
        }
    }

    pub(crate) fn arm(&self) -> &'static str {
        if self.proxy.is_some() { "respmux" } else { "direct" }
    }

    /// Where the clients connect.
    pub(crate) fn target(&self) -> SocketAddr {
        self.proxy.as_ref().map_or_else(|| self.server.tcp_address(), Proxy::tcp_address)
    }

    /// Where the server itself listens.
    pub(crate) fn origin(&self) -> SocketAddr {
        self.server.tcp_address()
    }

    /// CPU seconds so far: of the server, of the proxy.
    pub(crate) fn cpu(&self) -> (f64, f64) {
        (cpu_of(self.server_process), self.proxy.as_ref().map_or(0.0, |proxy| cpu_of(proxy.process_id())))
    }

    /// Waits until `count` clients are blocked, as far as this can be known from outside.
    pub(crate) async fn until_blocked(&self, count: usize) {
        let mut direct = connect(self.origin()).await;
        for _ in 0..2000 {
            let blocked = match &self.proxy {
                Some(proxy) => proxy.metric("respmux_client_connections", &[("state", "blocked")]).unwrap_or(0.0),
                None => info(&mut direct, "blocked_clients").await as f64,
            };
            if blocked >= count as f64 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{}: {count} clients are not blocked within 20 s", self.arm());
    }
}

/// utime + stime of a process. The kernel counts in hundredths of a second on every platform these tests know.
fn cpu_of(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    let (_, fields) = text.rsplit_once(") ").expect("the name ends in a parenthesis");
    let fields: Vec<_> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks are a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// Runs `scenario` on one thread: thousands of clients are cheap there.
pub(crate) fn run<T>(scenario: impl Future<Output = T>) -> T {
    // Clients, and the sockets of whatever else this process still holds.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, scenario)
}

/// A connection, which a busy machine may refuse at first.
pub(crate) async fn connect(address: SocketAddr) -> Wire {
    let mut refused = 0;
    loop {
        match Wire::connect(address).await {
            Ok(wire) => return wire,
            Err(error) if refused == 50 => panic!("{address}: {error}"),
            Err(_) => refused += 1,
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// One number of INFO.
pub(crate) async fn info(direct: &mut Wire, field: &str) -> i64 {
    let text = match direct.call(&["INFO"]).await {
        Ok(Value::Bulk(text)) => String::from_utf8_lossy(&text).into_owned(),
        other => panic!("INFO: {other:?}"),
    };
    kit::info_field(&text, field)
}

/// Version of the server, as its own INFO gives it.
pub(crate) async fn version(direct: &mut Wire) -> String {
    let Ok(Value::Bulk(text)) = direct.call(&["INFO", "server"]).await else { panic!("INFO server") };
    let text = String::from_utf8_lossy(&text).into_owned();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()));
    field("valkey_version:").map_or_else(
        || format!("redis {}", field("redis_version:").unwrap_or_default()),
        |version| format!("valkey {version}"),
    )
}

/// Watches the number of connections at the server, over a connection of its own that it does not count.
pub(crate) struct Watch {
    stop: Rc<Cell<bool>>,
    task: JoinHandle<Connections>,
}

/// What a [`Watch`] saw.
#[derive(Debug)]
pub(crate) struct Connections {
    /// The most at once.
    pub(crate) peak: i64,
    /// How many were opened meanwhile.
    pub(crate) opened: i64,
    /// The most that were subscribed at once.
    pub(crate) subscribed: i64,
}

impl Watch {
    /// `own`: connections of the run to the server that are open all the time and not counted either.
    pub(crate) async fn start(origin: SocketAddr, own: i64) -> Self {
        let mut direct = connect(origin).await;
        let before = info(&mut direct, "total_connections_received").await;
        let stop = Rc::new(Cell::new(false));
        let stopped = stop.clone();
        let task = tokio::task::spawn_local(async move {
            let mut seen = Connections { peak: 0, opened: 0, subscribed: 0 };
            loop {
                let last = stopped.get();
                seen.peak = seen.peak.max(info(&mut direct, "connected_clients").await - 1 - own);
                seen.subscribed = seen.subscribed.max(subscribed(&mut direct, last).await);
                if last {
                    seen.opened = info(&mut direct, "total_connections_received").await - before;
                    return seen;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        Self { stop, task }
    }

    pub(crate) async fn end(self) -> Connections {
        self.stop.set(true);
        self.task.await.expect("the watch does not panic")
    }
}

/// Connections with subscriptions; a list of thousands is only read where it is `short`.
async fn subscribed(direct: &mut Wire, short: bool) -> i64 {
    if !short {
        return 0;
    }
    match direct.call(&["CLIENT", "LIST", "TYPE", "pubsub"]).await {
        Ok(Value::Bulk(text)) => text.iter().filter(|&&byte| byte == b'\n').count() as i64,
        other => panic!("CLIENT LIST: {other:?}"),
    }
}

/// Yields until the time of the `count`th event at `rate` events a second, counted from `start`.
pub(crate) async fn due(start: Instant, count: u64, rate: f64) {
    let at = start + Duration::from_secs_f64(count as f64 / rate);
    tokio::time::sleep_until(at.into()).await;
}
