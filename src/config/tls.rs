//! Settings of TLS, on both sides, and of unix sockets: what the values mean and which belong together. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::value::Setting;
use super::values::Values;
use super::{Config, Listen};

/// Clients that speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Our certificate and its chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Who signs clients' certificates.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients are asked for one.
    pub client_auth: ClientAuth,
    /// Oldest version, on both sides.
    pub min_version: TlsVersion,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Clients of one worker in their handshake or in line for it.
    pub max_handshakes: usize,
    /// Time between two looks at the files, of both sides.
    pub reload_interval: Duration,
}

/// What is asked of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Nothing.
    No,
    /// A certificate, if they have one; a bad one is refused.
    Optional,
    /// A certificate.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// TLS to the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The URL says so.
    pub enabled: bool,
    /// Who signs the upstream's certificate; `None` is the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// The name in the certificate; `None` is the host of the URL.
    pub server_name: Option<String>,
    /// Our own certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key; given exactly when the certificate is.
    pub key_file: Option<PathBuf>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// Unix sockets for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unix {
    /// Permissions of the socket file.
    pub mode: u32,
    /// Users whose processes may connect; `None` is everybody.
    pub allow_uids: Option<Vec<u32>>,
}

impl Tls {
    pub(super) fn of(values: &Values<'_>) -> Self {
        let client_auth = match () {
            () if values.is_word("tls.client_auth", "required") => ClientAuth::Required,
            () if values.is_word("tls.client_auth", "optional") => ClientAuth::Optional,
            () => ClientAuth::No,
        };
        let newest_only = values.is_word("tls.min_version", "1.3");
        Self {
            cert_file: values.path("tls.cert_file"),
            key_file: values.path("tls.key_file"),
            client_ca_file: values.path("tls.client_ca_file"),
            client_auth,
            min_version: if newest_only { TlsVersion::V1_3 } else { TlsVersion::V1_2 },
            handshake_timeout: values.time("tls.handshake_timeout"),
            max_handshakes: values.count("tls.max_handshakes"),
            reload_interval: values.time("tls.reload_interval"),
        }
    }
}

impl UpstreamTls {
    pub(super) fn of(values: &Values<'_>) -> Self {
        Self {
            enabled: values.url().tls,
            ca_file: values.path("upstream.tls_ca_file"),
            server_name: values.text("upstream.tls_server_name"),
            cert_file: values.path("upstream.tls_cert_file"),
            key_file: values.path("upstream.tls_key_file"),
            insecure_skip_verify: values.switch("upstream.tls_insecure_skip_verify"),
        }
    }

    /// Something but the URL's scheme was configured.
    fn is_configured(&self) -> bool {
        *self != Self { enabled: self.enabled, ..Self::default() }
    }
}

impl Unix {
    pub(super) fn of(values: &Values<'_>) -> Self {
        let mode = match &values.entry("unix.mode").setting {
            Setting::Mode(mode) => *mode,
            other => unreachable!("unix.mode is no mode but {other:?}"),
        };
        let allow_uids = match &values.entry("unix.allow_uids").setting {
            Setting::Users(users) => Some(users.clone()),
            _ => None,
        };
        Self { mode, allow_uids }
    }
}

/// What cannot work, each with the key that shows it.
pub(super) fn problems(config: &Config) -> Vec<(&'static str, &'static str)> {
    let (tls, upstream) = (&config.tls, &config.upstream.tls);
    let mut problems = Vec::new();
    if config.listen.iter().any(Listen::is_tls) && (tls.cert_file.is_none() || tls.key_file.is_none()) {
        problems.push(("listen", "an address tls:IP:PORT needs tls.cert_file and tls.key_file"));
    }
    if tls.client_auth != ClientAuth::No && tls.client_ca_file.is_none() {
        problems.push(("tls.client_auth", "client certificates cannot be checked without tls.client_ca_file"));
    }
    if upstream.cert_file.is_some() != upstream.key_file.is_some() {
        let given = if upstream.cert_file.is_some() { "upstream.tls_cert_file" } else { "upstream.tls_key_file" };
        problems.push((given, "upstream.tls_cert_file and upstream.tls_key_file belong together"));
    }
    problems
}

/// What works, but perhaps not as meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let upstream = &config.upstream.tls;
    let mut warnings = Vec::new();
    if upstream.enabled && upstream.insecure_skip_verify {
        warnings.push(
            "upstream.tls_insecure_skip_verify = true accepts any certificate: whoever stands between can read and \
             change everything"
                .to_owned(),
        );
    }
    if !upstream.enabled && upstream.is_configured() {
        warnings.push("upstream.tls_… is set, but upstream.url is no rediss:// URL: not used".to_owned());
    }
    warnings
}
