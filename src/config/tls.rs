//! `[tls]`: clients that speak TLS. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::address::Listen;
use super::check::Check;
use super::key::{Key, count, optional, table, time, word, words};
use super::kind::Kind;
use super::settings::Settings;
use super::value::{FromSetting, Setting};

table! {
    /// Clients that speak TLS.
    pub struct Tls = "tls." {
        /// Certificate for addresses tls:IP:PORT in `listen`, PEM, with the intermediate ones. Read again when it
        /// changes; a bad one is reported, and the old one stays in use.
        cert_file: Option<PathBuf> = optional("\"/etc/respmux/tls.crt\"", Kind::Path).restart();
        /// The key of tls.cert_file, PEM.
        key_file: Option<PathBuf> = optional("\"/etc/respmux/tls.key\"", Kind::Path).restart();
        /// The authorities that sign clients' certificates, PEM. Needed unless tls.client_auth is "no".
        client_ca_file: Option<PathBuf> = optional("\"/etc/respmux/clients-ca.pem\"", Kind::Path).restart();
        /// Whether clients are asked for a certificate. "optional": if one is shown, it must be valid.
        client_auth: ClientAuth = word("no", ClientAuth::WORDS).restart();
        /// Oldest version of TLS, for clients and the upstream.
        min_version: TlsVersion = word("1.2", TlsVersion::WORDS).restart();
        /// Time from accept to the end of a client's TLS handshake, including the wait for its turn; then the client is
        /// closed.
        handshake_timeout: Duration = time("5s", 1).restart();
        /// Clients of one worker in their TLS handshake or waiting for their turn; further ones are closed. Between two
        /// looks at all other clients a worker computes at most two handshakes.
        max_handshakes: usize = count("512", 1, 1_000_000).restart();
        /// How often certificate files are checked for a change.
        reload_interval: Duration = time("5s", 100).restart();
    }
}

words! {
    /// What is asked of clients.
    pub enum ClientAuth {
        /// Nothing.
        No = "no",
        /// A certificate, if they have one; a bad one is refused.
        Optional = "optional",
        /// A certificate.
        Required = "required",
    }
}

words! {
    /// A version of TLS.
    pub enum TlsVersion {
        /// 1.2
        V1_2 = "1.2",
        /// 1.3
        V1_3 = "1.3",
    }
}

impl Tls {
    pub(super) fn check(&self, listen: &[Listen], check: &mut Check<'_>) {
        if listen.iter().any(Listen::is_tls) && (self.cert_file.is_none() || self.key_file.is_none()) {
            check.problem("listen", "an address tls:IP:PORT needs tls.cert_file and tls.key_file");
        }
        if self.client_auth != ClientAuth::No && self.client_ca_file.is_none() {
            check.problem("tls.client_auth", "client certificates cannot be checked without tls.client_ca_file");
        }
    }
}
