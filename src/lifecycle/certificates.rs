//! The certificates of both sides: loaded at the start, looked at every few seconds, read again when a file changed.
//!
//! Polled rather than watched: a Kubernetes secret changes by the swap of a symbolic link two levels up, which every
//! file system shows in what `stat` says, and not every one in events.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustls::{ClientConfig, ServerConfig};
use tokio::time::sleep;

use crate::config::{Config, Listen};
use crate::link::{ClientTls, Material, client_config, server_config};
use crate::telemetry::{ProcessFacts, ReloadResult, TlsSide};

/// What new clients are given: the certificate that is in use then. They are accepted on another thread.
#[derive(Clone)]
pub(super) struct ForClients(Arc<Mutex<Arc<ServerConfig>>>);

impl ForClients {
    fn new(material: Arc<ServerConfig>) -> Self {
        Self(Arc::new(Mutex::new(material)))
    }

    /// The one for who comes now.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, material: Arc<ServerConfig>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = material;
    }
}

/// Both sides, as far as they speak TLS.
pub(super) struct Certificates {
    config: Arc<Config>,
    facts: Arc<ProcessFacts>,
    clients: Option<(ForClients, Files)>,
    upstream: Option<(ClientTls, Files)>,
}

/// Files, and what they looked like when they were read last.
struct Files {
    paths: Vec<PathBuf>,
    seen: Vec<Option<FileStamp>>,
}

/// Device, inode, size, and time of change in seconds and nanoseconds: what a new file does not have in common with
/// an old one.
type FileStamp = (u64, u64, u64, i64, i64);

impl Certificates {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(super) fn load(config: &Arc<Config>, facts: &Arc<ProcessFacts>) -> anyhow::Result<Self> {
        let mut loaded = Self { config: Arc::clone(config), facts: Arc::clone(facts), clients: None, upstream: None };
        if config.listen.iter().any(|listen| matches!(listen, Listen::Tls(_))) {
            let files = Files::read_stamps(loaded.client_paths());
            let material = loaded.read_for_clients().map_err(anyhow::Error::msg).context("tls")?;
            loaded.clients = Some((ForClients::new(material), files));
        }
        if config.upstream.tls.enabled {
            let files = Files::read_stamps(loaded.upstream_paths());
            let material = loaded.read_for_upstream().map_err(anyhow::Error::msg).context("upstream.tls")?;
            loaded.upstream = Some((ClientTls::new(material), files));
            if config.upstream.tls.insecure_skip_verify {
                tracing::warn!("upstream.tls_insecure_skip_verify: the upstream's certificate is not checked");
            }
        }
        Ok(loaded)
    }

    pub(super) fn for_clients(&self) -> Option<ForClients> {
        self.clients.as_ref().map(|(current, _)| current.clone())
    }

    pub(super) fn for_upstream(&self) -> Option<ClientTls> {
        self.upstream.as_ref().map(|(current, _)| current.clone())
    }

    /// Looks at the files for as long as it is polled.
    pub(super) async fn watch(certificates: Rc<RefCell<Self>>) {
        let interval: Duration = certificates.borrow().config.tls.reload_interval;
        loop {
            sleep(interval).await;
            certificates.borrow_mut().look_again();
        }
    }

    /// What `config` says of TLS towards the upstream, ready to be used: read before anything is changed.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(super) fn prepare(&self, config: &Config) -> Result<Option<ClientTls>, String> {
        if !config.upstream.tls.enabled {
            return Ok(None);
        }
        match self.for_upstream() {
            Some(current) if self.config.upstream.tls == config.upstream.tls => Ok(Some(current)),
            _ => {
                let Material { config, expires } = client_config(&config.upstream.tls, self.config.tls.min_version)?;
                self.facts.set_certificate_expiry(TlsSide::Upstream, expires);
                Ok(Some(ClientTls::new(config)))
            }
        }
    }

    /// Watches the files that `config` names from here on; `upstream` is what was prepared for it.
    pub(super) fn reload(&mut self, config: &Arc<Config>, upstream: Option<ClientTls>) {
        let before = std::mem::replace(&mut self.config, Arc::clone(config));
        if before.upstream.tls == config.upstream.tls {
            return;
        }
        let files = Files::read_stamps(self.upstream_paths());
        self.upstream = upstream.map(|tls| (tls, files));
    }

    fn look_again(&mut self) {
        let (mut clients, mut upstream) = (self.clients.take(), self.upstream.take());
        if let Some((current, files)) = &mut clients
            && files.changed()
        {
            let read = self.read_for_clients();
            if let Some(material) = self.report(TlsSide::Client, read) {
                current.replace(material);
            }
        }
        if let Some((current, files)) = &mut upstream
            && files.changed()
        {
            let read = self.read_for_upstream();
            if let Some(material) = self.report(TlsSide::Upstream, read) {
                current.replace(material);
            }
        }
        (self.clients, self.upstream) = (clients, upstream);
    }

    fn report<T>(&self, side: TlsSide, read: Result<Arc<T>, String>) -> Option<Arc<T>> {
        match read {
            Ok(material) => {
                tracing::info!(%side, "certificate files changed: in use for new connections");
                self.facts.reloaded(side, ReloadResult::Success);
                Some(material)
            }
            Err(error) => {
                tracing::error!(%side, error, "certificate files changed and cannot be used: the old ones stay");
                self.facts.reloaded(side, ReloadResult::Failure);
                None
            }
        }
    }

    fn read_for_clients(&self) -> Result<Arc<ServerConfig>, String> {
        let Material { config, expires } = server_config(&self.config.tls)?;
        self.facts.set_certificate_expiry(TlsSide::Client, expires);
        Ok(config)
    }

    fn read_for_upstream(&self) -> Result<Arc<ClientConfig>, String> {
        let Material { config, expires } = client_config(&self.config.upstream.tls, self.config.tls.min_version)?;
        self.facts.set_certificate_expiry(TlsSide::Upstream, expires);
        Ok(config)
    }

    fn client_paths(&self) -> Vec<PathBuf> {
        let tls = &self.config.tls;
        [&tls.cert_file, &tls.key_file, &tls.client_ca_file].into_iter().flatten().cloned().collect()
    }

    fn upstream_paths(&self) -> Vec<PathBuf> {
        let tls = &self.config.upstream.tls;
        [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten().cloned().collect()
    }
}

impl Files {
    /// Looks before the files are read: a change in between is then seen at the next look.
    fn read_stamps(paths: Vec<PathBuf>) -> Self {
        let seen = stamps(&paths);
        Self { paths, seen }
    }

    /// Whether something changed since the last look. A file that cannot be used is not tried again until then.
    fn changed(&mut self) -> bool {
        let now = stamps(&self.paths);
        std::mem::replace(&mut self.seen, now) != self.seen
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<FileStamp>> {
    let look = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    paths.iter().map(look).collect()
}
