//! The configuration as an operator meets it: the built program, its flags, variables and files, and what it prints.
//! Variables are set for child processes only.

#![allow(clippy::unwrap_used)] // .clippy.toml lets only the tests themselves, not what they call

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Answer {
    code: i32,
    out: String,
    err: String,
}

/// Runs respmux with this command line and these variables alone.
fn respmux(arguments: &[&str], variables: &[(&str, &str)]) -> Answer {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_respmux"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    Answer {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

fn write(directory: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The line of `config print` for a key.
fn line<'a>(printed: &'a str, name: &str) -> &'a str {
    let mut lines = printed.lines();
    let line = lines.find(|line| line.trim_start_matches("# ").split(' ').next() == Some(name));
    line.unwrap_or_else(|| panic!("{name} is not in {printed}"))
}

#[test]
fn valid_files_pass_the_check() {
    assert!(fixtures("valid").len() >= 3);
    for path in fixtures("valid") {
        // The sidecar's socket is in a folder that is not here.
        let answer = respmux(&["check", "--elsewhere", "--config", path.to_str().unwrap()], &[]);
        assert_eq!(answer.code, 0, "{}: {}", path.display(), answer.err);
        assert!(answer.out.contains("(a hard cap)"), "{}", answer.out);
        assert!(!answer.out.contains("from a fixture"), "{}", answer.out);
    }
}

#[test]
fn invalid_files_are_refused_at_the_right_place() {
    assert!(fixtures("invalid").len() >= 20);
    for path in fixtures("invalid") {
        let name = path.to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let expected: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: "))
            .map(|line| line.replace("FILE", name))
            .collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        let run = respmux(&["run", "--config", name], &[]);
        let check = respmux(&["check"], &[("RESPMUX_CONFIG", name)]);
        assert_eq!((run.code, check.code), (78, 78), "{name}: {}", run.err);
        assert_eq!(run.err, check.err);
        let problems: Vec<&str> = run.err.lines().skip(1).collect();
        assert_eq!(problems.len(), expected.len(), "{name}: {problems:?}");
        for (problem, expected) in problems.iter().zip(&expected) {
            assert!(problem.starts_with(expected), "{name}:\n{problem}\n{expected}");
        }
        assert!(!run.err.contains("hunter2"), "{}", run.err);
    }
}

#[test]
fn flags_go_over_variables_over_the_file_over_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let text = "workers = 1\n[upstream]\nconnect_timeout = \"2s\"\nidle_timeout = \"2s\"\n";
    let file = write(&directory, "r.toml", text);
    let variables = [
        ("RESPMUX_CONFIG", file.as_str()),
        ("RESPMUX_WORKERS", "2"),
        ("RESPMUX_UPSTREAM_IDLE_TIMEOUT", "3s"),
        ("RESPMUX_MAX_UPSTREAM_CONNECTIONS", "24"),
        ("RESPMUX_LISTEN", "127.0.0.1:1,unix:/s"),
        ("RESPMUX_SERVICE_HOST", "10.0.0.1"),
        ("RESPMUX_PORT", "tcp://10.0.0.1:6379"),
    ];
    let flags = ["config", "print", "--workers", "3", "--set", "pool.wait_timeout=9s"];
    let answer = respmux(&flags, &variables);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let printed = &answer.out;
    assert_eq!(line(printed, "workers"), "workers = 3  # flag --workers");
    assert_eq!(line(printed, "idle_timeout"), "idle_timeout = \"3s\"  # variable RESPMUX_UPSTREAM_IDLE_TIMEOUT");
    assert_eq!(line(printed, "connect_timeout"), format!("connect_timeout = \"2s\"  # {file}:3:19"));
    assert_eq!(line(printed, "wait_timeout"), "wait_timeout = \"9s\"  # flag --set pool.wait_timeout");
    assert_eq!(line(printed, "backoff_max"), "backoff_max = \"1500ms\"  # default");
    let listen = "listen = [\"127.0.0.1:1\", \"unix:/s\"]  # variable RESPMUX_LISTEN";
    assert_eq!(line(printed, "listen"), listen);
    // What is printed is TOML that says the same.
    let printed_file = write(&directory, "printed.toml", printed);
    let again = respmux(&["config", "print", "--config", &printed_file], &[]).out;
    let values = |text: &str| text.lines().map(|line| line.split("  # ").next().map(str::to_owned)).collect::<Vec<_>>();
    assert_eq!(values(&again), values(printed));
}

#[test]
fn unknown_variables_and_flags_are_named() {
    let answer = respmux(&["run"], &[("RESPMUX_UPSTREM", "redis://:hunter2@h")]);
    assert_eq!(answer.code, 78);
    let expected = "RESPMUX_UPSTREM: unknown variable; did you mean RESPMUX_UPSTREAM?";
    assert_eq!(answer.err.lines().nth(1), Some(expected));
    let answer = respmux(&["run", "--max-upstream-conections", "8"], &[]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("--max-upstream-connections"), "{}", answer.err);
    let answer = respmux(&["--set", "pool.wait=1s"], &[]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("--set: unknown key \"pool.wait\""), "{}", answer.err);
    let answer = respmux(&["run", "--config", "/nonexistent/r.toml"], &[]);
    assert_eq!(answer.code, 78);
    assert!(answer.err.contains("--config: /nonexistent/r.toml: No such file"), "{}", answer.err);
}

#[test]
fn secrets_are_printed_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let secret = write(&directory, "password", "hunter2\n");
    let file = write(&directory, "r.toml", "[upstream]\npassword = \"hunter2\"\n");
    type Place<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);
    let places: [Place<'_>; 5] = [
        (&["--upstream", "redis://app:hunter2@h/1"], &[]),
        (&["--set", "upstream.password=hunter2"], &[]),
        (&["--config", &file], &[]),
        (&[], &[("RESPMUX_UPSTREAM", "valkey://:hunter2@h")]),
        (&[], &[("RESPMUX_UPSTREAM_PASSWORD_FILE", &secret)]),
    ];
    for (flags, variables) in places {
        for command in [&["config", "print"] as &[&str], &["check"], &["check", "--json"]] {
            let answer = respmux(&[command, flags].concat(), variables);
            assert_eq!(answer.code, 0, "{command:?} {flags:?}: {}", answer.err);
            let said = answer.out + &answer.err;
            assert!(!said.contains("hunter2"), "{command:?} {flags:?}: {said}");
            let is_file = variables.iter().any(|(name, _)| name.ends_with("_FILE"));
            let warns = said.contains("holds a password; upstream.password_file keeps it");
            assert_eq!(warns, !is_file && command[0] == "check", "{command:?} {flags:?}: {said}");
        }
    }
    let printed = respmux(&["config", "print", "--upstream", "redis://app:hunter2@h/1"], &[]).out;
    let expected = "# url = \"redis://app:***@h:6379/1\"  # flag --upstream; redacted";
    assert_eq!(line(&printed, "url"), expected);
}

#[test]
fn the_check_shows_summary_table_and_warnings() {
    let flags = ["check", "--workers", "2", "--max-upstream-connections", "15", "--admin", "off"];
    let answer = respmux(&[&flags as &[&str], &["--drain-delay", "10s", "--set", "memory.limit=64MiB"]].concat(), &[]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let expected = "\
Listen    127.0.0.1:6380
Upstream  127.0.0.1:6379, database 0, no password
Admin     off
Workers   2
Clients   at most 10000
Memory    buffers take at most 64MiB

Upstream connections: at most 15, over all workers and kinds (a hard cap)

  worker  control  login  lanes   pool   hubs  total
       0        1      1      3      2      1      8
       1        1      1      2      2      1      7
     all        2      2      5      4      2     15

warning: drain.delay and drain.timeout together exceed 30s";
    assert!(answer.out.starts_with(expected), "{}", answer.out);
}

#[test]
fn the_check_answers_in_json() {
    let flags = ["check", "--json", "--workers", "2", "--max-upstream-connections", "15"];
    let answer = respmux(&flags, &[]);
    assert_eq!(answer.code, 0);
    let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["workers"], 2);
    assert_eq!(report["budget"]["max_connections"], 15);
    let expected = serde_json::json!(
        {"control": 1, "login": 1, "scratch": 1, "lanes": 2, "pool": 2, "hubs": 1, "total": 7}
    );
    assert_eq!(report["budget"]["workers"][1], expected);
    let expected = serde_json::json!({"value": 15, "effective": 15, "origin": "flag --max-upstream-connections"});
    assert_eq!(report["config"]["upstream.max_connections"], expected);
    assert_eq!(report["config"]["upstream.connect_timeout"]["value"], "1s");

    let answer = respmux(&["check", "--json"], &[("RESPMUX_WORKERS", "many")]);
    assert_eq!(answer.code, 78);
    let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(report["ok"], false);
    let expected = "RESPMUX_WORKERS: workers: expected a whole number or \"auto\", got \"many\"";
    assert_eq!(report["errors"], serde_json::json!([expected]));
}

#[test]
fn the_example_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let example = respmux(&["config", "example"], &[]);
    assert_eq!(example.code, 0);
    let file = write(&directory, "r.toml", &example.out);
    // Values without their origins.
    let values = |arguments: &[&str]| -> BTreeSet<String> {
        let printed = respmux(arguments, &[]).out;
        printed.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect()
    };
    let defaults = values(&["config", "print"]);
    assert!(defaults.len() > 40, "{defaults:?}");
    assert_eq!(values(&["config", "print", "--config", &file]), defaults);
}

#[test]
fn version_and_help_are_short_answers() {
    let version = respmux(&["--version"], &[("RESPMUX_WORKERS", "many")]);
    assert_eq!((version.code, version.out.as_str()), (0, concat!("respmux ", env!("CARGO_PKG_VERSION"), "\n")));
    let help = respmux(&["run", "--help"], &[]);
    assert_eq!(help.code, 0);
    for flag in [
        "--listen <ADDR|tls:ADDR|unix:PATH>",
        "--upstream <URL>",
        "--max-upstream-connections <N>",
        "--workers <N>",
        "--admin <ADDR>",
        "--config <FILE>",
        "--embedded",
        "--drain-delay <TIME>",
        "--drain-timeout <TIME>",
        "--log-level <LEVEL>",
        "--log-format <FORMAT>",
        "--set <KEY=VALUE>",
    ] {
        assert!(help.out.contains(flag), "{flag}: {}", help.out);
    }
}
