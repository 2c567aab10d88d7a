//! What the configuration says now, and what follows from it. A reload replaces it as a whole; whoever has looked keeps
//! what it saw.

use std::cell::Ref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::{Folds, Scratch, Upstreams};
use crate::auth::{Policies, Rights, Users};
use crate::command::CommandTable;
use crate::config::Config;
use crate::link::ClientTls;

/// How long a move waits for the one before it.
const MOVE_WAIT: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The rules of one worker.
pub struct Rules {
    pub config: Rc<Config>,
    /// What commands are, and which are forbidden. The ids are the same in all tables.
    pub table: Arc<CommandTable>,
    pub policies: Policies,
    /// Who may do what with PROXY.
    pub rights: Rights,
    /// Judges logins, if the upstream does not.
    pub users: Option<Users>,
}

/// A configuration that was read again, as it goes to every worker.
#[derive(Clone)]
pub struct Change {
    pub config: Arc<Config>,
    pub table: Arc<CommandTable>,
    /// There if the upstream speaks TLS.
    pub tls: Option<ClientTls>,
}

impl Rules {
    /// The worker's own copy, so that it is shared without counting over threads.
    pub(super) fn new(config: &Config, table: Arc<CommandTable>) -> Rc<Self> {
        Rc::new(Self {
            config: Rc::new(config.clone()),
            table,
            policies: Policies::new(config),
            rights: Rights::new(config),
            users: Users::new(config),
        })
    }
}

impl Upstreams {
    /// The rules as they are now, for the data path: not to be kept.
    #[inline]
    #[must_use]
    pub fn look(&self) -> Ref<'_, Rules> {
        Ref::map(self.rules.borrow(), |rules| &**rules)
    }

    /// The rules as they are now.
    #[inline]
    #[must_use]
    pub fn rules(&self) -> Rc<Rules> {
        Rc::clone(&self.rules.borrow())
    }

    /// The configuration as it is now.
    #[inline]
    #[must_use]
    pub fn config(&self) -> Rc<Config> {
        Rc::clone(&self.rules.borrow().config)
    }

    /// Takes a new configuration over. What was begun ends as it began; what differs on connections that stand is on new
    /// ones: they are made in the same way as by [`Upstreams::move_on`].
    pub fn reload(self: &Rc<Self>, change: &Change) {
        let rules = Rules::new(&change.config, Arc::clone(&change.table));
        let (before, now) = (self.config(), Rc::clone(&rules.config));
        self.rules.replace(rules);
        self.throttle.change(now.auth.failures);
        self.slowlog.change(&now.slowlog);
        self.hotkeys.change(now.hotkeys.sample);
        let elsewhere = before.upstream.endpoint != now.upstream.endpoint;
        self.dialer.reload(Rc::clone(&now), change.tls.clone(), elsewhere);
        if elsewhere {
            tracing::info!(worker = self.worker, upstream = %now.upstream.endpoint, "upstream changed: connections move");
            self.on_upstream_replaced(self.now());
            self.control.forget();
            self.forget_pauses();
        }
        if elsewhere || who_we_are(&before) != who_we_are(&now) || before.upstream.tls != now.upstream.tls {
            self.move_now();
        } else if of_lanes(&before) != of_lanes(&now) {
            // A lane keeps the settings it was made with.
            self.lanes.move_on(self);
        }
    }

    /// Retires every upstream connection: what was begun on it ends there, what follows is on a new one. The cap holds
    /// meanwhile: a new connection waits for the place of an old one where there is no other.
    ///
    /// While clients wait on connections of the move before, and the connection that unblocks them is not there yet, it
    /// happens a moment later: nobody could unblock them afterwards.
    pub fn move_on(self: &Rc<Self>) {
        if !self.is_moving() {
            return self.move_now();
        }
        if self.moves_again.replace(true) {
            return;
        }
        let (up, deadline) = (Rc::clone(self), crate::base::now() + MOVE_WAIT);
        spawn_local(async move {
            while up.is_moving() && crate::base::now() < deadline {
                sleep(LOOK_EVERY).await;
            }
            up.moves_again.set(false);
            up.move_now();
        });
    }

    fn is_moving(&self) -> bool {
        !self.folds.is_empty() && self.control.generation() < self.dialer.generation()
    }

    fn move_now(self: &Rc<Self>) {
        self.dialer.move_on();
        self.lanes.move_on(self);
        self.pool.move_on();
        self.hubs.move_on();
        Folds::move_on(self);
        Scratch::move_on(self);
        self.control.look();
        for client in self.roster.all() {
            client.wake(); // whoever waits for a lane that goes
        }
    }

    /// Whether nothing is begun for clients.
    #[inline]
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Begins or ends that; at the end every client goes on.
    pub fn pause(&self, paused: bool) {
        self.paused.set(paused);
        self.holding.set(paused || self.server_pause.extent().is_some());
        if !paused {
            for client in self.roster.all() {
                client.wake();
            }
        }
    }
}

/// Everything by which connections log in.
fn who_we_are(config: &Config) -> impl PartialEq + use<> {
    let upstream = &config.upstream;
    let users: Vec<_> = config.auth.users.iter().map(|user| (user.name.clone(), user.upstream.clone())).collect();
    (upstream.username.clone(), upstream.password.clone(), users)
}

/// What a lane keeps as it was when it was made.
fn of_lanes(config: &Config) -> impl PartialEq + use<'_> {
    (&config.lane, config.integrity, &config.upstream, config.slowlog.keys)
}
