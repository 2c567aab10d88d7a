//! Where `tests/setup.sh` put the servers and client libraries.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path that `tests/setup.sh` wrote under `key` (`REDIS70`, `PYTHON`, `NODE_PATH`, …).
///
/// Runs the script once per test binary; it returns at once when its work is done already.
pub fn path_of(key: &str) -> PathBuf {
    static PATHS: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    let paths = PATHS.get_or_init(provision);
    paths.get(key).unwrap_or_else(|| panic!("target/test-env has no {key}; does tests/setup.sh write it?")).clone()
}

fn provision() -> HashMap<String, PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let script = root.join("tests/setup.sh");
    let done = Command::new("bash").arg(&script).output().expect("bash runs");
    assert!(done.status.success(), "tests/setup.sh failed:\n{}", String::from_utf8_lossy(&done.stderr));
    let text = std::fs::read_to_string(root.join("target/test-env")).expect("tests/setup.sh wrote target/test-env");
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, path)| (key.to_owned(), PathBuf::from(path)))
        .collect()
}
