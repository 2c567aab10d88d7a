//! Who may use PROXY. What shows others needs the upstream's consent, and an outage is when it is needed most: a
//! question that nobody answers must not be the answer.

use std::time::Duration;

use super::verb::{Main, Shown, Verb};
use crate::client::connection::Client;
use crate::client::error_reply;
use crate::client::identity::admission_state::Admission;
use crate::client::request::Request;
use crate::config::ProxyRight;
use crate::router::Refusal;
use crate::telemetry::RefuseReason;
use crate::upstream::{Permission, PermissionProbe};

/// How long the upstream may take to say who somebody is, and again to say what he may do. PROXY is answered within a
/// tenth of a second, whatever the upstream does.
const PATIENCE: Duration = Duration::from_millis(40);

/// What is to be done with a request.
pub(super) enum Access {
    Granted,
    /// The request was refused and has its answer.
    Refused,
}

/// What the upstream has said of the client.
enum Consent {
    Yes,
    /// The client may not, and has its answer.
    No,
    Unknown,
}

impl Verb {
    /// What the server must allow as well, because it shows the same of a server. It is carried out there.
    fn permission_probe(self) -> Option<PermissionProbe> {
        match self {
            // What changes respmux itself is no server's matter: `auth.proxy_write` alone says who may.
            Self::Own(_) | Self::Kill | Self::Main(_) => None,
            Self::Shown(Shown::HotkeysReset | Shown::SlowlogReset) => None,
            // An id that no client has: Valkey 9 refuses 0.
            Self::Shown(Shown::Clients) => Some(&["CLIENT", "LIST", "ID", "9223372036854775807"]),
            // These tell of other clients' commands.
            Self::Shown(Shown::Slowlog | Shown::Hotkeys) => Some(&["SLOWLOG", "LEN"]),
            // Not CONFIG GET, which many hosted servers do not have.
            Self::Shown(Shown::Config | Shown::Info | Shown::Lanes | Shown::Pools | Shown::Servers | Shown::Stats) => {
                Some(&["INFO", "server"])
            }
        }
    }
}

impl Client {
    /// Whether the client may use `verb`. Who may change respmux may see all of it.
    pub(super) async fn proxy_access(&mut self, verb: Verb, request: &Request) -> Access {
        if verb.right() == ProxyRight::None {
            return Access::Granted;
        }
        // Who it is comes before what it may: an unknown client has no rights that could be looked up.
        match self.who_asks(request).await {
            Consent::Yes => {}
            Consent::No => return Access::Refused,
            Consent::Unknown => return self.without_upstream(verb),
        }
        let right = self.proxy_right();
        // The configuration first, which costs nothing to ask.
        if right < verb.right() {
            self.refuse_proxy(request, verb);
            return Access::Refused;
        }
        match verb.permission_probe() {
            Some(probe) if right < ProxyRight::Write => match self.consent(probe).await {
                Consent::Yes => Access::Granted,
                Consent::No => Access::Refused,
                Consent::Unknown => self.without_upstream(verb),
            },
            // No server shows this, or the client may change respmux and so may see all of it.
            _ => Access::Granted,
        }
    }

    /// Whether the client is known to be somebody who may use the upstream.
    async fn who_asks(&mut self, request: &Request) -> Consent {
        if self.admission == Admission::Unasked {
            let node = self.node();
            if let Some(login_requirement) = node.login_requirement_within(PATIENCE).await {
                self.on_login_requirement(login_requirement);
            }
        }
        match self.admission {
            Admission::Admitted => Consent::Yes,
            Admission::Unauthenticated => {
                self.refuse(request, Refusal::NotAuthenticated).await;
                Consent::No
            }
            Admission::Unasked | Admission::Unreachable => Consent::Unknown,
        }
    }

    async fn consent(&self, probe: PermissionProbe) -> Consent {
        let (node, key) = (self.node(), self.record.session.borrow().key.clone());
        match node.permission(&key, probe, PATIENCE).await {
            Permission::Granted => Consent::Yes,
            Permission::Refused(line) => {
                self.reply_error(&line);
                Consent::No
            }
            Permission::Unknown => Consent::Unknown,
        }
    }

    /// What a client may whose rights nobody can be asked for: reading, if it is on this machine, as over HTTP.
    fn without_upstream(&self, verb: Verb) -> Access {
        if verb.right() == ProxyRight::Read && self.record.address.is_of_this_machine() {
            return Access::Granted;
        }
        self.rt().shard.commands_rejected[RefuseReason::UpstreamDown].inc();
        let line =
            if verb.right() == ProxyRight::Read { error_reply::PROXY_UNASKED } else { error_reply::PROXY_UNKNOWN };
        self.reply_error(line);
        Access::Refused
    }

    /// As a server says it, with what is to be done about it.
    fn refuse_proxy(&self, request: &Request, verb: Verb) {
        self.rt().shard.commands_rejected[RefuseReason::ProxyRight].inc();
        let setting = if verb.right() == ProxyRight::Write { "auth.proxy_write" } else { "auth.proxy_read" };
        let over_http = match verb {
            Verb::Main(Main::Drain) => ", or POST /drain on the admin port",
            Verb::Main(Main::Reload) => ", or POST /reload on the admin port",
            Verb::Main(Main::Pause) => ", or POST /pause on the admin port",
            Verb::Main(Main::Resume) => ", or POST /resume on the admin port",
            Verb::Main(Main::Reconnect) => ", or POST /reconnect on the admin port",
            _ => "",
        };
        // An outage is no time to wait for the version: before the first contact the words are Redis 7.0's.
        let mut line = self.denied(request, self.node().control.flavour());
        let session = self.record.session.borrow();
        let user = String::from_utf8_lossy(session.key.identity.name()).into_owned();
        line.extend_from_slice(format!(" (respmux: set {setting} = [{user:?}]{over_http})").as_bytes());
        drop(session);
        self.reply_error(&line);
    }

    /// What the client may do with PROXY, as far as that is respmux' own matter.
    fn proxy_right(&self) -> ProxyRight {
        let session = self.record.session.borrow();
        self.rt().rules().rights.of(self.rt().rules().policies.name_of(&session.key.identity))
    }
}
