//! The rules of the source tree that a compiler does not check (design: rooms, purity, size).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The rooms, each with those it may use. `config` (a room's own part of it), `telemetry` and `base` are open to all
/// that are not pure.
const MAY_USE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("resp", &[]),
    ("command", &["resp"]),
    ("session", &["resp", "command"]),
    ("router", &["resp", "command", "session"]),
    ("topology", &[]),
    ("link", &["resp", "command", "session", "topology"]),
    ("auth", &["resp", "command", "session"]),
    ("upstream", &["resp", "command", "session", "router", "link", "auth", "topology"]),
    ("client", &["resp", "command", "session", "router", "link", "auth", "topology", "upstream"]),
    ("worker", &["resp", "command", "session", "router", "link", "auth", "topology", "upstream", "client"]),
    ("admin", &["resp", "command", "session", "router", "link", "auth", "topology", "upstream", "client", "worker"]),
    (
        "lifecycle",
        &["resp", "command", "session", "router", "link", "auth", "topology", "upstream", "client", "worker", "admin"],
    ),
    ("config", &[]),
    ("telemetry", &[]),
    ("tools", &["resp"]),
];

/// No I/O, no time, nothing that counts or logs.
const PURE: &[&str] = &["resp", "command", "session", "router", "topology"];
const IMPURE_NAMES: &[&str] =
    &["tokio", "tracing", "metrics", "Instant", "SystemTime", "std::net", "std::fs", "std::io"];

/// Only these may share between threads.
const SHARING_ROOMS: &[&str] = &["lifecycle", "telemetry", "admin"];

/// The locks of rooms on the data path, each with the reason why no command pays for it, or why it must.
const SHARED: &[(&str, &str)] = &[
    (
        "link/own_ids.rs",
        "touched when a link opens or closes, and by CLIENT LIST and KILL, which must know all workers' links",
    ),
    (
        "upstream/pubsub/hidden_subscribers.rs",
        "PUBLISH must count the subscribers of all workers as of now; one relaxed load while nobody differs",
    ),
    (
        "link/tls/material.rs",
        "looked at once for each connect; a certificate that is read again replaces it for all workers",
    ),
    ("base/fault.rs", "only in builds with seeded bugs: which one, read once"),
    ("auth/throttle.rs", "failed logins count over all workers; looked at once for each login"),
];

/// Lines of a file that are not its tests.
const FILE_LINES: usize = 450;

pub(super) struct Source {
    pub(super) path: PathBuf,
    room: String,
    /// Without comments, doc comments and modules that are there for tests only.
    pub(super) code: String,
    lines: usize,
}

pub(super) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sources, mut for_tests) = (vec![root.clone()], Vec::new(), Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let (source, declared) = read(&root, path);
                sources.push(source);
                for_tests.extend(declared);
            }
        }
    }
    sources.retain(|source| {
        let file = source.path.with_extension("");
        !for_tests.iter().any(|module: &PathBuf| file.starts_with(module))
    });
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 10, "{} files under src", sources.len());
    sources
}

/// The file, and the modules that it declares for tests only, as paths below the root.
fn read(root: &Path, path: PathBuf) -> (Source, Vec<PathBuf>) {
    let text = std::fs::read_to_string(&path).expect("a source file is text");
    let relative = path.strip_prefix(root).expect("found below src").to_owned();
    let (kept, declared) = without_test_modules(&text);
    let home = match relative.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") => relative.parent().unwrap_or_else(|| Path::new("")).to_owned(),
        _ => relative.with_extension(""),
    };
    let code =
        kept.lines().map(|line| line.split("//").next().unwrap_or_default()).fold(String::new(), |mut code, line| {
            let _ = writeln!(code, "{line}");
            code
        });
    let first = relative.components().next().expect("a file has a name").as_os_str().to_string_lossy().into_owned();
    let room = first.trim_end_matches(".rs").to_owned();
    let declared = declared.iter().map(|name| home.join(name)).collect();
    (Source { room, lines: kept.lines().count(), code, path: relative }, declared)
}

/// The text without what is compiled for tests only, and the names of modules in files of their own that are. Everything
/// behind such a module counts: only the module itself is left out.
fn without_test_modules(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut declared) = (String::new(), Vec::new());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_module =
            |next: &&str| ["mod ", "pub(crate) mod ", "pub(super) mod "].iter().any(|word| next.starts_with(word));
        let Some(opening) = lines.next_if(|next| line == "#[cfg(test)]" && is_module(next)) else {
            let _ = writeln!(kept, "{line}");
            continue;
        };
        let name = opening.split("mod ").nth(1).unwrap_or_default();
        match name.strip_suffix(';') {
            Some(name) => declared.push(name.to_owned()),
            // To the brace that closes it, which stands where the module began.
            None => while lines.next().is_some_and(|line| line != "}") {},
        }
    }
    (kept, declared)
}

/// Whether `name` stands in `code` as a word of its own.
fn names(code: &str, name: &str) -> bool {
    let part_of_a_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    code.match_indices(name).any(|(at, _)| {
        let bytes = code.as_bytes();
        !part_of_a_word(at.checked_sub(1).and_then(|before| bytes.get(before)))
            && !part_of_a_word(bytes.get(at + name.len()))
    })
}

/// The rooms that `code` names: `crate::room`, also inside `use crate::{a::…, b::…}`.
fn rooms_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            used.extend(top_level_names(group));
        } else {
            used.push(first_word(rest));
        }
    }
    used
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|next| next.is_ascii_alphanumeric() || *next == '_').collect()
}

/// The first words of the comma-separated parts of a `{…}` group, whose opening brace is already taken.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for next in group.chars() {
        match next {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {}
        }
        if depth > 0 || next != ',' {
            part.push(next);
        }
    }
    parts.push(part);
    parts.iter().map(|part| first_word(part.trim())).filter(|name| !name.is_empty()).collect()
}

fn rule<'a>(room: &str) -> Option<&'a [&'static str]> {
    MAY_USE.iter().find(|(name, _)| *name == room).map(|(_, rooms)| *rooms)
}

#[test]
fn a_room_uses_only_rooms_below_it() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(allowed) = rule(&source.room) else {
            continue;
        };
        for used in rooms_used(&source.code) {
            let open =
                ["config", "telemetry", "base"].contains(&used.as_str()) && !PURE.contains(&source.room.as_str());
            if rule(&used).is_some() && used != source.room && !open && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {} uses {used}", source.path.display(), source.room));
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_is_a_room_with_a_rule() {
    for source in sources() {
        let known = rule(&source.room).is_some() || ["main", "lib", "cli"].contains(&source.room.as_str());
        assert!(known, "{}: the table in this file has no room {:?}", source.path.display(), source.room);
    }
}

#[test]
fn pure_rooms_have_no_io_no_time_no_metrics() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.room.as_str())) {
        for name in IMPURE_NAMES.iter().filter(|name| names(&source.code, name)) {
            wrong.push(format!("{} names {name}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The data path is single-threaded: it has `Rc`, `Cell` and `&mut`.
#[test]
fn only_rooms_off_the_data_path_share_between_threads() {
    let mut wrong = Vec::new();
    for source in sources() {
        let data_path =
            ["base", "resp", "command", "session", "router", "auth", "link", "upstream", "client", "worker"]
                .contains(&source.room.as_str());
        assert!(!(data_path && SHARING_ROOMS.contains(&source.room.as_str())));
        let shares = SHARED.iter().any(|(file, _)| source.path == Path::new(file));
        for name in ["Mutex", "RwLock", "OnceLock", "unsafe", "static mut"] {
            if data_path && !shares && names(&source.code, name) {
                wrong.push(format!("{} names {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_router_decides_without_knowing_where_things_are() {
    for source in sources().iter().filter(|source| source.room == "router") {
        for room in ["upstream", "topology", "client", "link"] {
            assert!(!rooms_used(&source.code).contains(&room.to_owned()), "{} uses {room}", source.path.display());
        }
    }
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.lines > FILE_LINES)
        .map(|source| format!("{}: {} lines", source.path.display(), source.lines))
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES} lines without tests:\n{}", long.join("\n"));
}

/// One place carries out the route of a client that is pinned to no connection, one that of a client that is.
#[test]
fn one_match_on_each_route() {
    for (route, place) in [("FreeRoute::", "client/dispatch.rs"), ("Aside::", "client/pinned/aside.rs")] {
        let matching: Vec<_> = sources()
            .into_iter()
            .filter(|source| source.room == "client" && source.code.contains("=> "))
            .filter(|source| source.code.matches(route).count() >= 5)
            .map(|source| source.path.display().to_string())
            .collect();
        assert_eq!(matching, [place], "routes are told apart in {matching:?}");
    }
}

/// Whoever is excused has a lock and a reason: a line that is not needed any more goes.
#[test]
fn every_excuse_is_needed() {
    let sources = sources();
    for (file, reason) in SHARED {
        let source = sources.iter().find(|source| source.path == Path::new(file));
        let locks = |source: &Source| ["Mutex", "OnceLock"].iter().any(|name| names(&source.code, name));
        assert!(source.is_some_and(locks), "{file} shares nothing: {reason}");
    }
}

#[test]
fn a_file_is_read_to_its_end() {
    let text = "#[cfg(test)]\nmod sim;\nuse a;\n#[cfg(test)]\nfn helper() {}\n#[cfg(test)]\nmod tests {\n    fn x() {\n    }\n}\nfn last() {}\n";
    let (kept, declared) = without_test_modules(text);
    assert_eq!(kept, "use a;\n#[cfg(test)]\nfn helper() {}\nfn last() {}\n");
    assert_eq!(declared, ["sim"]);
    let sources = sources();
    for (file, last) in [("worker/mod.rs", "worker_busy_seconds"), ("upstream/pubsub/mod.rs", "pubsub_subscribers")] {
        let source = sources.iter().find(|source| source.path == Path::new(file));
        assert!(source.is_some_and(|source| source.code.contains(last)), "{file} is not read to its end");
    }
    assert!(sources.iter().all(|source| !source.path.starts_with("worker/sim") && !source.path.ends_with("tests.rs")));
}

#[test]
fn the_rules_themselves_can_fail() {
    assert_eq!(
        rooms_used("use crate::{resp::{self, Scan}, client::Client};\ncrate::worker::run()"),
        ["resp", "client", "worker"]
    );
    assert!(names("use tokio::net;", "tokio"));
    assert!(!names("let tokio_like = 1;", "tokio"));
    assert!(rule("resp").is_some_and(<[&str]>::is_empty));
}

/// The names behind `pub use` and `pub mod` of the crate's root, without paths.
fn public_names(root: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in root.split("pub ").skip(1) {
        let item = part.split([';', '{']).next().unwrap_or_default();
        if let Some(name) = item.strip_prefix("mod ") {
            names.push(format!("mod {}", name.trim()));
        } else if let Some(path) = item.strip_prefix("use ") {
            let group = part.split(';').next().and_then(|item| item.split_once('{'));
            match group {
                Some((_, group)) => names.extend(top_level_names(group)),
                None => names.extend(path.rsplit("::").next().map(str::to_owned)),
            }
        }
    }
    names
}

/// rustc finds dead code only in what is private: every room is, and what the program, the benchmarks and the fuzzers
/// name is re-exported one by one.
#[test]
fn public_is_only_what_is_named_from_outside() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lib = sources().into_iter().find(|source| source.path == Path::new("lib.rs")).expect("the crate has a root");
    let mut outside = String::new();
    for folder in ["src/main.rs", "benches", "tests/fuzz"].map(|name| root.join(name)) {
        let files = if folder.is_dir() {
            let entries = std::fs::read_dir(&folder).expect("the folder is readable");
            entries.map(|entry| entry.expect("the folder is readable").path()).collect()
        } else {
            vec![folder]
        };
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "rs")) {
            outside += &std::fs::read_to_string(file).expect("a source file is text");
        }
    }
    let public = public_names(&lib.code);
    let rooms =
        ["mod internals", "mod command", "mod config", "mod resp", "mod router", "mod session", "mod telemetry"];
    for name in &public {
        match name.strip_prefix("mod ") {
            Some(_) => assert!(rooms.contains(&name.as_str()), "{name} is public: a room is private"),
            None => assert!(names(&outside, name), "{name} is public and named by nobody outside"),
        }
    }
    assert!(public.len() > 20, "{public:?}");
    assert!(!names(&lib.code, "pub(crate)"), "the root declares rooms and re-exports, nothing else");
}
