//! From certificate files to what rustls works with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};

use super::expiry;
use crate::config::{ClientAuth, Endpoint, Tls, TlsVersion, UpstreamTls};

/// A configuration of rustls, and when the certificate in it expires (unix time in seconds; 0 without one).
pub struct Material<T> {
    pub config: Arc<T>,
    pub expires: i64,
}

/// What new connections to the upstream use. Shared by all workers and replaced when a file changes; looked at once
/// for each connect.
#[derive(Clone)]
pub struct ClientTls(Arc<Mutex<Arc<ClientConfig>>>);

impl ClientTls {
    #[must_use]
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self(Arc::new(Mutex::new(config)))
    }

    pub fn replace(&self, config: Arc<ClientConfig>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(crate) fn current(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What TLS towards clients needs: reads certificate, key and authorities.
///
/// # Errors
/// The file that cannot be used, and why.
pub fn server_config(tls: &Tls) -> Result<Material<ServerConfig>, String> {
    let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Err("tls.cert_file and tls.key_file are not set".to_owned());
    };
    let chain = certificates(cert)?;
    let expires = earliest(&chain);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|e| e.to_string())?;
    let builder = match (tls.client_auth, &tls.client_ca_file) {
        (ClientAuth::No, _) | (_, None) => builder.with_no_client_auth(),
        (auth, Some(file)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(file)?), provider());
            let verifier = if auth == ClientAuth::Optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| named(file, &e))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private_key(key)?).map_err(|e| named(cert, &e))?;
    // Tickets are kept by clients: a crowd that comes back costs no signatures, and no memory here.
    config.ticketer = ring::Ticketer::new().map_err(|e| e.to_string())?;
    Ok(Material { config: Arc::new(config), expires })
}

/// What TLS towards the upstream needs: authorities, and respmux' own certificate if there is one.
///
/// # Errors
/// The file that cannot be used, and why.
pub fn client_config(tls: &UpstreamTls, min_version: TlsVersion) -> Result<Material<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(min_version))
        .map_err(|e| e.to_string())?;
    let builder = match (&tls.ca_file, tls.insecure_skip_verify) {
        (_, true) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider()))),
        (Some(file), false) => builder.with_root_certificates(authorities(file)?),
        (None, false) => builder.with_root_certificates(system_authorities()?),
    };
    let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(Material { config: Arc::new(builder.with_no_client_auth()), expires: 0 });
    };
    let chain = certificates(cert)?;
    let expires = earliest(&chain);
    let config = builder.with_client_auth_cert(chain, private_key(key)?).map_err(|e| named(cert, &e))?;
    Ok(Material { config: Arc::new(config), expires })
}

/// The name that must be in the certificate of the server at `address`.
///
/// # Errors
/// The text is no name that a certificate can have.
pub fn server_name(tls: &UpstreamTls, address: &Endpoint) -> Result<ServerName<'static>, String> {
    let name = match (&tls.server_name, address) {
        (Some(name), _) | (None, Endpoint::Tcp { host: name, .. }) => name,
        (None, Endpoint::Unix(_)) => return Err("a unix socket has no name for a certificate".to_owned()),
    };
    ServerName::try_from(name.clone()).map_err(|error| format!("{name:?} cannot be the name in a certificate: {error}"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match min {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &BOTH[..1],
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match all {
        Ok(found) if found.is_empty() => Err(named(path, &"there is no certificate in it")),
        Ok(found) => Ok(found),
        Err(error) => Err(named(path, &error)),
    }
}

fn private_key(path: &PathBuf) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| named(path, &e))
}

fn authorities(path: &PathBuf) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| named(path, &e))?;
    }
    Ok(roots)
}

/// The authorities that the system trusts; single ones that rustls does not understand are left out.
fn system_authorities() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err("this system has no list of authorities: set upstream.tls_ca_file".to_owned()),
        false => Ok(roots),
    }
}

/// The chain is of use as long as all of it is.
fn earliest(chain: &[CertificateDer<'_>]) -> i64 {
    chain.iter().filter_map(|certificate| expiry::not_after(certificate)).min().unwrap_or(0)
}

/// Accepts every certificate. That the peer has the key to it is checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
