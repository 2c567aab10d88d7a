//! What the machine lets the process have.

use std::fs;
use std::path::Path;
use std::thread;

/// What the configuration takes from the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// Cores this process may use.
    pub(crate) parallelism: usize,
    /// Hard limit on open files, if there is one.
    pub(crate) open_files: Option<u64>,
    /// Bytes of memory this process may use, if that is known.
    pub(crate) memory: Option<u64>,
    /// Picks the instance: any number.
    pub(crate) random: u64,
}

impl Host {
    pub(super) fn detect() -> Self {
        Self {
            parallelism: thread::available_parallelism().map_or(1, usize::from),
            open_files: rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(_, hard)| hard),
            memory: memory(),
            random: fastrand::u64(..),
        }
    }
}

/// Bytes of memory the process may use: the lowest limit of its cgroup and those above it (v2, else v1), or the
/// machine's memory where that is less. `None` where nothing can be read.
fn memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let physical = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text));
    [cgroup_limit(Path::new("/sys/fs/cgroup"), &groups), physical].into_iter().flatten().min()
}

/// The lowest limit that holds for a process of these groups (the text of /proc/self/cgroup).
fn cgroup_limit(root: &Path, groups: &str) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        // A container sees its own group as the root, under whatever name it has outside.
        let own = base.join(path.trim_start_matches('/'));
        limits.extend(own.ancestors().take_while(|folder| folder.starts_with(&base)).filter_map(|f| limit(f, file)));
    }
    limits.into_iter().min()
}

/// "max", and the huge number by which v1 says the same, are none.
fn limit(folder: &Path, file: &str) -> Option<u64> {
    let bytes: u64 = fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()?;
    (bytes < 1 << 62).then_some(bytes)
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_holds() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "a/memory.max", "1000\n");
        put(root.path(), "a/b/memory.max", "max\n");
        assert_eq!(cgroup_limit(root.path(), "0::/a/b\n"), Some(1000));
        put(root.path(), "a/b/memory.max", "10\n");
        assert_eq!(cgroup_limit(root.path(), "0::/a/b\n"), Some(10));
        assert_eq!(cgroup_limit(root.path(), "0::/\n"), None);
        put(root.path(), "memory.max", "500\n");
        assert_eq!(cgroup_limit(root.path(), "0::/not/to/be/seen/from/inside\n"), Some(500));
    }

    #[test]
    fn the_older_hierarchy_counts_too() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        let groups = "4:memory:/x\n1:cpu:/x\n0::/\n";
        assert_eq!(cgroup_limit(root.path(), groups), None);
        put(root.path(), "memory/x/memory.limit_in_bytes", "134217728\n");
        assert_eq!(cgroup_limit(root.path(), groups), Some(128 << 20));
    }

    #[test]
    fn the_machine_has_memory() {
        assert_eq!(total_memory("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total_memory(""), None);
        assert!(memory().is_some_and(|bytes| bytes > 16 << 20));
    }
}
