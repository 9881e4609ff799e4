//! The command `netloom` as people use it.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

/// The command, set on one daemon.
#[derive(Clone)]
pub struct Netloom {
    options: Vec<String>,
}

/// What a run of a program told.
#[derive(Debug, Clone)]
pub struct Told {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Told {
    /// What a success printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:#?}");
        self.out
    }

    /// What a success printed, as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// What a failure with this code said.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:#?}");
        assert!(self.err.starts_with("error: "), "{self:#?}");
        self.err
    }
}

impl Netloom {
    /// Over a unix socket.
    pub fn at(socket: &Path) -> Self {
        Self::with(&["--endpoint", socket.to_str().unwrap()])
    }

    /// With these words in front of each line.
    pub fn with(options: &[&str]) -> Self {
        Self { options: options.iter().map(|option| (*option).to_owned()).collect() }
    }

    /// Runs a line; blanks part its words.
    pub fn run(&self, line: &str) -> Told {
        self.input(line, "")
    }

    /// Runs a line that reads this.
    pub fn input(&self, line: &str, input: &str) -> Told {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap().into()
    }

    /// The process of a line, its output in pipes.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netloom-under-test"));
        command.env_remove("NETLOOM_ENDPOINT").args(&self.options).args(line.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}
