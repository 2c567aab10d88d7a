//! Whether a client may use the upstream at all: asked once, before its first command (rule A4); and what a
//! client may cost that has not logged in where the upstream wants it.

use std::time::Duration;

use super::Shared;
use super::connection::{Client, Closed};
use crate::command::Op;
use crate::telemetry::CloseReason;
use crate::upstream::{OutputClass, Standing};

/// What is known of a client's right to use the upstream (rule A4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nothing asked yet: the client has sent nothing.
    Unasked,
    /// The upstream could not be asked; what is in the buffer is answered "not executed".
    Unreachable,
    Unauthenticated,
    Admitted,
}

impl Admission {
    /// For people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Unasked | Self::Unreachable => "not known yet",
            Self::Unauthenticated => "needed",
            Self::Admitted => "done or not needed",
        }
    }
}

impl Client {
    /// Nobody knows yet whether the client must log in, or it may have changed: servers let a client in from the moment
    /// on in which the password is lifted that it was refused for.
    pub(super) fn is_to_be_asked(&mut self) -> bool {
        if self.admission == Admission::Unauthenticated && self.node().scratch.may_have_opened(&self.node()) {
            self.on_unasked();
        }
        self.admission == Admission::Unasked
    }

    /// The answer of a fresh probe serves without a wait.
    pub(super) fn admit_if_known(&mut self) -> bool {
        let node = self.node();
        match node.assumed_standing().or_else(|| node.scratch.known(&node)) {
            Some(standing) => {
                self.on_standing(standing);
                true
            }
            None => false,
        }
    }

    pub(super) fn on_standing(&mut self, standing: Standing) {
        match standing {
            Standing::Implicit => self.on_admitted(),
            Standing::Unauthenticated => {
                self.admission = Admission::Unauthenticated;
                self.node().limit_output(self.outbox(), OutputClass::Login);
            }
        }
    }

    /// From here on the client may use the upstream.
    pub(super) fn on_admitted(&mut self) {
        if self.admission == Admission::Unauthenticated {
            self.node().limit_output(self.outbox(), OutputClass::Normal);
        }
        self.admission = Admission::Admitted;
        self.strikes = 0;
        self.profile.locked_at.set(0);
    }

    /// The client is as if it had just connected, but for the time that it has had already.
    pub(super) fn on_unasked(&mut self) {
        self.admission = Admission::Unasked;
        if self.profile.locked_at.get() == 0 {
            self.profile.locked_at.set(self.rt().now().max(1));
        }
    }

    pub(super) async fn admit(&mut self) -> Result<(), Closed> {
        self.wait_to_be_asked().await?;
        let node = self.node();
        match node.scratch.standing(&node).await {
            Ok(standing) => self.on_standing(standing),
            Err(_) => self.admission = Admission::Unreachable,
        }
        self.exhausted = false;
        Ok(())
    }

    /// A command was answered. Those without a login are counted (`auth.max_commands`).
    pub(super) fn on_command_done(&mut self) -> Result<(), Closed> {
        let locked = self.profile.locked_at.get() != 0;
        if !locked || !matches!(self.admission, Admission::Unauthenticated | Admission::Unasked) {
            return Ok(());
        }
        // Who watches an outage from this machine cannot log in meanwhile.
        let is_proxy = self.rt().table.spec(self.profile.command.get()).op == Op::Proxy;
        if is_proxy && self.admission == Admission::Unasked && self.profile.address.is_of_this_machine() {
            return Ok(());
        }
        self.strikes += 1;
        let most = u32::try_from(self.rt().config().auth.max_commands).unwrap_or(u32::MAX);
        if self.strikes >= most { Err(Closed(CloseReason::AuthCommands)) } else { Ok(()) }
    }

    /// More input waits than a client without a login may send.
    pub(super) fn input_over_budget(&self) -> bool {
        self.admission == Admission::Unauthenticated && self.carry.len() > self.rt().config().auth.max_input
    }

    /// The unfinished request is larger than we keep, or the part of it that is not understood yet than the server
    /// would (`client-query-buffer-limit`).
    pub(super) fn request_too_large(&self) -> bool {
        let (node, there) = (self.node(), self.carry.len());
        let servers = node.server_limits().query_buffer;
        let understood = self.resume.as_ref().map_or(0, |resume| resume.understood());
        there > node.rt.largest_request() || (servers > 0 && there.saturating_sub(understood) as u64 > servers)
    }
}

impl Shared {
    /// Closes clients that have been connected for `auth.timeout` without a login. A client that has sent nothing is
    /// not known to need one before the upstream has wanted it of another.
    pub(super) fn close_the_unauthenticated(&self) {
        let patience = self.rt.config().auth.timeout;
        if patience == Duration::ZERO || !self.node().wants_login() {
            return;
        }
        let (now, patience) = (self.rt.now(), crate::base::nanos(patience));
        self.directory.each(|profile| {
            let since = profile.locked_at.get();
            if since != 0 && now.saturating_sub(since) >= patience {
                profile.outbox.close(CloseReason::AuthTimeout);
            }
        });
    }
}
