//! `netloomd lab` with what follows it, as root and as an ordinary user.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use netloom_server::kernel::testhost::cannot_run;

use crate::netloom::Told;

/// `nobody`, everywhere.
const NOBODY: u32 = 65534;

const RED_BLUE: &str = "
{kind: Namespace, name: red}
---
{kind: Namespace, name: blue}
---
{kind: Network, name: net, spec: {subnets: [{cidr: 10.9.0.0/24}]}}
---
{kind: Attachment, name: red0, spec: {namespace: red, network: net}}
---
{kind: Attachment, name: blue0, spec: {namespace: blue, network: net}}
---
";

/// Who starts the lab.
#[derive(Clone, Copy, Debug, PartialEq)]
enum User {
    Root,
    Nobody,
}

/// Runs a lab of red and blue that expects `expect`; none where no private host can be made.
fn lab(user: User, expect: &str, words: &[&str], input: &str) -> Option<Told> {
    let text = format!("{RED_BLUE}kind: Lab\nspec: {{expect: [{expect}]}}\n");
    lab_of(user, &text, words, input)
}

fn lab_of(user: User, text: &str, words: &[&str], input: &str) -> Option<Told> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lab.yaml");
    std::fs::write(&file, text).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), everybody).unwrap();
    let program = program(folder.path());
    let mut command = Command::new(program);
    command.arg("lab").arg(&file).args(words).env("SHELL", "/bin/sh").current_dir("/");
    if user == User::Nobody && nix::unistd::Uid::effective().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A lab that fails early does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let told = Told::from(child.wait_with_output().unwrap());
    if told.err.contains("no private host can be made") {
        cannot_run(&told.err);
        return None;
    }
    Some(told)
}

/// The two programs where everybody can start them: a build directory may be its owner's alone. This is the daemon's.
fn program(folder: &std::path::Path) -> std::path::PathBuf {
    let copy = |built: &str, name: &str| {
        let copy = folder.join(name);
        if std::fs::hard_link(built, &copy).is_err() {
            std::fs::copy(built, &copy).unwrap();
        }
        copy
    };
    copy(env!("CARGO_BIN_EXE_netloom-under-test"), "netloom");
    copy(env!("CARGO_BIN_EXE_netloomd-under-test"), "netloomd")
}

const TRUE: &str = "{from: red, to: blue}";
const FALSE: &str = "{from: red, to: blue, result: unreachable}";

fn both(test: impl Fn(User)) {
    [User::Root, User::Nobody].into_iter().for_each(test);
}

#[test]
fn a_lab_ends_with_0_when_all_is_as_expected_and_with_1_when_not() {
    both(|user| {
        let Some(told) = lab(user, TRUE, &[], "") else { return };
        assert!(told.code == Some(0) && told.out.contains("all 1 as expected"), "{user:?} {told:#?}");
        let Some(told) = lab(user, FALSE, &[], "") else { return };
        assert!(told.code == Some(1) && told.out.contains("1 of 1 not as expected"), "{user:?} {told:#?}");
        let Some(told) = lab_of(user, RED_BLUE, &[], "") else { return };
        assert!(told.code == Some(0) && !told.out.contains("as expected"), "{user:?} {told:#?}");
    });
}

#[test]
fn a_command_runs_on_the_private_host_and_the_lab_ends_as_it_does() {
    both(|user| {
        let show = "ls /run/netns; cat /proc/net/dev; echo at $NETLOOM_ENDPOINT";
        let Some(told) = lab(user, TRUE, &["--exec", show], "") else { return };
        let out = &told.out;
        assert!(told.code == Some(0) && out.contains("blue\nred\n"), "{user:?} {told:#?}");
        assert!(out.contains("at unix:///run/netloom/netloom.sock"), "{user:?} {told:#?}");
        assert!(!out.contains("eth0:"), "the machine's interfaces are not there: {told:#?}");
        for (expect, command, code) in [
            (TRUE, "exit 7", 7),
            (FALSE, "exit 7", 7),
            (FALSE, "true", 1),
            (TRUE, "kill -9 $$", 1),
            (TRUE, "/nonexistent", 127),
        ] {
            let Some(told) = lab(user, expect, &["--exec", command], "") else { return };
            assert_eq!(told.code, Some(code), "{user:?} {expect} {command}: {told:#?}");
        }
    });
}

#[test]
fn a_shell_runs_on_the_private_host_and_the_lab_ends_with_it() {
    both(|user| {
        let Some(told) = lab(user, TRUE, &["--shell"], "ls /run/netns\nexit 3\n") else { return };
        assert!(told.code == Some(3) && told.out.contains("blue\nred\n"), "{user:?} {told:#?}");
        let Some(told) = lab(user, TRUE, &["--shell"], "") else { return };
        assert_eq!(told.code, Some(0), "{user:?} {told:#?}");
    });
}

#[test]
fn the_command_that_was_built_beside_the_daemon_is_found_in_the_lab_and_finds_the_daemon() {
    both(|user| {
        let Some(told) = lab(user, TRUE, &["--exec", "netloom ns ls --output name"], "") else { return };
        assert!(told.code == Some(0) && told.out.ends_with("blue\nred\n"), "{user:?} {told:#?}");
    });
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let Some(told) = lab(User::Root, TRUE, &["--exec", "readlink /proc/self/ns/net"], "") else { return };
    let inside = told.out.lines().last().unwrap().to_owned();
    let outside = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(inside, outside.to_str().unwrap());
    // No process is left that holds the private host.
    let held = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let link = std::fs::read_link(entry.path().join("ns/net"));
        link.is_ok_and(|link| link.to_str() == Some(&inside))
    });
    assert!(!held, "{inside} lives on");
}

#[test]
fn documents_that_are_refused_end_the_lab_with_the_place_of_the_fault() {
    for (text, part) in [
        ("kind: Lab\nspec: {expects: []}\n", "expects"),
        ("kind: Lab\nexpect: []\n", "expect"),
        ("kind: Lab\nspec: {}\n---\nkind: Lab\nspec: {}\n", "second document of kind Lab"),
        ("kind: Network\nname: n\nspec: {mtu: 1}\n", "spec.mtu"),
        ("kind: Bridge\nname: n\n", "Bridge"),
        ("kind: [\n", "lab.yaml"),
        ("kind: Attachment\nname: a\nspec: {namespace: nobody, network: none}\n", "refused"),
    ] {
        let Some(told) = lab_of(User::Root, text, &["--exec", "echo ran"], "") else { return };
        assert!(told.code == Some(1) && told.err.contains(part), "{text}: {told:#?}");
        assert!(!told.out.contains("ran"), "{told:#?}");
    }
}
