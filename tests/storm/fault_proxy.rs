//! A proxy between respmux and the server that does what a faulty one would do, once: the proof that the checker sees it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use kit::resp::frame_end;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Two clients get each other's reply.
    Swap,
    /// A client gets an earlier reply of its own again, in place of the one it waits for.
    Stale,
    /// A reply is swallowed.
    Drop,
    /// A reply comes twice.
    Duplicate,
    /// Some bytes of a reply are missing.
    Shorten,
    /// One byte of a payload is another one.
    Flip,
    /// A client is cut off without need.
    Close,
    /// A write is executed twice; the second reply is swallowed.
    WriteTwice,
    /// Something else than the client's value is written.
    WriteElse,
    /// A write is executed and declared not executed.
    Deny,
    /// A write lands in another database.
    WrongDatabase,
}

/// The fault happens after so many replies: every client has some history by then.
const AFTER: u64 = 400;

/// Listens, and relays to the target until dropped.
pub(crate) struct FaultProxy {
    pub(crate) address: SocketAddr,
    done: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    pub(crate) fn start(target: SocketAddr, fault: Fault) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let done = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = oneshot::channel();
        let told = done.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async {
                let listener = TcpListener::from_std(listener).expect("a listener moves into the runtime");
                let plot = Rc::new(Plot::new(fault, told));
                tokio::select! {
                    () = accept(listener, target, plot) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, done, stop: Some(stop), thread: Some(thread) }
    }

    /// Whether the fault has happened.
    pub(crate) fn done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What all relays of one [`FaultProxy`] share.
struct Plot {
    fault: Fault,
    replies: Cell<u64>,
    done: Arc<AtomicBool>,
    swap: RefCell<Option<Waiting>>,
}

/// The reply of the first of two clients, and where it waits for the other's.
type Waiting = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// What one relay remembers.
#[derive(Default)]
struct Relay {
    /// Replies of the server that the client must not see.
    swallow: Cell<u32>,
    /// The next reply says that nothing was executed.
    deny: Cell<bool>,
    /// An earlier reply with a token.
    earlier: RefCell<Vec<u8>>,
}

impl Plot {
    fn new(fault: Fault, done: Arc<AtomicBool>) -> Self {
        Self { fault, replies: Cell::new(0), done, swap: RefCell::new(None) }
    }

    /// Whether it is time for `fault`; it is only once.
    fn now(&self, fault: Fault) -> bool {
        let now = self.fault == fault && self.replies.get() > AFTER && !self.done.load(Ordering::Relaxed);
        if now {
            self.done.store(true, Ordering::Relaxed);
        }
        now
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, plot: Rc<Plot>) {
    while let Ok((client, _)) = listener.accept().await {
        let plot = plot.clone();
        spawn_local(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let relay = Relay::default();
            tokio::join!(
                requests(from_client, to_server, &plot, &relay),
                replies(from_server, to_client, &plot, &relay)
            );
        });
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, plot: &Plot, relay: &Relay) {
    let mut received = Vec::new();
    while let Some(mut request) = next_frame(&mut from, &mut received).await {
        if memchr::memmem::find(&request, b"\r\nRPUSH\r\n").is_some() {
            if plot.now(Fault::WriteTwice) {
                relay.swallow.set(1);
                request = request.repeat(2);
            } else if plot.now(Fault::WriteElse) {
                let at = memchr::memmem::rfind(&request, b"[t:").expect("a pushed token");
                request[at] = b'{';
            } else if plot.now(Fault::Deny) {
                relay.deny.set(true);
            } else if plot.now(Fault::WrongDatabase) {
                relay.swallow.set(1);
                request = [b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n", &request[..]].concat();
            }
        }
        if to.write_all(&request).await.is_err() {
            return;
        }
    }
}

async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, plot: &Plot, relay: &Relay) {
    let mut received = Vec::new();
    while let Some(reply) = next_frame(&mut from, &mut received).await {
        plot.replies.set(plot.replies.get() + 1);
        let Some(reply) = tamper(reply, plot, relay).await else { return };
        if to.write_all(&reply).await.is_err() {
            return;
        }
    }
}

/// What the client gets in place of `reply`; `None` closes its connection.
async fn tamper(mut reply: Vec<u8>, plot: &Plot, relay: &Relay) -> Option<Vec<u8>> {
    if relay.deny.take() {
        return Some(b"-LOADING upstream is not available, command was not executed\r\n".to_vec());
    }
    if relay.swallow.get() > 0 {
        // Of two replies the SELECT's comes first and the second write's last; either way one is too many.
        let first = plot.fault == Fault::WrongDatabase;
        if first || relay.swallow.get() > 1 {
            relay.swallow.set(0);
            return Some(Vec::new());
        }
        relay.swallow.set(2);
    }
    let has_token = reply.starts_with(b"$") && memchr::memmem::find(&reply, b"[t:").is_some();
    if !has_token {
        return Some(reply);
    }
    let earlier = relay.earlier.replace(reply.clone());
    if plot.fault == Fault::Swap {
        return Some(swap(reply, plot).await);
    }
    if !earlier.is_empty() && earlier != reply && plot.now(Fault::Stale) {
        return Some(earlier);
    }
    if plot.now(Fault::Drop) {
        return Some(Vec::new());
    }
    if plot.now(Fault::Duplicate) {
        return Some(reply.repeat(2));
    }
    if plot.now(Fault::Shorten) {
        reply.drain(20..25);
    }
    if plot.now(Fault::Flip) {
        let last = reply.len() - 3;
        reply[last] ^= 1;
    }
    if plot.now(Fault::Close) { None } else { Some(reply) }
}

/// Gives two clients each other's reply.
async fn swap(reply: Vec<u8>, plot: &Plot) -> Vec<u8> {
    let waiting = plot.swap.borrow_mut().take();
    if let Some((other, partner)) = waiting {
        let _ = partner.send(reply);
        return other;
    }
    if !plot.now(Fault::Swap) {
        return reply;
    }
    let (partner, others) = oneshot::channel();
    *plot.swap.borrow_mut() = Some((reply, partner));
    others.await.unwrap_or_default()
}

/// The next whole frame, request or reply.
async fn next_frame(from: &mut OwnedReadHalf, received: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Ok(Some(end)) = frame_end(received, 0, 0) {
            let rest = received.split_off(end);
            return Some(std::mem::replace(received, rest));
        }
        match from.read_buf(received).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}
