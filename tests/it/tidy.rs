//! The walls of the house, as ARCHITECTURE.md says them: which word may stand in which room.

use std::path::{Path, PathBuf};

/// A word, and the only places (below `server/src`) where it may stand.
const WALLS: [(&str, &[&str]); 9] = [
    ("sqlx::", &["store/"]),
    ("netlink_packet_", &["kernel/"]),
    ("rtnetlink::", &["kernel/"]),
    ("setns", &["kernel/"]),
    ("unsafe ", &["kernel/"]),
    ("axum::", &["api/"]),
    ("tonic::", &["api/"]),
    // The helper of tests asks whether it is inside of the test's own host.
    ("std::env", &["config/", "kernel/testhost.rs"]),
    // The lab starts the command that its user asks for; tests start themselves again.
    ("process::Command", &["lab/mod.rs", "kernel/testhost.rs"]),
];

/// Rooms without a clock, a file or a socket.
const PURE: [&str; 7] =
    ["world/", "want/", "hostnet/", "plan/", "diagnose/", "ipam.rs", "controller/edit.rs"];
const IMPURE: [&str; 6] =
    ["Timestamp::now", "Instant::now", "SystemTime", "std::fs", "std::net::Tcp", "tokio::"];

/// A file holds one idea.
const LINES_MAX: usize = 600;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The code of a file without comments and without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn rooms() -> Vec<(String, String)> {
    let base = root().join("server/src");
    let files = sources(&base).into_iter().map(|path| {
        let room = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
        (room, code(&path))
    });
    files.filter(|(room, _)| !room.contains("tests")).collect()
}

#[test]
fn every_word_stays_in_its_room() {
    let rooms = rooms();
    for (word, allowed) in WALLS {
        assert!(
            rooms.iter().any(|(_, code)| code.contains(word)),
            "nobody says {word:?} any more: take the wall down"
        );
        for (room, code) in &rooms {
            let inside = allowed.iter().any(|place| room.starts_with(place));
            assert!(inside || !code.contains(word), "{word:?} stands in {room}; it belongs in {allowed:?}");
        }
    }
}

/// Calls that change what outlives the process: messages to the kernel, mounts, files, ports, transactions.
const EFFECTS: [&str; 22] = [
    "send_to(",
    "IPCTNL_MSG_CT_DELETE,",
    "umount2(",
    "unlinkat(",
    "mount(",
    "bind(socket",
    ".write_all(",
    "fs::write(",
    "O_CREAT",
    "create_new(",
    "DirBuilder::new",
    "set_len(",
    "rename(",
    "renameat2(",
    "remove_file(",
    "sync_data(",
    "sync_all(",
    "BEGIN IMMEDIATE",
    "VACUUM",
    "migrations.run(",
    ".execute(&mut",
    ".execute(connection",
];
/// What makes hosts, LANs and packets for labs and tests, is a test, or speaks to callers and neighbours.
const NO_EFFECTS: [&str; 14] = [
    "api/",
    "config/",
    "lab/",
    "kernel/announce.rs",
    "kernel/host/fuzz.rs",
    "kernel/private.rs",
    "kernel/lan.rs",
    "kernel/probe.rs",
    "kernel/echo.rs",
    "kernel/frame.rs",
    "kernel/meddle.rs",
    "kernel/stranger.rs",
    "kernel/testhost.rs",
    "fault.rs",
];
/// How a function passes the points at which a test can break it: by itself, or by what it hands its effect to.
const POINTS: [&str; 2] = ["fault::", "file(|"];
/// Functions whose effects need no points, and why.
const POINTLESS: [(&str, &str, &str); 3] = [
    ("store/writer.rs", "run", "only tests of the store run any SQL there"),
    ("store/group.rs", "roll_back", "it undoes what nobody has seen; the next start does the same"),
    ("store/group.rs", "of", "it only writes the text of a transaction, which `write` has done"),
];

/// The functions of a file, by their names; what is nested in one is a part of it.
fn functions(code: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in code.lines() {
        let words = line.trim_start();
        let indent = line.len() - words.len();
        let opens = words.split("fn ").nth(1).filter(|_| {
            let before = words.split("fn ").next().unwrap_or_default();
            indent <= 4
                && before.split_whitespace().all(|word| {
                    word.starts_with("pub")
                        || ["async", "const", "super)", "in", "crate)", "crate::kernel)"].contains(&word)
                })
        });
        match (opens, found.last_mut()) {
            (Some(rest), _) => {
                let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
                found.push((name, line.to_owned()));
            }
            (None, Some((_, text))) => {
                text.push('\n');
                text.push_str(line);
            }
            (None, None) => {}
        }
    }
    found
}

/// Whether a function passes points, or is called in its file by functions that do, and by no others.
fn has_points(name: &str, functions: &[(String, String)], depth: usize) -> bool {
    let bodies: Vec<&String> =
        functions.iter().filter(|(other, _)| other == name).map(|(_, body)| body).collect();
    if bodies.iter().all(|body| POINTS.iter().any(|point| body.contains(point))) {
        return true;
    }
    let calls = |body: &str| {
        [
            format!("self.{name}("),
            format!(" {name}("),
            format!("({name}("),
            format!("!{name}("),
            format!("&{name}("),
        ]
        .iter()
        .any(|call| body.split_once('\n').is_some_and(|(_, inside)| inside.contains(call)))
    };
    let callers: Vec<&str> = functions
        .iter()
        .filter(|(other, body)| other != name && calls(body))
        .map(|(other, _)| other.as_str())
        .collect();
    let is_private = bodies.iter().all(|body| !body.trim_start().starts_with("pub"));
    is_private
        && depth > 0
        && !callers.is_empty()
        && callers.iter().all(|caller| has_points(caller, functions, depth - 1))
}

#[test]
fn every_function_with_an_effect_has_the_points_at_which_a_test_can_break_it() {
    let mut found = 0;
    for (room, code) in
        rooms().iter().filter(|(room, _)| !NO_EFFECTS.iter().any(|place| room.starts_with(place)))
    {
        let functions = functions(code);
        for (name, body) in &functions {
            let Some(effect) = EFFECTS.iter().find(|effect| body.contains(*effect)) else { continue };
            found += 1;
            let exempt =
                POINTLESS.iter().any(|(place, of, _)| (place, of) == (&room.as_str(), &name.as_str()));
            assert!(
                exempt || has_points(name, &functions, 3),
                "{room}: {name} says {effect:?} and passes no point of fault.rs"
            );
        }
    }
    assert!(found > 20, "only {found} functions with effects: the words are out of date");
}

#[test]
fn a_room_that_decides_has_no_clock_and_no_door() {
    for (room, code) in rooms().iter().filter(|(room, _)| PURE.iter().any(|pure| room.starts_with(pure))) {
        for word in IMPURE {
            assert!(!code.contains(word), "{word:?} stands in {room}, which is pure");
        }
    }
}

#[test]
fn a_file_fits_in_a_head() {
    let crates = ["proto/src", "server/src", "client/src", "tests/it", "xtask/src"];
    for path in crates.iter().flat_map(|folder| sources(&root().join(folder))) {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines; at most {LINES_MAX}", path.display());
    }
}

#[test]
fn every_test_that_the_promises_name_is_there() {
    let folders = ["tests/it", "server/src"].map(|folder| sources(&root().join(folder)));
    let code = folders.concat().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>();
    for page in ["docs/promises.md", "docs/security.md", "docs/failures.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let named: Vec<&str> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.contains("::") && !word.ends_with('*'))
            .collect();
        assert!(named.len() > 20, "{named:?}");
        for name in named {
            let (_, test) = name.rsplit_once("::").unwrap();
            assert!(code.contains(&format!("fn {test}(")), "{page} names {name}, and there is no such test");
        }
    }
}

/// Each place that says `unsafe`, in the daemon and its labs: where it is, and the reason that stands there.
fn unsafe_places() -> Vec<(String, String, String)> {
    let base = root().join("server/src");
    let mut files = sources(&base);
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let room = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> =
            text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().collect();
        if room.contains("tests") {
            continue;
        }
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.contains("unsafe {") && !code.contains("unsafe fn") && !code.contains("unsafe impl") {
                continue;
            }
            let function = lines[..=index]
                .iter()
                .rev()
                .find_map(|line| line.split("fn ").nth(1).filter(|_| !line.trim_start().starts_with("//")));
            let function =
                function.and_then(|rest| rest.split(['(', '<']).next()).unwrap_or_default().to_owned();
            let before: Vec<&str> = lines[..index].iter().rev().take(12).map(|line| line.trim()).collect();
            let end =
                before.iter().position(|line| line.starts_with("// SAFETY:") || *line == "/// # Safety");
            let reason = end.map(|end| {
                let said = before[..=end].iter().rev().take_while(|line| line.starts_with("//"));
                let words =
                    said.map(|line| line.trim_start_matches('/').trim().trim_start_matches("SAFETY:").trim());
                words.filter(|words| !words.is_empty() && *words != "# Safety").collect::<Vec<_>>().join(" ")
            });
            found.push((room.clone(), function, reason.unwrap_or_default()));
        }
    }
    found
}

#[test]
fn every_unsafe_place_says_why_it_is_sound_and_is_in_the_list() {
    let mut page = String::from(
        "# Every `unsafe` place of the daemon\n\nAll are in `server/src/kernel/`. The reason is the comment at the place; \
         `tests/it/tidy.rs` keeps this list (`UPDATE_GOLDEN=1 cargo test -p netloom-tests --test it tidy` writes it anew).\n\n\
         | file | function | why it is sound |\n|---|---|---|\n",
    );
    for (room, function, reason) in unsafe_places() {
        assert!(!reason.is_empty(), "{room}: the unsafe place in {function} has no SAFETY comment");
        page.push_str(&format!("| `{room}` | `{function}` | {} |\n", reason.replace('|', "\\|")));
    }
    let path = root().join("docs/unsafe.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let list = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(list, page, "docs/unsafe.md is not what the code says; UPDATE_GOLDEN=1 writes it anew");
}
