//! What a start needs beyond the words of the configuration: files, addresses, descriptors, a server program. `respmux
//! check` and `respmux run` ask here, so that one does not say yes to what the other refuses.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};
use socket2::{Domain, Socket, Type};
use tokio::runtime::{Builder, LocalOptions};

use super::bind::CannotListen;
use super::{embedded, startup};
use crate::config::{Config, Listen, SecretSource};
use crate::link::{
    Budget, ClientTls, DialError, Dialer, DialerParts, OwnIds, Use, client_config, decoded, server_config, server_name,
};
use crate::resp::encode;
use crate::session::{Identity, RouteKey};
use crate::telemetry::{ConnectError, ProcessFacts, Shard, UpstreamCloseReason};
use crate::topology::NodeId;

/// How long a listener that may be there already has for an answer.
const LOOK: Duration = Duration::from_millis(300);

/// What is wrong with the files that the configuration names, and with the machine as far as that will stay: one line
/// each.
pub(crate) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |result: Result<(), String>| problems.extend(result.err());
    note(startup::enough_descriptors(
        config,
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(_, hard)| hard),
    ));
    if let Some(token @ SecretSource::File(_)) = &config.admin_token {
        note(token.read().map(drop).map_err(|error| format!("admin_token_file: {error}")));
    }
    if config.listen.iter().any(Listen::is_tls) {
        note(server_config(&config.tls).map(drop).map_err(|error| format!("tls: {error}")));
    }
    if config.upstream.tls.enabled {
        let read = client_config(&config.upstream.tls, config.tls.min_version);
        note(read.map(drop).map_err(|error| format!("upstream.tls: {error}")));
        note(
            server_name(&config.upstream.tls, &config.upstream.endpoint)
                .map(drop)
                .map_err(|error| format!("upstream.tls: {error}")),
        );
    }
    if config.embedded {
        note(embedded::find_server().map(drop));
    }
    problems
}

/// The addresses that cannot be listened on here, and those on which somebody listens now: for the second a start has
/// to wait, or takes them over.
pub(crate) fn addresses(config: &Config) -> (Vec<String>, Vec<String>) {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let mut tried: Vec<(&str, String, io::Result<()>, bool)> = Vec::new();
    for listen in &config.listen {
        let (result, taken) = match listen {
            Listen::Tcp(address) | Listen::Tls(address) => (try_address(*address), is_answered(*address)),
            Listen::Unix(path) => (try_path(path), UnixStream::connect(path).is_ok()),
        };
        tried.push(("listen", listen.to_string(), result, taken));
    }
    if let Some(path) = &config.handover {
        tried.push(("handover", path.display().to_string(), try_path(path), UnixStream::connect(path).is_ok()));
    }
    if let Some(admin) = config.admin {
        tried.push(("admin", admin.to_string(), try_address(admin), is_answered(admin)));
    }
    for (what, address, result, taken) in tried {
        let Err(error) = result else { continue };
        // One that systemd or the process that runs has bound may be beyond our own rights.
        if taken || error.kind() == io::ErrorKind::AddrInUse {
            if what != "handover" {
                warnings.push(format!("{what}: {address} is in use now: by the process that is to be replaced?"));
            }
        } else {
            problems.push(CannotListen::new(what, &address, error).to_string());
        }
    }
    (problems, warnings)
}

/// Binds and lets go: nobody can connect to a socket that does not listen.
fn try_address(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn is_answered(address: SocketAddr) -> bool {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    TcpStream::connect_timeout(&address, LOOK).is_ok()
}

/// As the start does it, without making anything: a file in the way, a directory that is not there or not ours.
fn try_path(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(super::bind::no_socket()),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    access(parent, Access::WRITE_OK | Access::EXEC_OK)?;
    Ok(())
}

/// What came of a try to reach the upstream.
pub(crate) enum Tried {
    /// The upstream answered; the text says who it is.
    Connected(String),
    /// The upstream is there and refuses what the configuration has.
    Refused(String),
    /// The upstream is not there, or does not answer: the configuration may be right.
    Away(String),
}

/// Connects as a worker does: TLS, login, database.
pub(crate) fn connect(config: &Config) -> Tried {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return Tried::Away(error.to_string()),
    };
    let tried = runtime.block_on(dial(config));
    let endpoint = startup::endpoint(config);
    match tried {
        Ok(server) => Tried::Connected(format!("{server} at {endpoint} takes the login")),
        Err(DialError::Identity(text)) if text.starts_with(b"NOAUTH") && config.upstream.password.is_none() => {
            Tried::Connected(format!(
                "{endpoint} wants a login, and none is configured: every client has to log in itself, and respmux cannot \
                 look after the upstream (upstream.password_file)"
            ))
        }
        Err(DialError::Unavailable { cause, text }) if cause != ConnectError::Tls => {
            Tried::Away(format!("upstream {endpoint}: {text}"))
        }
        Err(error) => Tried::Refused(format!("upstream {endpoint}: {error}")),
    }
}

async fn dial(config: &Config) -> Result<String, DialError> {
    let unavailable = |text: &str| DialError::Unavailable { cause: ConnectError::Io, text: text.to_owned() };
    let tls = match config.upstream.tls.enabled {
        true => {
            client_config(&config.upstream.tls, config.tls.min_version).ok().map(|read| ClientTls::new(read.config))
        }
        false => None,
    };
    let facts = ProcessFacts::new(&startup::endpoint(config), "");
    let parts = DialerParts {
        config: Rc::new(config.clone()),
        shard: Arc::new(Shard::new(1)),
        facts: Arc::clone(facts.node(NodeId::ONLY.number())),
        worker: 0,
        owned: OwnIds::default(),
        keyring: Rc::default(),
        tls,
    };
    let dialer = Dialer::new(NodeId::ONLY, config.upstream.endpoint.clone(), parts);
    let permit = Budget::new(config.division().worker(0)).permit(Use::Control);
    let permit = permit.ok_or_else(|| unavailable("there is no place for a connection"))?;
    let key = RouteKey::fresh(Identity::Implicit, config.upstream.db);
    let mut link = dialer.dial(permit, &key).await.map_err(|(error, _)| error)?;
    let mut command = bytes::BytesMut::new();
    encode::command(&mut command, &["INFO", "server"]);
    let answer = tokio::time::timeout(config.upstream.handshake_timeout, link.call(&command, 1)).await;
    drop(link.close(UpstreamCloseReason::Idle).await);
    let Ok(Ok(replies)) = answer else { return Err(unavailable("connected, but INFO was not answered")) };
    let text = decoded(&replies[0]).ok().and_then(|info| Some(String::from_utf8_lossy(info.as_text()?).into_owned()));
    let text = text.unwrap_or_default();
    let version = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    Ok(match (version("valkey_version:"), version("redis_version:")) {
        (Some(version), _) => format!("valkey {version}"),
        (None, Some(version)) => format!("redis {version}"),
        (None, None) => "a server".to_owned(),
    })
}
