//! Whether a client may use the upstream at all: asked once, before its first command (rule A4); and what a
//! client may cost that has not logged in where the upstream wants it.

use std::time::Duration;

use super::admission_state::Admission;
use crate::client::connection::{Client, Closed};
use crate::client::shared::Shared;
use crate::command::Op;
use crate::telemetry::CloseReason;
use crate::upstream::{LoginRequirement, OutputClass};

impl Client {
    /// Nobody knows yet whether the client must log in, or it may have changed: servers let a client in from the moment
    /// on in which the password is lifted that it was refused for.
    pub(in crate::client) fn is_to_be_asked(&mut self) -> bool {
        if self.admission == Admission::Unauthenticated && self.node().login_connection.may_have_opened(&self.node()) {
            self.on_unasked();
        }
        self.admission == Admission::Unasked
    }

    /// The answer of a fresh probe serves without a wait.
    pub(in crate::client) fn admit_if_known(&mut self) -> bool {
        let node = self.node();
        match node.assumed_login_requirement().or_else(|| node.login_connection.known(&node)) {
            Some(login_requirement) => {
                self.on_login_requirement(login_requirement);
                true
            }
            None => false,
        }
    }

    pub(in crate::client) fn on_login_requirement(&mut self, login_requirement: LoginRequirement) {
        match login_requirement {
            LoginRequirement::Implicit => self.on_admitted(),
            // Less may wait for it, for as long as it has shown no password.
            LoginRequirement::Unauthenticated => {
                self.admission = Admission::Unauthenticated;
                self.node().limit_output(self.outbox(), OutputClass::Login);
            }
        }
    }

    /// Lets the client use the upstream from here on.
    pub(in crate::client) fn on_admitted(&mut self) {
        if self.admission == Admission::Unauthenticated {
            self.node().limit_output(self.outbox(), OutputClass::Normal);
        }
        self.admission = Admission::Admitted;
        self.strikes = 0;
        // The clock of `auth.timeout` stops; a RESET starts it again.
        self.record.locked_at.set(0);
    }

    /// The client is as if it had just connected, but for the time that it has had already.
    pub(in crate::client) fn on_unasked(&mut self) {
        self.admission = Admission::Unasked;
        // Otherwise a client could stay for ever by sending RESET again and again.
        if self.record.locked_at.get() == 0 {
            self.record.locked_at.set(self.rt().now().max(1));
        }
    }

    pub(in crate::client) async fn admit(&mut self) -> Result<(), Closed> {
        // A paused server answers nobody; what the client sent waits in its input.
        self.wait_to_be_asked().await?;
        let node = self.node();
        match node.login_connection.login_requirement(&node).await {
            Ok(login_requirement) => self.on_login_requirement(login_requirement),
            // Not closed: what it has sent is answered with an error, and the next request asks again.
            Err(_) => self.admission = Admission::Unreachable,
        }
        // The request that brought us here is still in the input.
        self.exhausted = false;
        Ok(())
    }

    /// A command was answered. Those without a login are counted (`auth.max_commands`).
    pub(in crate::client) fn on_command_done(&mut self) -> Result<(), Closed> {
        let locked = self.record.locked_at.get() != 0;
        if !locked || !matches!(self.admission, Admission::Unauthenticated | Admission::Unasked) {
            return Ok(());
        }
        // Who watches an outage from this machine cannot log in meanwhile.
        let is_proxy = self.rt().table.spec(self.record.command.get()).op == Op::Proxy;
        if is_proxy && self.admission == Admission::Unasked && self.record.address.is_of_this_machine() {
            return Ok(());
        }
        // Counted for the connection, not for the address: that is `auth::Throttle`.
        self.strikes += 1;
        let most = u32::try_from(self.rt().config().auth.max_commands).unwrap_or(u32::MAX);
        if self.strikes >= most { Err(Closed(CloseReason::AuthCommands)) } else { Ok(()) }
    }

    /// More input waits than a client without a login may send.
    pub(in crate::client) fn input_over_budget(&self) -> bool {
        self.admission == Admission::Unauthenticated && self.carry.len() > self.rt().config().auth.max_input
    }

    /// The unfinished request is larger than we keep, or the part of it that is not understood yet than the server
    /// would (`client-query-buffer-limit`).
    pub(in crate::client) fn request_too_large(&self) -> bool {
        let (node, there) = (self.node(), self.carry.len());
        let servers = node.server_limits().query_buffer;
        let understood = self.resume.as_ref().map_or(0, |resume| resume.understood());
        there > node.rt.largest_request() || (servers > 0 && there.saturating_sub(understood) as u64 > servers)
    }
}

impl Shared {
    /// Closes clients that have been connected for `auth.timeout` without a login. A client that has sent nothing is
    /// not known to need one before the upstream has wanted it of another.
    pub(in crate::client) fn close_the_unauthenticated(&self) {
        let patience = self.rt.config().auth.timeout;
        if patience == Duration::ZERO || !self.node().wants_login() {
            return;
        }
        let (now, patience) = (self.rt.now(), crate::base::nanos(patience));
        self.clients.each(|record| {
            let since = record.locked_at.get();
            if since != 0 && now.saturating_sub(since) >= patience {
                record.outbox.close(CloseReason::AuthTimeout);
            }
        });
    }
}
