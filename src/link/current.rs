//! Which connections are of now: other settings, and the word that all of them shall move.

use std::rc::Rc;

use super::circuit::Circuit;
use super::connect::connect_rate;
use super::{ClientTls, Dialer, Link};
use crate::base::TokenBucket;
use crate::config::Config;

impl Dialer {
    /// From here on connections are made as `config` and `tls` say. `elsewhere`: to another upstream, of which nothing is
    /// known.
    pub fn reload(&self, config: Rc<Config>, tls: Option<ClientTls>, elsewhere: bool) {
        let before = self.config.replace(Rc::clone(&config));
        self.tls.replace(tls);
        if before.upstream.connects_per_second != config.upstream.connects_per_second {
            let rate = connect_rate(&config);
            self.rate.replace(TokenBucket::new(rate, rate));
        }
        if elsewhere {
            self.moved(|circuit| *circuit = Circuit::new(&config.upstream));
        } else {
            self.circuit.borrow_mut().reload(&config.upstream);
        }
    }

    /// Connections that stand, and those under way, are of the past.
    pub fn move_on(&self) {
        self.generation.set(self.generation.get() + 1);
        self.refused.on_accepted(); // a login that was refused is tried again
    }

    /// Whether a connection is not of the past.
    #[must_use]
    pub fn is_current(&self, link: &Link) -> bool {
        link.generation == self.generation.get()
    }

    /// How often connections were told to move.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }
}
