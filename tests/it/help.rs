//! What `--help` shows is what works: every command has examples, and every example is run.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use netloom_server::kernel::{
    lan::{LanSpec, PeerSpec, add_lan},
    netns::Namespaces,
    testhost::Workload,
};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, on_host},
    netloom::{Netloom, Told},
};

/// What stands of the lesson before an example is typed. Each example must work at some point of it; a new command whose
/// example needs something else adds it here.
fn stages() -> Vec<Vec<Value>> {
    let subnets = json!([{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}, {"cidr": "fd00:15::/64"}]);
    vec![
        vec![],
        vec![
            json!({"kind": "Namespace", "name": "red"}),
            json!({"kind": "Namespace", "name": "blue", "owner": "ci-7"}),
            json!({"kind": "Network", "name": "v-net-0", "spec": {
                "kind": {"bridge": {"device": "v-net-0"}}, "subnets": subnets, "egress": {"nat": {}}}}),
        ],
        vec![
            json!({"kind": "Attachment", "name": "red0", "spec": {"namespace": "red", "network": "v-net-0"}}),
            json!({"kind": "Attachment", "name": "blue0", "spec": {"namespace": "blue", "network": "v-net-0"}}),
        ],
        vec![
            json!({"kind": "PortForward", "name": "tcp-8080", "spec":
                {"protocol": "tcp", "listen": {"port": 8080}, "target": {"attachment": "blue0", "port": 80}}}),
            json!({"kind": "Reservation", "name": "vip", "spec": {"network": "v-net-0", "address": "192.168.15.77"}}),
            json!({"kind": "Route", "name": "lan", "spec":
                {"namespace": "blue", "destination": "192.168.1.0/24", "via": "192.168.15.5"}}),
            json!({"kind": "Link", "name": "cable", "spec": {"ends": [
                {"namespace": "red", "interface": "veth-red"}, {"namespace": "blue", "interface": "veth-blue"}]}}),
            json!({"kind": "Policy", "name": "db", "spec": {"selector": {"labels": {"role": "db"}}}}),
        ],
    ]
}

/// The examples of a command's help, without the prompt.
fn examples(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().or(command.get_after_long_help()).map(ToString::to_string);
    let help = help.unwrap_or_default();
    let lines = help.lines().map(str::trim_start).map(|line| line.trim_start_matches("$ "));
    lines.filter(|line| line.starts_with("netloom ")).map(str::to_owned).collect()
}

/// Every command with the words that lead to it.
fn commands() -> Vec<(String, clap::Command)> {
    fn walk(path: &str, command: &clap::Command, into: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path}{}", command.get_name());
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            walk(&format!("{path} "), below, into);
        }
        into.push((path, command.clone()));
    }
    let mut all = Vec::new();
    walk("", &netloom_client::command::tree(), &mut all);
    all
}

/// A person's desk: a home, the examples, `netloom` in the path.
struct Desk {
    folder: tempfile::TempDir,
    endpoint: String,
}

impl Desk {
    fn new(socket: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        symlink(repository.join("examples"), at("examples")).unwrap();
        for place in ["bin", ".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"]
        {
            std::fs::create_dir_all(at(place)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_netloom-under-test"), at("bin/netloom")).unwrap();
        let desk = Self { folder, endpoint: format!("unix://{}", socket.display()) };
        desk.tool("ip", "cat /proc/net/dev");
        desk
    }

    /// Examples may show tools that need not be installed where this runs.
    fn tool(&self, name: &str, script: &str) {
        let path = self.folder.path().join("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn shell(&self, line: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).current_dir(self.folder.path());
        command.env("HOME", self.folder.path()).env("NETLOOM_ENDPOINT", &self.endpoint);
        command.env("PATH", format!("{}/bin:{path}", self.folder.path().display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Types a line.
    async fn type_(&self, line: &str, daemon: &Daemon) -> Told {
        if !line.contains(" -f -") && !line.ends_with(" -f")
            || line.contains("apply")
            || line.contains("plan")
        {
            return self.shell(line).output().unwrap().into();
        }
        // Who follows is told of what happens next, until interrupted.
        let mut child = self.shell(&format!("exec {line}")).spawn().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let (mut first, mut number) = (String::new(), 0);
        let told = std::thread::spawn(move || told.read_line(&mut first).map(|_| first));
        while !told.is_finished() {
            number += 1;
            let body = json!({"name": format!("event-{number}")});
            daemon.rest().post("/v1/namespaces", &body).await.ok();
        }
        child.kill().unwrap();
        let mut output = child.wait_with_output().unwrap();
        let first = told.join().unwrap().unwrap();
        output.status = std::process::ExitStatus::default();
        Told { out: first, ..output.into() }
    }
}

/// Brings a daemon to a stage of the lesson.
#[derive(Default)]
struct Lesson {
    /// What is exported at a stage, so that nothing is done where an example only looked.
    exports: BTreeMap<usize, Value>,
}

impl Lesson {
    async fn go_to(&mut self, daemon: &Daemon, stage: usize) {
        let rest = daemon.rest();
        let export = async || rest.get("/v1/export").await.unwrap().ok();
        let found = export().await;
        if self.exports.get(&stage) == Some(&found) {
            return;
        }
        // An apply waits for the names; where nothing is applied, who deletes has to.
        let wait = if stage == 0 { "5s" } else { "0" };
        // What others depend on goes last.
        for object in found["objects"].as_array().unwrap().iter().rev() {
            let kind: netloom_api::Kind = object["kind"].as_str().unwrap().parse().unwrap();
            let (kind, name) = (kind.plural(), object["name"].as_str().unwrap());
            let gone =
                rest.delete(&format!("/v1/{kind}/{name}?force=true&allow_missing=true&wait={wait}")).await;
            assert!(gone.status < 300, "{kind} {name}: {gone:#?}");
        }
        let objects: Vec<Value> = stages().into_iter().take(stage + 1).flatten().collect();
        if !objects.is_empty() {
            rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
        }
        self.exports.insert(stage, export().await);
    }
}

#[test]
fn every_command_has_an_example_that_shows_it() {
    for (path, command) in commands() {
        let examples = examples(&command);
        let shows = |example: &String| example.starts_with(&format!("{path} ")) || *example == path;
        assert!(examples.iter().any(shows), "{path} has no example of itself: {examples:#?}");
    }
}

#[test]
fn every_example_of_the_help_works() {
    on_host(async || {
        let _lan = add_lan(&LanSpec {
            host_interface: "eth0".into(),
            host_addresses: ["192.168.1.2/24", "2001:db8::2/64"].map(|net| net.parse().unwrap()).into(),
            host_routes: vec![],
            peers: vec![PeerSpec::new("peer", ["192.168.1.3/24".parse().unwrap()])],
        })
        .unwrap();
        let daemon = Daemon::start().await;
        let mut lesson = Lesson::default();
        let desk = Desk::new(&daemon.socket);
        Namespaces::default().create("foreign").unwrap();
        let container = Workload::start().unwrap();
        desk.tool("docker", &format!("echo {}", container.pid()));
        let mut all: Vec<String> = commands().iter().flat_map(|(_, command)| examples(command)).collect();
        all.sort();
        all.dedup();
        assert!(all.len() > 30, "{all:#?}");
        let mut failures = Vec::new();
        for example in all {
            let mut answers = Vec::new();
            for stage in (0..stages().len()).rev() {
                lesson.go_to(&daemon, stage).await;
                let told = desk.type_(&example, &daemon).await;
                let works = told.code == Some(0);
                answers.push(format!("  at stage {stage}: {:?} {}{}", told.code, told.out, told.err));
                if works {
                    answers.clear();
                    break;
                }
            }
            if !answers.is_empty() {
                failures.push(format!("{example}\n{}", answers.join("\n")));
            }
        }
        assert!(failures.is_empty(), "these examples never work:\n{}", failures.join("\n"));
    });
}

#[test]
fn completions_are_of_every_command_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Netloom::with(&[]).run(&format!("completions {shell}")).ok();
        for word in ["attach", "reservations", "token-file"] {
            assert!(script.contains(word), "{word} is not in the script of {shell}");
        }
    }
}

#[test]
fn there_is_a_manual_page_of_every_command_with_its_example() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("share/man/man1");
    Netloom::with(&[]).run(&format!("man {}", place.display())).ok();
    for (path, command) in commands() {
        let page = std::fs::read_to_string(place.join(format!("{}.1", path.replace(' ', "-")))).unwrap();
        assert!(page.contains(".SH EXTRA"), "{path}");
        let example = examples(&command).into_iter().next().unwrap();
        let first = example.split(['-', '\'']).next().unwrap();
        assert!(page.contains(first.trim_end()), "{example} is not on the page of {path}:\n{page}");
    }
    let page = Netloom::with(&[]).run("man").ok();
    assert!(page.contains(".TH netloom 1"), "{page}");
}
