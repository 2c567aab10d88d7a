//! `[drain]`: how clients are sent away at the end of the process, and where they are to go. Pure.

use std::time::Duration;

use super::check::Check;
use super::key::{Key, optional, table, time};
use super::kind::Kind;
use super::settings::Settings;

/// Kubernetes' terminationGracePeriodSeconds unless changed.
const USUAL_GRACE: Duration = Duration::from_secs(30);

table! {
    /// The end of the process after SIGTERM.
    pub struct Drain = "drain." {
        /// After SIGTERM, how long new clients are still accepted while /readyz says no.
        delay: Duration = time("0s", 0).flag("drain-delay", "TIME");
        /// After SIGTERM and drain.delay, how long clients may take to finish requests, transactions and blocking
        /// commands. Then they are closed, whatever they are doing.
        timeout: Duration = time("25s", 0).flag("drain-timeout", "TIME");
        /// Clients are not sent away all at once, but 2ms apart on each worker, all of them within this time and within
        /// half of drain.timeout. Those with subscriptions come last. 0s is at once.
        spread: Duration = time("10s", 0);
        /// host:port of the Service or load balancer in front of all replicas. Clients that asked for it (CLIENT
        /// MAINT_NOTIFICATIONS, RESP3) are told to go there before they are closed. Name the port that they use
        /// already: redis-py looks at the host only. Unset: only clients that want no address (moving-endpoint-type
        /// none) are told, and CLIENT MAINT_NOTIFICATIONS of the others is an error, which libraries take as a no.
        endpoint: Option<String> = optional("\"respmux.example:6379\"", Kind::Text);
    }
}

impl Drain {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        if let Some(reason) = self.problem() {
            check.problem("drain.endpoint", reason);
        }
        if self.delay + self.timeout > USUAL_GRACE {
            check.warn(
                "drain.delay and drain.timeout together exceed 30s: raise Kubernetes' terminationGracePeriodSeconds \
                 (30 unless set) above them",
            );
        }
    }

    /// What is wrong with the endpoint. Clients part it at its colon, so the address of IPv6 is none for them.
    fn problem(&self) -> Option<String> {
        let text = self.endpoint.as_deref()?;
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let named = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        let ported = port.parse::<u16>().is_ok_and(|port| port > 0);
        (!named || !ported).then(|| {
            format!("drain.endpoint: expected host:port with a name or an IPv4 address, got {text:?} (clients cannot take IPv6 here)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_what_clients_can_part_at_the_colon() {
        let problem = |endpoint: &str| {
            let drain = Drain {
                delay: Duration::ZERO,
                timeout: Duration::ZERO,
                spread: Duration::ZERO,
                endpoint: Some(endpoint.to_owned()),
            };
            drain.problem()
        };
        for good in ["respmux.svc:6379", "10.0.0.7:1", "a_b-c:65535"] {
            assert_eq!(problem(good), None, "{good}");
        }
        for bad in
            ["respmux", "respmux:", ":6379", "respmux:0", "respmux:65536", "[::1]:6379", "::1:6379", "a b:1", "x\r:1"]
        {
            assert!(problem(bad).is_some_and(|reason| reason.contains("host:port")), "{bad}");
        }
    }
}
