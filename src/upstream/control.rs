//! respmux's own questions to the upstream: is it alive, which version is it, what is this command, unblock that
//! connection. One connection per worker, as the configured identity; a bounded queue of jobs.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::pause_detector::{After, PauseDetector, look_for_held_writes};
use super::{Node, server_limits};
use crate::base::bug;
use crate::link::{DialError, Link, Patience, ServerRef, Start, Use, Wanted, decoded};
use crate::resp::encode;
use crate::session::{Flavour, Identity, RouteKey};
use crate::telemetry::{Met, UpstreamCloseReason};
use crate::topology::NodeId;

/// Jobs that may wait.
const MAX_JOBS: usize = 1024;
/// Longest pause between health checks.
const HEALTH_EVERY: Duration = Duration::from_secs(2);
/// Longest pause between health checks while the server holds everything back.
const PAUSED_EVERY: Duration = Duration::from_secs(1);
/// A health check that is not answered for so long is looked into.
const HEALTH_WAIT: Duration = Duration::from_millis(500);
/// Health checks between two looks at the server's limits.
const LIMITS_EVERY: u32 = 30;

struct Job {
    commands: BytesMut,
    replies: usize,
    /// How long a paused server may hold this batch back. None: the batch is not one that it holds back, and the handshake's
    /// timeout counts.
    patience: Option<Duration>,
    /// Only for this server: to another one it would mean something else.
    server: Option<ServerRef>,
    answer: oneshot::Sender<io::Result<Vec<Vec<u8>>>>,
}

/// The control connection of a worker to one server.
pub struct Control {
    jobs: mpsc::Sender<Job>,
    inbox: RefCell<Option<mpsc::Receiver<Job>>>,
    healthy_at: Cell<Option<Instant>>,
    flavour: Cell<Flavour>,
    run_id: RefCell<Vec<u8>>,
    /// Rounds of health checks until the server's limits are asked for again.
    limits_in: Cell<u32>,
    /// The server to which the connection leads; set whenever one is made.
    server: Cell<ServerRef>,
    /// When the server was last found paused.
    paused_at: Cell<Option<Instant>>,
    /// When the server last refused a question because it runs a script.
    busy_at: Cell<Option<Instant>>,
    /// When its last connection was found closed; nothing if that is not how it ended. Nanoseconds of the worker's
    /// clock.
    lost_at: Cell<Option<u64>>,
    /// `enable-debug-command` is `local`, or nobody may know what it is.
    debug_is_local: Cell<bool>,
    /// A look was asked for and not begun.
    looking: Cell<bool>,
    /// The server does not tell its limits.
    pub(super) limits_refused: Cell<bool>,
    pub(super) watch: PauseDetector,
}

impl Control {
    /// The control connection to `node`, not connected yet.
    pub(super) fn new(node: NodeId) -> Self {
        let (jobs, inbox) = mpsc::channel(MAX_JOBS);
        Self {
            jobs,
            inbox: RefCell::new(Some(inbox)),
            healthy_at: Cell::new(None),
            flavour: Cell::new(Flavour::default()),
            run_id: RefCell::default(),
            limits_in: Cell::new(0),
            server: Cell::new(ServerRef::first(node)),
            paused_at: Cell::new(None),
            busy_at: Cell::new(None),
            lost_at: Cell::new(None),
            debug_is_local: Cell::new(true),
            looking: Cell::new(false),
            limits_refused: Cell::new(false),
            watch: PauseDetector::default(),
        }
    }

    /// Runs one command as respmux itself.
    ///
    /// # Errors
    /// `NotConnected` when nothing was sent, also because too many jobs wait; any other when the connection failed in
    /// the middle, and nobody knows.
    pub async fn ask(&self, words: &[&[u8]]) -> io::Result<Vec<u8>> {
        let mut command = BytesMut::new();
        encode::command(&mut command, words);
        self.ask_batch(command, 1, None, None).await.map(|mut replies| replies.swap_remove(0))
    }

    /// Runs a batch with so many replies; gives it up, and its connection, when the server holds it back for longer
    /// than `patience`.
    ///
    /// # Errors
    /// As [`Control::ask`]; [`io::ErrorKind::TimedOut`] for a batch that was held back.
    pub(super) async fn ask_batch(
        &self,
        commands: BytesMut,
        replies: usize,
        patience: Option<Duration>,
        server: Option<ServerRef>,
    ) -> io::Result<Vec<Vec<u8>>> {
        let (answer, answered) = oneshot::channel();
        let job = Job { commands, replies, patience, server, answer };
        self.jobs.try_send(job).map_err(|_| io::ErrorKind::NotConnected)?;
        answered.await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }

    /// The server is paused.
    pub(super) fn on_paused(&self) {
        self.paused_at.set(Some(crate::base::now()));
    }

    /// Whether the server was found paused within `age`.
    pub(super) fn paused_within(&self, age: Duration) -> bool {
        was_within(&self.paused_at, age)
    }

    /// Whether the server answered -BUSY within `age`.
    pub(super) fn busy_within(&self, age: Duration) -> bool {
        was_within(&self.busy_at, age)
    }

    /// The server's configuration was changed by a client: its limits are asked for again at once.
    pub fn on_reconfigured(&self) {
        self.limits_in.set(0);
        self.check_now();
    }

    /// What the server says of `enable-debug-command`.
    pub(super) fn learn_debug(&self, reply: &[u8]) {
        self.debug_is_local.set(decoded(reply).map_or(true, |value| match value.field("enable-debug-command") {
            Some(setting) => setting.as_text().is_none_or(|text| text == "local"),
            None => value.as_error().is_some(), // servers before 7.0 do not know it, and let everybody
        }));
    }

    /// Not told, or out of date: the limits are asked for at the next turn.
    pub(super) fn ask_limits_again(&self) {
        self.limits_in.set(0);
    }

    /// Forgets the run id: the next server is expected to be another one.
    pub fn forget(&self) {
        self.run_id.take();
        self.limits_in.set(0);
    }

    /// The server that this connection asks.
    #[must_use]
    pub fn server(&self) -> ServerRef {
        self.server.get()
    }

    /// Looks at the upstream now, not at the next turn. Looks that nobody has begun are one.
    pub fn check_now(&self) {
        if !self.looking.replace(true) {
            // Only to wake the task; when it is busy it looks anyway.
            let _ = self.jobs.try_send(Job::ping());
        }
    }

    /// Replies have come: whether the server refused one because it runs a script.
    pub(super) fn on_replies(&self, replies: &[Vec<u8>]) -> bool {
        let busy = replies.iter().any(|reply| reply.starts_with(b"-BUSY "));
        if busy {
            self.busy_at.set(Some(crate::base::now()));
        }
        busy
    }

    /// The upstream answered the control connection within `age`.
    #[must_use]
    pub fn healthy_within(&self, age: Duration) -> bool {
        was_within(&self.healthy_at, age)
    }

    /// Which server this is, asked if it is not known yet; zero when nobody answers.
    pub async fn known_flavour(&self) -> Flavour {
        if self.flavour.get().major == 0 {
            // Any job makes the connection, and with it the answer; without one the version stays unknown.
            let _ = self.ask(&[b"PING"]).await;
        }
        self.flavour.get()
    }

    /// The server lets only local clients DEBUG. It takes every client of respmux on its machine for one.
    #[must_use]
    pub fn debug_is_local(&self) -> bool {
        self.debug_is_local.get()
    }

    /// Which server this is; zero before the first contact.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour.get()
    }
}

/// Whether it happened within `age`.
fn was_within(at: &Cell<Option<Instant>>, age: Duration) -> bool {
    at.get().is_some_and(|at| crate::base::since(at) <= age)
}

/// Keeps the control connection of a worker; ends with the runtime.
pub(crate) async fn run(node: Rc<Node>) {
    let Some(mut inbox) = node.control.inbox.borrow_mut().take() else { return };
    let mut connection: Option<Link> = None;
    let mut suspicious = false;
    let mut pause = Duration::ZERO; // the first look is at once: version texts depend on it
    loop {
        let every = until_next_round(&node, suspicious);
        let job = match timeout(std::mem::replace(&mut pause, every), inbox.recv()).await {
            Ok(Some(job)) => Some(job),
            Ok(None) => return,
            Err(_) => None,
        };
        node.control.looking.set(false);
        if let Some(old) = connection.take_if(|link| is_to_move(&node, link)) {
            drop(old.close(UpstreamCloseReason::Moved).await);
        }
        if let Some(dead) = connection.take_if(|link| link.is_closed()) {
            node.control.lost_at.set(Some(node.rt.now()));
            drop(dead.close(UpstreamCloseReason::Upstream).await);
        }
        let mut link = match connection.take() {
            Some(link) => link,
            None => match open(&node, suspicious).await {
                Opened::Resting => continue,
                Opened::Held => {
                    node.on_all_held();
                    continue; // whoever asks something now is told that nothing was sent
                }
                Opened::Link(link) => {
                    suspicious = false;
                    node.control.server.set(link.server());
                    link
                }
                Opened::Nothing => {
                    suspicious = false;
                    node.facts.set_up(false);
                    continue; // dropping the job tells its owner
                }
            },
        };
        let job = job.filter(|job| bug("any_server") || job.server.is_none_or(|server| server == link.server()));
        let round = job.is_none();
        let mut after = serve(&node, &mut link, job.unwrap_or_else(Job::ping)).await;
        if after == After::Fine
            && let Err(error) = learn_limits(&node, &mut link, round).await
        {
            after = After::Broken((&error).into());
        }
        if after == After::Fine {
            after = look_for_held_writes(&node, &mut link).await;
        }
        if after == After::Silent {
            // A server that hangs does not even close a connection.
            suspicious = link.leave(node.rt.config().upstream.handshake_timeout.saturating_sub(HEALTH_WAIT)).await;
            after = if suspicious { After::HeldBack } else { After::Broken(UpstreamCloseReason::Timeout) };
        }
        match after {
            After::Fine => {
                node.control.lost_at.set(None);
                connection = Some(link);
            }
            After::HeldBack | After::Silent => drop(link.close(UpstreamCloseReason::Timeout).await),
            After::Broken(reason) => {
                node.control.lost_at.set(link.is_closed().then(|| node.rt.now()));
                node.facts.set_up(false);
                drop(link.close(reason).await);
            }
        }
    }
}

/// Often enough that a silent lane is told from a silent upstream before it is given up.
fn until_next_round(node: &Node, suspicious: bool) -> Duration {
    let paused = node.server_pause.is_all();
    if suspicious && !paused {
        return Duration::ZERO;
    }
    let longest = if paused { PAUSED_EVERY } else { HEALTH_EVERY };
    (node.rt.config().upstream.progress_timeout / 4).clamp(Duration::from_millis(50), longest).min(node.idle_limit())
}

impl Job {
    /// A health check. Nobody waits for the answer.
    fn ping() -> Self {
        let mut commands = BytesMut::new();
        encode::command(&mut commands, &["PING"]);
        Self { commands, replies: 1, patience: Some(HEALTH_WAIT), server: None, answer: oneshot::channel().0 }
    }
}

/// Runs one job.
async fn serve(node: &Node, link: &mut Link, job: Job) -> After {
    let limit = job.patience.unwrap_or(node.rt.config().upstream.handshake_timeout);
    let result = match timeout(limit, link.call(&job.commands, job.replies)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let after = match &result {
        Ok(_) => After::Fine,
        Err(error) if job.answer.is_closed() && error.kind() == io::ErrorKind::TimedOut => After::Silent,
        Err(error) if job.patience.is_some() && error.kind() == io::ErrorKind::TimedOut => After::HeldBack,
        Err(error) => After::Broken(error.into()),
    };
    if let Ok(replies) = &result {
        node.control.on_replies(replies);
    }
    match after {
        After::Fine => {
            node.control.healthy_at.set(Some(crate::base::now()));
            node.on_control_answered();
            node.facts.set_up(true);
        }
        After::HeldBack => node.control.paused_at.set(Some(crate::base::now())),
        After::Broken(_) | After::Silent => {}
    }
    // The asker may have left; its answer is of no use to anybody then.
    let _ = job.answer.send(result);
    after
}

/// All connections were told to move, and it is not needed where it is: connections that wait on the old server are
/// unblocked from there.
fn is_to_move(node: &Node, link: &Link) -> bool {
    !node.dialer.is_current(link) && !node.wait_groups.wait_on(link.server())
}

/// What came of a try to connect.
enum Opened {
    Link(Link),
    /// The server lives, and holds everything back.
    Held,
    /// A pause was looked for a moment ago.
    Resting,
    Nothing,
}

async fn open(node: &Node, suspicious: bool) -> Opened {
    // Before anything else: what comes of no attempt says nothing, and what is known of a pause must not be forgotten for
    // it.
    if node.dialer.retry_at().is_some() {
        return Opened::Nothing;
    }
    if node.server_pause.is_all() && node.control.watch.rests(PAUSED_EVERY) {
        return Opened::Resting;
    }
    let Some(permit) = node.rt.budget.permit(Use::Control) else { return Opened::Nothing };
    let key = RouteKey::fresh(Identity::Implicit, 0);
    let suspicious = suspicious || node.server_pause.is_all();
    let wanted = if suspicious { Wanted::ReadyUnlessPaused(key) } else { Wanted::Ready(key) };
    let mut link = match node.dialer.acquire(Start::New(permit), wanted, Patience::Once).await {
        Ok(link) => link,
        Err((error, _)) if error.is_pause() => return Opened::Held,
        Err((error, _)) => {
            if suspicious || matches!(error, DialError::Unavailable { .. }) {
                node.forget_pauses(); // it ends with its server; one that only hung is seen again
            }
            return Opened::Nothing;
        }
    };
    match learn(node, &mut link).await {
        Ok(()) => Opened::Link(link),
        Err(error) => {
            drop(link.close((&error).into()).await);
            Opened::Nothing
        }
    }
}

/// The limits that respmux must know before the server applies them: now and then, and whenever a CONFIG SET passes by.
///
/// # Errors
/// No answer in time, or none at all: it may still come, and must not be taken for that of the next question.
async fn learn_limits(node: &Node, link: &mut Link, round: bool) -> io::Result<()> {
    let left = node.control.limits_in.get();
    if left > 0 {
        node.control.limits_in.set(left - u32::from(round));
        return Ok(());
    }
    node.control.limits_in.set(LIMITS_EVERY);
    server_limits::learn(node, link).await
}

/// Version and run id: texts differ over versions, and another run id means another history (rule K2).
///
/// # Errors
/// No answer in time, or none at all.
async fn learn(node: &Node, link: &mut Link) -> io::Result<()> {
    let mut command = BytesMut::new();
    encode::command(&mut command, &["INFO", "server"]);
    let replies = timeout(node.rt.config().upstream.handshake_timeout, link.call(&command, 1)).await??;
    let Ok(info) = decoded(&replies[0]) else { return Ok(()) };
    let text = info.as_text().map_or_else(String::new, |text| String::from_utf8_lossy(text).into_owned());
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let valkey = field("valkey_version");
    let version = valkey.or_else(|| field("redis_version")).unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let flavour =
        Flavour { valkey: valkey.is_some(), major: parts.next().unwrap_or(0), minor: parts.next().unwrap_or(0) };
    node.control.flavour.set(flavour);
    let run_id = field("run_id").unwrap_or_default().as_bytes().to_vec();
    let (name, upstream) = (if valkey.is_some() { "valkey" } else { "redis" }, node.address());
    match node.facts.outage().on_met(&run_id) {
        Met::First => tracing::info!(%upstream, "connected to {name} {version}"),
        Met::Another => tracing::warn!(
            %upstream,
            "connected to {name} {version}: the upstream was restarted or replaced (its run_id changed)"
        ),
        Met::Known => {}
    }
    let before = node.control.run_id.replace(run_id.clone());
    if !before.is_empty() && before != run_id {
        node.on_new_history(node.control.lost_at.get().unwrap_or_else(|| node.rt.now()));
        node.forget_pauses();
    }
    Ok(())
}
