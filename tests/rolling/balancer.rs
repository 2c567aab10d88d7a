//! A plain TCP balancer: connections in turn to the replicas that say they are ready, bytes to and fro, each direction
//! closed when its source is.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How often readiness is asked for.
const PROBE: Duration = Duration::from_millis(50);
const CONNECT: Duration = Duration::from_secs(2);

/// One place for a replica.
#[derive(Clone, Copy)]
struct Backend {
    address: SocketAddr,
    admin: SocketAddr,
    ready: bool,
}

/// The replicas, shared by all doors.
#[derive(Default)]
pub(crate) struct Pool {
    backends: Mutex<Vec<Backend>>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

impl Pool {
    /// A pool that looks after its replicas' readiness until it is stopped.
    pub(crate) fn new() -> Arc<Self> {
        let pool = Arc::new(Self::default());
        let probed = Arc::clone(&pool);
        thread::spawn(move || {
            while !probed.stopped.load(Ordering::Relaxed) {
                probed.probe();
                thread::sleep(PROBE);
            }
        });
        pool
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Puts a replica in its place; the one that was there is forgotten.
    pub(crate) fn place(&self, index: usize, address: SocketAddr, admin: SocketAddr) {
        let mut backends = self.backends.lock().expect("nobody panics here");
        let backend = Backend { address, admin, ready: false };
        match backends.get_mut(index) {
            Some(place) => *place = backend,
            None => backends.push(backend),
        }
    }

    /// How many replicas are ready.
    pub(crate) fn ready(&self) -> usize {
        self.all().iter().filter(|backend| backend.ready).count()
    }

    fn all(&self) -> Vec<Backend> {
        self.backends.lock().expect("nobody panics here").clone()
    }

    fn probe(&self) {
        for (index, backend) in self.all().into_iter().enumerate() {
            let ready = says_ready(backend.admin).unwrap_or(false);
            let mut backends = self.backends.lock().expect("nobody panics here");
            if backends[index].admin == backend.admin {
                backends[index].ready = ready;
            }
        }
    }

    /// A connection to the next replica that is ready and answers.
    fn connect(&self) -> Option<TcpStream> {
        let ready: Vec<_> = self.all().into_iter().filter(|backend| backend.ready).collect();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut turns = (0..ready.len()).map(|turn| ready[(first + turn) % ready.len()].address);
        turns.find_map(|address| TcpStream::connect_timeout(&address, CONNECT).ok())
    }
}

fn says_ready(admin: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&admin, CONNECT)?;
    stream.set_read_timeout(Some(CONNECT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: respmux\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split(' ').nth(1) == Some("200"))
}

/// One address of the balancer.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Door {
    pub(crate) fn open(pool: &Arc<Pool>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (pool, connections) = (Arc::clone(pool), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if pool.stopped.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let pool = Arc::clone(&pool);
                thread::spawn(move || carry(client, pool.connect()));
            }
        });
        Self { address, connections }
    }

    /// Connections that came through it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn carry(client: TcpStream, replica: Option<TcpStream>) {
    let Some(replica) = replica else { return };
    let clone = |stream: &TcpStream| {
        let _ = stream.set_nodelay(true);
        stream.try_clone().expect("a descriptor")
    };
    let (client_too, replica_too) = (clone(&client), clone(&replica));
    let back = thread::spawn(move || copy(replica_too, client_too));
    copy(client, replica);
    let _ = back.join();
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut chunk = [0; 16384];
    loop {
        match from.read(&mut chunk) {
            Ok(count) if count > 0 && to.write_all(&chunk[..count]).is_ok() => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
