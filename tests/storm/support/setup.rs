//! Where `tests/setup.sh` put servers and client libraries.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path under `key` (`REDIS70`, `PYTHON`, `NODE_PATH`, …) in `target/test-env`, which `tests/setup.sh` writes.
/// The script runs once per test binary and returns at once when nothing is left to do.
pub(crate) fn path_of(key: &str) -> PathBuf {
    static PATHS: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    let paths = PATHS.get_or_init(provision);
    paths.get(key).unwrap_or_else(|| panic!("target/test-env has no {key}")).clone()
}

fn provision() -> HashMap<String, PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("tests/setup.sh");
    if script.exists() {
        let done = Command::new("bash").arg(&script).output().expect("bash runs");
        assert!(done.status.success(), "tests/setup.sh failed:\n{}", String::from_utf8_lossy(&done.stderr));
    }
    let text = std::fs::read_to_string(root.join("target/test-env")).expect("tests/setup.sh wrote target/test-env");
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, path)| (key.to_owned(), PathBuf::from(path))).collect()
}
