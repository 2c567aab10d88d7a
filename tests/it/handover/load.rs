//! Clients that connect all the time, and clients that stay, while the processes behind one address change.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kit::{Address, PATIENCE, TestClient, pause};

/// Time between two connects of one thread.
const PACE: Duration = Duration::from_millis(12);
/// Time between two commands of a client that stays.
const STEP: Duration = Duration::from_millis(5);

/// What happened so far.
#[derive(Default)]
pub(crate) struct Tally {
    /// Connections that were opened, used for three commands, and closed.
    pub(crate) opened: AtomicU64,
    /// Commands that were answered as they must be.
    pub(crate) commands: AtomicU64,
    /// Connections of clients that stay which were closed between two commands.
    pub(crate) moved: AtomicU64,
    /// The same while a command was on its way; the client asks what became of it.
    pub(crate) raced: AtomicU64,
    /// The longest time from connect to the last answer, microseconds.
    pub(crate) longest: AtomicU64,
    /// What must not be: refused or reset connects, commands without their answer.
    pub(crate) failures: Mutex<Vec<String>>,
}

impl Tally {
    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }
}

/// Running clients. They end on [`Load::stop`].
pub(crate) struct Load {
    pub(crate) tally: Arc<Tally>,
    began: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `openers` threads that connect to the addresses in turn, and `sequential` clients of the first address.
    pub(crate) fn start(addresses: &[Address], openers: usize, sequential: usize) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for number in 0..openers {
            let (tally, stop, addresses) = (Arc::clone(&tally), Arc::clone(&stop), addresses.to_vec());
            threads.push(std::thread::spawn(move || open_again_and_again(number, &addresses, &tally, &stop)));
        }
        for number in 0..sequential {
            let (tally, stop, address) = (Arc::clone(&tally), Arc::clone(&stop), addresses[0].clone());
            threads.push(std::thread::spawn(move || stay(number, &address, &tally, &stop)));
        }
        Self { tally, began: Instant::now(), stop, threads }
    }

    /// Ends the clients; how long they ran.
    pub(crate) fn stop(self) -> (Arc<Tally>, Duration) {
        let ran = self.began.elapsed();
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                self.tally.fail("a client thread panicked".to_owned());
            }
        }
        (self.tally, ran)
    }
}

fn open_again_and_again(number: usize, addresses: &[Address], tally: &Tally, stop: &AtomicBool) {
    for round in number.. {
        if stop.load(Relaxed) {
            return;
        }
        let (began, address) = (Instant::now(), &addresses[round % addresses.len()]);
        match once(address, &format!("open:{number}:{round}")) {
            Ok(()) => {
                tally.opened.fetch_add(1, Relaxed);
                tally.commands.fetch_add(3, Relaxed);
                tally.longest.fetch_max(u64::try_from(began.elapsed().as_micros()).unwrap(), Relaxed);
            }
            Err(error) => tally.fail(format!("{address:?}: {error}")),
        }
        pause(PACE.saturating_sub(began.elapsed()));
    }
}

/// One connection with three commands.
fn once(address: &Address, key: &str) -> Result<(), String> {
    let mut client = TestClient::try_connect(address).map_err(|error| format!("connect: {error}"))?;
    client.handshake().map_err(|error| format!("TLS: {error}"))?;
    for (line, wanted) in
        [("PING".to_owned(), "PONG"), (format!("SET {key} {key} EX 60"), "OK"), (format!("GET {key}"), key)]
    {
        let got = ask(&mut client, &line)?;
        if got != wanted {
            return Err(format!("{line}: {got}"));
        }
    }
    Ok(())
}

fn ask(client: &mut TestClient, line: &str) -> Result<String, String> {
    client.send_command(&line.split(' ').collect::<Vec<_>>());
    client.try_read_frame(PATIENCE).map(|frame| frame.as_str()).map_err(|end| format!("{line}: {end:?}"))
}

/// A counter that must go up by one with each command, over any number of connections.
fn stay(number: usize, address: &Address, tally: &Tally, stop: &AtomicBool) {
    let (key, mut count) = (format!("stay:{number}"), 0_i64);
    let mut client = TestClient::connect(address);
    while !stop.load(Relaxed) {
        // As client libraries do: one look whether the connection is still there.
        if !client.is_open() {
            tally.moved.fetch_add(1, Relaxed);
            match TestClient::try_connect(address) {
                Ok(again) => client = again,
                Err(error) => return tally.fail(format!("reconnect: {error}")),
            }
        }
        client.send_command(&["INCR", &key]);
        if let Ok(frame) = client.try_read_frame(PATIENCE) {
            count += 1;
            tally.commands.fetch_add(1, Relaxed);
            if frame.as_int() != count {
                return tally.fail(format!("{key}: {} in place of {count}", frame.as_str()));
            }
        } else {
            tally.raced.fetch_add(1, Relaxed);
            let found = TestClient::try_connect(address)
                .map_err(|error| error.to_string())
                .and_then(|again| {
                    client = again;
                    ask(&mut client, &format!("GET {key}"))
                })
                .map(|text| text.parse().unwrap_or(0));
            match found {
                Ok(found) if found == count || found == count + 1 => count = found,
                other => return tally.fail(format!("{key}: {other:?} after {count}")),
            }
        }
        pause(STEP);
    }
}
