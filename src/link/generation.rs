//! Which connections are of now: other settings, and the word that all of them shall move.

use std::rc::Rc;

use super::circuit::Circuit;
use super::dialer::connect_rate;
use super::{ClientTls, Dialer, Link, ServerRef};
use crate::base::TokenBucket;
use crate::config::{Config, Endpoint};

impl Dialer {
    /// Makes connections as `config` and `tls` say, from here on.
    pub fn reload(&self, config: Rc<Config>, tls: Option<ClientTls>) {
        let before = self.config.replace(Rc::clone(&config));
        self.tls.replace(tls);
        if before.upstream.connects_per_second != config.upstream.connects_per_second {
            let rate = connect_rate(&config);
            self.rate.replace(TokenBucket::new(rate, rate));
        }
        self.circuit.borrow_mut().reload(&config.upstream);
    }

    /// From here on connections lead to `address`, another server, of which nothing is known: it is not away because
    /// the one before was.
    pub fn on_readdressed(&self, address: Endpoint) {
        self.address.replace(Rc::new(address));
        let config = self.config();
        self.moved(|circuit| *circuit = Circuit::new(&config.upstream));
    }

    /// Connections that stand, and those under way, are of the past.
    pub fn rotate(&self) {
        self.server.set(self.server.get().next());
        self.refused.on_accepted(); // a login that was refused is tried again
    }

    /// Whether a connection is not of the past.
    #[must_use]
    pub fn is_current(&self, link: &Link) -> bool {
        link.server == self.server.get()
    }

    /// The server to which new connections lead.
    #[must_use]
    pub fn server(&self) -> ServerRef {
        self.server.get()
    }
}
