//! A private server behind this process: `--embedded`.
//!
//! `valkey-server` or `redis-server` from PATH, on a unix socket that only this user can reach, with no TCP port and no
//! persistence. It is gone when this process is, however this process ends:
//!
//! * a normal end: [`Embedded::stop`], or dropping it;
//! * `kill -9`: the kernel kills the server, if `setpriv` (util-linux) is in PATH to ask for that;
//!   and a small shell, which reads a pipe that only this process holds open, kills it when the
//!   pipe ends, and removes the directory.
//!
//! With neither `setpriv` nor `sh` a killed process leaves its server behind; a warning says so.
//! Both children have process groups of their own, so that Ctrl-C ends the proxy first, which
//! drains, and not the server under it.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::Endpoint;

/// From spawning the server to its first answer.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two looks at a server that does not answer yet.
const POLL: Duration = Duration::from_millis(10);

/// Server programs, in the order of preference.
const SERVERS: [&str; 2] = ["valkey-server", "redis-server"];

/// Waits for the end of standard input, then kills `$1` and removes `$2`.
const GUARD: &str = "while read -r _; do :; done; kill -9 \"$1\" 2>/dev/null; rm -rf -- \"$2\"";

/// A running private server. Dropping it kills the server and removes its files.
#[derive(Debug)]
pub struct Embedded {
    // Dropped in this order: the guard must not outlive the server, whose number may be used again.
    guard: Option<Child>,
    server: Child,
    endpoint: Endpoint,
    directory: PrivateDirectory,
}

/// Starts a private server and waits until it answers.
///
/// To be called on a thread that lives as long as the process: Linux counts the end of the *thread* that started a
/// child as the death of its parent.
///
/// # Errors
/// When no server is installed, or it does not answer within 10 s; then with the end of its log.
pub async fn start() -> anyhow::Result<Embedded> {
    let path = env::var_os("PATH").unwrap_or_default();
    let program = find_server().map_err(anyhow::Error::msg)?;
    let directory = PrivateDirectory::create()?;
    let setpriv = find_program(&path, "setpriv");
    let server = spawn_server(&program, setpriv.as_deref(), &directory)
        .with_context(|| format!("starting {}", program.display()))?;
    let guard = spawn_guard(&server, &directory);
    if guard.is_none() && setpriv.is_none() {
        tracing::warn!("the embedded server stays if this process is killed: no setpriv, no sh");
    }
    let endpoint = Endpoint::Unix(directory.socket());
    let mut embedded = Embedded { guard, server, endpoint, directory };
    embedded.answers(&program).await?;
    Ok(embedded)
}

/// The server that would be started.
///
/// # Errors
/// None is installed.
pub(crate) fn find_server() -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    SERVERS.iter().find_map(|name| find_program(&path, name)).ok_or_else(|| {
        "--embedded needs valkey-server or redis-server in PATH; install one (Debian: apt-get \
         install valkey-server or redis-server) or name an upstream with --upstream"
            .to_owned()
    })
}

impl Embedded {
    /// Where the server listens. There is no password.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Waits until the server ends by itself, which it should not. May be dropped and called again.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn wait_exit(&mut self) -> io::Result<ExitStatus> {
        let status = self.server.wait().await;
        if let Some(guard) = &mut self.guard {
            // Its server is gone; another process may get that number.
            let _ = guard.start_kill();
        }
        status
    }

    /// Ends the server and removes its files. There is nothing to save.
    pub async fn stop(mut self) {
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill().await;
        }
        // Fails only when the server has ended already.
        let _ = self.server.kill().await;
    }

    /// Returns when the server, started from `program`, answers PING.
    async fn answers(&mut self, program: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        let program = program.display();
        loop {
            if let Ok(Ok(())) = timeout_at(deadline, ping(&self.directory.socket())).await {
                return Ok(());
            }
            if let Some(status) = self.server.try_wait()? {
                bail!("{program} ended with {status}: {}", self.directory.log_end());
            }
            if Instant::now() >= deadline {
                let log = self.directory.log_end();
                bail!("{program} does not answer within {START_DEADLINE:?}: {log}");
            }
            sleep(POLL).await;
        }
    }
}

async fn ping(socket: &Path) -> io::Result<()> {
    const PONG: &[u8] = b"+PONG\r\n";
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; PONG.len()];
    stream.read_exact(&mut answer).await?;
    if answer == PONG { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn spawn_server(program: &Path, setpriv: Option<&Path>, directory: &PrivateDirectory) -> io::Result<Child> {
    let mut command = match setpriv {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    let log = File::create(directory.log())?;
    command
        .args(["--port", "0", "--unixsocketperm", "700", "--unixsocket"])
        .arg(directory.socket())
        .arg("--dir")
        .arg(&directory.path)
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(["--maxclients", "10000", "--loglevel", "warning"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// The shell that outlives this process by a moment; nothing when there is no shell.
fn spawn_guard(server: &Child, directory: &PrivateDirectory) -> Option<Child> {
    let number = server.id()?;
    Command::new("sh")
        .args(["-c", GUARD, "respmux-embedded", &number.to_string()])
        .arg(&directory.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .ok()
}

fn find_program(path: &OsStr, name: &str) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|directory| directory.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

/// A directory only this user can enter, removed with all in it when dropped.
#[derive(Debug)]
struct PrivateDirectory {
    path: PathBuf,
}

impl PrivateDirectory {
    fn create() -> anyhow::Result<Self> {
        // A socket path has at most 107 bytes, so a long TMPDIR is of no use.
        let parent = Some(env::temp_dir()).filter(|dir| dir.as_os_str().len() < 64);
        let parent = parent.unwrap_or_else(|| PathBuf::from("/tmp"));
        let path = parent.join(format!("respmux-{:016x}", fastrand::u64(..)));
        let mut builder = DirBuilder::new();
        // Fails if the name is taken: nobody can have prepared what is in it.
        builder.mode(0o700).create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path })
    }

    fn socket(&self) -> PathBuf {
        self.path.join("redis.sock")
    }

    fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// The last lines the server wrote, in one.
    fn log_end(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        match lines.len() {
            0 => "it wrote no log".to_owned(),
            count => lines[count.saturating_sub(5)..].join(" | "),
        }
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests;
