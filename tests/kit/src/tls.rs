//! Certificates of a test's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// An authority, its file `ca.pem`, and what it issued.
#[derive(Debug)]
pub struct Pki {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    pub fn new() -> Arc<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut parameters = CertificateParams::new(vec![]).expect("no names are good names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, format!("test {}", fastrand::u64(..)));
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(parameters, key).expect("an authority");
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).expect("the directory is writable");
        Arc::new(Self { directory, authority })
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Files `file.pem` and `file.key` for these names and addresses, good until the end of `year`.
    pub fn issue(&self, file: &str, names: &[&str], year: i32) -> Pair {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().expect("a key");
        let cert = parameters.signed_by(&key, &self.authority).expect("a certificate");
        let path = |end: &str| self.directory.path().join(format!("{file}.{end}"));
        let pair = Pair { cert: path("pem"), key: path("key") };
        std::fs::write(&pair.key, key.serialize_pem()).expect("the directory is writable");
        std::fs::write(&pair.cert, cert.pem()).expect("the directory is writable");
        pair
    }

    /// A client that trusts this authority, with a certificate of its own if there is one.
    pub fn client(&self, own: Option<&Pair>) -> Arc<ClientConfig> {
        self.client_of(own, rustls::ALL_VERSIONS)
    }

    /// The same, for some versions of the protocol.
    pub fn client_of(&self, own: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.as_ref().der().clone()).expect("an authority of our own making");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.expect("versions").with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_file(&pair.cert).expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
                builder.with_client_auth_cert(vec![cert], key).expect("they belong together")
            }
        })
    }
}

/// Only for the options of a proxy: the same authority.
impl PartialEq for Pki {
    fn eq(&self, other: &Self) -> bool {
        self.directory() == other.directory()
    }
}

impl Eq for Pki {}
