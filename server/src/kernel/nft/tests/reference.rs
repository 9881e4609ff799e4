//! What we write over netlink against what `nft` writes, where there is an `nft`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::kernel::testhost::{cannot_run, on_private_host};

const SKELETON: &str = include_str!("../skeleton.nft");

/// The output of `nft`; `None` where it is not installed.
#[allow(clippy::disallowed_methods, reason = "a test asks the real nft")]
pub(super) fn nft(arguments: &[&str], input: &str) -> Option<String> {
    let started = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            cannot_run(&format!("nft: {error}"));
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Blocks of a listing by their headings, each with its lines; what may differ is taken out.
fn blocks(listing: &str) -> BTreeMap<String, Vec<String>> {
    let mut blocks = BTreeMap::new();
    let (mut table, mut heading) = (String::new(), String::new());
    for line in listing.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "}") {
        // Of a table that has an owner nft also says who that is.
        let line = line.split(" # progname").next().unwrap();
        if let Some(name) = line.strip_suffix(" {") {
            if name.starts_with("table") {
                table = name.to_owned();
            } else {
                heading = format!("{table} {name}");
                blocks.insert(heading.clone(), Vec::new());
            }
        } else if !line.starts_with("comment \"kept by netloomd") && !line.starts_with("flags owner") {
            // The order of elements is the kernel's.
            let line = line.trim_start_matches("elements = {").trim_end_matches([' ', '}', ',']).trim();
            blocks.get_mut(&heading).unwrap().push(line.replace("@nd6", "@guard6"));
        }
    }
    blocks.iter_mut().filter(|(heading, _)| !heading.contains("chain")).for_each(|(_, lines)| lines.sort());
    // Only nft needs a set of its own for raw payload.
    blocks.remove("table bridge netloom set nd6");
    blocks
}

/// The programs of all rules in the words of `nft --debug=netlink`, chain by chain.
fn programs(listing: &str) -> Vec<String> {
    let mut programs = Vec::new();
    for line in listing.lines().map(str::trim) {
        // Of a protocol, one byte, nft swaps the bytes: the kernel then does nothing.
        if line.starts_with('[') && !line.contains("byteorder") {
            let line = line.replace("set nd6", "set guard6");
            let words: Vec<_> = line.split(' ').collect();
            // The kernel numbers sets without names as they come.
            let words = words.iter().map(|word| {
                if word.starts_with("__") { word.trim_end_matches(char::is_numeric) } else { word }
            });
            programs.push(words.collect::<Vec<_>>().join(" "));
        } else if line.contains(" netloom ") && !line.contains('@') && !line.starts_with("table") {
            programs.push(line.split(' ').take(3).collect::<Vec<_>>().join(" "));
        }
    }
    programs
}

#[test]
fn the_firewall_is_what_nft_makes_of_its_text() {
    on_private_host(|| {
        let elements: String = sample().iter().map(|element| format!("add element {element}\n")).collect();
        let Some(_) = nft(&["-f", "-"], &format!("{SKELETON}\n{elements}")) else { return };
        let theirs = nft(&["list", "ruleset"], "").unwrap();
        let their_programs = nft(&["--debug=netlink", "list", "ruleset"], "").unwrap();
        nft(&["flush", "ruleset"], "").unwrap();
        let mut firewall = fresh();
        firewall.commit(&[], &sample()).unwrap();
        let ours = nft(&["list", "ruleset"], "").unwrap();
        let our_programs = nft(&["--debug=netlink", "list", "ruleset"], "").unwrap();

        let (theirs, ours) = (blocks(&theirs), blocks(&ours));
        assert_eq!(theirs.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
        for (heading, lines) in &theirs {
            assert_eq!(lines, &ours[heading], "{heading}");
        }
        assert!(ours.len() > 70, "{}", ours.len());
        assert!(ours["table bridge netloom set guard6"].len() > 8);
        let (theirs, ours) = (programs(&their_programs), programs(&our_programs));
        for (their, our) in theirs.iter().zip(&ours) {
            assert_eq!(their, our);
        }
        assert_eq!(theirs.len(), ours.len());
        assert!(ours.len() > 600, "{}", ours.len());
    });
}

#[test]
fn what_nft_adds_and_removes_we_read() {
    on_private_host(|| {
        let mut firewall = Nft::open_unowned().unwrap();
        firewall.ensure().unwrap();
        let change = |verb: &str| {
            let lines: String =
                sample().iter().map(|element| format!("{verb} element {element}\n")).collect();
            nft(&["-f", "-"], &lines)
        };
        let Some(_) = change("add") else { return };
        let dumped = firewall.dump().unwrap();
        assert_eq!(dumped.elements, sample().into_iter().collect());
        assert_eq!(dumped.skeleton, crate::hostnet::rules::Skeleton::Present);
        change("delete");
        assert!(firewall.dump().unwrap().elements.is_empty());
    });
}
