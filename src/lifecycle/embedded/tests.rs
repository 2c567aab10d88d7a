//! Against the server installed here. A death by `kill -9` needs a process that can be killed: the tests start their
//! own binary again, with [`holder`] as its only test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream as StdStream;
use std::process::{Child as StdChild, Command as StdCommand};
use std::time::Instant as StdInstant;

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn ask(socket: &Path, request: &str) -> String {
    let mut stream = StdStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn is_alive(number: u32) -> bool {
    // A zombie is dead: its parent, or init, has only not looked yet.
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = StdInstant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(StdInstant::now() < deadline, "after 10 s still not: {what}");
        sleep(POLL).await;
    }
}

#[test]
fn it_is_private_keeps_nothing_and_leaves_nothing() {
    block_on(async {
        let embedded = start().await.unwrap();
        let Endpoint::Unix(socket) = embedded.endpoint().clone() else { panic!("no unix socket") };
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let directory = socket.parent().unwrap().to_owned();
        assert_eq!((mode(&directory), mode(&socket)), (0o700, 0o700));
        for (request, value) in [
            ("CONFIG GET port\r\n", "$1\r\n0\r\n"),
            ("CONFIG GET save\r\n", "$0\r\n\r\n"),
            ("CONFIG GET appendonly\r\n", "$2\r\nno\r\n"),
            ("CONFIG GET maxclients\r\n", "$5\r\n10000\r\n"),
        ] {
            let answer = ask(&socket, request);
            assert!(answer.ends_with(value), "{request}{answer}");
        }
        let (server, guard) = (embedded.server.id().unwrap(), embedded.guard.as_ref().unwrap().id());
        embedded.stop().await;
        assert!(!directory.exists());
        assert!(!is_alive(server) && !is_alive(guard.unwrap()));
    });
}

#[test]
fn dropping_it_ends_it() {
    block_on(async {
        let embedded = start().await.unwrap();
        let (directory, server) = (embedded.directory.path.clone(), embedded.server.id().unwrap());
        drop(embedded);
        assert!(!directory.exists());
        eventually("the server is gone", || !is_alive(server)).await;
    });
}

#[test]
fn its_end_is_seen() {
    block_on(async {
        let mut embedded = start().await.unwrap();
        ask(&embedded.directory.socket(), "PING\r\n");
        let mut stream = StdStream::connect(embedded.directory.socket()).unwrap();
        stream.write_all(b"SHUTDOWN NOSAVE\r\n").unwrap();
        let limit = Duration::from_secs(10);
        let status = tokio::time::timeout(limit, embedded.wait_exit()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    });
}

/// Not a test of its own: the process that [`killed`] kills.
#[test]
#[ignore = "started by other tests"]
fn holder() {
    block_on(async {
        match start().await {
            Ok(embedded) => {
                let directory = embedded.directory.path.display();
                println!("\nHOLDING {} {directory}", embedded.server.id().unwrap());
                std::future::pending::<()>().await;
            }
            Err(error) => println!("\nHOLDING {error:#}"),
        }
    });
}

/// Starts [`holder`] with these programs alone in PATH. Returns what it says.
fn hold(path: &Path) -> (StdChild, String) {
    let mut child = StdCommand::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "lifecycle::embedded::tests::holder"])
        .env("PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.filter_map(|line| line.strip_prefix("HOLDING ").map(str::to_owned)).next();
    (child, said.expect("the holder says something"))
}

fn programs(names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        let program = find_program(&env::var_os("PATH").unwrap(), name);
        symlink(program.expect("installed"), directory.path().join(name)).unwrap();
    }
    directory
}

/// Kills a process that holds a server and has only the programs in `path`; returns the directory of the server when
/// that is dead. The programs must stay for as long as the guard may look for them.
fn killed(path: &tempfile::TempDir) -> PathBuf {
    let (mut child, said) = hold(path.path());
    let (server, directory) = said.split_once(' ').unwrap();
    let (server, directory): (u32, _) = (server.parse().unwrap(), PathBuf::from(directory));
    assert!(is_alive(server) && directory.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    block_on(eventually("the server is gone", || !is_alive(server)));
    directory
}

#[test]
fn kill_9_takes_the_server_along_by_the_kernel() {
    let directory = killed(&programs(&["redis-server", "setpriv"]));
    // Without a shell nobody is left to clean up.
    assert!(directory.exists());
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn kill_9_takes_the_server_along_by_the_guard() {
    let path = programs(&["redis-server", "sh", "rm"]);
    let directory = killed(&path);
    block_on(eventually("the directory is gone", || !directory.exists()));
}

#[test]
fn no_server_says_what_to_install() {
    let path = programs(&["sh"]);
    let (mut child, said) = hold(path.path());
    child.wait().unwrap();
    assert!(said.contains("needs valkey-server or redis-server in PATH; install one"), "{said}");
}

#[test]
fn a_server_that_fails_says_why() {
    let path = programs(&["sh", "rm"]);
    let server = path.path().join("valkey-server");
    fs::write(&server, "#!/bin/sh\necho no memory left >&2\nexit 3\n").unwrap();
    fs::set_permissions(&server, PermissionsExt::from_mode(0o755)).unwrap();
    let (mut child, said) = hold(path.path());
    child.wait().unwrap();
    assert!(said.contains("exit status: 3: no memory left"), "{said}");
}
