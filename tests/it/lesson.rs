//! `docs/lesson.md`, followed from top to bottom: every command is run, and every output is as the page says.
//!
//! `UPDATE_GOLDEN=1` writes the outputs anew.

use std::{path::PathBuf, process::Child};

use netloom_server::{kernel::Kernel, reconcile::Host as _};

use crate::{
    host::{Daemon, lan, on_host},
    netloom::Netloom,
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/lesson.md");

#[test]
fn the_lesson_can_be_followed_with_the_command_alone() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start().await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        let page = std::fs::read_to_string(PAGE).unwrap();
        let mut student = Student { netloom: Netloom::at(&daemon.socket), left_running: Vec::new() };
        let followed = student.follow(&page);
        for mut child in student.left_running {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(PathBuf::from(PAGE), &followed).unwrap();
        }
        let page = std::fs::read_to_string(PAGE).unwrap();
        let (page, followed): (Vec<String>, Vec<String>) =
            (page.lines().map(masked).collect(), followed.lines().map(masked).collect());
        for (number, (page, followed)) in page.iter().zip(&followed).enumerate() {
            assert_eq!(page, followed, "line {} of docs/lesson.md", number + 1);
        }
        assert_eq!(page.len(), followed.len());
        let kept = |text: &str| {
            text.lines().filter(|line| !line.contains("notransit")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(kept(&kernel.observe().unwrap().to_string()), kept(&before), "nothing is left");
    });
}

struct Student {
    netloom: Netloom,
    left_running: Vec<Child>,
}

impl Student {
    /// The page with the outputs that the commands have now.
    fn follow(&mut self, page: &str) -> String {
        let mut followed = String::new();
        let mut in_console = false;
        for line in page.lines() {
            if line.starts_with("```") {
                in_console = line == "```console";
            }
            let command = line.strip_prefix("$ netloom ");
            if !in_console || line.starts_with("```") || command.is_some() {
                followed.push_str(line);
                followed.push('\n');
            }
            if let Some(command) = command.filter(|_| in_console) {
                followed.push_str(&self.run(command));
            }
        }
        followed
    }

    /// What the command prints, errors included.
    fn run(&mut self, command: &str) -> String {
        if let Some(command) = command.strip_suffix(" &") {
            let child = self.netloom.command(command).spawn().unwrap();
            let comm = format!("/proc/{}/comm", child.id());
            let program = command.split(" -- ").last().unwrap().split(' ').next().unwrap();
            // It becomes what it is to run; nothing announces that. At first it may still have the name of this test.
            while std::fs::read_to_string(&comm).unwrap().trim_end() != program {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            self.left_running.push(child);
            return String::new();
        }
        let told = self.netloom.run(command);
        // The page is about no particular kernel.
        let kernel = nix::sys::utsname::uname().unwrap();
        (told.out + &told.err).replace(kernel.release().to_str().unwrap(), "6.18")
    }
}

/// The line without what differs from run to run.
fn masked(line: &str) -> String {
    let words: Vec<&str> =
        line.split_whitespace().map(|word| if differs(word) { "…" } else { word }).collect();
    words.join(" ")
}

fn differs(word: &str) -> bool {
    let word = word.trim_matches(|c: char| "(),;.\"".contains(c));
    let is_hex = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let is_device = word.strip_prefix("nl").is_some_and(|rest| rest.len() == 10 && is_hex(rest));
    let is_mac = word.split(':').count() == 6 && word.split(':').all(|part| part.len() == 2 && is_hex(part));
    let is_number = word.parse::<f64>().is_ok();
    let is_time = ["ms", "s", "µs"]
        .iter()
        .any(|unit| word.strip_suffix(unit).is_some_and(|number| number.parse::<f64>().is_ok()));
    // Neighbours grow old while the page is followed.
    let is_age = ["reachable", "delay", "stale", "probe"].contains(&word);
    is_device || is_mac || is_number || is_time || is_age || word.starts_with("fe80::")
}
