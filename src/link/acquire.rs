//! The one way to a link that can be used now: wait out the back-off, dial, and look whether the link leads where links
//! lead now.
//!
//! It stands in this room and not with those who ask, because all that it needs is here: the dialer of a server, a
//! permit, and a generation. Lanes, hubs, leases, the login and the control connection differ in three things, which are
//! its arguments: what they start from ([`Start`]), in which state they want the link ([`Wanted`]) and how long they
//! wait for it ([`Patience`]). What a refusal means to its clients, each of them decides for itself.

use std::future::pending;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;
use tokio::time::sleep_until;

use super::dialer::Dialed;
use super::{DialError, Dialer, Link, Permit};
use crate::base::now;
use crate::session::RouteKey;
use crate::telemetry::{ConnectError, UpstreamCloseReason};

/// Between two attempts, also where the first of them started no back-off: a failure must not spin.
const PAUSE: Duration = Duration::from_millis(1);

/// What an acquisition starts from.
pub enum Start {
    /// The right to have one connection more.
    New(Permit),
    /// A connection that others have used: RESET and a handshake make it fit. When that fails its permit serves a new one.
    Used(Link),
}

/// In which state a link is wanted.
#[derive(Clone)]
pub enum Wanted {
    /// Logged in and set up as the key says.
    Ready(RouteKey),
    /// The same, while the upstream is silent. It is asked for an error first, which a server that is paused answers and
    /// one that hangs does not; a pause is a [`DialError`] of its own ([`DialError::is_pause`]).
    ReadyUnlessPaused(RouteKey),
    /// Connected, and nobody yet: the connection on which logins are proved.
    Bare,
}

/// How long somebody waits for a link. Nobody but lanes waits while the circuit is open.
pub enum Patience<'a> {
    /// For one attempt, and not for the back-off: whoever asks comes again by itself. It judges the link's
    /// [`ServerRef`](super::ServerRef) itself, too.
    Once,
    /// A client waits for an answer until then.
    Until(Instant),
    /// Until the caller drops the future: it has a limit of its own around it, one that stands still while the server is
    /// paused.
    Caller,
    /// For as long as this says that the link is needed. Lanes: their clients are answered while the lane waits on.
    While(&'a dyn Fn() -> bool),
}

impl Dialer {
    /// A link in the state `wanted` that [is current](Dialer::is_current), or why there is none, with the permit that it
    /// would have used. Nothing of any client was written then.
    ///
    /// May be dropped at any time. The attempt under way goes on then, in a task of its own, up to its own timeout: what
    /// it has counted is counted out again, and a connection that stands by then closes in order.
    ///
    /// # Errors
    /// [`DialError::Unavailable`] when the patience is over; the others as soon as the upstream says so.
    pub async fn acquire(self: &Rc<Self>, start: Start, wanted: Wanted, patience: Patience<'_>) -> Dialed {
        let mut start = start;
        let mut last = None;
        loop {
            if let Start::New(permit) = start {
                if let Some(at) = self.retry_at() {
                    if !patience.lasts(self, at) {
                        return Err((last.unwrap_or_else(DialError::waiting), permit));
                    }
                    sleep_until(at.into()).await;
                    // Another attempt may have begun meanwhile, or failed: look again.
                    start = Start::New(permit);
                    continue;
                }
                start = Start::New(permit);
            }
            let permit = match self.attempt_in_a_task(start, wanted.clone()).await {
                // Told to move while it was being made. That is no failure, so only the time counts against it.
                Ok(link) if patience.wants_current() && !self.is_current(&link) => {
                    link.close(UpstreamCloseReason::Moved).await
                }
                Err((error @ DialError::Unavailable { .. }, permit)) => {
                    last = Some(error);
                    permit
                }
                result => return result,
            };
            let next = now() + PAUSE;
            if !patience.lasts(self, self.retry_at().map_or(next, |at| at.max(next))) {
                return Err((last.unwrap_or_else(DialError::waiting), permit));
            }
            sleep_until(next.into()).await;
            start = Start::New(permit);
        }
    }

    /// The upstream is away and nobody waits for it: what needs a new link now gets none.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.is_open() && self.retry_at().is_some()
    }

    /// One attempt. A task of its own, because whoever waits may leave at any moment: the dialer keeps books over an
    /// attempt (the circuit's one probe, handshakes under way) that must be closed, and the server may have taken the
    /// connection already, which then has to end as a link with its permit.
    async fn attempt_in_a_task(self: &Rc<Self>, start: Start, wanted: Wanted) -> Dialed {
        let dialer = Rc::clone(self);
        let task = spawn_local(async move {
            match (start, wanted) {
                (Start::New(permit), Wanted::Ready(key)) => dialer.dial(permit, &key).await,
                (Start::New(permit), Wanted::ReadyUnlessPaused(key)) => dialer.dial_suspicious(permit, &key).await,
                (Start::New(permit), Wanted::Bare) => dialer.dial_bare(permit).await,
                (Start::Used(link), Wanted::Ready(key) | Wanted::ReadyUnlessPaused(key)) => {
                    dialer.renew(link, &key).await
                }
                // Each use of such a link begins with a RESET anyway.
                (Start::Used(link), Wanted::Bare) => Ok(link),
            }
        });
        match task.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(dialed) => dialed,
            Err(Ok(panic)) => resume_unwind(panic),
            // The worker ends, and this task with it.
            Err(Err(_)) => pending().await,
        }
    }
}

impl Patience<'_> {
    /// Whether an attempt at `at` is still waited for.
    fn lasts(&self, dialer: &Dialer, at: Instant) -> bool {
        match self {
            Self::Once => false,
            Self::Until(deadline) => at < *deadline && !dialer.is_open(),
            Self::Caller => !dialer.is_open(),
            Self::While(needed) => needed(),
        }
    }

    /// A link of the past is of no use: it is made again.
    fn wants_current(&self) -> bool {
        !matches!(self, Self::Once)
    }
}

impl DialError {
    /// No attempt was made: others are waiting out a back-off.
    #[must_use]
    pub fn waiting() -> Self {
        Self::unavailable(ConnectError::Refused, "waiting for the upstream")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::io;
    use std::sync::Arc;

    use tokio::io::ReadBuf;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::time::timeout;

    use super::*;
    use crate::config::tested;
    use crate::link::memory_socket::{MemorySocket, listen, pair};
    use crate::link::{Budget, DialerParts, OwnIds, Use};
    use crate::telemetry::{ProcessFacts, Shard};
    use crate::topology::NodeId;

    type Hook = Option<Box<dyn FnOnce()>>;

    struct World {
        dialer: Rc<Dialer>,
        budget: Arc<Budget>,
        /// Connects that the server has seen.
        seen: Rc<Cell<u32>>,
        accepts: Rc<Cell<bool>>,
        /// Happens once, when the next connect is seen.
        at_connect: Rc<Cell<Hook>>,
    }

    impl World {
        /// A server that answers the handshake of a bare link, or refuses connects.
        fn new() -> Self {
            let config = Rc::new(tested("[upstream]\nconnects_per_second = 1000\n"));
            let facts = Arc::clone(ProcessFacts::new("test", "test").node(0));
            let shard = Arc::new(Shard::new(1));
            let budget = Budget::new(config.division().worker(0));
            let dialer = Rc::new(Dialer::new(
                NodeId::ONLY,
                config.upstream.endpoint.clone(),
                DialerParts {
                    config,
                    shard,
                    facts,
                    worker: 0,
                    owned: OwnIds::default(),
                    keyring: Rc::default(),
                    tls: None,
                },
            ));
            let (seen, accepts) = (Rc::<Cell<u32>>::default(), Rc::<Cell<bool>>::default());
            let at_connect = Rc::<Cell<Hook>>::default();
            let (seen_here, accepts_here, hook) = (Rc::clone(&seen), Rc::clone(&accepts), Rc::clone(&at_connect));
            listen(Rc::new(move || {
                seen_here.set(seen_here.get() + 1);
                hook.take().into_iter().for_each(|hook| hook());
                if !accepts_here.get() {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                let (theirs, ours) = pair();
                spawn_local(answer(theirs));
                Ok(ours)
            }));
            Self { dialer, budget, seen, accepts, at_connect }
        }

        async fn acquire(&self, patience: Patience<'_>) -> Result<Link, DialError> {
            let permit = self.budget.permit(Use::Login).expect("nobody else has it");
            let link = self.dialer.acquire(Start::New(permit), Wanted::Bare, patience).await;
            link.map_err(|(error, _)| error)
        }
    }

    /// RESET, CLIENT ID and CLIENT SETNAME come in one write; nothing else is asked here.
    async fn answer(socket: MemorySocket) {
        let mut space = [0; 256];
        let mut read = async || {
            let mut buf = ReadBuf::new(&mut space);
            let read = poll_fn(|cx| socket.poll_read(cx, &mut buf)).await;
            read.map_or(0, |()| buf.filled().len())
        };
        if read().await > 0 {
            let mut reply: &[u8] = b"+RESET\r\n:7\r\n+OK\r\n";
            while !reply.is_empty() {
                let Ok(n) = poll_fn(|cx| socket.poll_write(cx, reply)).await else { return };
                reply = &reply[n..];
            }
            while read().await > 0 {}
        }
    }

    fn run(test: impl AsyncFnOnce(World)) {
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(async { test(World::new()).await });
    }

    #[test]
    fn a_deadline_ends_it_and_one_attempt_is_one() {
        run(async |world| {
            let began = now();
            let limit = Duration::from_millis(400);
            let failed = world.acquire(Patience::Until(began + limit)).await;
            assert!(matches!(failed, Err(DialError::Unavailable { .. })));
            let (took, seen) = (now() - began, world.seen.get());
            assert!(took <= limit && seen > 1, "{seen} attempts in {took:?}");
            sleep_until((now() + Duration::from_secs(60)).into()).await; // no back-off lasts longer
            assert!(world.acquire(Patience::Once).await.is_err());
            assert_eq!(world.seen.get(), seen + 1);
            assert!(world.acquire(Patience::Once).await.is_err(), "the back-off of the first");
            assert_eq!(world.seen.get(), seen + 1);
            assert_eq!(world.budget.used(Use::Login), 0);
        });
    }

    #[test]
    fn whoever_needs_it_waits_until_the_server_is_back() {
        run(async |world| {
            let accepts = Rc::clone(&world.accepts);
            spawn_local(async move {
                sleep_until((now() + Duration::from_secs(30)).into()).await;
                accepts.set(true);
            });
            let needed = || true;
            let link = world.acquire(Patience::While(&needed)).await;
            assert!(link.is_ok_and(|link| link.client().is_some_and(|client| client.id == 7)));
            world.accepts.set(false);
            let unneeded = || false;
            sleep_until((now() + Duration::from_secs(2)).into()).await; // until the first is closed
            assert!(world.acquire(Patience::While(&unneeded)).await.is_err());
        });
    }

    #[test]
    fn a_link_that_is_told_to_move_while_it_is_made_is_made_again() {
        run(async |world| {
            world.accepts.set(true);
            let dialer = Rc::clone(&world.dialer);
            world.at_connect.set(Some(Box::new(move || dialer.rotate())));
            let link = world.acquire(Patience::Caller).await.expect("the server is there");
            assert!(world.dialer.is_current(&link));
            assert_eq!(world.seen.get(), 2);
        });
    }

    #[test]
    fn who_leaves_in_the_middle_leaves_nothing_open() {
        run(async |world| {
            world.accepts.set(true);
            assert!(timeout(Duration::ZERO, world.acquire(Patience::Caller)).await.is_err());
            assert_eq!(world.budget.used(Use::Login), 1, "the attempt goes on");
            sleep_until((now() + Duration::from_secs(5)).into()).await;
            assert_eq!((world.budget.used(Use::Login), world.dialer.is_shaking()), (0, false));
        });
    }
}
