//! What `respmux run` needs to start, given wrong in every way: `respmux check` says the same, in the same words, and both
//! end with 78, which tells a supervisor not to try again.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kit::{Flavour, Pki, RealRedis, eventually, free_port};

struct Said {
    code: Option<i32>,
    text: String,
}

fn respmux(verb: &str, arguments: &[String], variables: &[(&str, &str)]) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_respmux"))
        .arg(verb)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let ended = eventually(Duration::from_secs(20), || match child.try_wait().expect("it can be asked") {
        Some(_) => Ok(true),
        None if verb == "run" => Err(format!("{arguments:?} runs")),
        None => Err("check does not end".to_owned()),
    });
    assert!(ended);
    let output = child.wait_with_output().expect("it has ended");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Said { code: output.status.code(), text: text.replace("\\\"", "\"") }
}

/// `run` and `check` refuse `arguments` with `wanted` in both texts.
fn refused(arguments: &[&str], wanted: &str) {
    let mut all = Vec::new();
    if !arguments.contains(&"--admin") {
        all.extend(["--admin".to_owned(), "off".to_owned()]);
    }
    if !arguments.contains(&"--listen") {
        all.extend(["--listen".to_owned(), format!("127.0.0.1:{}", free_port())]);
    }
    all.extend(arguments.iter().map(ToString::to_string));
    for verb in ["run", "check"] {
        let Said { code, text } = respmux(verb, &all, &[("PATH", "/nowhere")]);
        assert!(
            code == Some(78) && text.contains(wanted),
            "{verb} {arguments:?}: {code:?}, {wanted:?} is not in {text}"
        );
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn files_of_tls() {
    let (pki, other, dir) = (Pki::new(), Pki::new(), tempfile::tempdir().unwrap());
    let (pair, strange) = (pki.issue("a", &["127.0.0.1"], 2099), other.issue("b", &["127.0.0.1"], 2099));
    let (cert, key, foreign, ca) = (path(&pair.cert), path(&pair.key), path(&strange.key), path(&pki.ca()));
    let missing = path(&dir.path().join("missing.pem"));
    let empty = path(&dir.path().join("empty.pem"));
    let broken = path(&dir.path().join("broken.pem"));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").unwrap();
    let listen = format!("tls:127.0.0.1:{}", free_port());
    let tls = |more: &[String], wanted: &str| {
        let mut arguments = vec!["--listen".to_owned(), listen.clone()];
        for one in more {
            arguments.extend(["--set".to_owned(), one.clone()]);
        }
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    };
    let pair = |cert: &str, key: &str| [format!("tls.cert_file={cert}"), format!("tls.key_file={key}")];
    for (cert, key, wanted) in [
        (&missing, &key, "missing.pem"),
        (&cert, &missing, "missing.pem"),
        (&empty, &key, "there is no certificate in it"),
        (&cert, &empty, "empty.pem"),
        (&broken, &key, "broken.pem"),
        (&cert, &cert, "a.pem"),
        (&cert, &foreign, "keys may not be consistent"),
    ] {
        tls(&pair(cert, key), if wanted == "a.pem" { cert } else { wanted });
    }
    for wrong in [&missing, &empty, &broken] {
        let more = ["tls.client_auth=required".to_owned(), format!("tls.client_ca_file={wrong}")];
        tls(&[&pair(&cert, &key)[..], &more].concat(), wrong);
    }
    // Towards the upstream.
    let upstream = |more: &[String], wanted: &str| {
        let mut arguments = vec!["--upstream".to_owned(), "rediss://127.0.0.1:1".to_owned()];
        for one in more {
            arguments.extend(["--set".to_owned(), one.clone()]);
        }
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    };
    for wrong in [&missing, &empty, &broken] {
        upstream(&[format!("upstream.tls_ca_file={wrong}")], wrong);
    }
    let ours = |cert: &str, key: &str| {
        [
            format!("upstream.tls_ca_file={ca}"),
            format!("upstream.tls_cert_file={cert}"),
            format!("upstream.tls_key_file={key}"),
        ]
    };
    upstream(&ours(&missing, &key), "missing.pem");
    upstream(&ours(&cert, &missing), "missing.pem");
    upstream(&ours(&cert, &foreign), "keys may not be consistent");
    upstream(
        &[format!("upstream.tls_ca_file={ca}"), "upstream.tls_server_name=a name".to_owned()],
        "cannot be the name in a certificate",
    );
}

#[test]
fn a_system_without_authorities() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("none.pem");
    std::fs::write(&empty, "").unwrap();
    let arguments = ["--upstream", "rediss://127.0.0.1:1", "--admin", "off"].map(str::to_owned);
    let (file, folder) = (path(&empty), path(dir.path()));
    for verb in ["run", "check"] {
        let Said { code, text } = respmux(verb, &arguments, &[("SSL_CERT_FILE", &file), ("SSL_CERT_DIR", &folder)]);
        assert!(code == Some(78) && text.contains("this system has no list of authorities"), "{verb}: {code:?} {text}");
    }
}

#[test]
fn other_files_and_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let (missing, file) = (path(&dir.path().join("missing")), path(&dir.path().join("file")));
    std::fs::write(&file, "").unwrap();
    refused(&["--set", &format!("upstream.password_file={missing}")], "missing");
    refused(&["--set", &format!("upstream.password_file={file}")], "the file is empty");
    refused(&["--set", &format!("admin_token_file={missing}")], "missing");
    refused(&["--config", &missing], "missing");
    refused(&["--embedded"], "needs valkey-server or redis-server in PATH");
    refused(&["--set", "commands.deny=nosuch-command"], "NOSUCH-COMMAND");
    let nowhere = path(&dir.path().join("no").join("s.sock"));
    refused(&["--listen", &format!("unix:{nowhere}")], "No such file or directory");
    refused(&["--listen", &format!("unix:{file}")], "there is a file that is not a socket");
    refused(&["--listen", &format!("unix:{file}/s.sock")], "Not a directory");
    refused(
        &["--listen", "192.0.2.1:6380", "--set", "allow_remote_passwordless=true"],
        "Cannot assign requested address",
    );
    refused(&["--admin", "192.0.2.1:9380"], "admin: cannot listen on 192.0.2.1:9380: Cannot assign requested address");
    refused(&["--set", &format!("handover={nowhere}")], "No such file or directory");
    refused(&["--set", &format!("handover={file}")], "there is a file that is not a socket");
    let port = free_port();
    for (one, two) in [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("[::]", "127.0.0.1"), ("[::]", "0.0.0.0")] {
        let (one, two) = (format!("{one}:{port}"), format!("{two}:{port}"));
        let arguments = ["--listen", &one, "--listen", &two, "--set", "allow_remote_passwordless=true"];
        refused(&arguments, "cannot be listened on at once");
    }
    let address = format!("127.0.0.1:{port}");
    refused(&["--listen", &address, "--admin", &address], "clients listen on");
    let own = "is where respmux itself listens";
    refused(&["--listen", &address, "--upstream", &format!("redis://{address}")], own);
    refused(&["--listen", &address, "--upstream", &format!("redis://localhost:{port}")], own);
    let socket = path(&dir.path().join("own.sock"));
    refused(&["--listen", &format!("unix:{socket}"), "--upstream", &format!("unix://{socket}")], own);
}

/// Too few descriptors, which only the hard limit of a process shows.
#[test]
fn too_few_descriptors() {
    for verb in ["run", "check"] {
        let line = format!("ulimit -n 100; exec {} {verb} --admin off", env!("CARGO_BIN_EXE_respmux"));
        let output = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(78) && text.contains("too few file descriptors"), "{verb}: {output:?}");
    }
}

/// Somebody has the address now: a supervisor should try again, and `check` is asked before a reload while respmux has it.
#[test]
fn an_address_in_use_is_no_fault_of_the_configuration() {
    let (taken, dir) = (TcpListener::bind("127.0.0.1:0").unwrap(), tempfile::tempdir().unwrap());
    let address = taken.local_addr().unwrap().to_string();
    let socket = dir.path().join("s.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    for listen in [&address, &format!("unix:{}", socket.display())] {
        let arguments = ["--admin", "off", "--listen", listen].map(str::to_owned);
        let Said { code, text } = respmux("run", &arguments, &[]);
        assert!(code == Some(1) && text.to_lowercase().contains("in use"), "{code:?} {text}");
        let Said { code, text } = respmux("check", &arguments, &[]);
        assert!(code == Some(0) && text.contains("is in use now"), "{code:?} {text}");
    }
}

fn connected(arguments: &[&str]) -> (Option<i32>, String) {
    let mut all = vec!["--connect".to_owned(), "--admin".to_owned(), "off".to_owned()];
    all.extend(["--listen".to_owned(), format!("127.0.0.1:{}", free_port())]);
    all.extend(arguments.iter().map(ToString::to_string));
    let Said { code, text } = respmux("check", &all, &[]);
    (code, text)
}

#[test]
fn connect_tries_the_login_and_tls() {
    let (pki, other) = (Pki::new(), Pki::new());
    let port = free_port();
    let redis =
        RealRedis::start_tls(Flavour::Redis70, &pki, port, &["--requirepass", "right", "--tls-auth-clients", "no"]);
    let plain = |user: &str| format!("redis://{user}127.0.0.1:{}", redis.port());
    let (code, text) = connected(&["--upstream", &plain(":right@")]);
    assert!(code == Some(0) && text.contains("Connected redis 7.0.15 at 127.0.0.1:"), "{code:?} {text}");
    let (code, text) = connected(&["--upstream", &plain(":wrong@")]);
    assert!(code == Some(78) && text.contains("WRONGPASS") && !text.contains("wrong@"), "{code:?} {text}");
    let (code, text) = connected(&["--upstream", &plain("")]);
    assert!(code == Some(0) && text.contains("wants a login, and none is configured"), "{code:?} {text}");
    let (code, text) = connected(&["--upstream", &format!("{}/99", plain(":right@"))]);
    assert!(code == Some(78) && text.contains("DB index is out of range"), "{code:?} {text}");
    let (code, text) = connected(&["--upstream", &format!("redis://127.0.0.1:{}", free_port())]);
    assert!(code == Some(1) && text.contains("refused"), "{code:?} {text}");
    let tls = format!("rediss://:right@127.0.0.1:{port}");
    let ca = |pki: &Pki| format!("upstream.tls_ca_file={}", pki.ca().display());
    let (code, text) = connected(&["--upstream", &tls, "--set", &ca(&pki)]);
    assert!(code == Some(0) && text.contains("Connected redis 7.0.15"), "{code:?} {text}");
    let (code, text) = connected(&["--upstream", &tls, "--set", &ca(&other)]);
    assert!(code == Some(78) && text.contains("TLS"), "{code:?} {text}");
}

/// The first things that anybody gets wrong between respmux and its upstream, each with what to change.
#[test]
fn the_usual_mistakes_are_told_in_a_sentence() {
    use std::io::{Read as _, Write as _};

    let (pki, other) = (Pki::new(), Pki::new());
    let set = |key: &str, path: &Path| format!("{key}={}", path.display());
    let mistake = |arguments: &[&str], wanted: &str| {
        let (code, text) = connected(&[arguments, &["--set", "upstream.handshake_timeout=2s"]].concat());
        assert!(code != Some(0) && text.contains(wanted), "{arguments:?}: {wanted:?} is not in {code:?} {text}");
    };
    let ca = set("upstream.tls_ca_file", &pki.ca());
    let start = |pair: &kit::Pair, more: &[&str]| {
        let port = free_port();
        (RealRedis::start_tls_with(Flavour::Redis70, &pki, pair, port, more), format!("rediss://127.0.0.1:{port}"))
    };
    let good = pki.issue("good", &["127.0.0.1"], 2099);
    let (redis, url) = start(&good, &["--tls-auth-clients", "no"]);
    mistake(
        &["--upstream", &url, "--set", &set("upstream.tls_ca_file", &other.ca())],
        "has signed the upstream's certificate",
    );
    mistake(&["--upstream", &url.replace("rediss", "redis")], "rediss://");
    let plain = redis.url().replace("redis://", "rediss://");
    mistake(&["--upstream", &plain, "--set", &ca], "is this a port without TLS (then redis://");
    let named = ["--upstream", &url, "--set", &ca, "--set", "upstream.tls_server_name=db.example"];
    mistake(&named, "is not for \"db.example\": set upstream.tls_server_name");
    let (_old, url) = start(&pki.issue("old", &["127.0.0.1"], 2021), &["--tls-auth-clients", "no"]);
    mistake(&["--upstream", &url, "--set", &ca], "has expired");
    let (_mutual, url) = start(&good, &["--tls-auth-clients", "yes"]);
    mistake(&["--upstream", &url, "--set", &ca], "wants a certificate of ours: set upstream.tls_cert_file");
    // An authority's own certificate, as `openssl req -x509` makes it.
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let own = kit::Pair { cert: dir.path().join("own.pem"), key: dir.path().join("own.key") };
    std::fs::write(&own.cert, parameters.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&own.key, key.serialize_pem()).unwrap();
    let (_own, url) = start(&own, &["--tls-auth-clients", "no"]);
    mistake(
        &["--upstream", &url, "--set", &set("upstream.tls_ca_file", &own.cert)],
        "authority's certificate (self-signed)",
    );
    // A web server.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in web.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html></html>");
        }
    });
    mistake(&["--upstream", &format!("redis://{address}")], "it answers like a web server");
    mistake(&["--upstream", &format!("rediss://{address}"), "--set", &ca], "redis://, not rediss://");
}
