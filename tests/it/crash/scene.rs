//! The whole kernel as text. Two tellings of a story are the same if their texts are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use netloom_server::{hostnet::Stack, kernel::Kernel, reconcile::Host as _, world::World};
use serde_json::Value;

use super::story::FOREIGN;
use crate::{
    host::{Daemon, HOME},
    rest::Rest,
};

/// Looks at the kernel, past the daemon.
pub struct Scene {
    kernel: Kernel,
}

/// What is called otherwise in every run, by a name that is the same in all.
pub type Names = BTreeMap<String, String>;

impl Scene {
    pub fn new() -> Self {
        Self { kernel: Kernel::open().unwrap() }
    }

    /// The whole kernel as text.
    pub fn snapshot(&self, names: &Names) -> String {
        let mut text = self.kernel.observe().unwrap().to_string();
        // Nobody but the daemon knows that it is adopted.
        let foreign = Stack::Namespace(FOREIGN.parse().unwrap());
        if let Ok(state) = self.kernel.state(&foreign, &World::default()) {
            for one in state.interfaces {
                text += &format!("\n{FOREIGN}: {} {} {:?} ", one.name, one.type_, one.addresses);
            }
            for route in state.routes {
                text += &format!("\n{FOREIGN}: route {route:?}");
            }
        }
        let named = names.iter().fold(text, |text, (from, to)| rename(&text, from, to));
        let lines: BTreeSet<String> = named.lines().map(masked).filter(|line| !line.is_empty()).collect();
        lines.into_iter().collect::<Vec<_>>().join("\n")
    }
}

/// Replaces a word, but not where it is the beginning or the end of another.
fn rename(text: &str, from: &str, to: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == ':';
    let mut parts = text.split(from).peekable();
    let mut renamed = String::new();
    while let Some(part) = parts.next() {
        renamed += part;
        if let Some(next) = parts.peek() {
            let whole = !renamed.ends_with(is_part) && !next.starts_with(|c: char| c.is_ascii_alphanumeric());
            renamed += if whole { to } else { from };
        }
    }
    renamed
}

/// The lines that differ.
pub fn difference(have: &str, want: &str) -> Option<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (have, want) = (lines(have), lines(want));
    let (more, less): (Vec<_>, Vec<_>) = (have.difference(&want).collect(), want.difference(&have).collect());
    (have != want).then(|| format!("there are: {more:#?}\nmissing: {less:#?}"))
}

/// Fails with the lines that differ.
pub fn same(have: &str, want: &str, when: &str) {
    if let Some(difference) = difference(have, want) {
        panic!("{when}\n{difference}");
    }
}

/// What follows from a uid is another in every run.
fn masked(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let is_mac = word.split(':').filter(|part| part.len() == 2).count() >= 6;
        let is_link_local = word.contains("fe80::");
        if is_mac || is_link_local || is_of_policy(word) { "…" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The name of a chain, the tag of a rule or its mark.
fn is_of_policy(word: &str) -> bool {
    let word = word.trim_matches('"');
    let is_tag = word.len() == 15 && word.chars().all(|c| c.is_ascii_digit() || ('a'..='v').contains(&c));
    let is_mark = word.len() == 16 && word.chars().all(|c| c.is_ascii_hexdigit());
    word.starts_with("c_") || is_tag || is_mark
}

/// The devices of attachments by the names of those.
pub async fn devices(rest: &Rest) -> Names {
    let list = rest.get("/v1/attachments").await.unwrap().ok();
    let name = |one: &Value| {
        let device = one["status"]["host_device"].as_str()?.to_owned();
        Some((device, format!("device-of-{}", one["name"].as_str()?)))
    };
    list["items"].as_array().unwrap().iter().filter_map(name).collect()
}

/// The same, with the addresses that were chosen.
pub async fn devices_and_addresses(rest: &Rest) -> Names {
    let mut names = devices(rest).await;
    let list = rest.get("/v1/attachments").await.unwrap().ok();
    for one in list["items"].as_array().unwrap() {
        for (index, address) in one["status"]["addresses"].as_array().into_iter().flatten().enumerate() {
            let (host, _) = address.as_str().unwrap().split_once('/').unwrap();
            let name = one["name"].as_str().unwrap();
            if one["spec"]["addresses"].is_null() {
                names.insert(host.to_owned(), format!("address-{index}-of-{name}"));
            }
        }
    }
    names
}

/// Stops the daemon and takes its database away, so that the next one starts with nothing.
pub fn forget(mut daemon: Daemon) {
    daemon.stop();
    std::fs::remove_dir_all(PathBuf::from(HOME).join("state")).unwrap();
}
