//! What the configuration says now, and what follows from it. A reload replaces it as a whole; whoever has looked keeps
//! what it saw.

use std::cell::Ref;
use std::rc::Rc;
use std::sync::Arc;

use super::{Runtime, Upstream};
use crate::auth::{Policies, Rights, Users};
use crate::command::CommandTable;
use crate::config::Config;
use crate::link::ClientTls;

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
pub struct ConfigChange {
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

impl Runtime {
    /// The rules as they are now, for the data path: not to be kept.
    #[inline]
    #[must_use]
    pub fn rules_ref(&self) -> Ref<'_, Rules> {
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
}

impl Upstream {
    /// Takes a new configuration over. What was begun ends as it began; what differs on connections that stand is on new
    /// ones.
    pub fn reload(&self, change: &ConfigChange) {
        let rules = Rules::new(&change.config, Arc::clone(&change.table));
        let (before, now) = (self.rt.config(), Rc::clone(&rules.config));
        self.rt.rules.replace(rules);
        self.rt.throttle.change(now.auth.failures);
        self.rt.slowlog.change(&now.slowlog);
        self.rt.hotkeys.change(now.hotkeys.sample);
        self.tls.replace(change.tls.clone());
        let relogin = who_we_are(&before) != who_we_are(&now) || before.upstream.tls != now.upstream.tls;
        let next = self.source.borrow_mut().on_configured(now.upstream.endpoint.clone(), relogin);
        let of_others = of_lanes(&before) != of_lanes(&now);
        for node in self.nodes() {
            node.dialer.reload(Rc::clone(&now), change.tls.clone());
            if of_others && !relogin {
                node.lanes.rotate(&node); // a lane keeps the settings that it was made with
            }
        }
        self.apply(next);
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
