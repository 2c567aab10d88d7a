//! Clients under steady load, each with a ledger that shows a lost, repeated or overtaken command.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kit::{Address, Proxy, RealRedis, TestClient, eventually, path_of};

/// What a client does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Batches of INCR, RPUSH, GET and ECHO in one packet.
    Pipeline,
    /// WATCH, GET, MULTI, SET, EXEC, each in a packet of its own: on a lent connection.
    Transaction,
    /// A whole transaction in one packet: rides a lane.
    Unit,
    /// BLPOP, fed by a client of its own.
    Blocked,
    /// Only ECHO and PING: tells nothing of the data, for servers that do not share it.
    Echo,
}

/// The clients of a run.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    commands: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
    python: Option<(Child, ChildStdin, BufReader<std::process::ChildStdout>)>,
    lists: Vec<String>,
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) commands: u64,
    pub(crate) failed: usize,
    pub(crate) told: Vec<String>,
}

impl Load {
    /// `each` clients of every kind, and as many of redis-py, through `proxy`.
    pub(crate) fn start(proxy: &Proxy, each: usize, python: usize) -> Self {
        let kinds = [Kind::Pipeline, Kind::Transaction, Kind::Unit, Kind::Blocked];
        let mut load = Self::of(proxy, &kinds, each);
        load.python = (python > 0).then(|| start_python(proxy, python));
        load.wait_until_it_runs();
        load
    }

    /// Clients that do not care what the server has.
    pub(crate) fn of_echoes(proxy: &Proxy, clients: usize) -> Self {
        let load = Self::of(proxy, &[Kind::Echo], clients);
        load.wait_until_it_runs();
        load
    }

    fn of(proxy: &Proxy, kinds: &[Kind], each: usize) -> Self {
        let (stop, commands) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (mut threads, mut lists) = (Vec::new(), Vec::new());
        for kind in kinds {
            for number in 0..each {
                let name = format!("{kind:?}:{number}");
                lists.push(format!("list:{name}"));
                let (address, stop, commands) = (proxy.address(), Arc::clone(&stop), Arc::clone(&commands));
                let kind = *kind;
                threads.push(std::thread::spawn(move || {
                    Worker { name, stop, commands }.run(kind, &address).map_err(|error| format!("{kind:?}: {error}"))
                }));
            }
        }
        Self { stop, commands, threads, python: None, lists }
    }

    fn wait_until_it_runs(&self) {
        let wanted = self.threads.len() as u64 * 20;
        eventually(Duration::from_secs(30), || match self.commands() {
            done if done >= wanted || self.threads.iter().any(JoinHandle::is_finished) => Ok(()),
            done => Err(format!("{done} of {wanted} commands")),
        });
    }

    /// So far, without those of redis-py.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Waits until so many more were answered: what was changed meanwhile was changed under load.
    pub(crate) fn go_on(&self, more: u64) {
        let wanted = self.commands() + more;
        eventually(Duration::from_secs(30), || match self.commands() {
            done if done >= wanted || self.threads.iter().any(JoinHandle::is_finished) => Ok(()),
            done => Err(format!("{done} of {wanted} commands")),
        });
    }

    /// Ends the clients; what they saw.
    pub(crate) fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        for thread in self.threads {
            if let Err(error) = thread.join().unwrap_or_else(|_| Err("panicked".to_owned())) {
                outcome.failed += 1;
                outcome.told.push(error);
            }
        }
        outcome.commands = self.commands.load(Ordering::Relaxed);
        if let Some((mut child, stdin, mut out)) = self.python {
            drop(stdin);
            let mut line = String::new();
            let _ = out.read_line(&mut line);
            let _ = child.wait();
            let field = |name: &str| {
                let rest = line.split_once(&format!("\"{name}\": ")).map_or("", |(_, rest)| rest);
                rest.split([',', '}']).next().and_then(|number| number.parse::<u64>().ok())
            };
            match (field("commands"), field("failed")) {
                (Some(commands), Some(failed)) if commands > 0 => {
                    outcome.commands += commands;
                    outcome.failed += usize::try_from(failed).unwrap();
                    if failed > 0 {
                        outcome.told.push(line);
                    }
                }
                _ => {
                    outcome.failed += 1;
                    outcome.told.push(format!("redis-py said {line:?}"));
                }
            }
        }
        outcome
    }

    /// Ends the clients, of which none may have seen a failure, and whose lists on `redis` must be whole. `what` was
    /// done meanwhile, as JSON's fields; they and what was counted are one line of JSON.
    #[track_caller]
    pub(crate) fn faultless(mut self, redis: &RealRedis, what: &str) -> String {
        let lists = std::mem::take(&mut self.lists);
        let outcome = self.end();
        let gaps = gaps(redis, &lists);
        let (commands, failed) = (outcome.commands, outcome.failed);
        let line = format!("{{{what},\"commands\":{commands},\"failed\":{failed},\"gaps\":{}}}", gaps.len());
        assert!(failed == 0 && gaps.is_empty(), "{line}\n{outcome:?}\n{gaps:?}");
        line
    }
}

/// What is wrong with the lists on the server: each must be 1, 2, 3, … to its end.
fn gaps(redis: &RealRedis, lists: &[String]) -> Vec<String> {
    let mut direct = redis.connect();
    let mut wrong = Vec::new();
    for list in lists {
        let items = direct.call(&["LRANGE", list, "0", "-1"]).items;
        if let Some(at) = items.iter().enumerate().position(|(at, item)| item.text != (at + 1).to_string().as_bytes()) {
            wrong.push(format!("{list}: {:?} at {at}", items[at]));
        }
    }
    wrong
}

fn start_python(proxy: &Proxy, clients: usize) -> (Child, ChildStdin, BufReader<std::process::ChildStdout>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/steady.py");
    let address = proxy.tcp_address();
    let mut child = Command::new(path_of("PYTHON"))
        .arg(script)
        .args([&address.ip().to_string(), &address.port().to_string(), &clients.to_string()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let stdin = child.stdin.take().expect("piped");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("python says that it is ready");
    assert_eq!(line.trim(), "ready");
    (child, stdin, out)
}

struct Worker {
    name: String,
    stop: Arc<AtomicBool>,
    commands: Arc<AtomicU64>,
}

type Done = Result<(), String>;

impl Worker {
    fn run(&self, kind: Kind, address: &Address) -> Done {
        let mut client = TestClient::connect(address);
        let mut feeder = TestClient::connect(address);
        for round in 1.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            match kind {
                Kind::Pipeline => self.pipeline(&mut client, round)?,
                Kind::Transaction => self.transaction(&mut client, round)?,
                Kind::Unit => self.unit(&mut client, round)?,
                Kind::Blocked => self.blocked(&mut client, &mut feeder, round)?,
                Kind::Echo => self.echo(&mut client, round)?,
            }
        }
        Ok(())
    }

    fn expect(&self, client: &mut TestClient, wanted: &str) -> Done {
        let frame = client.try_read_frame(Duration::from_secs(30)).map_err(|end| format!("{end:?}, not {wanted:?}"))?;
        self.commands.fetch_add(1, Ordering::Relaxed);
        let got = String::from_utf8_lossy(&frame.text).into_owned();
        if frame.is_error() || got != wanted { Err(format!("{frame:?} in place of {wanted:?}")) } else { Ok(()) }
    }

    fn pipeline(&self, client: &mut TestClient, round: u64) -> Done {
        let name = &self.name;
        let size = round % 7 + 1;
        let (before, rest) = ((round - 1) / 7, (round - 1) % 7);
        let first = before * 28 + rest * (rest + 3) / 2 + 1; // the sum of the sizes before
        let mut batch = Vec::new();
        for number in first..first + size {
            let (counter, list) = (format!("count:{name}"), format!("list:{name}"));
            batch.extend(encode(&["INCR", &counter]));
            batch.extend(encode(&["RPUSH", &list, &number.to_string()]));
            batch.extend(encode(&["GET", &counter]));
            batch.extend(encode(&["ECHO", &format!("{name}:{number}")]));
        }
        client.send(&batch);
        for number in first..first + size {
            self.expect(client, &number.to_string())?;
            self.expect(client, &number.to_string())?;
            self.expect(client, &number.to_string())?;
            self.expect(client, &format!("{name}:{number}"))?;
        }
        Ok(())
    }

    fn transaction(&self, client: &mut TestClient, round: u64) -> Done {
        let (counter, list) = (format!("count:{}", self.name), format!("list:{}", self.name));
        let number = round.to_string();
        client.send(&encode(&["WATCH", &counter]));
        self.expect(client, "OK")?;
        client.send(&encode(&["MULTI"]));
        self.expect(client, "OK")?;
        client.send(&encode(&["INCR", &counter]));
        self.expect(client, "QUEUED")?;
        client.send(&encode(&["RPUSH", &list, &number]));
        self.expect(client, "QUEUED")?;
        client.send(&encode(&["EXEC"]));
        self.executed(client, round)
    }

    fn executed(&self, client: &mut TestClient, round: u64) -> Done {
        let frame =
            client.try_read_frame(Duration::from_secs(30)).map_err(|end| format!("{end:?}, not EXEC's reply"))?;
        self.commands.fetch_add(1, Ordering::Relaxed);
        let right = frame.items.len() == 2 && frame.items.iter().all(|item| item.text == round.to_string().as_bytes());
        if right { Ok(()) } else { Err(format!("EXEC: {frame:?} in round {round}")) }
    }

    fn unit(&self, client: &mut TestClient, round: u64) -> Done {
        let (counter, list) = (format!("count:{}", self.name), format!("list:{}", self.name));
        let number = round.to_string();
        let parts: [&[&str]; 4] = [&["MULTI"], &["INCR", &counter], &["RPUSH", &list, &number], &["EXEC"]];
        client.send(&parts.map(encode).concat());
        for wanted in ["OK", "QUEUED", "QUEUED"] {
            self.expect(client, wanted)?;
        }
        self.executed(client, round)
    }

    fn blocked(&self, client: &mut TestClient, feeder: &mut TestClient, round: u64) -> Done {
        let (queue, list) = (format!("queue:{}", self.name), format!("list:{}", self.name));
        let number = round.to_string();
        client.send(&encode(&["BLPOP", &queue, "0"]));
        // Sometimes it waits already, sometimes the element is there before.
        if round.is_multiple_of(3) {
            std::thread::yield_now();
        }
        feeder.send(&[encode(&["RPUSH", &list, &number]), encode(&["RPUSH", &queue, &number])].concat());
        self.expect(feeder, &number)?;
        let pushed =
            feeder.try_read_frame(Duration::from_secs(30)).map_err(|end| format!("{end:?}, not RPUSH's reply"))?;
        if pushed.is_error() {
            return Err(format!("RPUSH: {pushed:?}"));
        }
        let popped =
            client.try_read_frame(Duration::from_secs(30)).map_err(|end| format!("{end:?}, not an element"))?;
        self.commands.fetch_add(2, Ordering::Relaxed);
        let right = popped.items.len() == 2 && popped.items[1].text == number.as_bytes();
        if right { Ok(()) } else { Err(format!("BLPOP: {popped:?} in round {round}")) }
    }

    fn echo(&self, client: &mut TestClient, round: u64) -> Done {
        let texts: Vec<String> = (0..16).map(|index| format!("{}:{round}:{index}", self.name)).collect();
        client.send(&texts.iter().flat_map(|text| encode(&["ECHO", text])).collect::<Vec<_>>());
        texts.iter().try_for_each(|text| self.expect(client, text))
    }
}

fn encode(arguments: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n{argument}\r\n", argument.len()).as_bytes());
    }
    bytes
}
