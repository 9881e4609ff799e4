//! A daemon on the private host of a test.

use std::{
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use netloom_client::{Client, ConnectOptions};
use netloom_server::kernel::{
    lan::{Lan, LanSpec, PeerSpec, add_lan},
    testhost::on_private_host,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::rest::Rest;

const READY_WITHIN: Duration = Duration::from_secs(20);

/// A running daemon with its state below the private host's own `/run`.
pub struct Daemon {
    child: Child,
    pub socket: PathBuf,
    options: Vec<String>,
}

/// What the programs of the tests do at the points of their effects; see `src/bin/netloomd.rs`.
const FAULTS: &str = "NETLOOM_FAULTS";

/// Where daemons of tests have their sockets, database, keys and tokens.
pub const HOME: &str = "/run/netloom-test";

/// Runs a test on a private host, with a runtime.
pub fn on_host(test: impl AsyncFnOnce()) {
    on_private_host(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

/// The LAN of the lesson: the host is 192.168.1.2, a peer 192.168.1.3.
pub fn lan() -> Lan {
    let peer = PeerSpec::new("peer", ["192.168.1.3/24".parse().unwrap()]);
    let spec = LanSpec {
        host_interface: "eth0".into(),
        host_addresses: vec!["192.168.1.2/24".parse().unwrap()],
        host_routes: vec![],
        peers: vec![peer],
    };
    add_lan(&spec).unwrap()
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts it with more options and waits until it is ready.
    pub async fn start_with(options: &[&str]) -> Self {
        let socket = PathBuf::from(HOME).join("netloom.sock");
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let daemon = Self { child: spawn(&socket, &options), socket, options };
        daemon.ready().await;
        daemon
    }

    /// Starts it with a script for the points of its effects. It may be dead when this returns.
    pub async fn start_with_faults(faults: &str) -> Self {
        let socket = PathBuf::from(HOME).join("netloom.sock");
        let child = command(&socket, &[]).env(FAULTS, faults).spawn().unwrap();
        let mut daemon = Self { child, socket, options: Vec::new() };
        daemon.ready_or_dead().await;
        daemon
    }

    /// Ends it, unless it is dead already, as a crash would, and starts it with a script. It may be dead when this
    /// returns.
    pub async fn die_again(&mut self, faults: &str) {
        // It may be dead already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.child = command(&self.socket, &self.options).env(FAULTS, faults).spawn().unwrap();
        self.ready_or_dead().await;
    }

    /// Gives it a moment to die: it works on after its last answer.
    pub async fn dies_soon(&mut self) {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_millis(500) {
            // That it does not die is announced by nothing.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it is dead or ready; true when it is dead.
    pub async fn died(&mut self) -> bool {
        self.ready_or_dead().await;
        self.child.try_wait().unwrap().is_some()
    }

    /// Ends it, unless it is dead already, and starts it without a script. Whether it died by itself.
    pub async fn start_over(&mut self) -> bool {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::SIGTERM);
        }
        let died = self.child.wait().unwrap().signal().is_some();
        self.start_again().await;
        died
    }

    async fn ready_or_dead(&mut self) {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if let Ok(reply) = self.rest().get("/readyz").await
                && reply.status == 200
            {
                return;
            }
            assert!(started.elapsed() < READY_WITHIN, "the daemon is not ready after {READY_WITHIN:?}");
            // As in `ready`.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ready(&self) {
        let started = Instant::now();
        loop {
            if let Ok(reply) = self.rest().get("/readyz").await
                && reply.status == 200
            {
                return;
            }
            assert!(started.elapsed() < READY_WITHIN, "the daemon is not ready after {READY_WITHIN:?}");
            // The socket appears in the file system; nothing announces it to this process.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// As a crash would: no warning, no last words. Then a new one on the same state.
    pub async fn crash_and_restart(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
        self.child = spawn(&self.socket, &self.options);
        self.ready().await;
    }

    /// Starts it once more after it was stopped, with what is there now.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.socket, &self.options);
        self.ready().await;
    }

    /// Starts it once more if it was stopped.
    pub async fn start_again_if_stopped(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            self.start_again().await;
        }
    }

    /// The same with more options, this once.
    pub async fn start_again_with(&mut self, options: &[&str]) {
        self.child = command(&self.socket, &self.options).args(options).spawn().unwrap();
        self.ready().await;
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Speaks REST.
    pub fn rest(&self) -> Rest {
        Rest::new(&self.socket)
    }

    /// Speaks gRPC.
    pub async fn client(&self) -> Client {
        Client::connect(&ConnectOptions::parse(self.socket.to_str().unwrap()).unwrap()).await.unwrap()
    }
}

/// The process ends with the pid namespace of the test's host at the latest.
fn spawn(socket: &Path, options: &[String]) -> Child {
    command(socket, options).spawn().unwrap()
}

fn command(socket: &Path, options: &[String]) -> Command {
    let mut command = netloomd(socket);
    command.args(["--log", "error"]).args(options);
    command.process_group(0);
    command
}

/// The daemon's program, set on the test's own state and socket.
pub fn netloomd(socket: &Path) -> Command {
    std::fs::create_dir_all(HOME).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_netloomd-under-test"));
    command.args(["--state-dir", &format!("{HOME}/state"), "--socket"]).arg(socket);
    command
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have been stopped already; the private host takes the rest with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
