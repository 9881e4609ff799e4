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

/// Calls that change what outlives the process.
const EFFECTS: [&str; 7] =
    ["send_to(", "umount2(", "unlinkat(", " mount(", "sync_data(", ".write_all(", "BEGIN IMMEDIATE"];
/// What makes hosts, LANs and packets for labs and tests, speaks to callers, or is done once before there is a daemon.
const NO_EFFECTS: [&str; 11] = [
    "api/",
    "config/",
    "lab/",
    "store/open.rs",
    "kernel/private.rs",
    "kernel/lan.rs",
    "kernel/probe.rs",
    "kernel/echo.rs",
    "kernel/frame.rs",
    "kernel/host/fuzz.rs",
    "fault.rs",
];

#[test]
fn a_file_with_effects_has_the_points_at_which_a_test_can_break_them() {
    for (room, code) in rooms() {
        let exempt = NO_EFFECTS.iter().any(|place| room.starts_with(place));
        let effect = EFFECTS.iter().find(|effect| code.contains(*effect));
        if let Some(effect) = effect.filter(|_| !exempt) {
            assert!(code.contains("fault::"), "{room} says {effect:?} and passes no point of fault.rs");
        }
    }
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
