//! The rules of the source tree that a compiler does not check (design: rooms, purity, size).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The rooms, each with those it may use. `config` (a room's own part of it) and `telemetry` are open to all that
/// are not pure.
const MAY_USE: &[(&str, &[&str])] = &[
    ("resp", &[]),
    ("command", &["resp"]),
    ("session", &["resp", "command"]),
    ("router", &["resp", "command", "session"]),
    ("link", &["resp", "command", "session"]),
    ("auth", &["resp", "command", "session"]),
    ("topology", &["resp", "command", "session", "router", "link", "auth"]),
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
const PURE: &[&str] = &["resp", "command", "session", "router"];
const IMPURE_NAMES: &[&str] =
    &["tokio", "tracing", "metrics", "Instant", "SystemTime", "std::net", "std::fs", "std::io"];

/// Only these may share between threads.
const SHARING_ROOMS: &[&str] = &["lifecycle", "topology", "telemetry", "admin"];

/// Lines of a file that are not its tests.
const FILE_LINES: usize = 450;

struct Source {
    path: PathBuf,
    room: String,
    /// Without comments, doc comments and the part from `#[cfg(test)]` on.
    code: String,
    lines: usize,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sources) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
                sources.push(read(&root, path));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 10, "{} files under src", sources.len());
    sources
}

fn read(root: &Path, path: PathBuf) -> Source {
    let text = std::fs::read_to_string(&path).expect("a source file is text");
    let before_tests = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code = before_tests.lines().map(|line| line.split("//").next().unwrap_or_default()).fold(
        String::new(),
        |mut code, line| {
            let _ = writeln!(code, "{line}");
            code
        },
    );
    let relative = path.strip_prefix(root).expect("found below src").to_owned();
    let first = relative.components().next().expect("a file has a name").as_os_str().to_string_lossy().into_owned();
    let room = first.trim_end_matches(".rs").to_owned();
    Source { room, lines: before_tests.lines().count(), code, path: relative }
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
            let open = ["config", "telemetry"].contains(&used.as_str()) && !PURE.contains(&source.room.as_str());
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
        let data_path = ["resp", "command", "session", "router", "upstream", "client"].contains(&source.room.as_str());
        assert!(!(data_path && SHARING_ROOMS.contains(&source.room.as_str())));
        for name in ["Mutex", "RwLock", "unsafe", "static mut"] {
            if data_path && names(&source.code, name) {
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

/// One place carries out a route.
#[test]
fn one_match_on_the_route() {
    let matching: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.room == "client" && source.code.contains("Route::") && source.code.contains("=> "))
        .filter(|source| source.code.matches("Route::").filter(|_| true).count() >= 4)
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(matching.len() <= 1, "routes are told apart in {matching:?}");
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
