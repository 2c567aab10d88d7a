//! Many wait groups on one connection (docs/design/semantics.md 7.2, rule B17): BLPOP and its relatives wait on the keys of
//! all of them at once, and the element's key says whose it is. Who joins or wants to leave is let in or out when the
//! connection does not wait: behind an element, or behind an UNBLOCK.
//!
//! ```text
//!  group without a connection ──enroll──▶ joining ──┐        ┌──▶ element: to the group of its key
//!                                                   ▼        │
//!            leaves, newcomers ◀── not waiting ──▶ one BLPOP on the keys of all
//!                                       ▲                    │ somebody joins or wants to leave
//!                                       └──── nil ◀── UNBLOCK┘
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::places::waiting;
use super::queue::{Outcome, PopReply, Via};
use super::task::{DEMOTED, Frames, SILENT_FOR, SourceEnd, may_unblock, part};
use super::{ASK_AGAIN, Node, WaitGroup, ask_to_unblock};
use crate::base::bug;
use crate::command::{PopKind, is_nil, popped_key};
use crate::link::{ServerClient, ServerRef};
use crate::session::RouteKey;
use crate::telemetry::UpstreamCloseReason;
use crate::upstream::{Lease, Return};

/// Keys on one connection. The server spends about 0.4 µs for each when one is popped and the others are waited for again.
const MOST: usize = 4096;
/// Keys for which one more connection is worth its place, if there is one.
const WORTH_A_CONNECTION: usize = 64;
/// How long newcomers are gathered before the connection is unblocked for them, and so much more for each key of all
/// bundles: what the server spends on one worker's stays near a tenth of its time.
const GATHER: Duration = Duration::from_millis(1);
const GATHER_A_KEY: Duration = Duration::from_micros(4);
/// After an error for one of the keys nobody waits like this for so long: asked in turns, the key is found.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Wait groups whose keys may share a connection.
pub(super) type BundleClass = (RouteKey, PopKind);

/// The wait groups of one connection.
pub(super) struct Bundle {
    class: BundleClass,
    /// Counted in their machines as a question that may bring one element, from here to the moment that they are let go.
    /// The one that was served last is last, so that a busy key does not starve the others.
    members: RefCell<VecDeque<Rc<WaitGroup>>>,
    /// Entered by `enroll`; they become members when the connection is armed next.
    joining: RefCell<Vec<Rc<WaitGroup>>>,
    /// What is above goes back: there is another bundle for it. Set by `enroll`.
    quota: Cell<usize>,
    /// Somebody joined, or cannot leave as long as the connection waits. Set by `disturb`, cleared when all were let in
    /// and out.
    dirty: Cell<bool>,
    /// Tells the task of `dirty`.
    disturbed: Notify,
    /// Its connection is needed elsewhere.
    retired: Cell<bool>,
    /// Where it waits, once it does.
    server: Cell<Option<ServerRef>>,
}

/// The bundles of one worker and node.
#[derive(Default)]
pub(super) struct Bundles {
    /// Each is entered by `enroll`, and taken out by the task that drives it.
    all: RefCell<Vec<Rc<Bundle>>>,
    /// Classes of which a connection was refused, and until when.
    refused: RefCell<Vec<(BundleClass, Instant)>>,
}

impl Bundles {
    /// Whether connections wait on `server`.
    pub(super) fn wait_on(&self, server: ServerRef) -> bool {
        self.all.borrow().iter().any(|bundle| bundle.server.get() == Some(server))
    }

    /// All give their connections up; their wait groups find others.
    pub(super) fn retire_all(&self) {
        self.all.borrow().iter().for_each(|bundle| bundle.retire());
    }

    /// The smallest gives its connection up, for somebody who cannot be served otherwise.
    pub(super) fn give_way(&self) {
        let all = self.all.borrow();
        let standing = all.iter().filter(|bundle| !bundle.retired.get());
        if let Some(bundle) = standing.min_by_key(|bundle| bundle.len()) {
            bundle.retire();
        }
    }

    fn of(&self, class: &BundleClass) -> Vec<Rc<Bundle>> {
        let all = self.all.borrow();
        all.iter().filter(|bundle| bundle.class == *class && !bundle.retired.get()).cloned().collect()
    }

    /// Those that have no connection yet.
    fn opening(&self) -> usize {
        self.all.borrow().iter().filter(|bundle| bundle.server.get().is_none()).count()
    }

    /// Wait groups in all of them.
    pub(super) fn members(&self) -> usize {
        self.all.borrow().iter().map(|bundle| bundle.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.borrow().is_empty()
    }

    fn refuse(&self, class: &BundleClass) {
        self.refused.borrow_mut().push((class.clone(), crate::base::now() + REFUSED_FOR));
    }

    fn refuses(&self, class: &BundleClass) -> bool {
        let now = crate::base::now();
        let mut refused = self.refused.borrow_mut();
        refused.retain(|(_, until)| *until > now);
        refused.iter().any(|(other, _)| other == class)
    }
}

/// Finds places for wait groups that have no connection of their own. Leaves alone those for which there are enough
/// places.
pub(super) async fn enroll(node: &Rc<Node>) {
    let mut classes: crate::base::Map<BundleClass, Vec<Rc<WaitGroup>>> = crate::base::Map::default();
    for group in waiting(node) {
        if group.pop.mergeable().is_some() && !group.difficult.get() {
            classes.entry((group.key.0.clone(), group.pop.kind())).or_default().push(group);
        }
    }
    let free = node.rt.pool.places_for_blocked();
    classes.retain(|class, groups| groups.len() > free && !node.wait_groups.bundles.refuses(class));
    // A connection that cannot be unblocked would keep newcomers waiting for longer than a question does.
    if classes.is_empty() || !may_unblock(node).await {
        return;
    }
    for (class, mut groups) in classes {
        // Since the question above some may have found a place, or have gone.
        groups.retain(|group| group.is_without_connection());
        enroll_class(node, &class, &groups);
    }
}

fn enroll_class(node: &Rc<Node>, class: &BundleClass, groups: &[Rc<WaitGroup>]) {
    let mut bundles = node.wait_groups.bundles.of(class);
    let total = groups.len() + bundles.iter().map(|bundle| bundle.len()).sum::<usize>();
    // One place for each that is missing, and no more: who has a connection to itself is served best.
    for _ in bundles.len()..total.div_ceil(WORTH_A_CONNECTION) {
        if node.rt.pool.places_for_blocked() > node.wait_groups.bundles.opening() {
            bundles.push(Bundle::open(node, class));
        } else if !node.wait_groups.share(node, class) {
            // Another round gets the place of the group that has a connection to itself, and that group with it.
            break;
        }
    }
    let quota = total.div_ceil(bundles.len().max(1)).max(WORTH_A_CONNECTION);
    bundles.iter().for_each(|bundle| bundle.quota.set(quota));
    for group in groups {
        match bundles.iter().min_by_key(|bundle| bundle.len()) {
            Some(smallest) if smallest.len() < MOST => smallest.enter(group),
            _ => return, // asked for in turns
        }
    }
}

impl Bundle {
    /// A bundle that is about to get a connection.
    fn open(node: &Rc<Node>, class: &BundleClass) -> Rc<Self> {
        let bundle = Rc::new(Self {
            class: class.clone(),
            members: RefCell::default(),
            joining: RefCell::default(),
            quota: Cell::new(MOST),
            dirty: Cell::new(false),
            disturbed: Notify::new(),
            retired: Cell::new(false),
            server: Cell::new(None),
        });
        node.wait_groups.bundles.all.borrow_mut().push(Rc::clone(&bundle));
        spawn_local(run(Rc::clone(node), Rc::clone(&bundle)));
        bundle
    }

    fn len(&self) -> usize {
        self.members.borrow().len() + self.joining.borrow().len()
    }

    fn enter(self: &Rc<Self>, group: &Rc<WaitGroup>) {
        *group.bundle.borrow_mut() = Some(Rc::clone(self));
        self.joining.borrow_mut().push(Rc::clone(group));
        self.disturb();
    }

    /// Somebody joined, or cannot leave before the connection stops waiting.
    pub(super) fn disturb(&self) {
        self.dirty.set(true);
        self.disturbed.notify_one();
    }

    fn retire(&self) {
        self.retired.set(true);
        self.disturb();
    }

    /// Lets in and out whoever wants to, and says what to wait for then; `None` when nobody is left.
    fn next_question(&self, node: &Rc<Node>) -> Option<BytesMut> {
        let over = self.retired.get() || node.wait_groups.bundles.refuses(&self.class);
        let members = self.members.take();
        let mut stay = VecDeque::with_capacity(members.len());
        for group in members {
            let held = group.machine.borrow().is_held();
            let goes =
                over || group.difficult.get() || group.machine.borrow().is_armed() || stay.len() >= self.quota.get();
            if held || goes {
                group.act(node, |machine| machine.poll_ended(1, Via::Armed, Some(PopReply::Nil)));
                if goes || !group.machine.borrow().needs_polls() {
                    let_go(node, &group);
                    continue;
                }
                group.machine.borrow_mut().poll_began(1);
            }
            stay.push_back(group);
        }
        for group in self.joining.take() {
            if over || group.difficult.get() || !group.machine.borrow().needs_polls() {
                let_go(node, &group);
                continue;
            }
            group.machine.borrow_mut().poll_began(1);
            stay.push_back(group);
        }
        let question = stay.front().map(|first| {
            let keys: Vec<&[u8]> = stay.iter().filter_map(|group| group.pop.mergeable()).collect();
            first.pop.armed_for(&keys)
        });
        *self.members.borrow_mut() = stay;
        // Whoever wanted something has it by now.
        self.dirty.set(false);
        question
    }

    /// The reply of the waiting command; `None` when it makes no sense.
    fn on_reply(&self, node: &Rc<Node>, frame: &[u8]) -> Option<()> {
        // An UNBLOCK, of respmux or of an operator: the clients stay, and are waited for again.
        if is_nil(frame) || frame.starts_with(b"-UNBLOCKED client unblocked") {
            return Some(());
        }
        if frame.starts_with(b"-READONLY") || frame.starts_with(b"-UNBLOCKED force") {
            // The server has become a replica.
            let told = if frame.starts_with(b"-READONLY") { DEMOTED } else { frame };
            self.end_all(node, Some(&PopReply::Error(told.to_vec(), true)));
            return Some(());
        }
        if frame.starts_with(b"-") || frame.starts_with(b"!") {
            // One of the keys, a right that is missing, or a server that is busy: clients that wait already do not notice,
            // unless their own key says so when it is asked for alone.
            node.wait_groups.bundles.refuse(&self.class);
            return Some(());
        }
        let key = popped_key(frame)?;
        let is_its_own = |group: &Rc<WaitGroup>| group.pop.mergeable() == Some(key) || bug("mix_up_bundle");
        let place = self.members.borrow().iter().position(is_its_own)?;
        let group = self.members.borrow_mut().remove(place)?;
        if !group.pop.fits(frame) {
            self.members.borrow_mut().push_back(group);
            return None;
        }
        let elements = PopReply::Elements(vec![frame.to_vec()]);
        group.act(node, |machine| machine.poll_ended(1, Via::Armed, Some(elements)));
        if group.machine.borrow().needs_polls() {
            group.machine.borrow_mut().poll_began(1);
            self.members.borrow_mut().push_back(group);
        } else {
            let_go(node, &group);
        }
        Some(())
    }

    /// Nobody waits here any more. `None`: an element may have been lost, of whichever member.
    fn end_all(&self, node: &Rc<Node>, reply: Option<&PopReply<Vec<u8>>>) {
        for group in self.members.take() {
            group.act(node, |machine| machine.poll_ended(1, Via::Armed, reply.cloned()));
            let_go(node, &group);
        }
    }

    async fn serve(&self, node: &Rc<Node>, connection: &mut Connection, client: ServerClient) -> SourceEnd {
        while let Some(question) = self.next_question(node) {
            connection.out.extend_from_slice(&question);
            let reply = tokio::select! {
                biased;
                reply = connection.reply(node) => reply,
                () = self.is_disturbed(&node.wait_groups.bundles) => unblocked(node, connection, client).await,
            };
            match reply {
                Err(end) => return end,
                Ok(frame) if self.on_reply(node, &frame).is_none() => return SourceEnd::Anomaly,
                Ok(_) => {}
            }
        }
        SourceEnd::Released
    }

    /// Waits until the connection is to be unblocked, and a moment longer for others who want that, too.
    async fn is_disturbed(&self, all: &Bundles) {
        while !self.dirty.get() {
            self.disturbed.notified().await;
        }
        let keys = u32::try_from(all.members()).unwrap_or(u32::MAX);
        sleep(GATHER + GATHER_A_KEY * keys).await;
    }
}

/// The group waits by itself again, or is asked for in turns, if it still has clients.
fn let_go(node: &Rc<Node>, group: &Rc<WaitGroup>) {
    *group.bundle.borrow_mut() = None;
    group.act(node, |_| ());
}

/// Borrows a connection and waits on it for `bundle` as long as that has members, then gives it back.
async fn run(node: Rc<Node>, bundle: Rc<Bundle>) {
    if let Ok(mut lease) = node.rt.pool.lease_for_blocked(&node, &bundle.class.0).await {
        if let Some(client) = lease.link().client() {
            bundle.server.set(Some(client.server));
            if client.server.is_before(node.dialer.server()) {
                bundle.retire(); // told to move meanwhile
            }
            let mut connection = Connection { lease, frames: Frames::default(), out: BytesMut::new() };
            let end = bundle.serve(&node, &mut connection, client).await;
            let lost = !matches!(end, SourceEnd::Released);
            part(&node, connection.lease, end);
            if lost {
                bundle.end_all(&node, None);
            }
        } else {
            // The server did not say which of its clients it is: nobody could unblock it.
            lease.give_back(Return::Clean);
            node.wait_groups.bundles.refuse(&bundle.class);
        }
    }
    // Whoever came at the last moment, or in vain.
    bundle.retire();
    bundle.next_question(&node);
    node.wait_groups.bundles.all.borrow_mut().retain(|other| !Rc::ptr_eq(other, &bundle));
}

/// The reply of a command that is unblocked, or that was served in that moment.
async fn unblocked(node: &Rc<Node>, connection: &mut Connection, client: ServerClient) -> Result<BytesMut, SourceEnd> {
    let mut not_blocked = None;
    loop {
        if client.server.is_before(node.control.server()) {
            return Err(SourceEnd::Lost(UpstreamCloseReason::Moved)); // nobody can be asked there any more
        }
        match ask_to_unblock(node, client).await {
            Outcome::Unblocked => return connection.reply(node).await,
            // Its reply is on its way then, or it leads to another server behind the same address.
            Outcome::NotBlocked => {
                let now = crate::base::now();
                if now.saturating_duration_since(*not_blocked.get_or_insert(now)) >= SILENT_FOR {
                    return Err(SourceEnd::Lost(UpstreamCloseReason::Moved));
                }
            }
            Outcome::Failed => not_blocked = None,
        }
        tokio::select! {
            biased;
            reply = connection.reply(node) => return reply,
            () = sleep(ASK_AGAIN) => {}
        }
    }
}

/// The connection of a bundle.
struct Connection {
    lease: Lease,
    frames: Frames,
    /// What the socket has not taken.
    out: BytesMut,
}

impl Connection {
    /// Sends what is to be sent and reads the next reply. Nothing is lost when it is dropped and called again.
    async fn reply(&mut self, node: &Rc<Node>) -> Result<BytesMut, SourceEnd> {
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(error)) = self.lease.link().poll_write_out(cx, &mut self.out) {
                    return Poll::Ready(Err(SourceEnd::Lost((&error).into())));
                }
                let mut memory = node.rt.read_buffer.borrow_mut();
                let mut rest = match ready!(self.lease.link().poll_chunk(cx, &mut memory)) {
                    Ok(chunk) => chunk,
                    Err(error) => return Poll::Ready(Err(SourceEnd::Lost((&error).into()))),
                };
                match self.frames.next(&mut rest) {
                    None => return Poll::Ready(Err(SourceEnd::Anomaly)),
                    Some(None) => {}
                    // One question, one reply.
                    Some(Some(frame)) if matches!(self.frames.next(&mut rest), Some(None)) => {
                        return Poll::Ready(Ok(frame));
                    }
                    Some(Some(_)) => return Poll::Ready(Err(SourceEnd::Anomaly)),
                }
            }
        })
        .await
    }
}
