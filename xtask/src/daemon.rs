//! The daemon built beside this program, on the private host of this process.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::cargo::program;

/// Where it listens.
pub(crate) const SOCKET: &str = "/run/netloom/netloom.sock";
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Longer than any reply may take.
pub(crate) const REPLY_WITHIN: Duration = Duration::from_secs(30);

/// A running daemon; it is killed with this.
pub(crate) struct Daemon {
    child: Child,
    state: PathBuf,
    options: Vec<String>,
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(state: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let mut daemon = Self { child: spawn(state, &options)?, state: state.to_owned(), options };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As a crash would; then, after what happens `meanwhile`, a new one on the same state. How long that took to be ready.
    pub(crate) fn crash_and_restart(
        &mut self,
        meanwhile: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        meanwhile()?;
        let begin = Instant::now();
        self.child = spawn(&self.state, &self.options)?;
        self.wait_until_ready()?;
        Ok(begin.elapsed())
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + READY_WITHIN;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("netloomd ended: {status}");
            }
            if is_ready() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("netloomd was not ready within {READY_WITHIN:?}")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its state is thrown away with it, so nothing is lost by force.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(state: &Path, options: &[String]) -> anyhow::Result<Child> {
    let mut command = program(std::env::current_exe()?.with_file_name("netloomd"));
    command.arg("--state-dir").arg(state).args(["--socket", SOCKET]).args(options);
    command.spawn().context("netloomd does not start")
}

fn is_ready() -> bool {
    let ask = || -> std::io::Result<String> {
        let mut connection = UnixStream::connect(SOCKET)?;
        connection.set_read_timeout(Some(REPLY_WITHIN))?;
        connection.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut reply = String::new();
        connection.read_to_string(&mut reply)?;
        Ok(reply)
    };
    ask().is_ok_and(|reply| reply.starts_with("HTTP/1.1 200"))
}
