//! A bad network between the proxy and the server: pieces of any size, pauses, and cuts at any byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

/// Listens, and relays to the server until dropped.
pub(crate) struct BadNetwork {
    pub(crate) address: SocketAddr,
    cuts: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BadNetwork {
    /// The same seed gives each connection, in the order of arrival, the same budget and pieces.
    pub(crate) fn start(server: SocketAddr, seed: u64) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let cuts = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let told = cuts.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async {
                let listener = TcpListener::from_std(listener).expect("a listener moves into the runtime");
                let accept = async {
                    let mut rng = Rng::with_seed(seed);
                    while let Ok((near, _)) = listener.accept().await {
                        spawn_local(relay(near, server, rng.fork(), Arc::clone(&told)));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, cuts, stop: Some(stop), thread: Some(thread) }
    }

    /// Connections cut so far.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for BadNetwork {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Relays both ways until one of the directions ends or has used up its bytes; then both connections end.
async fn relay(near: TcpStream, server: SocketAddr, mut rng: Rng, cuts: Arc<AtomicU64>) {
    let Ok(far) = TcpStream::connect(server).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let reset = rng.bool();
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let (mut up, mut down) = (rng.fork(), rng.fork());
    let cut = tokio::select! {
        cut = pump(&mut near_in, &mut far_out, &mut up) => cut,
        cut = pump(&mut far_in, &mut near_out, &mut down) => cut,
    };
    if cut {
        cuts.fetch_add(1, Ordering::Relaxed);
        if reset {
            let _ = socket2::SockRef::from(near_out.as_ref()).set_linger(Some(Duration::ZERO));
            near_out.forget();
        }
    }
}

/// Moves bytes in pieces. True if it was the one to end it.
async fn pump(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin), rng: &mut Rng) -> bool {
    // Most cuts come soon enough to hit a small reply, some only in the middle of a large one.
    let mut budget = 1_usize << rng.u32(8..24);
    budget += rng.usize(..budget);
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let wanted = if rng.u8(..20) == 0 { rng.usize(1..4) } else { rng.usize(1..buffer.len()) };
        let count = match from.read(&mut buffer[..wanted]).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => count,
        };
        let passed = count.min(budget);
        if to.write_all(&buffer[..passed]).await.is_err() {
            return false;
        }
        budget -= passed;
        if budget == 0 {
            return true;
        }
        if rng.u8(..200) == 0 {
            sleep(Duration::from_micros(rng.u64(..3000))).await;
        }
    }
}
