//! The listening sockets go from the respmux that runs to the one that starts, over a unix socket, so that no connect
//! is refused in between: both have the same queue of connections, and what one has not accepted the other will.
//!
//! ```text
//! the new one                          the running one
//! respmux handover 1          ──▶
//!                             ◀──      respmux handover 1 us      and the descriptors, in this order:
//!                                      u: it made the socket, s: systemd did
//! (binds what is missing, starts its workers, waits for the upstream)
//! ready                       ──▶      accepts no more
//!                             ◀──      yours
//! (accepts)                            (lets its clients finish, and ends)
//! ```
//!
//! If the new one ends before `ready`, or takes too long, the running one goes on as if nothing had been.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::accept_loop::ACCEPT_BACKOFF;
use super::bind::{bind_unix, unix_listener};
use super::inherit::{Inherited, Keeper};

/// The version stands in it: another one is answered, and refused by whoever reads the answer.
const GREETING: &str = "respmux handover 1";
const READY: &str = "ready";
const YOURS: &str = "yours";
const TOO_LATE: &str = "too late";
/// Descriptors that one message can carry (`SCM_MAX_FD` of Linux is 253).
const MAX_SOCKETS: usize = 250;
/// Bytes of a line.
const MAX_LINE: usize = 512;
/// How long the other side may take for a step that needs no time.
const STEP: Duration = Duration::from_secs(5);
/// From the descriptors to `ready`: the new one binds, starts its workers and waits for the upstream.
const START: Duration = Duration::from_secs(60);
/// Processes that may wait for their turn.
const BACKLOG: usize = 8;

/// A socket that is to be handed over.
pub(super) type OfferedSocket<'a> = (BorrowedFd<'a>, Keeper);

/// The running process' end.
pub(super) struct Handover {
    listener: UnixListener,
    path: PathBuf,
    /// Somebody has the sockets and has not said what comes of it.
    passed: Cell<bool>,
}

impl Handover {
    /// Listens for the next process, on the socket of the one before if there is one.
    pub(super) fn bind(path: &Path, inherited: &mut Inherited) -> io::Result<Self> {
        let listener = match inherited.at_path(path) {
            Some(given) => unix_listener(given.fd)?,
            None => unix_listener(bind_unix(path, 0o600, BACKLOG)?.into())?,
        };
        Ok(Self { listener, path: path.to_owned(), passed: Cell::new(false) })
    }

    /// What is handed over beside the others, so that the next process is found in the same place.
    pub(super) fn socket(&self) -> OfferedSocket<'_> {
        (self.listener.as_fd(), Keeper::Us)
    }

    /// Ready when another process has all of `sockets` and is ready to serve.
    pub(super) async fn taken(&self, sockets: &[OfferedSocket<'_>]) -> Successor {
        loop {
            let mut stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "hand-over: accept failed");
                    sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            match self.give(&mut stream, sockets).await {
                Ok(()) => return Successor(stream),
                Err(error) => tracing::warn!("hand-over failed, this process goes on: {error:#}"),
            }
            self.passed.set(false);
        }
    }

    /// Gives `sockets` to the process at the other end, and waits until it is ready.
    async fn give(&self, stream: &mut UnixStream, sockets: &[OfferedSocket<'_>]) -> anyhow::Result<()> {
        check_peer(stream)?;
        let asked = timeout(STEP, hear(stream)).await.context("it does not ask")??;
        if asked != GREETING {
            say(stream, GREETING).await?;
            bail!("it says {asked:?}, where this version says {GREETING:?}");
        }
        ensure!(sockets.len() <= MAX_SOCKETS, "{} sockets are more than one message carries", sockets.len());
        timeout(STEP, send(stream, sockets)).await.context("it does not take the sockets")??;
        self.passed.set(true);
        tracing::info!(sockets = sockets.len(), "hand-over: another process has the listening sockets and gets ready");
        match timeout(START, hear(stream)).await {
            Ok(heard) => match heard.context("it ended before it was ready")? {
                ready if ready == READY => Ok(()),
                other => bail!("it says {other:?} in place of {READY:?}"),
            },
            Err(_) => {
                say(stream, TOO_LATE).await?;
                bail!("it was not ready after {} s", START.as_secs())
            }
        }
    }

    /// Whether another process may have the sockets, now that nobody waits for what it says.
    pub(super) fn is_passed(&self) -> bool {
        self.passed.get()
    }

    /// Ends the offer: no process can take over any more.
    pub(super) fn close(self) {
        let _ = std::fs::remove_file(&self.path); // already gone is as good
    }
}

/// The process that serves from now on.
pub(super) struct Successor(UnixStream);

impl Successor {
    /// Tells it that nobody else accepts any more.
    ///
    /// # Errors
    /// The process has just ended.
    pub(super) async fn begin(mut self) -> io::Result<()> {
        timeout(STEP, say(&mut self.0, YOURS)).await?
    }
}

/// One line, with a descriptor for each of `sockets`.
async fn send(stream: &UnixStream, sockets: &[OfferedSocket<'_>]) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(fd, _)| *fd).collect();
    let keepers = sockets.iter().map(|(_, keeper)| if *keeper == Keeper::Us { 'u' } else { 's' });
    let line = format!("{GREETING} {}\n", keepers.collect::<String>());
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); SPACE];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(sendmsg(stream, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Room for the descriptors of one message, aligned wherever it lies.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_SOCKETS)) + align_of::<usize>();

/// The process that runs, and waits for us to be ready.
pub(super) struct Predecessor(UnixStream);

/// Asks the process that runs for its sockets. `None`: no process runs.
///
/// # Errors
/// One does, and does not give them.
pub(super) async fn find(path: &Path, inherited: &mut Inherited) -> anyhow::Result<Option<Predecessor>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).context("cannot ask the process that runs"),
    };
    check_peer(&stream)?;
    timeout(STEP, say(&mut stream, GREETING)).await.context("the process that runs does not listen")??;
    // It may have to see off somebody else first.
    let (line, descriptors) = timeout(STEP + START, receive(&stream)).await.context("it does not answer")??;
    let rest = line.strip_prefix(GREETING).filter(|rest| rest.is_empty() || rest.starts_with(' '));
    let Some(keepers) = rest.map(str::trim) else {
        bail!("the process that runs says {line:?}, where this version says {GREETING:?}: stop it first");
    };
    ensure!(!descriptors.is_empty(), "the process that runs hands over to another version only: stop it first");
    ensure!(keepers.len() == descriptors.len(), "{} descriptors came for {keepers:?}", descriptors.len());
    for (keeper, fd) in keepers.chars().zip(descriptors) {
        inherited.add(fd, if keeper == 's' { Keeper::Systemd } else { Keeper::Us })?;
    }
    tracing::info!(sockets = keepers.len(), "hand-over: listening sockets taken from the process that runs");
    Ok(Some(Predecessor(stream)))
}

impl Predecessor {
    /// Tells it that we serve from now on; it accepts no more when this is done.
    ///
    /// # Errors
    /// The running process has lost patience and goes on, so this one must not accept.
    pub(super) async fn replace(mut self) -> anyhow::Result<()> {
        let answer = async {
            say(&mut self.0, READY).await?;
            hear(&mut self.0).await
        };
        match timeout(STEP, answer).await {
            Ok(Ok(line)) if line == YOURS => Ok(()),
            Ok(Ok(line)) => bail!("hand-over: the process that runs says {line:?} in place of {YOURS:?}"),
            // If it has just died nobody else has the sockets.
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("hand-over: the process that ran did not answer at the end; serving all the same");
                Ok(())
            }
        }
    }
}

/// The line and the descriptors that came with it.
async fn receive(stream: &UnixStream) -> anyhow::Result<(String, Vec<OwnedFd>)> {
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    while !bytes.ends_with(b"\n") {
        ensure!(bytes.len() < MAX_LINE, "the process that runs does not end its line");
        let mut chunk = [0; MAX_LINE];
        let received = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); SPACE];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut chunk)];
                let received = recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        descriptors.extend(fds);
                    }
                }
                Ok(received)
            })
            .await?;
        ensure!(!received.flags.contains(ReturnFlags::CTRUNC), "some descriptors were lost (ulimit -n)");
        ensure!(received.bytes > 0, "the process that runs ended meanwhile");
        bytes.extend_from_slice(&chunk[..received.bytes]);
    }
    Ok((String::from_utf8_lossy(&bytes).trim_end().to_owned(), descriptors))
}

/// The socket's permissions keep others out; this also holds where somebody else made the file.
fn check_peer(stream: &UnixStream) -> anyhow::Result<()> {
    let (peer, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    ensure!(may(peer, own), "the process at the other end is of user {peer}: only {own} and root may");
    Ok(())
}

fn may(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

async fn say(stream: &mut UnixStream, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes()).await
}

async fn hear(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            _ if line.len() == MAX_LINE => return Err(io::ErrorKind::InvalidData.into()),
            byte => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn bound(path: &Path) -> Handover {
        Handover::bind(path, &mut Inherited::default()).unwrap()
    }

    #[tokio::test]
    async fn sockets_go_over_and_stay_where_they_are_if_the_new_process_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        assert!(find(&path, &mut Inherited::default()).await.unwrap().is_none());
        let (old, tcp) = (bound(&path), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = tcp.local_addr().unwrap();
        let sockets = [(tcp.as_fd(), Keeper::Systemd), old.socket()];
        let newcomers = async {
            let mut inherited = Inherited::default();
            let dead = find(&path, &mut inherited).await.unwrap().unwrap();
            drop((dead, inherited));
            let mut inherited = Inherited::default();
            let live = find(&path, &mut inherited).await.unwrap().unwrap();
            let given = inherited.at_address(address).unwrap();
            assert_eq!(given.keeper, Keeper::Systemd);
            let next = Handover::bind(&path, &mut inherited).unwrap();
            live.replace().await.unwrap();
            (given.fd, next)
        };
        let running = async { old.taken(&sockets).await.begin().await.unwrap() };
        let ((fd, next), ()) = tokio::join!(newcomers, running);
        drop(tcp);
        let again = TcpListener::from(fd);
        let client = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(again.accept().unwrap().1, client.local_addr().unwrap());
        drop(old);
        assert!(path.exists(), "the next process is found there");
        next.close();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn another_version_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        let old = bound(&path);
        let sockets = [old.socket()];
        let newcomer = async {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            say(&mut stream, "respmux handover 2").await.unwrap();
            let (line, descriptors) = receive(&stream).await.unwrap();
            assert_eq!((line.as_str(), descriptors.len()), (GREETING, 0));
        };
        tokio::select! {
            () = newcomer => {}
            _ = old.taken(&sockets) => panic!("handed over to another version"),
        }
        drop(old);
        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let answer = async {
            let (mut stream, _) = other.accept().await.unwrap();
            hear(&mut stream).await.unwrap();
            say(&mut stream, "respmux handover 12 u").await.unwrap();
        };
        let mut inherited = Inherited::default();
        let (found, ()) = tokio::join!(find(&path, &mut inherited), answer);
        assert!(found.err().unwrap().to_string().contains("stop it first"));
    }

    #[test]
    fn only_the_same_user_and_root() {
        assert!(may(7, 7) && may(0, 7));
        assert!(!may(7, 8) && !may(7, 0));
    }
}
