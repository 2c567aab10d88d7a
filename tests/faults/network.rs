//! A network that does harm where it is told to: it relays, looks for marked frames, and does to each what was ordered.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

/// Begins the payload of a frame that something is to happen to; eight hexadecimal digits follow.
pub(crate) const MARK: &[u8] = b"FAULT";
/// Bytes of a marked payload.
pub(crate) const PAYLOAD: usize = 2048;

/// What happens to the marked frame, or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// It comes late.
    Latency(u64),
    /// It comes byte by byte.
    Slice,
    /// So many bytes of it come, then both connections end in order.
    Cut(usize),
    /// The same with a reset.
    Reset(usize),
    /// So many bytes come, then nothing more does, although the other direction stays open.
    HalfClose(usize),
    /// Behind it comes a reply to nothing.
    Surplus,
    /// It comes twice.
    Duplicate,
    /// A reply comes when nothing has been asked; the frame itself comes before, in a packet of its own.
    Early,
}

/// The direction in which the frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Request,
    Reply,
}

/// Orders by mark and direction.
#[derive(Clone, Default)]
struct Orders(Arc<Mutex<HashMap<(u32, Way), Harm>>>, Arc<Mutex<HashSet<u32>>>);

impl Orders {
    fn take(&self, mark: u32, way: Way) -> Option<Harm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(mark, way))
    }

    fn finish(&self, mark: u32) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).insert(mark);
    }
}

/// Listens, and relays to its target until dropped.
pub(crate) struct Network {
    pub(crate) address: SocketAddr,
    orders: Orders,
    done: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (orders, done) = (Orders::default(), Arc::new(AtomicU64::new(0)));
        let (stop, stopped) = oneshot::channel();
        let (told, counted) = (orders.clone(), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async {
                let listener = TcpListener::from_std(listener).expect("a listener moves into the runtime");
                let accept = async {
                    while let Ok((near, _)) = listener.accept().await {
                        spawn_local(relay(near, target, told.clone(), Arc::clone(&counted)));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, orders, done, stop: Some(stop), thread: Some(thread) }
    }

    /// The next frame with this mark in this direction suffers `harm`.
    pub(crate) fn order(&self, mark: u32, way: Way, harm: Harm) {
        self.orders.0.lock().unwrap_or_else(PoisonError::into_inner).insert((mark, way), harm);
    }

    /// Whether all of it has happened.
    pub(crate) fn is_finished(&self, mark: u32) -> bool {
        self.orders.1.lock().unwrap_or_else(PoisonError::into_inner).contains(&mark)
    }

    /// Orders carried out so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How a direction ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// One of the two ended it.
    Peer,
    Cut,
    Reset,
    /// Nothing more goes this way; the other one goes on.
    Half,
}

async fn relay(near: TcpStream, target: SocketAddr, orders: Orders, done: Arc<AtomicU64>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let end = {
        let requests = pump(&mut near_in, &mut far_out, Way::Request, &orders, &done);
        let replies = pump(&mut far_in, &mut near_out, Way::Reply, &orders, &done);
        tokio::pin!(requests, replies);
        tokio::select! {
            end = &mut requests => if end == End::Half { replies.await } else { end },
            end = &mut replies => if end == End::Half { requests.await } else { end },
        }
    };
    if end == End::Reset {
        for half in [near_out, far_out] {
            let _ = socket2::SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO));
            half.forget();
        }
    }
}

async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, way: Way, orders: &Orders, done: &AtomicU64) -> End {
    let mut held = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return End::Peer,
            Ok(count) => held.extend_from_slice(&buffer[..count]),
        }
        while let Some((start, end, mark)) = marked(&held, way) {
            if held.len() < end {
                break;
            }
            let Some(harm) = orders.take(mark, way) else {
                if to.write_all(&held[..end]).await.is_err() {
                    return End::Peer;
                }
                held.drain(..end);
                continue;
            };
            let rest = held.split_off(end);
            let acted = act(&held, start, harm, to).await;
            done.fetch_add(1, Ordering::Relaxed);
            orders.finish(mark);
            match acted {
                Ok(None) => held = rest,
                Ok(Some(end)) => return end,
                Err(_) => return End::Peer,
            }
        }
        if marked(&held, way).is_none() {
            if to.write_all(&held).await.is_err() {
                return End::Peer;
            }
            held.clear();
        }
    }
}

/// Where the first marked frame begins and ends, and its mark.
fn marked(bytes: &[u8], way: Way) -> Option<(usize, usize, u32)> {
    let at = memchr::memmem::find(bytes, MARK)?;
    let digits = bytes.get(at + MARK.len()..at + MARK.len() + 8)?;
    let mark = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    let head = match way {
        Way::Request => b"*2\r\n$4\r\nECHO\r\n$2048\r\n".len(),
        Way::Reply => b"$2048\r\n".len(),
    };
    Some((at.saturating_sub(head), at + PAYLOAD + 2, mark))
}

/// Does `harm` to the frame at the end of `bytes`, which begins at `start`; what is before it passes.
async fn act(bytes: &[u8], start: usize, harm: Harm, to: &mut OwnedWriteHalf) -> std::io::Result<Option<End>> {
    let frame = &bytes[start..];
    let until = |count: usize| &bytes[..start + count.min(frame.len())];
    match harm {
        Harm::Latency(millis) => {
            to.write_all(&bytes[..start]).await?;
            sleep(Duration::from_millis(millis)).await;
            to.write_all(frame).await?;
        }
        Harm::Slice => {
            to.write_all(&bytes[..start]).await?;
            for byte in frame {
                to.write_all(std::slice::from_ref(byte)).await?;
                tokio::task::yield_now().await;
            }
        }
        Harm::Cut(count) => {
            to.write_all(until(count)).await?;
            return Ok(Some(End::Cut));
        }
        Harm::Reset(count) => {
            to.write_all(until(count)).await?;
            return Ok(Some(End::Reset));
        }
        Harm::HalfClose(count) => {
            to.write_all(until(count)).await?;
            to.shutdown().await?;
            return Ok(Some(End::Half));
        }
        Harm::Surplus => to.write_all(&[bytes, b"+SURPLUS\r\n"].concat()).await?,
        Harm::Duplicate => to.write_all(&[bytes, frame].concat()).await?,
        Harm::Early => {
            to.write_all(bytes).await?;
            sleep(Duration::from_millis(3)).await;
            to.write_all(b"+EARLY\r\n").await?;
        }
    }
    Ok(None)
}
